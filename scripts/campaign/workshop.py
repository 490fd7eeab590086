"""A place for trials: fronts before real servers, and a project at each point of its way that trials begin from."""

from __future__ import annotations

import copy
import random
import shutil
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

import docker
from factories import make_wheel
from hub_stand_in import HubStandIn
from index_server import running_index
from project import Project, clean_environment, make_model, make_wheels, new_recipe
from proven_folder import Folder

from builder.host.engine.docker import find_engine
from builder.host.paths import Workspace
from campaign.front import Front, Plan, running

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from servers import Registry

_BASE = "stand-in/debian-amd64"
_WEIGHTY_BYTES = 3_000_000
_POINTS = {"locked": ("lock",), "finished": ("smoke",)}


@dataclass(kw_only=True)
class Workshop:
    """One worker's servers, engine and templates; nothing in it is shared but the engine and the registries."""

    root: Path
    registry: Registry
    project: Project
    fronts: dict[str, Front]
    images: tuple[str, str] = ("", "")
    templates: dict[str, Path] = field(default_factory=dict)
    started: set[int] = field(default_factory=set)

    @property
    def temporary(self) -> Path:
        """The system's temporary folder, as jbuild sees it."""
        return self.root / "tmp"

    def use(self, plan: Plan) -> None:
        """Let a plan decide about all requests from now on."""
        for front in self.fronts.values():
            front.plan = plan

    def copied(self, point: str, folder: Path) -> Project:
        """Return the project as it is at a point of its way, in another folder."""
        shutil.copytree(self.templates[point], folder, symlinks=True)
        return replace(
            self.project,
            folder=folder,
            recipe=copy.deepcopy(self.project.recipe),
            environment=dict(self.project.environment),
        )

    def proven(self, root: Path) -> Folder:
        """Return a copy of a project whose image has a verdict, and whose release tag needs a better one."""
        shutil.copytree(self.templates["proven"], root, symlinks=True)
        folder = copy.copy(self._proven)
        folder.root, folder.workspace = root / "work", Workspace(project=root / "work", cache=root / "cache")
        folder.environment = folder.environment | {
            "JBUILD_CACHE": str(root / "cache"),
            "HOME": str(root / "home"),
            "TMPDIR": str(self.temporary),
        }
        return folder

    def prepare(self) -> None:
        """Take the project to each point of its way, and put two images into the registry for verbs that read."""
        self.templates["bare"] = self.root / "bare"
        shutil.copytree(self.project.folder, self.templates["bare"])
        for point, (verb,) in _POINTS.items():
            done = self.project.run(verb)
            if done.code:
                raise SystemExit(f"`jbuild {verb}` fails without a fault:\n{done.stderr}")
            self.templates[point] = self.root / point
            shutil.copytree(self.project.folder, self.templates[point], symlinks=True)
        self._proven = Folder(self.root / "proven")
        self.templates["proven"] = self.root / "proven"
        other = Folder(self.root / "other")
        for folder, name in ((self._proven, "first"), (other, "second")):
            target = f"{self.registry.host}/{self.project.name}-{name}"
            done = folder.run("promote", "demo", "--to", target)
            if done.code:
                raise SystemExit(f"`jbuild promote` fails without a fault:\n{done.stderr}")
        shutil.rmtree(self.root / "proven" / "work" / "build" / "demo" / "published.json", ignore_errors=True)
        self.images = (self._proven.image.digest, other.image.digest)
        for front in self.fronts.values():
            front.other_digest = other.image.digest


@contextmanager
def running_workshop(root: Path, registry: Registry, base_registry: str) -> Iterator[Workshop]:
    """Run a workshop's servers while the block runs."""
    engine = find_engine(Workspace.current())
    (root / "tmp").mkdir(parents=True)
    make_wheels(root / "wheels")
    # Its layer leaves the cache with each push, and is packed again for the next one.
    make_wheel(root / "wheels", "weighty", files={"weighty/data.bin": random.Random(1).randbytes(_WEIGHTY_BYTES)})  # noqa: S311  # no secret
    model = {path.name: path.read_bytes() for path in make_model(root / "model").iterdir()}
    with ExitStack() as stack:
        index = stack.enter_context(running_index(root / "wheels"))
        hub = stack.enter_context(HubStandIn(model).running())
        fronts = {
            "index": Front("index", index.host),
            "hub": Front("hub", f"127.0.0.1:{hub.port}"),
            "base": Front("base", base_registry),
            "registry": Front("registry", registry.host),
            "tokens": Front("registry", registry.host, tokens=True),
        }
        for front in fronts.values():
            stack.enter_context(running(front))
        client = stack.enter_context(_client(engine.endpoint))
        environment = clean_environment(root / "home", engine.endpoint) | {
            "JBUILD_CACHE": str(root / "cache"),
            "TMPDIR": str(root / "tmp"),
            "UV_DEFAULT_INDEX": f"http://{fronts['index'].host}/simple",
            "HF_ENDPOINT": f"http://{fronts['hub'].host}",
        }
        project = Project(
            folder=root / "work",
            cache=root / "cache",
            index=fronts["index"].host,
            registry=fronts["registry"].host,
            environment=environment,
            client=client,
            recipe=new_recipe(
                models=[{"name": "tiny", "source": "hf://org/tiny@main", "licence": "Apache-2.0"}],
                packages={"requires": ["vllm=={vllm}", "weighty"]},
            ),
        )
        project.recipe["publish"] = {"repository": "vllm"}
        project.write()
        mirror = (
            f'[[registry-mirrors]]\nprefix = "docker.io/library/debian"\nmirror = "{fronts["base"].host}/{_BASE}"\n'
        )
        (project.folder / "jbuild.toml").write_text(mirror)
        workshop = Workshop(root=root, registry=registry, project=project, fronts=fronts)
        try:
            yield workshop
        finally:
            project.forget("jbuild", "jbuild-unproven")


@contextmanager
def _client(endpoint: str) -> Iterator[docker.DockerClient]:
    client = docker.DockerClient(base_url=endpoint, timeout=120)
    try:
        yield client
    finally:
        client.close()
