"""Renders a plan: the Dockerfile in the cell's folder and, on demand, what plain `docker buildx build` needs."""

from __future__ import annotations

import hashlib
import shutil
from dataclasses import asdict
from typing import TYPE_CHECKING, NamedTuple

from builder.audit.slim_choice import in_words
from builder.host.files import disk_errors, write_text
from builder.image.build import system_pins
from builder.image.build.buildx import plain_command
from builder.image.layers.cell_layers import cell_layers
from builder.image.layers.pack_layers import pack_layers
from builder.image.layers.standalone import make_folders
from builder.image.oci.pack import find_packed
from builder.image.precompile.cell_modules import provide_cubins
from builder.image.precompile.shared_cubins import fetcher_of
from builder.image.render import image_labels
from builder.image.render.dockerfile import render as render_dockerfile
from builder.image.render.image_labels import slim_sizes, slim_text
from builder.image.runtime import ENTRYPOINT, HEALTHCHECK
from builder.image.wheels.licences import metadata, spdx_of
from builder.image.wheels.standalone_python import provide_compiler
from builder.lock.python_archives import interpreter_archive
from builder.model.images import ImageSettings, Plan
from builder.models.fetch import fetch_models
from builder.remote.wheelhouse import fetch

if TYPE_CHECKING:
    from collections.abc import Iterable
    from pathlib import Path

    from builder.host.paths import Workspace
    from builder.host.session import Session
    from builder.image.layers.cell_layers import CellLayers
    from builder.model.images import SlimmedWheel
    from builder.model.locks import Job, Lock

# Records and logs change with every run; they must not be in the build context.
_IGNORED = "*\n!layers\n!system\n"
_BUILTIN = "builtin/Dockerfile.j2"
_FIRST_LAYER = "COPY --link layers/"


def render(job: Job, lock: Lock, session: Session, *, standalone: bool = False) -> Plan:
    """Write the plan of a lock; `standalone`: with the folders of its layers, for plain `docker buildx build`.

    Raises:
        NetworkError, IntegrityError, ModelError, RecipeError, DiskError: a fetch, a check or a write failed.
    """
    folder = session.workspace.cell(job.recipe.name, job.cell.id)
    fetch_models(job, lock, session)
    if lock.interpreter:
        interpreter_archive(lock.interpreter, lock.platform, session)
    ignored = folder.path.parents[1] / ".gitignore"
    if not ignored.exists():
        # A standalone plan has 100,000 files.
        write_text(ignored, "*\n")
    # Labels have the licences of the wheels.
    fetch([wheel for wheel in lock.wheels if metadata(wheel, session.workspace) is None], session)
    layers = cell_layers(job, lock, provide_compiler(lock, session), session)
    slimmed = _slimmed(job, lock, layers, session)
    if slimmed:
        gains = slim_text(slim_sizes(dict(image_labels.slim_labels(slimmed))))
        session.console.say(f"{job.cell.id}: {in_words(job)}; {gains}")
    content, names = _Content(layers, slimmed), [layer.name for layer in layers.all]
    with disk_errors(folder.path):
        _drop_others(folder.layers, keep=names)
        text = _dockerfile(job, lock, content, session)
        script = system_pins.script_of(session.workspace)
        write_text(folder.path / system_pins.SCRIPT, script)
        write_text(folder.path / ".dockerignore", _IGNORED)
        write_text(folder.dockerfile, text)
    if standalone:
        make_folders(layers, folder.layers, job.cell.id, session)
    return Plan(
        platform=f"linux/{lock.platform.architecture}",
        layers=tuple(names),
        content=hashlib.sha256((text + script).encode()).hexdigest(),
        command=plain_command(lock.platform.architecture, session.config.layers),
        settings=_settings(job, lock, slimmed, session.workspace),
        slimmed=slimmed,
        system=_system_dockerfile(text, _dockerfile(job, lock, content, session, template=_BUILTIN)),
    )


def _system_dockerfile(text: str, builtin: str) -> str | None:
    """Return the Dockerfile up to jbuild's layers, if the rest is the same as in the built-in template."""
    begin = builtin.find(_FIRST_LAYER)
    if begin < 0 or not text.endswith(builtin[begin:]):
        return None
    head = text[: len(text) - len(builtin) + begin]
    # The steps before jbuild's layers are built without them.
    return None if "layers/" in head else head


class _Content(NamedTuple):
    """The layers of a plan, and the wheels in them from which something went."""

    layers: CellLayers
    slimmed: tuple[SlimmedWheel, ...]


def _slimmed(job: Job, lock: Lock, layers: CellLayers, session: Session) -> tuple[SlimmedWheel, ...]:
    """Pack the layers of slimmed wheels, and return what went: it is in the image's labels."""
    compression, workspace = session.config.layers, session.workspace
    chosen = layers.slimmed
    missing = [layer for layer in chosen if not find_packed(layer.name, compression, workspace)]
    wheels = {wheel.sha256 for layer in missing for wheel in layer.wheels}
    compiled = {sha256: modules for sha256, modules in layers.compiled.items() if sha256 in wheels}
    provide_cubins(lock, compiled, session, fetcher_of(job, session))
    packed = pack_layers(chosen, layers.compiler, job.cell.id, session)
    return tuple(sorted((wheel for layer in packed for wheel in layer.slimmed), key=lambda wheel: wheel.name))


def _drop_others(layers: Path, *, keep: Iterable[str]) -> None:
    present = {path.name for path in layers.iterdir()} if layers.is_dir() else set()
    for name in present - set(keep):
        path = layers / name
        shutil.rmtree(path) if path.is_dir() and not path.is_symlink() else path.unlink()


def _settings(job: Job, lock: Lock, slimmed: tuple[SlimmedWheel, ...], workspace: Workspace) -> ImageSettings:
    return ImageSettings(
        environment=image_labels.environment(job, lock),
        labels=image_labels.labels(job, lock, spdx_of(lock, workspace), slimmed),
        workdir=f"/home/{image_labels.USER}",
        user=f"{image_labels.UID}:{image_labels.UID}",
        port=job.spec.server.port,
        healthcheck=HEALTHCHECK,
        start_period_s=int(job.spec.smoke.ready_within_s),
        entrypoint=ENTRYPOINT,
    )


def _dockerfile(job: Job, lock: Lock, content: _Content, session: Session, *, template: str | None = None) -> str:
    layer, settings = system_pins.pinned(job, lock, session), _settings(job, lock, content.slimmed, session.workspace)
    layers = content.layers
    values = {
        **system_pins.values_of(job, lock),
        "system": layer.reference(session.config) if layer else None,
        "system_only": False,
        "cell": f"{job.recipe.name}/{job.cell.id}",
        "command": plain_command(lock.platform.architecture, session.config.layers),
        "python_layers": [layer.name for layer in layers.python],
        "model_layers": [layer.name for layer in layers.models],
        "runtime_layer": layers.runtime.name,
        **asdict(settings),
        # Apart: a template names the user's home folder.
        "user": image_labels.USER,
        "uid": image_labels.UID,
    }
    return render_dockerfile(template or job.spec.template, session.workspace.template_folders, values)
