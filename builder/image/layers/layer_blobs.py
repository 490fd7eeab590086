"""The blobs of a cell's packed layers: once registries have them, they leave the cache, and are packed again on demand.

They take as much space as the wheels and models that they are packed from, which give the same bytes again.
"""

from __future__ import annotations

import threading
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from builder.errors import IntegrityError
from builder.host.file_locks import alone
from builder.host.files import disk_errors
from builder.host.units import count_of, size_of
from builder.image.oci.layout import absent_blobs, blob, is_present
from builder.image.oci.pack import find_packed

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Mapping

    from builder.host.session import Session
    from builder.image.oci.pack import Packed
    from builder.model.images import Image, Plan
    from builder.model.locks import Job, Lock
    from builder.pipeline.cell import CellRun

# Smaller blobs (bytes) stay: they are read more often than their space is worth.
_SMALL = 1 << 20


@dataclass(frozen=True, kw_only=True, slots=True)
class LayerBlobs:
    """The blobs of the layers in a cell's plan."""

    job: Job
    lock: Lock
    plan: Plan
    session: Session
    _mutex: threading.Lock = field(default_factory=threading.Lock, compare=False)

    def missing(self, image: Image) -> frozenset[str]:
        """Return the digests of an image's blobs that are not in the cache and cannot be made."""
        absent = frozenset(descriptor.digest for descriptor in absent_blobs(self.session.workspace.images, image))
        # Usually none: then the records need not be read.
        return absent.difference(packed.blob.digest for packed in self._packed().values()) if absent else absent

    def make(self, digests: Collection[str]) -> None:
        """Pack the layers again whose blobs have these digests and are not in the cache; skip other digests.

        Raises:
            IntegrityError: a layer packs to other bytes than before, or a content is damaged.
            NetworkError, ModelError, BuildError: a content cannot be fetched or is missing.
            DiskError: the disk is full or cannot be written.
        """
        layout = self.session.workspace.images
        # Several registries ask for the same blobs at once.
        with self._mutex:
            gone = {
                name: packed
                for name, packed in self._packed().items()
                if packed.blob.digest in digests and not is_present(layout, packed.blob)
            }
            if gone:
                self._make(gone)

    def _packed(self) -> dict[str, Packed]:
        """Return the layers of the plan that were packed, by name."""
        session = self.session
        found = {name: find_packed(name, session.config.layers, session.workspace) for name in self.plan.layers}
        return {name: packed for name, packed in found.items() if packed}

    def _make(self, gone: Mapping[str, Packed]) -> None:
        # Slow to import, and an unchanged build does without.
        from builder.host.interpreters import find_compiler  # noqa: PLC0415
        from builder.image.layers.cell_layers import cell_layers  # noqa: PLC0415
        from builder.image.layers.pack_layers import pack_missing  # noqa: PLC0415
        from builder.models.fetch import fetch_models  # noqa: PLC0415

        job, lock, session = self.job, self.lock, self.session
        compiler = find_compiler(lock.platform.python, lock.compiler, session.workspace.interpreters)
        layers = [layer for layer in cell_layers(job, lock, compiler, session).all if layer.name in gone]
        session.console.say(
            f"{job.cell.id}: packing {count_of(len(layers), 'layer')} again: the cache no longer has them"
        )
        if any(layer.is_stored for layer in layers):
            fetch_models(job, lock, session)
        for name, packed in pack_missing(layers, compiler, job.cell.id, session).items():
            if packed.blob != gone[name].blob:
                raise IntegrityError(
                    f"layer {name} packs to {packed.blob.digest}, but the image has {gone[name].blob.digest}",
                    where=job.name,
                    hint=f"build the image again: `jbuild build {job.recipe.name} --cell {job.cell.id} --force`",
                )


def blobs_of(run: CellRun) -> LayerBlobs:
    """Return the blobs of a cell's layers, given its plan."""
    return LayerBlobs(job=run.job, lock=run.lock, plan=run.plan, session=run.session)


def drop_published(plans: Iterable[Plan], session: Session) -> None:
    """Remove the large blobs of the layers of plans, unless they are to be kept or another process uses the cache.

    Raises:
        DiskError: one cannot be removed.
    """
    if session.config.keep_layers:
        return
    with alone(session.workspace) as unwatched, disk_errors(session.workspace.images):
        names = {name for plan in plans for name in plan.layers} if unwatched else ()
        freed = sum(_drop(name, session) for name in names)
    if freed:
        session.console.say(
            f"removed {size_of(freed)} of pushed layers from the cache; a command that needs them packs them again "
            "(`keep-layers = true` under [publish] keeps them)"
        )


def _drop(name: str, session: Session) -> int:
    """Remove the blob of a layer, and return the bytes that this frees."""
    packed = find_packed(name, session.config.layers, session.workspace)
    if packed is None or packed.blob.size < _SMALL:
        return 0
    path = blob(session.workspace.images, packed.blob.digest)
    # A virtual blob has no file of its own.
    if not path.is_file():
        return 0
    path.unlink()
    return packed.blob.size
