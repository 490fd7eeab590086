"""A sandbox on a builder: its Dockerfile, and what a step that does not come to its end means; `docker` is a script."""

from __future__ import annotations

import json
import re
from typing import TYPE_CHECKING

import pytest
from build_factory import CPU, make_build

from builder.errors import BuildError, DiskError, EngineError, JbuildError, ProgramFailedError
from builder.foundry.build_jobs import Capacity
from builder.foundry.build_progress import BuildLog
from builder.foundry.build_python import BuildPython
from builder.foundry.build_sandbox import BuildFolder
from builder.foundry.remote_dockerfile import contexts, remote_dockerfile, remote_ignore
from builder.foundry.remote_sandbox import RemoteSandbox
from builder.foundry.sandbox import Mount, Sandbox

if TYPE_CHECKING:
    from pathlib import Path

    from builder.host.session import Session

BUILD = make_build(target=CPU)
# A step that has printed its progress and left a wheel.
ENDED = """mkdir result
echo '#9 [build 2/2] RUN' >&2
echo '#9 0.400 [1/2] ' >&2
echo '#9 30.40 jbuild: it runs' >&2
printf 'line 1\\nline 2\\n' > result/build.log
printf 0 > result/code
printf '{"peak_memory": 5}' > result/cost.json
printf wheel > result/demo.whl
"""


@pytest.fixture
def remote(tmp_path: Path, session: Session) -> RemoteSandbox:
    """A sandbox on the builder `server`, with an interpreter of the system."""
    (tmp_path / "prefix/include/python3.12").mkdir(parents=True)
    header = tmp_path / "prefix/include/python3.12/pyconfig.h"
    header.write_text("")
    folder = BuildFolder(path=tmp_path / "build")
    for path in (folder.wheel, folder.target, tmp_path / "root", tmp_path / "cuda"):
        path.mkdir(parents=True)
    (folder.target / "pyconfig.h").write_text("")
    python = BuildPython(version="3.12.1", prefix=tmp_path / "prefix", header=header, variables={})
    mounts = (
        Mount(source=folder.path, target="/build", writable=True),
        Mount(source=python.prefix, target="/foundry/python"),
        Mount(source=folder.target / "pyconfig.h", target="/foundry/python/include/python3.12/pyconfig.h"),
        Mount(source=tmp_path / "cuda", target="/foundry/cuda"),
    )
    sandbox = Sandbox(root=tmp_path / "root", mounts=mounts)
    return RemoteSandbox(builder="server", build=BUILD, folder=folder, python=python, sandbox=sandbox, session=session)


def docker(folder: Path, monkeypatch: pytest.MonkeyPatch, build: str, inspect: str = "echo Status: running") -> None:
    """Put a script in place of docker."""
    (folder / "bin").mkdir()
    lines = ("#!/bin/sh", f'if [ "$2" = inspect ]; then {inspect}; exit; fi', build)
    (folder / "bin/docker").write_text("\n".join(lines) + "\n")
    (folder / "bin/docker").chmod(0o755)
    monkeypatch.setenv("PATH", f"{folder}/bin:/usr/bin:/bin")
    monkeypatch.setenv("DOCKER_HOST", "unix:///nowhere/docker.sock")


def run(remote: RemoteSandbox) -> BuildLog:
    with remote.session.console.task("building") as task:
        log = BuildLog(task)
        remote.run(["python", "hook.py"], {"CC": "gcc"}, log, fresh=False)
    return log


def test_each_folder_is_a_context_and_mounted_at_its_path(remote: RemoteSandbox, tmp_path: Path) -> None:
    text = remote_dockerfile(remote.sandbox, BUILD, keeps=True)
    names = {folder: name for name, folder in contexts(remote.sandbox).items()}
    system = {tmp_path / "root/usr", tmp_path / "root/etc"}
    assert set(names) == {*system, remote.folder.path, remote.folder.target, tmp_path / "cuda"}
    assert f"--mount=type=bind,from={names[tmp_path / 'root/usr']},target=/usr" in text
    assert f"COPY --from={names[tmp_path / 'root/etc']} / /etc" in text
    assert "RUN --network=none " in text
    mounts = re.findall(r"--mount=(\S+)", text)
    assert f"type=cache,id=jbuild-{BUILD.fingerprint},target=/build,sharing=locked" in mounts
    assert f"type=bind,from={names[remote.folder.path]},target=/foundry/work" in mounts
    assert "type=bind,target=/foundry/python" in mounts
    header = "target=/foundry/python/include/python3.12/pyconfig.h"
    assert f"type=bind,from={names[remote.folder.target]},source=pyconfig.h,{header}" in mounts
    assert f"type=bind,from={names[tmp_path / 'cuda']},target=/foundry/cuda" in mounts
    asked = remote_dockerfile(remote.sandbox, BUILD, keeps=False)
    assert not re.search(r"target=/build\b|/foundry/work", asked)


def test_the_systems_interpreter_travels_without_the_system(remote: RemoteSandbox) -> None:
    lines = remote_ignore(remote.python, BUILD).splitlines()
    assert lines[0] == "*"
    assert {"!bin/python*", "!lib/python3.12", "!include/python3.12"} <= set(lines)
    assert lines.index("lib/python3.12/site-packages") > lines.index("!lib/python3.12")


def test_what_the_step_leaves_comes_back(
    remote: RemoteSandbox, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    docker(tmp_path, monkeypatch, f"printf '%s\\n' \"$@\" > {tmp_path}/words; cp run/run.json {tmp_path}\n{ENDED}")
    log = run(remote)
    assert list(log.lines) == ["line 1", "line 2"]
    assert log.units == 1
    assert remote.folder.raw_wheel() == remote.folder.wheel / "demo.whl"
    order = json.loads((tmp_path / "run.json").read_text())
    assert (order["argv"][-2:], order["fresh"]) == (["python", "hook.py"], False)
    assert order["environment"] == {"LANG": "C.UTF-8", "CC": "gcc"}
    words = (tmp_path / "words").read_text().splitlines()
    assert words[:4] == ["buildx", "build", "--builder", "server"]
    assert "--platform=linux/amd64" in words
    assert words[-1] == str(remote.python.prefix)


def test_a_program_that_fails_is_its_own_failure(
    remote: RemoteSandbox, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    docker(tmp_path, monkeypatch, f"{ENDED}printf -- -9 > result/code")
    with pytest.raises(ProgramFailedError) as caught:
        run(remote)
    assert caught.value.code == -9
    assert remote.folder.raw_wheel() is None


def test_the_machine_of_the_builder_decides_the_jobs(
    remote: RemoteSandbox, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    facts = '{"architecture": "amd64", "processors": 16, "memory": 64000}'
    docker(tmp_path, monkeypatch, f"mkdir result; echo '{facts}' > result/machine.json")
    assert remote.capacity() == Capacity(processors=16, memory=64000)


@pytest.mark.parametrize(
    ("build", "inspect", "kind", "message"),
    [
        (
            "echo 'process \"x\" did not complete successfully: exit code: 137' >&2; exit 1",
            "true",
            ProgramFailedError,
            "exit code 137",
        ),
        ("exit 1", "echo 'Error: gone'", EngineError, "the builder does not answer: gone"),
        ("exit 1", "echo 'no builder \"server\" found' >&2; exit 1", EngineError, "there is no such builder"),
        ("echo 'no space left on device' >&2; exit 1", "true", DiskError, "the disk of the builder is full"),
        (
            "echo 'exec /foundry/python/bin/python3.12: exec format error' >&2; exit 1",
            "true",
            BuildError,
            "the lock has the compilers of amd64 machines, and the builder server cannot run their programs",
        ),
        ("echo 'Error: odd' >&2; exit 1", "true", BuildError, "the builder server cannot run the sandbox"),
    ],
)
def test_a_step_that_does_not_come_to_its_end(
    remote: RemoteSandbox,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    build: str,
    inspect: str,
    kind: type[JbuildError],
    message: str,
) -> None:
    docker(tmp_path, monkeypatch, build, inspect)
    with pytest.raises(kind, match=re.escape(message)) as caught:
        run(remote)
    assert type(caught.value) is kind
    assert kind is ProgramFailedError or caught.value.hint
    assert not list(remote.session.workspace.cache.glob("scratch-*"))


def test_a_machine_of_another_architecture(
    remote: RemoteSandbox, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    facts = '{"architecture": "arm64", "processors": 16, "memory": 64000}'
    docker(tmp_path, monkeypatch, f"mkdir result; echo '{facts}' > result/machine.json")
    with pytest.raises(BuildError, match="the compilers of amd64 machines, and the builder server is arm64"):
        remote.capacity()


def test_a_wheel_that_was_cut_off_does_not_count(tmp_path: Path) -> None:
    folder = BuildFolder(path=tmp_path)
    folder.wheel.mkdir()
    (folder.wheel / "demo.whl").write_bytes(b"half a zip")
    assert folder.raw_wheel() is None
    (tmp_path / "cost.json").write_text('{"peak_memory": 1}')
    assert folder.raw_wheel() == folder.wheel / "demo.whl"
