"""Builds on a builder: the bytes, errors and progress are those of the sandbox of this machine."""

from __future__ import annotations

import platform
import shutil
import signal
from dataclasses import replace
from typing import TYPE_CHECKING

import pytest
import second_engine
from demo_build import lock
from project import clean_environment

from builder.errors import BuildError, EngineError
from builder.foundry.build_progress import BuildLog
from builder.foundry.build_python import build_python
from builder.foundry.build_sandbox import prepare_target, sandbox_of
from builder.foundry.build_wheel import build_folder, build_wheel
from builder.foundry.remote_sandbox import RemoteSandbox
from builder.host.config import Config
from builder.host.files import sha256_of
from builder.host.session import Session
from builder.model.builds import BuildOptions
from builder.pipeline.builders import HangingBuilderError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from second_engine import SecondEngine

    from builder.model.builds import LockedBuild

    Lock = Callable[..., tuple[LockedBuild, Session]]

__all__ = ["lock"]
pytestmark = [
    # The first test fetches the compilers, if the cache has none.
    pytest.mark.timeout(1800),
    pytest.mark.skipif(shutil.which("apt-get") is None, reason="compilers come from Debian packages"),
    pytest.mark.skipif(platform.machine() != "x86_64", reason="the cross compiler of these tests runs on x86-64"),
]
DEAD = "unix:///nowhere/docker.sock"
ENGINE = "default"
# What a project can see of its sandbox, as the message of a failure.
FACTS = """import os, pathlib, socket, sys
status = pathlib.Path("/proc/self/status").read_text().splitlines()
rights = [line for name in ("NoNewPrivs", "CapEff") for line in status if line.startswith(name)]
user = [os.getuid(), os.getgid(), socket.gethostname(), os.umask(0), os.getcwd(), sys.version, sys.path]
paths = ("/usr", "/etc", "/foundry/python", "/tmp", "/build", "/build/home")
writable = [path for path in paths if os.access(path, os.W_OK)]
interfaces = [name for _, name in socket.if_nameindex()]
exit(f"jbuild: {[*rights, *user, writable, interfaces, sorted(os.environ.items())]}")"""


@pytest.fixture(autouse=True)
def environment(tmp_path: Path, docker_host: str, monkeypatch: pytest.MonkeyPatch) -> dict[str, str]:
    """Settings of docker of the test's own, with the engine of all tests."""
    clean = clean_environment(tmp_path / "home", docker_host)
    for name in ("DOCKER_CONFIG", "DOCKER_HOST"):
        monkeypatch.setenv(name, clean[name])
    return clean


@pytest.fixture
def mortal(environment: dict[str, str]) -> Iterator[SecondEngine]:
    """An engine that may be killed, as the docker context `mortal`."""
    if not second_engine.can_run():
        pytest.skip("a second engine needs root and dockerd")
    with second_engine.running_engine() as running:
        running.context("mortal", environment)
        yield running


def built(build: LockedBuild, session: Session, runner: str | None = None) -> str:
    """Build afresh, and return the hash of the wheel."""
    return sha256_of(build_wheel(build, session, BuildOptions(fresh=True, runner=runner)))


def test_the_wheel_has_the_bytes_of_a_build_on_this_machine(
    lock: Lock, other_engine: SecondEngine, environment: dict[str, str]
) -> None:
    other_engine.context("second", environment)
    build, session = lock()
    here = built(build, session)
    cost = build_folder(build, session).cost()
    for runner in (ENGINE, "second"):
        assert built(build, session, runner) == here
        there = build_folder(build, session).cost()
        assert there.units == cost.units == 1
        assert there.peak_memory
    assert other_engine.has_built()


def test_the_configuration_may_name_the_runner(lock: Lock) -> None:
    build, session = lock()
    nowhere = Session(workspace=session.workspace, config=Config(runner="nowhere"), console=session.console)
    with pytest.raises(EngineError, match="there is no such builder"):
        build_wheel(build, nowhere, BuildOptions())
    assert build_wheel(build, nowhere, BuildOptions(runner=ENGINE)).suffix == ".whl"


@pytest.mark.parametrize(
    ("extra", "message"),
    [
        (FACTS, "'NoNewPrivs:\\t1', 'CapEff:\\t0000000000000000', 1000, 1000, 'jbuild'"),
        ("import urllib.request; urllib.request.urlopen('https://example.org')", "the build asked for the network"),
        ("import os; os.kill(os.getpid(), 9)", "the kernel killed a compiler"),
    ],
)
def test_the_sandbox_is_the_same(lock: Lock, extra: str, message: str, monkeypatch: pytest.MonkeyPatch) -> None:
    # BuildKit gives its steps the proxies of docker's settings.
    monkeypatch.setenv("HTTP_PROXY", "http://127.0.0.1:1")
    build, session = lock(extra)
    errors = []
    for runner in (None, ENGINE):
        with pytest.raises(BuildError) as caught:
            build_wheel(build, session, BuildOptions(jobs=1, fresh=True, runner=runner))
        errors.append(caught.value.as_json())
    assert message in str(errors[0]["message"]), errors[0]
    assert errors[0] == errors[1]


def test_an_error_is_the_compilers_own_after_an_output_of_any_length(lock: Lock) -> None:
    # BuildKit keeps 2 MiB of a step's output.
    noise = "print('x' * 300 * 10_000)\nprint('\\n'.join(['noise ' * 50] * 10_000), flush=True)"
    build, session = lock(noise, native="int f() { return undeclared; }\n")
    with pytest.raises(BuildError, match=r"native\.cpp does not compile") as caught:
        build_wheel(build, session, BuildOptions(runner=ENGINE))
    assert "'undeclared' was not declared in this scope" in (caught.value.log or "")
    assert "noise noise" in build_folder(build, session).log.read_text()


def test_an_interrupted_build_goes_on_there(lock: Lock) -> None:
    first = (
        "import pathlib; here = pathlib.Path('begun'); there = here.exists(); here.touch(); there or exit('jbuild: 1')"
    )
    build, session = lock(first)
    with pytest.raises(BuildError, match="1"):
        built(build, session, ENGINE)
    assert build_wheel(build, session, BuildOptions(runner=ENGINE)).suffix == ".whl"
    shutil.rmtree(build_folder(build, session).path)
    # It has the finished wheel, too.
    assert build_wheel(build, session, BuildOptions(runner=ENGINE)).suffix == ".whl"
    with pytest.raises(BuildError, match="1"):
        built(build, session, ENGINE)


@pytest.mark.parametrize(("name", "message"), [("nowhere", "there is no such builder"), ("dead", "does not answer")])
def test_a_builder_that_cannot_build(
    lock: Lock, name: str, message: str, environment: dict[str, str], tmp_path: Path
) -> None:
    build, session = lock()
    dead = second_engine.SecondEngine(folder=tmp_path / "nowhere", process=None)  # type: ignore[arg-type]
    dead.context("dead", environment)
    with pytest.raises(EngineError, match=message) as caught:
        built(build, session, name)
    assert caught.value.where == name
    assert "docker buildx ls" in (caught.value.hint or "")


def test_a_builder_of_another_architecture(lock: Lock) -> None:
    build, session = lock()
    folder, python = build_folder(build, session), build_python(build.target.python, session, build.interpreter)
    folder.path.mkdir(parents=True)
    prepare_target(build, folder, python)
    sandbox = sandbox_of(build, folder, python, session)
    foreign = replace(build, machine="arm64")
    remote = RemoteSandbox(
        builder=ENGINE, build=foreign, folder=folder, python=python, sandbox=sandbox, session=session
    )
    with pytest.raises(BuildError, match="the compilers of arm64 machines, and the builder default is amd64"):
        remote.capacity()


@pytest.mark.parametrize(
    ("number", "kind", "message"),
    [
        (signal.SIGKILL, EngineError, "the builder does not answer"),
        (signal.SIGSTOP, HangingBuilderError, "no output from the builder for 40 s"),
    ],
)
def test_a_builder_that_dies_meanwhile(
    lock: Lock,
    number: signal.Signals,
    kind: type[EngineError],
    message: str,
    mortal: SecondEngine,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    build, session = lock("print('[1/2] one unit', flush=True); import time; time.sleep(300)")
    take = BuildLog.take

    def take_and_kill(log: BuildLog, line: str) -> None:
        take(log, line)
        mortal.signal(number)

    monkeypatch.setattr(BuildLog, "take", take_and_kill)
    brief = Session(workspace=session.workspace, config=Config(silent_s=40), console=session.console)
    with pytest.raises(kind, match=message):
        built(build, brief, "mortal")
    assert "[1/2]" in build_folder(build, session).log.read_text()
