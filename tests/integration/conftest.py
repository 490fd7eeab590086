"""What tests of the whole command line share: an engine, a registry, an index, and projects to work in."""

from __future__ import annotations

import http.client
import json
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

# The factories of the unit tests make real wheels.
sys.path.append(str(Path(__file__).parent.with_name("unit")))

import second_engine
from index_server import Index, running_index
from jetson_index import JetsonIndex, running_jetson_index
from jetson_wheels import make_public, make_sets
from project import Done, Project, clean_environment, make_model, make_wheels, new_recipe
from servers import Registry, running_registry

from builder.errors import EngineError
from builder.host.engine.docker import find_engine
from builder.host.paths import Workspace

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from builder.host.engine.docker import Engine

_BASE = "stand-in/debian-amd64"
_ENGINE_ANSWERS_WITHIN_S = 30.0


@pytest.fixture(scope="session")
def engine() -> Engine:
    """The engine that jbuild finds; one of scripts/engine is given time, since other tests keep it busy."""
    workspace = Workspace.current()
    until = time.monotonic() + (_ENGINE_ANSWERS_WITHIN_S if workspace.engine_record.exists() else 0)
    while True:
        try:
            return find_engine(workspace)
        except EngineError as error:
            if time.monotonic() > until:
                pytest.skip(f"no engine: {error.message}; run `scripts/engine up`")
        time.sleep(1)


@pytest.fixture(scope="session")
def docker_host(engine: Engine) -> str:
    """The address of an engine that runs amd64 programs natively."""
    if engine.architecture != "amd64":
        pytest.skip("the base image of these tests is amd64")
    return engine.endpoint


@pytest.fixture(scope="session")
def base_registry() -> str:
    """The engine's registry, with the base image in it."""
    try:
        host = str(json.loads(Workspace.current().engine_record.read_text())["registry"])
        connection = http.client.HTTPConnection(host, timeout=10)
        connection.request("GET", f"/v2/{_BASE}/tags/list")
        tags = json.loads(connection.getresponse().read()).get("tags") or ()
    except (OSError, ValueError, KeyError):
        pytest.skip("no registry of scripts/engine: run `scripts/engine up`")
    if "bookworm-slim" not in tags:
        pytest.skip("no amd64 base image: run `scripts/engine base --arch amd64`")
    return host


@pytest.fixture(scope="session")
def shared_cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A cache of the tests' own, which projects share as those of one user do."""
    return tmp_path_factory.mktemp("cache")


@pytest.fixture(scope="session")
def shared_registry(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Registry]:
    """A registry that is open to everybody."""
    with running_registry(tmp_path_factory.mktemp("registry")) as running:
        yield running


@pytest.fixture(scope="session")
def shared_index(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Index]:
    """A package index with the stand-in server; nobody changes it."""
    folder = tmp_path_factory.mktemp("index")
    make_wheels(folder)
    with running_index(folder) as running:
        yield running


@pytest.fixture(scope="session")
def public_index(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Index]:
    """A package index with what torch wants, and with builds of torch that no Jetson is meant to get."""
    with running_index(make_public(tmp_path_factory.mktemp("public"))) as running:
        yield running


@pytest.fixture(scope="session")
def jetson_sets(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of the stand-in for the Jetson AI Lab index; nobody changes it."""
    return make_sets(tmp_path_factory.mktemp("sets"))


@pytest.fixture
def jetson_index(jetson_sets: Path) -> Iterator[JetsonIndex]:
    """The stand-in for the Jetson AI Lab index, with no faults and nothing asked yet."""
    with running_jetson_index(jetson_sets) as running:
        yield running


@pytest.fixture(scope="session")
def other_engine() -> Iterator[second_engine.SecondEngine]:
    """A second engine, for what must not depend on the first."""
    if not second_engine.can_run():
        pytest.skip("a second engine needs root and dockerd")
    with second_engine.running_engine() as running:
        yield running


@pytest.fixture(scope="session")
def make_project(
    docker_host: str,
    base_registry: str,
    shared_cache: Path,
    shared_registry: Registry,
    shared_index: Index,
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[Callable[..., Project]]:
    """Give a function that makes projects, with what is given in place of what is shared or the recipe's tables."""
    import docker  # noqa: PLC0415  # slow to import

    client = docker.DockerClient(base_url=docker_host, timeout=120)
    made: list[Project] = []

    def make(
        *, cache: Path = shared_cache, index: str = shared_index.host, registry: str | None = None, **changes: Any
    ) -> Project:
        root = tmp_path_factory.mktemp("project")
        environment = clean_environment(root / "home", docker_host)
        environment |= {"JBUILD_CACHE": str(cache), "UV_DEFAULT_INDEX": f"http://{index}/simple"}
        project = Project(
            folder=root / "work",
            cache=cache,
            index=index,
            registry=registry or shared_registry.host,
            environment=environment,
            client=client,
            recipe=new_recipe(**changes),
        )
        project.recipe.setdefault(
            "publish", {"repository": "vllm", "registries": [f"{project.registry}/{project.name}"]}
        )
        project.write()
        make_model(project.model)
        mirror = f'[[registry-mirrors]]\nprefix = "docker.io/library/debian"\nmirror = "{base_registry}/{_BASE}"\n'
        (project.folder / "jbuild.toml").write_text(mirror)
        made.append(project)
        return project

    yield make
    for project in made:
        project.forget()
    client.close()


@pytest.fixture(scope="session")
def published(make_project: Callable[..., Project]) -> tuple[Project, Done]:
    """A project that has gone the whole way, and the run that did it; copies of it have gone that way too."""
    project = make_project()
    done = project.run("recipe", "--push", "--json")
    assert done.code == 0, done.stderr
    return project, done


@pytest.fixture
def finished(published: tuple[Project, Done], tmp_path: Path) -> Iterator[Project]:
    """A copy of a project that has gone the whole way, with which a test may do what it wants."""
    copy = published[0].copy(tmp_path / "work")
    yield copy
    copy.forget("jbuild-unproven")


@pytest.fixture
def project(make_project: Callable[..., Project]) -> Project:
    """A project in which nothing has been made yet."""
    return make_project()
