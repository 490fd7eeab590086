"""The engine, what builds in it, and whether arm64 programs run there: with parts missing, one at a time."""

from __future__ import annotations

import platform
import shutil
import stat
import subprocess
from typing import TYPE_CHECKING

import pytest
from doctor_parts import called, docker, jetson, make_case, named, program
from engine_factory import make_engine

from builder.host.config import Config
from builder.host.engine.gpu_access import BY_RUNTIME, GpuAccess
from builder.host.session import Session
from builder.project.doctor import emulation_check, tools_check

if TYPE_CHECKING:
    from pathlib import Path

    from builder.project.doctor.check_table import Check


@pytest.fixture
def programs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The only folder of PATH, with a docker command in it."""
    folder = tmp_path / "bin"
    docker(folder)
    for name in ("dirname", "sh"):
        found = shutil.which(name)
        assert found
        (folder / name).symlink_to(found)
    monkeypatch.setenv("PATH", str(folder))
    return folder


@pytest.fixture
def root(tmp_path: Path) -> Path:
    (tmp_path / "root").mkdir()
    return tmp_path / "root"


def look(session: Session, root: Path, **changes: object) -> list[Check]:
    return list(tools_check.engine(make_case(session, root=root, **changes)))


def test_all_is_well(session: Session, programs: Path, root: Path) -> None:
    states = {check.name: check.state for check in look(session, root)}
    assert states == {
        "engine": "ok",
        "buildx": "ok",
        "builder": "ok",
        "image store": "ok",
        "GPU runtime": "not applicable",
    }


@pytest.mark.parametrize(
    ("refusal", "mine", "state_of_docker_host", "fix"),
    [
        ("Docker is not running (no socket at /var/run/docker.sock)", True, None, True),
        ("Docker is not running (no socket at /var/run/docker.sock)", False, None, False),
        ("Docker is not running (no socket at /var/run/docker.sock)", True, "unix:///x", False),
        ("permission denied on the Docker socket", True, None, False),
        ("the engine does not answer: connection refused", True, None, False),
    ],
)
def test_without_an_engine_one_is_started_only_where_there_is_none(
    session: Session,
    monkeypatch: pytest.MonkeyPatch,
    root: Path,
    refusal: str,
    mine: bool,
    state_of_docker_host: str | None,
    fix: bool,
) -> None:
    monkeypatch.setattr(tools_check, "can_start_engine", lambda: mine)
    if state_of_docker_host:
        monkeypatch.setenv("DOCKER_HOST", state_of_docker_host)
    (found,) = look(session, root, engine=None, refusal=refusal, hint="start Docker")
    assert (found.state, found.found) == ("error", refusal)
    assert (found.mend or "").endswith("start Docker")
    assert ("DOCKER_HOST" in (found.mend or "")) is bool(state_of_docker_host)
    assert bool(found.fix) is fix
    assert found.fix == () or found.fix[1:] == ("up",)


def test_no_docker_command(session: Session, programs: Path, root: Path) -> None:
    (programs / "docker").unlink()
    found = named(look(session, root), "buildx")
    assert (found.state, found.found) == ("error", "the docker command is not installed")


def test_a_docker_command_without_buildx(session: Session, programs: Path, root: Path) -> None:
    docker(programs, buildx="exit 1")
    found = named(look(session, root), "buildx")
    assert found.state == "error"
    assert "docker-buildx" in (found.mend or "")


def test_a_builder_that_knows_no_arm64(session: Session, programs: Path, root: Path) -> None:
    docker(programs, inspected="Platforms: linux/amd64, linux/386\\n")
    found = named(look(session, root), "builder")
    assert (found.state, found.found) == ("error", "the engine's own builds for linux/386, linux/amd64")


def test_a_builder_of_the_configuration_that_has_died(session: Session, programs: Path, root: Path) -> None:
    docker(programs, inspected="Error: cannot reach the node\\n")
    own = Session(workspace=session.workspace, config=Config(builders=("far",)), console=session.console)
    found = named(look(own, root), "builder")
    assert (found.state, found.found) == ("error", "far: cannot reach the node")
    assert "buildx inspect --builder far" in called(programs)


@pytest.mark.parametrize(
    ("inspected", "state", "words"),
    [("Status: running\\n", "ok", "server"), ("Error: cannot reach it\\n", "error", "server: cannot reach it")],
)
def test_the_builder_that_compiles_wheels(
    session: Session, programs: Path, root: Path, inspected: str, state: str, words: str
) -> None:
    docker(programs, inspected=inspected)
    own = Session(workspace=session.workspace, config=Config(runner="server"), console=session.console)
    found = named(look(own, root), "runner")
    assert (found.state, found.found) == (state, words)
    assert "buildx inspect --builder server" in called(programs)


def test_the_old_image_store(session: Session, programs: Path, root: Path) -> None:
    found = named(look(session, root, engine=make_engine(containerd_store=False)), "image store")
    assert found.state == "warning"
    assert '{"features": {"containerd-snapshotter": true}}' in (found.mend or "")


def runtime(session: Session, root: Path, *runtimes: str, endpoint: str = "unix:///x.sock") -> Check:
    return named(
        look(
            session,
            root,
            engine=make_engine(runtimes=runtimes, endpoint=endpoint, gpu=BY_RUNTIME if "nvidia" in runtimes else None),
        ),
        "GPU runtime",
    )


def test_the_way_to_the_gpu_is_named_with_its_reason_and_setting(session: Session, programs: Path, root: Path) -> None:
    access = GpuAccess(method="cdi", reason="/etc/cdi/nvidia.yaml describes it")
    found = named(look(session, root, engine=make_engine(gpu=access)), "GPU runtime")
    assert found.state == "ok"
    assert found.found == (
        "CDI device nvidia.com/gpu=all (/etc/cdi/nvidia.yaml describes it); `run.gpu` in jbuild.toml overrides it"
    )


def test_the_gpu_runtime_on_a_jetson(session: Session, programs: Path, root: Path) -> None:
    jetson(root)
    found = runtime(session, root)
    assert found.state == "error"
    assert "nvidia-ctk runtime configure" in (found.mend or "")
    assert "no-program" not in found.found
    program(programs, "nvidia-container-runtime", "exit 0")
    assert runtime(session, root).state == "warning"
    assert runtime(session, root, "nvidia").state == "ok"


def test_a_runtime_whose_program_is_missing(session: Session, programs: Path, root: Path) -> None:
    """What people see as `nvidia-container-runtime not found`."""
    found = runtime(session, root, "nvidia", "runc")
    assert found.state == "error"
    assert "there is no nvidia-container-runtime" in found.found


def test_the_runtime_of_an_engine_elsewhere(session: Session, programs: Path, root: Path) -> None:
    jetson(root)
    assert runtime(session, root, "nvidia", endpoint="ssh://host").state == "ok"
    assert runtime(session, root, endpoint="ssh://host").state == "not applicable"


def emulated(session: Session, root: Path, **changes: object) -> Check:
    (found,) = emulation_check.check(make_case(session, root=root, **changes))
    return found


def entry(root: Path, text: str) -> None:
    path = root / "proc" / "sys" / "fs" / "binfmt_misc" / "qemu-aarch64"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)


def test_the_program_runs(session: Session, programs: Path, root: Path) -> None:
    found = emulated(session, root)
    assert (found.state, found.found) == ("ok", "a program ran in a container, emulated")
    imported, ran, removed = called(programs)
    name = imported.rsplit(" ", 1)[1]
    assert ran.startswith("run --rm --pull never --network none --platform linux/arm64")
    assert ran.endswith(f"{name} /program")
    assert removed == f"image rm --force {name}"


@pytest.mark.parametrize(
    ("registered", "said", "fixable"),
    [
        (None, "without emulation of arm64", True),
        ("disabled\ninterpreter /usr/bin/qemu\nflags: OCF\n", "without emulation of arm64", True),
        ("enabled\ninterpreter /usr/bin/qemu\nflags: OC\n", "without flag F (flags: OC)", True),
        ("enabled\ninterpreter /usr/bin/qemu\nflags: OCF\n", "exec format error", False),
    ],
)
def test_the_program_does_not_run(
    session: Session,
    programs: Path,
    root: Path,
    monkeypatch: pytest.MonkeyPatch,
    registered: str | None,
    said: str,
    fixable: bool,
) -> None:
    monkeypatch.setattr(emulation_check, "can_start_engine", lambda: True)
    docker(programs, ran="echo 'exec /program: exec format error' >&2; exit 126")
    if registered:
        entry(root, registered)
    found = emulated(session, root)
    assert found.state == "error"
    assert said in found.found
    assert bool(found.fix) is fixable
    assert called(programs)[-1].startswith("image rm")


def test_a_program_that_ends_otherwise_was_not_run_as_it_is(session: Session, programs: Path, root: Path) -> None:
    docker(programs, ran="exit 139")
    entry(root, "enabled\nflags: F\n")
    assert emulated(session, root).found == "a program exited with code 139 instead of 42"


def test_an_arm64_engine_needs_no_emulation(session: Session, programs: Path, root: Path) -> None:
    native = make_engine(architecture="arm64", emulated=())
    assert emulated(session, root, engine=native).found == "a program ran in a container"


def test_without_engine_or_docker_nothing_can_be_run(session: Session, programs: Path, root: Path) -> None:
    assert emulated(session, root, engine=None).state == "not applicable"
    (programs / "docker").unlink()
    assert emulated(session, root).state == "not applicable"


def test_the_program_is_an_arm64_program(tmp_path: Path) -> None:
    path = tmp_path / "program"
    path.write_bytes(emulation_check.program())
    path.chmod(stat.S_IRWXU)
    runner = [] if platform.machine() == "aarch64" else [shutil.which("qemu-aarch64-static")]
    if runner == [None]:
        pytest.skip("no emulator of arm64 is installed")
    assert subprocess.run([*runner, str(path)], check=False).returncode == emulation_check.ANSWER  # type: ignore[list-item]
