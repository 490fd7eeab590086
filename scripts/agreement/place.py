"""Where the comparison works: a project of its own in the cache, with one recipe a stack."""

from __future__ import annotations

import json
import struct
from dataclasses import dataclass
from typing import TYPE_CHECKING

from builder.errors import UsageError
from builder.host import config
from builder.host.console import Console
from builder.host.files import write_text
from builder.host.interpreters import find_compiler
from builder.host.paths import Workspace, cache_folder
from builder.host.session import Session
from builder.image.wheels.tree import unpacking
from builder.recipe.find import find
from builder.recipe.load import load
from builder.recipe.matrix import expand, job_of

if TYPE_CHECKING:
    from pathlib import Path

    from agreement.stacks import Stack
    from builder.host.interpreters import Compiler
    from builder.model.locks import Job, Lock, LockedWheel

_SETTINGS = """\
[[registry-mirrors]]
prefix = "docker.io/library/debian"
mirror = "{registry}/stand-in/debian"
stand-in = "Debian minbase made on this machine by mmdebstrap"
"""


@dataclass(frozen=True, kw_only=True, slots=True)
class Place:
    """The comparison's own folder, and a session whose project lies in it."""

    folder: Path
    session: Session

    @classmethod
    def open(cls, stacks: tuple[Stack, ...]) -> Place:
        """Write the project and return the place.

        Raises:
            UsageError: there is no registry on loopback with base images.
        """
        cache = cache_folder()
        folder = cache / "agreement"
        project = folder / "project"
        workspace = Workspace(project=project, cache=cache)
        write_text(project / "jbuild.local.toml", _SETTINGS.format(registry=_registry(workspace)))
        _write_model(project / "model")
        for stack in stacks:
            write_text(project / "recipes" / f"{stack.name}.toml", stack.recipe("../model"))
        session = Session(workspace=workspace, config=config.load(workspace.config_files), console=Console())
        return cls(folder=folder, session=session)

    @property
    def project(self) -> Path:
        """The project that holds the recipes."""
        return self.session.workspace.project

    def job(self, stack: Stack) -> Job:
        """Return a stack's one cell, as the verbs of jbuild see it."""
        recipe = load(find(stack.name, (self.project / "recipes",)))
        (cell,) = expand(recipe)
        return job_of(recipe, cell)

    def compiler(self, lock: Lock) -> Compiler | None:
        """Return what compiles a stack's bytecode, if this machine has something: imports are slow without."""
        return find_compiler(lock.platform.python, lock.compiler, self.session.workspace.interpreters)

    def tree(self, wheel: LockedWheel, lock: Lock) -> Path:
        """Return where a stack's wheel is unpacked."""
        return unpacking(wheel, lock.platform.python, self.compiler(lock), self.session.workspace).tree

    def truth(self, stack: Stack) -> Path:
        """Return the file of what the loader said of a stack."""
        return self.folder / "truth" / f"{stack.name}.json"


def _registry(workspace: Workspace) -> str:
    try:
        return str(json.loads(workspace.engine_record.read_text(encoding="utf-8"))["registry"])
    except (OSError, ValueError, KeyError) as error:
        where = str(workspace.engine_record)
        raise UsageError("there is no registry on loopback", where=where, hint="run `scripts/engine up`") from error


def _write_model(folder: Path) -> None:
    """Write a folder that passes for a model: a recipe needs one, and nothing here reads it."""
    header = json.dumps({"w": {"dtype": "U8", "shape": [8], "data_offsets": [0, 8]}})
    weights = struct.pack("<Q", len(header)) + header.encode() + bytes(8)
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "model.safetensors").write_bytes(weights)
    described = {"model_type": "llama", "architectures": ["LlamaForCausalLM"]}
    write_text(folder / "config.json", json.dumps(described))
    write_text(folder / "tokenizer.json", '{"version": "1.0"}')
    write_text(folder / "tokenizer_config.json", "{}")
