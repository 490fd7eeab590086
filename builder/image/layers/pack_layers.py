"""Packs the layers of a cell: each as soon as its wheels are there, the largest first, on all processors."""

from __future__ import annotations

import os
import threading
from concurrent.futures import FIRST_EXCEPTION, Future, wait
from typing import TYPE_CHECKING

from builder.host.concurrency import Progress, StoppedError, TaskGroup
from builder.host.file_locks import scratch
from builder.host.files import mark_used
from builder.image.layers.layer import LayerWork
from builder.image.oci.pack import find_packed, pack_layer
from builder.image.wheels.bytecode import bytecode_pool
from builder.remote.wheelhouse import fetch

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

    from builder.host.concurrency import CancelToken
    from builder.host.interpreters import Compiler
    from builder.host.session import Session
    from builder.image.layers.layer import LayerSource
    from builder.image.oci.pack import Packed
    from builder.image.wheels.bytecode import BytecodePool
    from builder.model.wheels import LockedWheel

# One layer keeps a few processors busy: its reading, its compression and the compilation of its sources.
_AT_ONCE = min(8, max(3, os.cpu_count() or 2))


def pack_layers(
    layers: Sequence[LayerSource],
    compiler: Compiler | None,
    cell: str,
    session: Session,
    token: CancelToken | None = None,
) -> tuple[Packed, ...]:
    """Return the records of layers, after packing those that were never packed.

    Raises:
        StoppedError: `token` was cancelled meanwhile.
        NetworkError, IntegrityError, ModelError, BuildError: a content cannot be fetched, is damaged or missing.
        DiskError: the disk is full or cannot be written.
    """
    compression, workspace = session.config.layers, session.workspace
    packed = {layer.name: find_packed(layer.name, compression, workspace) for layer in layers}
    for wheel in (wheel for layer in layers for wheel in layer.wheels):
        mark_used(workspace.wheel(wheel.sha256, wheel.filename).parent)
    missing = [layer for layer in layers if packed[layer.name] is None]
    if missing:
        packed |= pack_missing(missing, compiler, cell, session, token)
    return tuple(found for layer in layers if (found := packed[layer.name]))


def pack_missing(
    layers: Sequence[LayerSource],
    compiler: Compiler | None,
    cell: str,
    session: Session,
    token: CancelToken | None = None,
) -> dict[str, Packed]:
    """Fetch the wheels of layers and pack those without a blob; return the records of all by the layers' names.

    Raises:
        StoppedError: `token` was cancelled meanwhile.
        NetworkError, IntegrityError, ModelError, BuildError: a content cannot be fetched, is damaged or missing.
        DiskError: the disk is full or cannot be written.
    """
    missing = sorted(layers, key=lambda layer: -layer.size)
    total = float(sum(layer.size for layer in missing))
    with (
        session.console.task(f"{cell}: packing {len(missing)} layers", total, unit="B") as task,
        scratch(session.workspace.cache) as folder,
        bytecode_pool(compiler) as pool,
        TaskGroup(_AT_ONCE, token=token) as group,
    ):
        progress = Progress(token=group.token, on_bytes=task.advance)
        threads = max(1, (os.cpu_count() or 2) // min(_AT_ONCE, len(missing)))
        run = _Run(missing, group, lambda layer: _pack(layer, pool, folder, progress, session, threads))
        try:
            fetch(list(run.wheels.values()), session, on_fetched=run.arrived)
        except StoppedError:
            # A layer failed meanwhile.
            run.result()
            raise
        return run.result()


def _pack(
    layer: LayerSource,
    pool: BytecodePool | None,
    folder: Path,
    progress: Progress,
    session: Session,
    threads: int,
) -> Packed:
    work = LayerWork(pool=pool, scratch=folder, advance=progress.advance)
    return pack_layer(layer, work, session.config.layers, session.workspace, progress.token.check, threads)


class _Run:
    """Begins each layer when its last wheel is there."""

    def __init__(self, layers: Sequence[LayerSource], group: TaskGroup, pack: Callable[[LayerSource], Packed]) -> None:
        self.wheels: dict[str, LockedWheel] = {wheel.sha256: wheel for layer in layers for wheel in layer.wheels}
        self._layers, self._group, self._pack = layers, group, pack
        self._absent = {layer.name: {wheel.sha256 for wheel in layer.wheels} for layer in layers}
        self._futures: dict[str, Future[Packed]] = {}
        self._mutex = threading.Lock()
        self._begin_ready()

    def arrived(self, wheel: LockedWheel) -> None:
        """Begin the layers that waited for this wheel alone.

        Raises:
            StoppedError: a layer has failed.
        """
        self._group.token.check()
        with self._mutex:
            for names in self._absent.values():
                names.discard(wheel.sha256)
            self._begin_ready()

    def result(self) -> dict[str, Packed]:
        """Return the blobs by layer, once all are packed; the first failure is raised."""
        done, _ = wait(self._futures.values(), return_when=FIRST_EXCEPTION)
        for future in done:
            if (error := future.exception()) and not isinstance(error, StoppedError):
                raise error
        return {name: future.result() for name, future in self._futures.items()}

    def _begin_ready(self) -> None:
        for layer in self._layers:
            if not self._absent[layer.name] and layer.name not in self._futures:
                self._futures[layer.name] = self._group.submit(self._packed, layer)

    def _packed(self, layer: LayerSource) -> Packed:
        try:
            return self._pack(layer)
        except BaseException:
            # Here, since this thread would start the next layer before the result is awaited.
            self._group.token.cancel()
            raise
