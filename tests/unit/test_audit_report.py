"""An audit as people and machines read it, and the command that makes one."""

from __future__ import annotations

import json
import sys
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import pytest
from elf_files import make_base, make_elf, make_fatbin
from factories import locked, make_job, make_lock, make_platform, make_run, make_spec, make_wheel
from recipe_factory import RECIPE

from builder.audit import loose_wheels
from builder.audit import stage as room
from builder.audit.stage import audit_cell
from builder.cli import main as cli
from builder.cli.cell_selection import CellSelection
from builder.cli.verbs import audit as command
from builder.cli.verbs.audit import audited, text
from builder.errors import AuditError, NoWheelsError, RegistryError, UsageError
from builder.host.paths import Workspace
from builder.host.records import from_json, to_json
from builder.model.audits import Audit, Finding, GpuVerdict
from builder.model.recipes import ServerSpec, Waiver
from builder.pipeline import history

if TYPE_CHECKING:
    from pathlib import Path

    from builder.host.session import Session
    from builder.model.locks import Job, Lock

ERROR = Finding(
    rule="missing-library",
    severity="error",
    wheel="demo 1.0",
    file="demo/_C.so",
    detail="needs libnuma.so.1, and nothing brings it",
    fix="add `libnuma1` to `apt` under [base]",
    also=tuple(f"demo/m{n}.so" for n in range(5)),
)
WAIVED = Finding(
    rule="tag-lies", severity="warning", wheel="x 1", file="x.so", detail="lies", fix="believe", waived="we know\x1b[0m"
)
ASSUMED = Finding(
    rule="symbol-version", severity="info", wheel="y 1", file="y.so", detail="old", fix="renew", assumed="no base"
)
AUDIT = Audit(
    cell="one",
    base="debian:bookworm-slim",
    findings=(ERROR, WAIVED, ASSUMED),
    gpu={"8.7": {"x 1/x.so": GpuVerdict(sass=(87,), ptx=(), verdict="native")}},
    files={"demo/_C.so": "fails: libnuma.so.1"},
    injected={"x.so": ("libcuda.so.1",)},
    warnings=("the waiver of gpu-code matches nothing",),
    assumed="no base",
    elapsed_s=1.25,
)


def test_text() -> None:
    lines = text(AUDIT).splitlines()
    assert lines[:2] == ["one: 1 error, 0 warnings, 1 note, 1 waived in 1.2 s", "assumed: no base"]
    block = lines.index("error    missing-library: demo 1.0")
    assert lines[block + 1 : block + 4] == [
        "         demo/_C.so needs libnuma.so.1, and nothing brings it",
        "         also: demo/m0.so, demo/m1.so, demo/m2.so and 2 more",
        "         next: add `libnuma1` to `apt` under [base]",
    ]
    assert "waived   tag-lies: x 1" in lines
    assert "info     symbol-version: y 1 (assumed)" in lines
    assert lines[-3:] == ["warning: the waiver of gpu-code matches nothing", "", "GPU code for SM 8.7: 1 native"]


def test_nothing_that_a_terminal_obeys() -> None:
    assert "\x1b" not in text(AUDIT)


def test_json() -> None:
    shown = json.loads(json.dumps(to_json(audited(AUDIT, files=False))))
    assert set(shown) == {"cell", "base", "findings", "counts", "gpu", "kernels", "warnings", "assumed", "elapsed_s"}
    assert shown["counts"] == {"error": 1, "warning": 0, "info": 1, "waived": 1}
    assert shown["findings"][0].keys() >= {"rule", "severity", "wheel", "file", "detail", "fix", "also", "waived"}
    assert shown["gpu"]["8.7"]["x 1/x.so"] == {"sass": [87], "ptx": [], "verdict": "native", "meant": True}
    assert to_json(audited(AUDIT, files=True))["files"] == {"demo/_C.so": "fails: libnuma.so.1"}


def test_an_audit_survives_its_record() -> None:
    assert from_json(json.loads(json.dumps(to_json(AUDIT))), Audit) == AUDIT


def test_tally_counts_nobody_twice() -> None:
    assert str(Audit(cell="one", base="b", findings=()).counts) == "0 errors, 0 warnings, 0 notes"


@pytest.fixture
def read(monkeypatch: pytest.MonkeyPatch) -> None:
    """A base image that was read."""
    monkeypatch.setattr(room, "read_base", lambda *_: make_base())


MODULE = make_elf(needed=["libnuma.so.1"], defined=["PyInit__C"], fatbin=make_fatbin(("sass", 90)))


@pytest.mark.usefixtures("read")
def test_a_cell(tmp_path: Path, session: Session) -> None:
    lock = make_lock(locked(make_wheel(tmp_path, files={"demo/_C.so": MODULE})), models=())
    found = audit_cell(make_job(spec=make_spec(apt=(), models=())), lock, session)
    assert (found.cell, found.base, found.counted("error")) == ("one", "debian:bookworm-slim", 1)
    waivers = (Waiver(rule="missing-library", reason="r"),)
    again = audit_cell(make_job(spec=make_spec(apt=("libnuma1",), models=(), waivers=waivers)), lock, session)
    assert again.findings == ()
    assert len(again.warnings) == 1


def test_a_base_image_that_cannot_be_read(tmp_path: Path, session: Session, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise RegistryError("the registry answers 401")

    monkeypatch.setattr(room, "read_base", refuse)
    lock = make_lock(locked(make_wheel(tmp_path, files={"demo/_C.so": MODULE})))
    found = audit_cell(make_job(), lock, session)
    assert found.assumed is not None
    assert "the registry answers 401" in found.assumed


def test_what_an_audit_is_made_from(tmp_path: Path, session: Session, monkeypatch: pytest.MonkeyPatch) -> None:
    wheel = locked(make_wheel(tmp_path))
    job, lock = make_job(), make_lock(wheel)

    def inputs(job: Job, lock: Lock) -> str:
        return room.STAGE.inputs(make_run(session, lock, job=job))

    before = inputs(job, lock)
    others = (
        inputs(job, make_lock(wheel, models=())),
        inputs(make_job(spec=make_spec(server=ServerSpec(model="tiny", arguments=("--x",)))), lock),
        inputs(job, make_lock(wheel, platform=make_platform(glibc="2.40"))),
        inputs(make_job(spec=make_spec(apt=("x",))), lock),
        inputs(make_job(spec=make_spec(waivers=(Waiver(rule="tag-lies", reason="r"),))), lock),
    )
    monkeypatch.setattr(room, "table_digest", lambda: "other rows")
    assert len({before, *others, inputs(job, lock)}) == 7


@pytest.fixture
def jbuild(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Any:
    (tmp_path / "recipes").mkdir()
    (tmp_path / "recipes" / "demo.toml").write_text(RECIPE)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(loose_wheels, "read_base", lambda *_: make_base())
    monkeypatch.setattr(loose_wheels, "resolve_digest", lambda *_: make_lock().base)

    def call(*arguments: str) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["jbuild", "audit", *arguments])
        with pytest.raises(SystemExit) as caught:
            cli.main()
        captured = capsys.readouterr()
        return int(caught.value.code or 0), captured.out, captured.err

    return call


def test_loose_wheels(jbuild: Any, tmp_path: Path) -> None:
    paths = [str(make_wheel(tmp_path, name, files={f"{name}/_C.so": MODULE})) for name in ("one", "two")]
    code, out, _ = jbuild("--wheels", *paths, "--base", "debian:bookworm", "--sm", "87", "--json", "--files")
    found = json.loads(out)
    assert code == 14
    assert (found["cell"], found["base"]) == ("wheels", "debian:bookworm")
    assert found["counts"]["error"] == 4
    assert list(found["gpu"]) == ["8.7"]
    assert set(found["files"]) == {"one/_C.so", "two/_C.so"}
    code, out, _ = jbuild("--wheels", paths[0], "--base", "x:y")
    assert "next: install libnuma1 in the image, and say so with `--apt libnuma1`" in out
    code, out, _ = jbuild("--wheels", paths[0], "--base", "x:y", "--apt", "libnuma1")
    assert (code, out.splitlines()[0].partition(" in ")[0]) == (0, "wheels: 0 errors, 0 warnings, 0 notes")


def test_loose_wheels_without_a_base(jbuild: Any, tmp_path: Path) -> None:
    path = make_wheel(tmp_path, files={"demo/_C.so": make_elf(needed=["libc.so.6"])})
    code, out, _ = jbuild("--wheels", str(path), "--python", "3.12", "--json")
    assert code == 0
    assert "no --base was given" in json.loads(out)["assumed"]
    assert "of ubuntu-24.04 are assumed" in json.loads(out)["assumed"]


def test_loose_wheels_for_a_jetson(jbuild: Any, tmp_path: Path) -> None:
    path = make_wheel(tmp_path, files={"demo/_C.so": make_elf(fatbin=make_fatbin(("sass", 87)))})
    code, out, _ = jbuild("--wheels", str(path), "--l4t", "36.4.0", "--json")
    assert (code, json.loads(out)["gpu"]["8.7"]["demo 1.0/demo/_C.so"]["verdict"]) == (0, "native")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("demo", "--sm", "87"), "--sm needs --wheels"),
        (("demo", "other"), "audit takes one recipe"),
        (("--wheels", "x.whl", "--cell", "a"), "--cell is for recipes"),
        (("--wheels", "gone-1.0-py3-none-any.whl"), "no such file"),
        (("--wheels", "x.whl", "--python", "three"), "is not a Python version"),
        (("--wheels", "."), "this is a folder"),
        (("--wheels", "x.whl", "--l4t", "37.0.0"), "nearest: 36.2.0, 38.2.0"),
        (("--wheels", "x.whl", "--l4t", "nonsense"), "--l4t: unknown L4T release `nonsense`"),
        ((), "Missing argument"),
    ],
)
def test_usage(jbuild: Any, arguments: tuple[str, ...], message: str) -> None:
    code, _, err = jbuild(*arguments)
    assert code == 2
    assert message in err


def test_a_rule_is_explained(jbuild: Any) -> None:
    code, out, _ = jbuild("--explain", "missing-library")
    assert code == 0
    lines = out.splitlines()
    assert lines[0] == "missing-library (error at worst): Needed libraries that nothing brings"
    assert lines[2].startswith("A file needs a library")
    assert 'rule = "missing-library"' in lines[-4:]
    assert json.loads(jbuild("--explain", "gpu-code", "--json")[1])["id"] == "gpu-code"
    code, _, err = jbuild("--explain", "gpu-cod")
    assert (code, "did you mean `gpu-code`?" in err) == (2, True)


def test_a_base_image_that_is_made_for_an_l4t_release(jbuild: Any, tmp_path: Path) -> None:
    path = make_wheel(tmp_path, files={"demo/_C.so": make_elf(fatbin=make_fatbin(("sass", 80)))})
    code, out, _ = jbuild("--wheels", str(path), "--base", "nvcr.io/nvidia/l4t-jetpack:r36.4.0", "--sm", "87", "--json")
    assert (code, json.loads(out)["findings"][0]["rule"]) == (14, "gpu-code")


def test_a_gpu_of_nobody_knows_which_l4t_release(jbuild: Any, tmp_path: Path) -> None:
    path = make_wheel(tmp_path, files={"demo/_C.so": make_elf(fatbin=make_fatbin(("sass", 80)))})
    code, out, _ = jbuild("--wheels", str(path), "--base", "x:y", "--sm", "8.7", "--json")
    (finding,) = json.loads(out)["findings"]
    assert (code, finding["severity"], finding["fix"]) == (0, "warning", "say which one with --l4t RELEASE")
    assert jbuild("--wheels", str(path), "--base", "x:y", "--sm", "86", "--json")[0] == 0


def test_cells_that_cannot_be(jbuild: Any) -> None:
    code, _, err = jbuild("demo", "--cell", "vllm=0.20.2")
    assert code == 3
    assert "none of the selected cells of demo can be built" in err


@pytest.mark.parametrize("name", ["demo.zip", "demo.whl"])
def test_what_is_no_wheels_name(jbuild: Any, tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_bytes(b"x")
    code, _, err = jbuild("--wheels", str(tmp_path / name))
    assert (code, "not a wheel's name" in err) == (2, True)


def test_one_wheel_of_a_name(tmp_path: Path, session: Session) -> None:
    paths = [make_wheel(tmp_path, "demo", version) for version in ("1.0", "2.0")]
    with pytest.raises(UsageError, match="demo has several wheels"):
        loose_wheels.audit_wheels(paths, session, base=None)


def test_several_cells_are_a_list(jbuild: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(command, "lock_with_wheels", lambda *_: make_lock())
    monkeypatch.setattr(command, "audit_cell", lambda *_: AUDIT)
    monkeypatch.setattr(CellSelection, "jobs", lambda _: [make_job()] * 2)
    code, out, _ = jbuild("demo", "--json")
    assert (code, len(json.loads(out)["cells"]), json.loads(out)["recipe"]) == (14, 2, "demo")


def test_a_cell_that_cannot_be_locked_does_not_stop_the_others(jbuild: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    jobs = [make_job(cell=name) for name in ("one", "two", "three")]

    def lock(job: Job, *_: Any) -> Lock:
        if job.cell.id != "two":
            raise NoWheelsError("no wheels work together", hint=f"`jbuild why demo --cell {job.cell.id}` tells more")
        return make_lock()

    monkeypatch.setattr(command, "lock_with_wheels", lock)
    monkeypatch.setattr(command, "audit_cell", lambda *_: AUDIT)
    monkeypatch.setattr(CellSelection, "jobs", lambda _: jobs)
    code, out, err = jbuild("demo")
    assert code == 13
    assert out.startswith("one: 1 error")
    assert out.endswith("\nnot audited: one, three\n")
    assert err.splitlines()[1:3] == ["one, three failed:", "error: no wheels work together"]
    cells = json.loads(jbuild("demo", "--json")[1])["cells"]
    assert [cell.get("error", {}).get("exit_code") for cell in cells] == [None, 4, 4]
    monkeypatch.setattr(CellSelection, "jobs", lambda _: jobs[:1])
    assert jbuild("demo")[0] == 4


def test_one_cell_is_the_result_itself(jbuild: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(command, "lock_with_wheels", lambda *_: make_lock())
    monkeypatch.setattr(command, "audit_cell", lambda *_: AUDIT)
    code, out, _ = jbuild("demo", "--json")
    assert (code, json.loads(out)["cell"], json.loads(out)["recipe"]) == (14, "one", "demo")


@pytest.mark.parametrize("passes", [True, False])
def test_an_audit_that_passes_ends_an_earlier_failure(
    jbuild: Any, session: Session, monkeypatch: pytest.MonkeyPatch, passes: bool
) -> None:
    job, workspace = make_job(), Workspace.current()
    folder = workspace.cell("demo", "one")
    history.note(
        make_run(replace(session, workspace=workspace), job=job), (), AuditError("missing-library: demo"), "audit"
    )
    monkeypatch.setattr(command, "lock_with_wheels", lambda *_: make_lock())
    monkeypatch.setattr(command, "audit_cell", lambda *_: replace(AUDIT, findings=()) if passes else AUDIT)
    monkeypatch.setattr(CellSelection, "jobs", lambda _: [job])
    jbuild("demo")
    open_now = [failure.stage for failure in history.open_failures(history.runs(folder))]
    assert open_now == ([] if passes else ["audit"])
    noted = len(history.runs(folder))
    jbuild("demo")
    assert len(history.runs(folder)) == noted
