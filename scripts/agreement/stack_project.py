"""The project of the comparison: a folder in the cache with one recipe per stack."""

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
from builder.recipe.find import find
from builder.recipe.load import load
from builder.recipe.matrix import expand, job_of

if TYPE_CHECKING:
    from pathlib import Path

    from agreement.stacks import Stack
    from builder.host.interpreters import Compiler
    from builder.model.locks import Job, Lock

_SETTINGS = """\
[[registry-mirrors]]
prefix = "docker.io/library/debian"
mirror = "{registry}/stand-in/debian"
stand-in = "Debian minbase made on this machine by mmdebstrap"
"""


@dataclass(frozen=True, kw_only=True, slots=True)
class StackProject:
    """The folder of the comparison, and a session with the project in it."""

    folder: Path
    session: Session

    @classmethod
    def open(cls, stacks: tuple[Stack, ...]) -> StackProject:
        """Write the project and open it.

        Raises:
            UsageError: the registry on loopback with base images is missing.
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
    def root(self) -> Path:
        """The folder of the project, which contains the recipes."""
        return self.session.workspace.project

    def job(self, stack: Stack) -> Job:
        """Return the only cell of a stack as a job, as the verbs of jbuild read it."""
        recipe = load(find(stack.name, (self.root / "recipes",)))
        (cell,) = expand(recipe)
        return job_of(recipe, cell)

    def compiler(self, lock: Lock) -> Compiler | None:
        """Return the compiler of a stack's bytecode, if this machine has one: without bytecode, imports are slow."""
        return find_compiler(lock.platform.python, lock.compiler, self.session.workspace.interpreters)

    def truth(self, stack: Stack) -> Path:
        """Return the path of the loader's results for a stack."""
        return self.folder / "truth" / f"{stack.name}.json"


def _registry(workspace: Workspace) -> str:
    try:
        return str(json.loads(workspace.engine_record.read_text(encoding="utf-8"))["registry"])
    except (OSError, ValueError, KeyError) as error:
        record = str(workspace.engine_record)
        raise UsageError("the registry on loopback is missing", where=record, hint="run `scripts/engine up`") from error


def _write_model(folder: Path) -> None:
    """Write a minimal model folder: a recipe needs a model, but the comparison does not read it."""
    header = json.dumps({"w": {"dtype": "U8", "shape": [8], "data_offsets": [0, 8]}})
    weights = struct.pack("<Q", len(header)) + header.encode() + bytes(8)
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "model.safetensors").write_bytes(weights)
    model_config = {"model_type": "llama", "architectures": ["LlamaForCausalLM"]}
    write_text(folder / "config.json", json.dumps(model_config))
    write_text(folder / "tokenizer.json", '{"version": "1.0"}')
    write_text(folder / "tokenizer_config.json", "{}")
