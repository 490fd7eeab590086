"""Builds the system layers of cells, pushes them and pins them in the project: `jbuild system`."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from builder.host.engine.docker import find_engine
from builder.host.file_locks import in_use
from builder.host.files import disk_errors, write_text
from builder.image.build.buildx import BuildRequest
from builder.image.build.cell_image import build_system
from builder.image.build.system_pins import SCRIPT, SystemLayer, dockerfile_of, key_of, pin, pinned, script_of
from builder.lock.stage import lock_with_history
from builder.model.recipes import TagRule
from builder.pipeline.cell import builders_of
from builder.publish.image_source import from_layout
from builder.publish.push import PublishOptions, publish

if TYPE_CHECKING:
    from collections.abc import Iterable

    from builder.host.session import Session
    from builder.model.locks import Job, Lock
    from builder.pipeline.order import RunOptions

_REPOSITORY = "jbuild-system"


@dataclass(frozen=True, kw_only=True, slots=True)
class PinnedLayer:
    """A cell's system layer, and whether this run built it."""

    cell: str
    layer: SystemLayer
    made: bool


def make_systems(
    jobs: Iterable[Job], session: Session, options: RunOptions, registry: str, *, force: bool
) -> list[PinnedLayer]:
    """Return the system layer of every cell; build, push and pin the layers that the project does not pin yet.

    With `force` all layers are built again, shared ones once.

    Raises:
        JbuildError: a cell cannot be locked, or a layer cannot be built or pushed.
    """
    done: list[PinnedLayer] = []
    with in_use(session.workspace):
        for job in jobs:
            new = [result.layer.key for result in done if result.made]
            done.append(_system(job, session, options, registry, new=new if force else None))
    return done


def _system(job: Job, session: Session, options: RunOptions, registry: str, *, new: list[str] | None) -> PinnedLayer:
    """Return the layer of one cell; only the pins whose keys are in `new` count, or all pins if it is None."""
    lock = lock_with_history(job, session)
    found = pinned(job, lock, session)
    if found and (new is None or found.key in new):
        return PinnedLayer(cell=job.cell.id, layer=found, made=False)
    layer = _build_layer(job, lock, session, options, registry)
    pin(layer, session.workspace)
    return PinnedLayer(cell=job.cell.id, layer=layer, made=True)


def _build_layer(job: Job, lock: Lock, session: Session, options: RunOptions, registry: str) -> SystemLayer:
    engine, platform, builders = find_engine(session.workspace), lock.platform, builders_of(options, session)
    if not builders.names:
        engine.require(platform.architecture)
    folder = session.workspace.cell(job.recipe.name, job.cell.id).system_layer
    with disk_errors(folder):
        write_text(folder / SCRIPT, script_of(session.workspace))
    text = dockerfile_of(job, lock, session)
    # Without BuildKit's cache: a new layer must have the mirror's newest packages.
    request = BuildRequest(folder=folder, fresh=True)
    image = builders.build(
        job.cell.id, engine, lambda name: build_system(job, lock, text, replace(request, builder=name), engine, session)
    )
    key = key_of(job, lock, session)
    tag = TagRule(name=f"{platform.distribution}-{key[:12]}")
    wish = PublishOptions(repository=_REPOSITORY, tags=(tag,), building_block=True)
    source = from_layout(image, session.workspace.images)
    publication = publish(source, (registry,), wish, config=session.config, console=session.console)
    packages = ", ".join(sorted({*platform.python_packages, *job.spec.apt}))
    note = f"{lock.base.name} for {platform.architecture} with {packages or 'nothing more'}"
    return SystemLayer(key=key, image=publication.registries[0].repository, digest=image.digest, note=note)
