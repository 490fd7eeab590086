from __future__ import annotations

import ctypes.util
import json
import subprocess
import sys
from pathlib import Path

import pytest
from elf_files import make_elf
from factories import make_wheel
from gpu_code import EXACT, make_container, make_cubin, make_entry

from agreement import kernel_oracle, report, truth
from agreement.binutils import split_version
from agreement.compare import Disagreement, cause, compare
from agreement.elves import shared_objects
from agreement.stacks import Stack, read_stacks
from builder.errors import DocumentError
from builder.recipe.load import load
from builder.recipe.matrix import expand

ABSENT = "cannot open shared object file: No such file or directory"
# What cuobjdump prints about the two files of the test.
CUOBJDUMP = """\
#!/bin/sh
case "$1 $2" in
"-symbols "*.cubin) echo 'STT_FUNC STB_GLOBAL STO_ENTRY two' ;;
"-lelf "*.cubin) echo 'ELF file    1: k.sm_100a.cubin' ;;
"-symbols "*) printf 'arch = sm_90a\\nSTT_FUNC STB_WEAK STO_ENTRY      one\\n' ;;
esac
"""
STACK = Stack(name="s", distribution="debian-12", special="why", requires=("a",))


def make_truth(**answers: dict[str, str | None]) -> truth.Truth:
    files = tuple(sorted({file for said in answers.values() for file in said}))
    return truth.Truth(python="3.11", image="i", versions={"a": "1"}, files=files, answers=answers)


def audited(*findings: dict[str, object], **files: str) -> dict[str, object]:
    named = {name.replace("_so", ".so"): said for name, said in files.items()}
    return {"files": named, "findings": list(findings), "elapsed_s": 1, "injected": {"a.so": ["libcuda.so.1"]}}


def finding(severity: str, file: str, *also: str, rule: str = "missing-library") -> dict[str, object]:
    return {"rule": rule, "severity": severity, "file": file, "also": list(also), "detail": f"{file} needs libq.so.1"}


@pytest.mark.parametrize("stack", read_stacks(), ids=lambda stack: stack.name)
def test_each_stack_is_a_recipe_with_one_possible_cell(stack: Stack, tmp_path: Path) -> None:
    path = tmp_path / f"{stack.name}.toml"
    path.write_text(stack.recipe("model"))

    (cell,) = expand(load(path))

    assert cell.impossible is None


def test_stacks_have_names_of_their_own_and_say_what_they_are_for() -> None:
    stacks = read_stacks()

    assert len({stack.name for stack in stacks}) == len(stacks) >= 10
    assert {stack.distribution for stack in stacks} >= {"debian-12", "debian-13"}
    assert all(stack.special for stack in stacks)


def test_wheels_for_kernels_are_of_several_packages_and_each_once() -> None:
    wheels = kernel_oracle.kernel_wheels()

    assert len({wheel.wheel for wheel in wheels}) == len(wheels)
    assert len({wheel.package.partition("==")[0] for wheel in wheels}) >= 5
    assert kernel_oracle.KernelWheel(wheel="a_b-1.0-py3-none-any.whl", files=(), every=1).package == "a-b==1.0"


def test_names_of_kernels_are_those_of_cuobjdump(tmp_path: Path) -> None:
    library = make_elf(fatbin=make_container(make_entry(make_cubin("one"), 90, flags=EXACT)))
    files = {"x/_C.so": library, "x/plain.so": make_elf(), "x/k.cubin": make_cubin("two", sm=100, accelerated=True)}
    wheel = make_wheel(tmp_path, files=files)
    program = tmp_path / "cuobjdump"
    program.write_text(CUOBJDUMP)
    program.chmod(0o755)
    row = kernel_oracle.KernelWheel(wheel=wheel.name, files=("x/*",), every=1)

    tally = kernel_oracle.compare(row, program, [str(tmp_path)], tmp_path)

    assert (tally.files, tally.sass, tally.ptx) == (["x/_C.so", "x/k.cubin"], 2, 0)
    assert tally.differences == []
    text = kernel_oracle.section([tally], "cuobjdump", "today")
    assert "2 files of 1 wheels, 2 names of" in text
    assert "| demo==1.0 | `_C.so`, 1 cubins | 2 | 0 | 0 | 0 |" in text


@pytest.mark.parametrize(("printed", "message"), [("one", "only ours 1, only theirs 1"), ("exit", "ended with 3")])
def test_other_names_and_refused_files_are_listed(tmp_path: Path, printed: str, message: str) -> None:
    wheel = make_wheel(tmp_path, files={"_C.so": make_elf(fatbin=make_container(make_entry(make_cubin("other"), 90)))})
    program = tmp_path / "cuobjdump"
    program.write_text(CUOBJDUMP.replace("sm_90a", "sm_90") if printed == "one" else "#!/bin/sh\nexit 3\n")
    program.chmod(0o755)
    row = kernel_oracle.KernelWheel(wheel=wheel.name, files=("*.so",), every=1)

    tally = kernel_oracle.compare(row, program, [str(tmp_path)], tmp_path)

    assert any(message in text for text in (*tally.differences, *tally.refused))
    assert message in kernel_oracle.section([tally], "cuobjdump", "today")


def test_a_row_with_a_mistake_is_located(tmp_path: Path) -> None:
    path = tmp_path / "stacks.toml"
    path.write_text('[[stacks]]\nname = "a"\ndistribution = "debian-12"\nspecial = "x"\nrequire = ["numpy"]\n')

    with pytest.raises(DocumentError) as raised:
        read_stacks(path)

    assert [(p.line, p.hint) for p in raised.value.problems] == [(5, "did you mean `requires`?")]


def test_a_file_loads_if_it_loads_in_one_way_other_than_bare() -> None:
    said = make_truth(
        bare={"a.so": None, "b.so": "x"}, plain={"a.so": "no", "b.so": "no"}, torch={"a.so": "no", "b.so": None}
    )

    assert said.error("a.so") == "no"
    assert said.error("b.so") is None


def test_comparison_counts_both_kinds_of_disagreement() -> None:
    said = make_truth(
        plain={"a.so": None, "b.so": "libx.so.1: cannot open shared object file: No such file", "c.so": None}
    )

    found = compare(STACK, said, audited(a_so="loads", b_so="loads", c_so="fails: libz"))

    assert found.disagreements == (
        Disagreement(file="b.so", loader="libx.so.1: cannot open shared object file: No such file", audit="loads"),
        Disagreement(file="c.so", loader=None, audit="fails: libz"),
    )
    assert (found.files, found.fails, found.agreed) == (3, 1, 1)


def test_a_file_that_only_one_of_the_two_knows_is_a_disagreement() -> None:
    found = compare(STACK, make_truth(plain={"a.so": None}), audited(b_so="loads"))

    assert [(d.file, d.audit) for d in found.disagreements] == [("a.so", "is not mentioned"), ("b.so", "loads")]


def test_an_initialiser_that_ends_the_process_comes_after_loading() -> None:
    found = compare(STACK, make_truth(plain={"a.so": "ended by SIGILL"}), audited(a_so="loads"))

    assert (found.ended, found.fails, found.disagreements) == (("a.so",), 0, ())


@pytest.mark.parametrize(
    ("error", "said", "same"),
    [
        (f"libx.so.1: {ABSENT}", "fails: libx.so.1 is missing", 1),
        (f"libx.so.1: {ABSENT}", "fails: liby.so.1 is missing", 0),
        ("/l/libstdc++.so.6: version `GLIBCXX_3.4.32' not found (required by /x)", "fails: needs GLIBCXX_3.4.32", 1),
        ("/x.so: undefined symbol: PyFoo, version A", "fails: symbol PyFoo", 1),
    ],
)
def test_the_cause_is_the_same_where_both_name_it(error: str, said: str, same: int) -> None:
    found = compare(STACK, make_truth(plain={"a.so": error}), audited(a_so=said))

    assert (found.disagreements, found.same_cause) == ((), same)


def test_files_that_need_the_runtime_are_counted() -> None:
    without: dict[str, str | None] = {"a.so": "libcuda.so.1: …", "b.so": "libx: …", "c.so": "libcuda.so.1: …"}
    said = make_truth(bare=without, plain={"a.so": None, "b.so": "libx: …", "c.so": None})

    stack = Stack(name="s", distribution="d", special="w", requires=(), runtime=("libcuda.so.1",))
    found = compare(stack, said, audited(a_so="loads", b_so="fails: libx", c_so="loads"))

    assert (found.injected, found.differently_injected) == (("a.so", "c.so"), ("c.so",))


def test_a_stack_that_no_longer_shows_what_it_is_for_is_told() -> None:
    stack = Stack(name="s", distribution="d", special="w", requires=(), breaks=("a*.so",), loads=("b.so", "c.so"))
    said = make_truth(plain={"a.so": None, "b.so": None})

    found = compare(stack, said, audited(a_so="loads", b_so="loads"))

    assert found.broken_rows == (
        "a*.so should exist, with the result `fails`",
        "c.so should exist, with the result `loads`",
    )


def test_error_findings_are_held_against_the_loader_too() -> None:
    failing = {"c.so": "liby.so", "d.so": "libz.so", "e.so": "ended by SIGILL", "f.so": f"libq.so.1: {ABSENT}"}
    said = make_truth(plain={"a.so": None, "b.so": None, **failing})
    findings = (finding("error", "a.so", "e.so"), finding("warning", "b.so"), finding("info", "d.so"))
    other = finding("error", "b.so", rule="gpu-code")

    found = compare(STACK, said, audited(*findings, other))

    assert (found.false_errors, found.unreported, found.errors) == (("a.so", "e.so"), ("c.so",), 1)


def test_what_is_no_known_message_is_a_cause_by_itself() -> None:
    assert cause("cannot allocate memory in static TLS block") == "cannot allocate memory in static TLS block"


@pytest.mark.parametrize(
    ("text", "parts"),
    [
        ("a", ("a", None, False)),
        ("a@@V_1", ("a", "V_1", False)),
        ("a@V_1", ("a", "V_1", True)),
        ("@odd", ("@odd", None, False)),
    ],
)
def test_versions_are_split_off_as_binutils_writes_them(text: str, parts: tuple[str, str | None, bool]) -> None:
    assert split_version(text) == parts


def test_sections_of_the_page_are_replaced_one_by_one(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    report.write_section("readers", "## Readers\n\none", page)
    report.write_section("loader", "## Loader\n\ntwo", page)
    report.write_section("readers", "## Readers\n\nthree", page)

    text = page.read_text()
    assert [line for line in text.splitlines() if line.startswith("#")] == [
        "# The audit against the loader",
        "## Loader",
        "## Readers",
    ]
    assert "three" in text
    assert "one\n" not in text


def test_the_report_has_a_row_a_stack_and_every_disagreement() -> None:
    said = make_truth(plain={"a.so": None, "b.so": None})

    text = report.agreement([compare(STACK, said, audited(a_so="loads", b_so="fails: libz"))])

    assert "the same verdict on 1 (50.00 %)" in " ".join(text.split())
    assert "- s: `b.so`: loader: loads; audit: fails: libz" in text


def test_shared_objects_are_libraries_and_not_programs_or_texts(tmp_path: Path) -> None:
    library = _a_library(tmp_path / "lib" / "libfoo.so.1")
    _a_library(tmp_path / "lib" / "module.without_suffix")
    (tmp_path / "lib" / "text.so").write_text("INPUT(libfoo.so.1)")
    (tmp_path / "program").write_bytes(Path(sys.executable).resolve().read_bytes())
    (tmp_path / "lib" / "libfoo.so").symlink_to("libfoo.so.1")

    assert list(shared_objects(tmp_path)) == [library, tmp_path / "lib" / "module.without_suffix"]


def test_the_loader_opens_files_one_by_one_and_says_why_not(tmp_path: Path) -> None:
    good, bad = _a_library(tmp_path / "good.so"), tmp_path / "bad.so"
    bad.write_bytes(b"no library")

    answers = _ask_loader(tmp_path, imports=[], files=[good, bad, tmp_path / "absent.so"])

    assert [answer["file"] for answer in answers] == [str(good), str(bad), str(tmp_path / "absent.so")]
    assert answers[0]["error"] is None
    assert "bad.so" in answers[1]["error"]
    assert "cannot open shared object file" in answers[2]["error"]


def test_the_loader_tells_an_import_that_fails(tmp_path: Path) -> None:
    answers = _ask_loader(tmp_path, imports=["no_such_module"], files=[tmp_path / "x.so"])

    assert answers == [{"import": "no_such_module", "error": "ModuleNotFoundError: No module named 'no_such_module'"}]


def _ask_loader(folder: Path, *, imports: list[str], files: list[Path]) -> list[dict[str, str]]:
    request = folder / "request.json"
    request.write_text(
        json.dumps({"imports": imports, "files": [str(file) for file in files], "limit_s": 20, "imports_limit_s": 20})
    )
    done = subprocess.run([sys.executable, truth.LOADER, request], check=True, capture_output=True, text=True)
    return [json.loads(line) for line in done.stdout.splitlines()]


def _a_library(path: Path) -> Path:
    """Copy a library of this machine that every Linux has."""
    name = ctypes.util.find_library("m") or "libm.so.6"
    found = next(folder / name for folder in map(Path, _FOLDERS) if (folder / name).exists())
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(found.resolve().read_bytes())
    return path


_FOLDERS = ("/lib/x86_64-linux-gnu", "/lib/aarch64-linux-gnu", "/lib64", "/usr/lib64", "/usr/lib", "/lib")
