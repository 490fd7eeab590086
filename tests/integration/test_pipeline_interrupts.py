"""Ctrl-C, SIGTERM and SIGKILL at every stage: nothing half done is left, and the next run goes on from there."""

from __future__ import annotations

import re
import signal
import time
from typing import TYPE_CHECKING

import pytest
from factories import make_wheel
from index_server import running_index
from project import CELL, Project, Running, assert_interrupted, make_wheels, programs_running
from servers import Fault, Registry, running_front

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from index_server import Index
    from servers import Front


# Longer than any test waits: what stands this long was interrupted, and did not end by itself.
_FOREVER_S = 600.0
_WITHIN_S = 120.0
SIGNALS = [pytest.param(Running.interrupt, id="ctrl-c"), pytest.param(Running.terminate, id="sigterm")]


@pytest.fixture
def index(tmp_path: Path) -> Iterator[Index]:
    """An index of the test's own, with a wheel that takes long to pack."""
    make_wheels(tmp_path / "wheels")
    modules = {f"bulky/m{n}.py": f"VALUES = {list(range(n % 7, 400))}\n" for n in range(6000)}
    make_wheel(tmp_path / "wheels", "bulky", files=modules)
    with running_index(tmp_path / "wheels") as running:
        yield running


@pytest.fixture
def front(index: Index, tmp_path: Path) -> Iterator[Front]:
    """A front before the index."""
    with running_front(Registry(host=index.host, storage=tmp_path)) as running:
        yield running


def end(project: Project, running: Running, how: Callable[[Running], None]) -> str:
    """End a run, check what it leaves, and return what it said."""
    how(running)
    done = running.wait(_WITHIN_S)
    assert_interrupted(done)
    assert project.half_written() == []
    assert project.containers(done.process) == []
    nothing_runs(project)
    return done.stderr


def nothing_runs(project: Project) -> None:
    """Check that no process of the project's runs is left."""
    ends_at = time.monotonic() + _WITHIN_S
    while left := project.processes():
        assert time.monotonic() < ends_at, left
        time.sleep(0.1)


def left_in(cache: Path) -> list[str]:
    return [str(path) for path in (*cache.glob("images/blobs/sha256/.*"), *cache.glob("scratch-*"))]


def compiles(project: Project) -> bool:
    """Return whether a run of the project compiles the sources of wheels, which is while it packs them."""
    return any("Compiles sources for an image" in line for line in project.processes())


@pytest.mark.parametrize("how", SIGNALS)
def test_while_solving(
    make_project: Callable[..., Project], front: Front, tmp_path: Path, how: Callable[[Running], None]
) -> None:
    project = make_project(index=front.host, cache=tmp_path / "cache")
    front.faults.append(Fault(match="GET /simple/vllm", kind="delay", seconds=_FOREVER_S))
    running = project.start("lock", project.name)
    running.until(lambda: front.asked("GET /simple/vllm"))
    end(project, running, how)
    assert not project.lock.exists()
    assert project.run("lock", "--json").ran() == ["lock"]


@pytest.mark.parametrize("how", SIGNALS)
def test_while_downloading(
    make_project: Callable[..., Project], front: Front, tmp_path: Path, how: Callable[[Running], None]
) -> None:
    project = make_project(index=front.host, cache=tmp_path / "cache")
    assert project.run("lock").code == 0
    front.log.clear()
    front.faults.append(Fault(match=r"GET /files/vllm-1.0-.*\.whl$", kind="delay", seconds=_FOREVER_S))
    running = project.start("render", project.name)
    running.until(lambda: front.asked(r"GET /files/vllm-1.0-.*\.whl$"))
    end(project, running, how)
    assert not (project.cell / "render.json").exists()
    assert left_in(project.cache) == []
    assert project.run("render", "--json").ran() == ["audit", "render"]


@pytest.mark.parametrize("how", SIGNALS)
def test_while_packing(
    make_project: Callable[..., Project], index: Index, tmp_path: Path, how: Callable[[Running], None]
) -> None:
    project = make_project(index=index.host, cache=tmp_path / "cache", packages={"requires": ["vllm=={vllm}", "bulky"]})
    running = project.start("build", project.name)
    running.until(lambda: compiles(project))
    end(project, running, how)
    assert not (project.cell / "build.json").exists()
    assert left_in(project.cache) == []
    assert project.run("build", "--json").ran() == ["build"]


@pytest.mark.parametrize("how", SIGNALS)
def test_while_building(finished: Project, how: Callable[[Running], None]) -> None:
    pause = f"{_FOREVER_S + time.time() % 1000:.6f}"
    finished.override('{% block runtime %}\nRUN ["sleep", "' + pause + '"]\n{{ super() }}{% endblock %}\n')
    running = finished.start("recipe", finished.name)
    running.until(lambda: programs_running(f"^sleep {pause}"))
    end(finished, running, how)
    assert finished.temporary_names() == []
    assert finished.record("build")["manifest"]["digest"] == finished.record("smoke")["digest"]
    ends_at = time.monotonic() + _WITHIN_S
    while programs_running(f"^sleep {pause}"):
        assert time.monotonic() < ends_at, "the engine goes on building"
        time.sleep(0.1)
    finished.override("")
    done = finished.run("recipe", "--json")
    assert done.ran() == ["render"]
    assert finished.temporary_names() == []
    assert finished.temporary_names() == []
    assert finished.temporary_names() == []


@pytest.mark.parametrize("how", SIGNALS)
def test_while_smoking(finished: Project, how: Callable[[Running], None]) -> None:
    finished.misbehave("never-ready")
    before = (finished.cell / "smoke.json").read_text()
    (finished.cell / "smoke.log").unlink()
    running = finished.start("recipe", finished.name, "--push")
    running.until(lambda: _ready(finished.cell.parent))
    said = end(finished, running, how)
    assert f"\n{CELL}: interrupted; removing the container\n" in said
    assert finished.temporary_names() == []
    assert (finished.cell / "smoke.json").read_text() == before
    finished.misbehave("")
    assert finished.run("recipe", "--json").ran() == ["smoke"]


@pytest.mark.parametrize("how", SIGNALS)
def test_while_pushing(finished: Project, shared_registry: Registry, how: Callable[[Running], None]) -> None:
    with running_front(shared_registry, Fault(match="^PATCH|^PUT", kind="delay", seconds=_FOREVER_S)) as front:
        target = f"{front.host}/{finished.name}-{how.__name__}"
        repository = target.partition("/")[2] + "/vllm"
        (finished.cell / "push.json").unlink()
        running = finished.start("push", finished.name, "--registry", target)
        running.until(lambda: front.asked("^PATCH|^PUT"))
        end(finished, running, how)
        assert not (finished.cell / "push.json").exists()
        assert shared_registry.tags(repository) == {}
        front.faults.clear()
        done = finished.run("push", "--json", "--registry", target)
        assert done.ran() == ["push"]
        assert shared_registry.tags(repository) == {"1.0-cpu-bookworm": done.cells[CELL]["digest"]}


@pytest.mark.parametrize("how", SIGNALS)
def test_two_cells_at_once(finished: Project, how: Callable[[Running], None]) -> None:
    finished.recipe["matrix"]["vllm"] = ["1.0", "1.1"]
    finished.misbehave("never-ready")
    (finished.cell / "smoke.log").unlink()
    running = finished.start("recipe", finished.name, "--jobs", "2")
    logs = finished.cell.parent
    running.until(lambda: len(_ready(logs)) == 2, timeout_s=90)
    assert "\nstopping all cells and removing their containers\n" in end(finished, running, how)
    assert finished.temporary_names() == []


def _ready(folder: Path) -> list[str]:
    return [str(log) for log in folder.glob("*/smoke.log") if re.search(r"stand-in ready", log.read_text())]


def kill(project: Project, running: Running) -> int:
    running.kill()
    done = running.wait()
    assert done.code == -signal.SIGKILL
    return done.process


@pytest.mark.alone
def test_killed_while_packing(make_project: Callable[..., Project], index: Index, tmp_path: Path) -> None:
    project = make_project(index=index.host, cache=tmp_path / "cache", packages={"requires": ["vllm=={vllm}", "bulky"]})
    running = project.start("build", project.name)
    running.until(lambda: compiles(project))
    kill(project, running)
    nothing_runs(project)
    assert project.run("build", "--json").ran() == ["build"]
    assert left_in(project.cache) == []
    assert project.half_written() == []


@pytest.mark.alone
def test_killed_while_building(finished: Project) -> None:
    pause = f"{5 + time.time() % 1:.6f}"
    finished.override('{% block runtime %}\nRUN ["sleep", "' + pause + '"]\n{{ super() }}{% endblock %}\n')
    running = finished.start("recipe", finished.name)
    running.until(lambda: programs_running(f"^sleep {pause}"))
    kill(finished, running)
    done = finished.run("recipe", "--json")
    assert done.ran() == ["build", "smoke"]
    nothing_runs(finished)
    assert finished.temporary_names() == []
    assert finished.half_written() == []


@pytest.mark.alone
def test_killed_while_smoking(finished: Project) -> None:
    finished.misbehave("never-ready")
    (finished.cell / "smoke.log").unlink()
    running = finished.start("recipe", finished.name)
    running.until(lambda: _ready(finished.cell.parent))
    dead = kill(finished, running)
    assert len(finished.containers(dead)) == 1
    finished.misbehave("")
    done = finished.run("recipe", "--json")
    assert done.ran() == ["smoke"]
    assert finished.containers(dead) == []
    assert finished.temporary_names() == []
    nothing_runs(finished)


@pytest.mark.alone
@pytest.mark.parametrize(
    "verb",
    [
        pytest.param(("build", "--json"), id="run that has nothing to do"),
        pytest.param(("lock", "--json"), id="run that needs no engine"),
        pytest.param(("doctor",), id="doctor"),
        pytest.param(("cache", "prune"), id="prune"),
    ],
)
def test_what_a_killed_smoke_run_left_goes_without_another_smoke_run(finished: Project, verb: tuple[str, ...]) -> None:
    (finished.cell / "smoke.log").unlink()
    finished.misbehave("never-ready")
    running = finished.start("recipe", finished.name)
    running.until(lambda: _ready(finished.cell.parent))
    dead = kill(finished, running)
    assert len(finished.containers(dead)) == 1
    finished.misbehave("")
    arguments = (verb[0], finished.name, *verb[1:]) if "--json" in verb else verb
    done = finished.jbuild(*arguments)
    said = [line for line in done.stderr.splitlines() if "what killed jbuild processes left" in line]
    assert len(said) == 1, done.stderr
    assert "1 container" in said[0]
    assert finished.containers(dead) == []
    assert finished.temporary_names() == []
    assert finished.half_written() == []
    assert "what killed jbuild processes left" not in finished.jbuild(*arguments).stderr
    if verb[0] == "build":
        assert done.ran() == []


@pytest.mark.alone
def test_what_a_live_run_has_stays_while_others_run(finished: Project) -> None:
    finished.misbehave("never-ready")
    (finished.cell / "smoke.log").unlink()
    running = finished.start("recipe", finished.name)
    running.until(lambda: _ready(finished.cell.parent))
    for arguments in (("doctor",), ("cache", "prune")):
        assert "what killed jbuild processes left" not in finished.jbuild(*arguments).stderr
    assert len(finished.containers(running.child.pid)) == 1
    end(finished, running, Running.interrupt)


def test_the_second_of_two_on_one_cell_waits_and_has_nothing_to_do(project: Project) -> None:
    first = project.start("recipe", project.name, "--json")
    first.until(lambda: any(": lock: " in line for line in first.err))
    second = project.start("recipe", project.name, "--json")
    second.until(lambda: any("another jbuild works on this cell; waiting for it" in line for line in second.err))
    made, found = first.wait(), second.wait()
    assert (made.code, found.code) == (0, 0)
    assert made.ran() == ["lock", "audit", "render", "build", "smoke"]
    assert found.ran() == []
    assert found.cells[CELL]["digest"] == made.cells[CELL]["digest"]
    assert project.temporary_names() == []


def test_one_that_waits_for_another_can_be_interrupted(finished: Project) -> None:
    finished.misbehave("never-ready")
    (finished.cell / "smoke.log").unlink()
    first = finished.start("recipe", finished.name)
    first.until(lambda: _ready(finished.cell.parent))
    second = finished.start("recipe", finished.name)
    second.until(lambda: any("waiting for it" in line for line in second.err))
    second.interrupt()
    assert_interrupted(second.wait(_WITHIN_S))
    assert first.child.poll() is None
    end(finished, first, Running.interrupt)
