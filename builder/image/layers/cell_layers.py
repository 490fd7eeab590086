"""The layers of a cell: a function of its lock, and of the Python that compiles its bytecode."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import TYPE_CHECKING

from builder.audit.gather_facts import rules_to_apply
from builder.host import records
from builder.host.tarball import file_of
from builder.image import runtime
from builder.image.layers.layer import (
    FilesLayer,
    InterpreterLayer,
    ModelLayer,
    WheelsLayer,
    digests_of,
    environment_entries,
)
from builder.image.layers.layer_groups import model_layers, wheel_layers
from builder.image.precompile.cell_modules import cell_modules
from builder.image.wheels.standalone_python import ARCHIVE_FORMAT
from builder.image.wheels.wheel_entries import variant
from builder.image.wheels.wheel_slimmer import slim_key
from builder.lock.python_archives import HOME

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from builder.host.interpreters import Compiler
    from builder.host.session import Session
    from builder.image.layers.layer import LayerSource
    from builder.model.locks import Job, Lock
    from builder.model.model_files import LockedModel
    from builder.model.precompiled import CompiledWheel
    from builder.model.recipes import Spec

# The folder of a distribution's own interpreter.
SYSTEM_HOME = "/usr/bin"


@dataclass(frozen=True, kw_only=True, slots=True)
class CellLayers:
    """The layers of a cell, lowest first, and the compiler of their bytecode, if there is one.

    `compiled` are the modules to compile for wheels, by their sha256.
    """

    python: tuple[LayerSource, ...]
    models: tuple[LayerSource, ...]
    runtime: LayerSource
    compiler: Compiler | None
    compiled: Mapping[str, CompiledWheel]

    @property
    def all(self) -> tuple[LayerSource, ...]:
        """All layers, lowest first."""
        return (*self.python, *self.models, self.runtime)

    @property
    def slimmed(self) -> tuple[WheelsLayer, ...]:
        """The layers from whose wheels something may go."""
        layers = (layer for layer in self.python if isinstance(layer, WheelsLayer))
        return tuple(layer for layer in layers if any(wheel.sha256 in layer.slim for wheel in layer.wheels))


def cell_layers(job: Job, lock: Lock, compiler: Compiler | None, session: Session) -> CellLayers:
    """Return the layers of a cell, whose bytecode `compiler` makes.

    Raises:
        NetworkError, IntegrityError, DiskError: facts about a wheel are missing, and it cannot be fetched or read.
        LockError: the lock lacks a compiler of kernels.
    """
    python = lock.platform.python
    slim = rules_to_apply(job, lock.wheels, session)
    compiled = cell_modules(job, lock, slim, session)
    keys = {sha256: slim_key(rules, compiled.get(sha256)) for sha256, rules in slim.items()}
    kind = variant(python, compiler)
    groups = wheel_layers(lock.wheels, kind, models=len(lock.models), slimmed=keys)
    wheels = [
        WheelsLayer(name=group.name, wheels=group.wheels, python=python, session=session, slim=slim, compiled=compiled)
        for group in groups
    ]
    return CellLayers(
        python=(*_python_layers(lock, kind, session), *wheels),
        models=tuple(_model_layer(part, session) for part in model_layers(lock.models, wheels=len(groups))),
        runtime=runtime_layer(job.spec),
        compiler=compiler,
        compiled=compiled,
    )


def _python_layers(lock: Lock, kind: str, session: Session) -> Sequence[LayerSource]:
    if lock.interpreter is None:
        return [environment_layer(lock.platform.python, SYSTEM_HOME)]
    made_from = f"{lock.interpreter.sha256}-{ARCHIVE_FORMAT}-{kind}"
    content = hashlib.sha256(made_from.encode()).hexdigest()
    name = f"interpreter-{lock.interpreter.version}-{content[:12]}"
    own = InterpreterLayer(name=name, lock=lock, session=session)
    return [own, environment_layer(lock.platform.python, f"{HOME}/bin")]


def environment_layer(python: str, home: str) -> FilesLayer:
    """Return the layer of the empty virtual environment, for an interpreter in the folder `home`."""
    suffix = "" if home == SYSTEM_HOME else f"-{home.strip('/').replace('/', '-')}"
    return FilesLayer(name=f"environment-py{python}{suffix}-1", entries=environment_entries(python, home))


def runtime_layer(spec: Spec) -> FilesLayer:
    """Return the layer of the image's runtime: entrypoint, health check and server settings."""
    folder = runtime.FOLDER.lstrip("/")
    files = {path.name: path.read_bytes() for path in runtime.scripts()}
    files["server.json"] = runtime.server_json(spec).encode()
    entries = tuple(file_of(f"{folder}/{name}", content) for name, content in sorted(files.items()))
    return FilesLayer(name=f"runtime-{records.fingerprint(digests_of(entries))[:12]}", entries=entries)


def _model_layer(model: LockedModel, session: Session) -> ModelLayer:
    content = records.fingerprint(model.name, model.files)[:12]
    return ModelLayer(name=f"model-{model.name}-{content}", model=model, models=session.workspace.models)
