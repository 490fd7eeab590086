"""Renders a plan: Dockerfile and contexts in the cell's folder, for plain `docker buildx build`."""

from __future__ import annotations

import hashlib
import shutil
from dataclasses import asdict
from typing import TYPE_CHECKING, NamedTuple

from builder.audit.gather_facts import to_slim
from builder.audit.slim_choice import in_words, slim_rules
from builder.host.files import disk_errors, write_text
from builder.image.build import system_pins
from builder.image.build.buildx import plain_command
from builder.image.precompile.cell_modules import cell_modules, provide_cubins
from builder.image.precompile.shared_cubins import fetcher_of
from builder.image.render import context, image_labels
from builder.image.render.dockerfile import render as render_dockerfile
from builder.image.render.image_labels import slim_sizes, slim_text
from builder.image.render.layer_groups import model_layers, wheel_layers
from builder.image.runtime import ENTRYPOINT, HEALTHCHECK
from builder.image.wheels.licences import spdx_of
from builder.image.wheels.slim_tree import slim_key, slimmed_wheel
from builder.image.wheels.standalone_python import interpreter_tree, provide_compiler
from builder.image.wheels.tree import prepare, unpacking, variant
from builder.lock.python_archives import HOME
from builder.model.images import ImageSettings, Plan, SlimmedWheel, site_packages
from builder.models.fetch import fetch_model

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence
    from pathlib import Path

    from builder.host.paths import CellFolder, Workspace
    from builder.host.session import Session
    from builder.model.locks import Job, Lock

# Records and logs change with every run; they must not be in the build context.
_IGNORED = "*\n!layers\n!system\n"
_BUILTIN = "builtin/Dockerfile.j2"
_FIRST_LAYER = "COPY --link layers/"


def render(job: Job, lock: Lock, session: Session) -> Plan:
    """Fetch the contents of a lock and write the plan.

    Raises:
        NetworkError, IntegrityError, ModelError, RecipeError, DiskError: a fetch, a check or a write failed.
    """
    folder = session.workspace.cell(job.recipe.name, job.cell.id)
    for model in lock.models:
        fetch_model(model, job.recipe.path.parent, session)
    ignored = folder.path.parents[1] / ".gitignore"
    if not ignored.exists():
        # A plan has 100,000 files.
        write_text(ignored, "*\n")
    layers = _make_layers(job, lock, folder, session)
    if layers.slimmed:
        gains = slim_text(slim_sizes(dict(image_labels.slim_labels(layers.slimmed))))
        session.console.say(f"{job.cell.id}: {in_words(job)}; {gains}")
    with disk_errors(folder.path):
        _drop_others(folder.layers, keep=layers.all)
        text = _dockerfile(job, lock, layers, session)
        script = system_pins.script_of(session.workspace)
        write_text(folder.path / system_pins.SCRIPT, script)
        write_text(folder.path / ".dockerignore", _IGNORED)
        write_text(folder.dockerfile, text)
    return Plan(
        platform=f"linux/{lock.platform.architecture}",
        layers=layers.all,
        content=hashlib.sha256((text + script).encode()).hexdigest(),
        command=plain_command(lock.platform.architecture, session.config.compression),
        settings=_settings(job, lock, layers, session.workspace),
        slimmed=layers.slimmed,
        system=_system_dockerfile(text, _dockerfile(job, lock, layers, session, template=_BUILTIN)),
    )


def _system_dockerfile(text: str, builtin: str) -> str | None:
    """Return the Dockerfile up to jbuild's layers, if the rest is the same as in the built-in template."""
    begin = builtin.find(_FIRST_LAYER)
    if begin < 0 or not text.endswith(builtin[begin:]):
        return None
    head = text[: len(text) - len(builtin) + begin]
    # The steps before jbuild's layers are built without them.
    return None if "layers/" in head else head


class _Layers(NamedTuple):
    """The names of a plan's layers, lowest first, and the wheels in them that lost GPU code."""

    python: Sequence[str]
    models: Sequence[str]
    runtime: str
    slimmed: tuple[SlimmedWheel, ...] = ()

    @property
    def all(self) -> tuple[str, ...]:
        return (*self.python, *self.models, self.runtime)


def _make_layers(job: Job, lock: Lock, folder: CellFolder, session: Session) -> _Layers:
    python, compiler = lock.platform.python, provide_compiler(lock, session)
    slim = dict.fromkeys(to_slim(job, lock.wheels, session), slim_rules(lock.platform))
    compiled = cell_modules(job, lock, slim, session)
    missing = [
        wheel.sha256
        for wheel in lock.wheels
        if (modules := compiled.get(wheel.sha256))
        and not unpacking(wheel, python, compiler, session.workspace, slim[wheel.sha256], modules).tree.is_dir()
    ]
    provide_cubins(lock, {sha256: compiled[sha256] for sha256 in missing}, session, fetcher_of(job, session))
    trees = prepare(lock.wheels, python, compiler, session, slim, compiled)
    changed = [slimmed_wheel(tree / site_packages(python).lstrip("/")) for tree in trees.values()]
    slimmed = tuple(sorted(filter(None, changed), key=lambda wheel: wheel.name))
    interpreter = interpreter_tree(lock, lock.interpreter, compiler, session) if lock.interpreter else None
    keys = {wheel.sha256: slim_key(wheel.rules, compiled.get(wheel.sha256)) for wheel in slimmed}
    groups = wheel_layers(lock.wheels, variant(python, compiler), models=len(lock.models), slimmed=keys)
    model_parts = model_layers(lock.models, wheels=len(groups))
    with session.console.task(f"{job.cell.id}: linking", len(groups), unit="layers") as task:
        names = _interpreter_layers(lock, interpreter, folder.layers)
        for group in groups:
            group_trees = [trees[wheel.sha256] for wheel in group.wheels]
            names.append(context.linked_layer(folder.layers, group.name, group_trees))
            task.advance(1)
        models = [context.model_layer(folder.layers, model, session.workspace.models) for model in model_parts]
    return _Layers(names, models, context.runtime_layer(folder.layers, job.spec), slimmed)


def _interpreter_layers(lock: Lock, tree: Path | None, layers: Path) -> list[str]:
    python = lock.platform.python
    if lock.interpreter is None or tree is None:
        return [context.environment_layer(layers, python, context.SYSTEM_HOME)]
    content = hashlib.sha256(tree.name.encode()).hexdigest()
    return [
        context.linked_layer(layers, f"interpreter-{lock.interpreter.version}-{content[:12]}", [tree]),
        context.environment_layer(layers, python, f"{HOME}/bin"),
    ]


def _drop_others(layers: Path, *, keep: Iterable[str]) -> None:
    for name in {path.name for path in layers.iterdir()} - set(keep):
        path = layers / name
        shutil.rmtree(path) if path.is_dir() and not path.is_symlink() else path.unlink()


def _settings(job: Job, lock: Lock, layers: _Layers, workspace: Workspace) -> ImageSettings:
    return ImageSettings(
        environment=image_labels.environment(job, lock),
        labels=image_labels.labels(job, lock, spdx_of(lock, workspace), layers.slimmed),
        workdir=f"/home/{image_labels.USER}",
        user=f"{image_labels.UID}:{image_labels.UID}",
        port=job.spec.server.port,
        healthcheck=HEALTHCHECK,
        start_period_s=int(job.spec.smoke.ready_within_s),
        entrypoint=ENTRYPOINT,
    )


def _dockerfile(job: Job, lock: Lock, layers: _Layers, session: Session, *, template: str | None = None) -> str:
    layer, settings = system_pins.pinned(job, lock, session), _settings(job, lock, layers, session.workspace)
    values = {
        **system_pins.values_of(job, lock),
        "system": layer.reference(session.config) if layer else None,
        "system_only": False,
        "cell": f"{job.recipe.name}/{job.cell.id}",
        "command": plain_command(lock.platform.architecture, session.config.compression),
        "python_layers": layers.python,
        "model_layers": layers.models,
        "runtime_layer": layers.runtime,
        **asdict(settings),
        # Apart: a template names the user's home folder.
        "user": image_labels.USER,
        "uid": image_labels.UID,
    }
    return render_dockerfile(template or job.spec.template, session.workspace.template_folders, values)
