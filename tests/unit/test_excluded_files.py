"""Files of wheels that a recipe keeps out of the image: which go, what the audit refuses, and what evidence says."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

import pytest
from elf_files import make_case
from factories import locked, make_image, make_jetson, make_job, make_lock, make_plan, make_spec, make_wheel
from layer_files import installed
from recipe_factory import image_recipe
from slim_layers import GPU, ORIN, check_record, files_of

from builder.audit.excluded_files import exclusions, facts_in_image
from builder.audit.slim_choice import in_words, wheel_rules
from builder.errors import DocumentError
from builder.image.wheels.wheel_slimmer import slim_key
from builder.model.recipes import ImageSpec
from builder.model.slimming import SlimRules
from builder.publish.bill.components import wheel_component
from builder.publish.statements import provenance_predicate
from builder.recipe.load import load

if TYPE_CHECKING:
    from pathlib import Path

    from builder.host.session import Session
    from builder.model.audits import Finding
    from builder.model.wheels import LockedWheel

MODULE = {"defined": ["PyInit__C"], "needed": ["libshim.so.1"], "runpath": "$ORIGIN"}
STACK: dict[str, dict[str, Any]] = {
    "demo": {
        "demo/_C.abi3.so": MODULE,
        "demo/libshim.so.1": {"soname": "libshim.so.1"},
        "demo/libengine.so.1": {"soname": "libengine.so.1", "needed": ["libgraph.so.1"], "runpath": "$ORIGIN"},
        "demo/libgraph.so.1": {"soname": "libgraph.so.1"},
    }
}


def findings(folder: Path, *globs: str, package: str = "demo") -> list[Finding]:
    whole = make_case(folder, STACK)
    image = ImageSpec(exclude_files=((package, globs),))
    wheels, facts = whole.environment.wheels, whole.environment.facts
    environment = replace(whole.environment, facts=facts_in_image(image, wheels, facts))
    return list(exclusions(image, wheels, facts, replace(whole, environment=environment)))


def test_a_library_that_nothing_needs_may_go(tmp_path: Path) -> None:
    assert findings(tmp_path, "demo/libengine.so.*") == []


def test_libraries_may_go_together(tmp_path: Path) -> None:
    assert findings(tmp_path, "demo/libengine*", "demo/libgraph*") == []


@pytest.mark.parametrize(
    ("glob", "file", "text"),
    [
        ("demo/libshim*", "demo/libshim.so.1", "demo 1.0: demo/_C.abi3.so needs it"),
        ("demo/libgraph*", "demo/libgraph.so.1", "demo 1.0: demo/libengine.so.1 needs it"),
        ("demo/_C*", "demo/_C.abi3.so", "is a Python module"),
        ("*/METADATA", "demo-1.0.dist-info/METADATA", "is metadata of the wheel"),
    ],
)
def test_files_that_something_needs_are_refused(tmp_path: Path, glob: str, file: str, text: str) -> None:
    (finding,) = findings(tmp_path, glob)
    assert (finding.rule, finding.severity, finding.file) == ("excluded-file", "error", file)
    assert finding.detail == f"`exclude-files` leaves it out, and {text}"
    assert finding.fix


def test_a_glob_or_a_name_without_a_match_is_a_warning(tmp_path: Path) -> None:
    (no_file,) = findings(tmp_path / "a", "demo/libold.so.*", "demo/libengine*")
    (no_wheel,) = findings(tmp_path / "b", "x", package="dmo")
    for finding, name, glob, detail in (
        (no_file, "demo", "demo/libold.so.*", "matches no file of the wheels"),
        (no_wheel, "dmo", "x", "no wheel of the lock has this name"),
    ):
        assert (finding.severity, finding.wheel, finding.file) == ("warning", name, glob)
        assert finding.detail == f"`exclude-files`: {detail}"


@pytest.fixture
def wheel(tmp_path: Path) -> LockedWheel:
    files: dict[str, str | bytes] = {
        "demo/__init__.py": "",
        "demo/_C.so": GPU,
        "demo/lib/libone.so.9": GPU,
        "demo/lib/tool": b"x" * 500,
    }
    return locked(make_wheel(tmp_path, files=files))


def test_excluded_files_and_their_rows_are_not_in_the_tree(session: Session, wheel: LockedWheel) -> None:
    rules = SlimRules(sms=(), same_major=None, exclude_files=("demo/lib/*",))
    plain, made = (installed(wheel, session, given) for given in (None, rules))
    tree = made.packages
    assert {path.name for path in (tree / "demo").rglob("*") if path.is_file()} == {"__init__.py", "_C.so"}
    assert (tree / "demo/_C.so").read_bytes() == GPU
    assert check_record(tree) == check_record(plain.packages) + 1 - 2
    (slimmed,) = made.slimmed
    assert (slimmed.before, slimmed.after, slimmed.removed) == (len(GPU) + 500, 0, len(GPU) + 500)
    assert slimmed.rules == rules


def test_gpu_code_goes_from_the_files_that_stay(session: Session, wheel: LockedWheel) -> None:
    tree = installed(wheel, session, replace(ORIN, exclude_files=("demo/lib/*",))).packages
    slim = installed(wheel, session, ORIN).packages
    assert not (tree / "demo/lib/tool").exists()
    assert (tree / "demo/_C.so").read_bytes() == (slim / "demo/_C.so").read_bytes() != GPU
    check_record(tree)


def test_metadata_stays_whatever_a_glob_matches(session: Session, wheel: LockedWheel) -> None:
    tree = installed(wheel, session, SlimRules(sms=(), same_major=None, exclude_files=("*",))).packages
    assert {path.name for path in tree.glob("*.dist-info/*")} >= {"METADATA", "RECORD"}


def test_a_glob_without_a_match_gives_the_plain_content(session: Session, wheel: LockedWheel) -> None:
    other = SlimRules(sms=(), same_major=None, exclude_files=("nothing/*",))
    assert files_of(installed(wheel, session, other).folder) == files_of(installed(wheel, session).folder)


def test_rules_without_excluded_files_keep_their_key() -> None:
    assert slim_key(SlimRules(sms=(87,), same_major=True)) == slim_key(
        SlimRules(sms=(87,), same_major=True, exclude_files=None)
    )
    assert slim_key(ORIN) != slim_key(replace(ORIN, exclude_files=("x",)))


def test_rules_of_a_wheel_have_code_files_or_both() -> None:
    image = ImageSpec(
        slim=True, exclude_files=(("nvidia-*", ("a", "b")), ("nvidia-cudnn-*", ("b", "c")), ("torch", ("d",)))
    )
    job = make_job(platform=make_jetson(sms=("8.7",), l4t="39.2.0"), spec=make_spec(image=image))
    assert wheel_rules(job, "nvidia-cudnn-cu13") == SlimRules(sms=(), same_major=None, exclude_files=("a", "b", "c"))
    torch, vllm = wheel_rules(job, "torch"), wheel_rules(job, "vllm")
    assert torch is not None
    assert vllm is not None
    assert (torch.sms, torch.exclude_files) == ((87,), ("d",))
    assert vllm == replace(torch, exclude_files=None)
    assert (in_words(job) or "").endswith("; nvidia-* without a, b; nvidia-cudnn-* without b, c; torch without d")


def test_evidence_names_the_excluded_files(session: Session, wheel: LockedWheel) -> None:
    rules = replace(ORIN, exclude_files=("demo/lib/*",))
    notes = {}
    for name, given in {"both": rules, "files": replace(rules, sms=())}.items():
        (slimmed,) = installed(wheel, session, given).slimmed
        notes[name] = wheel_component(wheel, None, slimmed)["pedigree"]["notes"]
        plan = make_plan(slimmed=(slimmed,))
        predicate = provenance_predicate(make_job(), make_lock(wheel), plan, "c" * 64, make_image())
        (row,) = predicate["buildDefinition"]["internalParameters"]["slim"]
        assert row["parameters"]["exclude_files"] == ["demo/lib/*"]
    assert notes["both"].startswith("jbuild left out GPU code that does not run on SM 8.7")
    assert notes["both"].endswith("; the recipe excludes the files demo/lib/*")
    assert notes["files"] == f"the recipe excludes the files demo/lib/*: {len(GPU) + 500} bytes"


def test_the_key_of_a_recipe(tmp_path: Path) -> None:
    path = tmp_path / "demo.toml"
    path.write_text(
        image_recipe('exclude-files = { "nvidia-cudnn-*" = ["nvidia/cudnn/lib/libcudnn_adv.so.9", "*.a"] }')
    )
    rows = (("nvidia-cudnn-*", ("nvidia/cudnn/lib/libcudnn_adv.so.9", "*.a")),)
    assert load(path).spec.image == ImageSpec(exclude_files=rows)


@pytest.mark.parametrize(
    ("text", "part"),
    [
        ('exclude-files = ["a"]', "a table"),
        ('exclude-files = { torch = "a" }', "a list"),
        ('exclude-files = { torch = ["/etc/passwd"] }', "is not a file of the wheel, or a glob"),
        ('exclude-files = { torch = ["../x"] }', "is not a file of the wheel, or a glob"),
        ('exclude-files = { Torch = ["a"] }', "lower case"),
    ],
)
def test_mistakes_in_the_key_are_named(tmp_path: Path, text: str, part: str) -> None:
    path = tmp_path / "demo.toml"
    path.write_text(image_recipe(text))
    with pytest.raises(DocumentError) as caught:
        load(path)
    (problem,) = caught.value.problems
    assert part in f"{problem.message} {problem.hint}"


def test_other_wheels_are_read_as_before(tmp_path: Path) -> None:
    whole = make_case(tmp_path, {"demo": {"demo/_C.abi3.so": {**MODULE, "needed": []}}})
    wheels, facts = whole.environment.wheels, whole.environment.facts
    assert facts_in_image(ImageSpec(exclude_files=(("torch", ("*",)),)), wheels, facts) == facts
