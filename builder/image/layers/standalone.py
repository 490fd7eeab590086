"""The folders of a plan's layers, for plain `docker buildx build`: the same files as in the packed layers."""

from __future__ import annotations

import errno
import os
import shutil
import tarfile
from typing import TYPE_CHECKING

from builder.host import tarball
from builder.host.chunk_stream import as_file
from builder.host.concurrency import Progress, map_with_progress
from builder.host.file_locks import scratch
from builder.host.files import atomic_folder, disk_errors
from builder.image.layers.layer import LayerWork, ModelLayer
from builder.image.oci.layout import is_present, layer_content
from builder.image.oci.pack import find_packed
from builder.image.wheels.bytecode import bytecode_pool
from builder.model.images import EPOCH
from builder.remote.wheelhouse import fetch

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator
    from pathlib import Path

    from builder.host.session import Session
    from builder.image.layers.cell_layers import CellLayers
    from builder.image.layers.layer import LayerSource
    from builder.image.wheels.bytecode import BytecodePool
    from builder.model.images import Descriptor

_AT_ONCE = 4
# Failures of a hard link: another file system, one without them, no more of them, or another owner's file.
_NO_LINK = (errno.EXDEV, errno.EMLINK, errno.EPERM, errno.EOPNOTSUPP, errno.ENOSYS)


def make_folders(layers: CellLayers, target: Path, cell: str, session: Session) -> None:
    """Make the folder of each layer below `target`, unless it exists: its name identifies its content.

    Raises:
        NetworkError, IntegrityError, ModelError, BuildError: a content cannot be fetched, is damaged or missing.
        DiskError: the disk is full or cannot be written.
    """
    missing = [layer for layer in layers.all if not (target / layer.name).is_dir()]
    total = float(sum(layer.size for layer in missing))
    unpacked = [layer for layer in missing if not _blob(layer, session)]
    fetch(list({wheel.sha256: wheel for layer in unpacked for wheel in layer.wheels}.values()), session)
    with (
        session.console.task(f"{cell}: making {len(missing)} folders", total, unit="B") as task,
        disk_errors(target),
        scratch(session.workspace.cache) as folder,
        bytecode_pool(layers.compiler) as pool,
    ):

        def make(layer: LayerSource, progress: Progress) -> None:
            with atomic_folder(target / layer.name) as new:
                if isinstance(layer, ModelLayer):
                    link_model(layer, new)
                else:
                    extract(_blocks(layer, pool, folder, progress, session), new)

        map_with_progress(make, missing, task.advance, _AT_ONCE)


def _blocks(
    layer: LayerSource, pool: BytecodePool | None, folder: Path, progress: Progress, session: Session
) -> Iterator[bytes]:
    """Yield the tar of a layer, from its blob if it is packed."""
    if packed := _blob(layer, session):
        return layer_content(packed, session.workspace.images)
    return tarball.blocks(layer.segments(LayerWork(pool=pool, scratch=folder, advance=progress.advance)))


def _blob(layer: LayerSource, session: Session) -> Descriptor | None:
    packed = find_packed(layer.name, session.config.layers, session.workspace)
    return packed.blob if packed and is_present(session.workspace.images, packed.blob) else None


def extract(blocks: Iterable[bytes], folder: Path) -> None:
    """Write the files of a layer's tar below a folder.

    Raises:
        OSError: one cannot be written.
    """
    with tarfile.open(fileobj=as_file(blocks), mode="r|") as archive:
        # Not `data`: links of the environment lead out of the layer, to the interpreter.
        archive.extractall(folder, filter="tar")
    _set_times(folder)


def link_model(layer: ModelLayer, folder: Path) -> None:
    """Link the files of a model, which may have gigabytes, where the file system can.

    Raises:
        ModelError: a file is not in the store.
        OSError: the disk is full or cannot be written.
    """
    for entry in layer.entries():
        for content in entry.content:
            if isinstance(content, tarball.Content):
                path = folder / entry.path
                path.parent.mkdir(parents=True, exist_ok=True)
                _normalise(content.path)
                _link(content.path, path)
    _set_times(folder)


def _link(source: str, target: Path) -> None:
    try:
        os.link(source, target)
    except OSError as error:
        if error.errno not in _NO_LINK:
            raise
        shutil.copy2(source, target)


def _normalise(path: str) -> None:
    """Set time and mode, only if they differ: the file may be open in another build."""
    state = os.stat(path)  # noqa: PTH116
    if state.st_mtime_ns != EPOCH * 1_000_000_000:
        os.utime(path, (EPOCH, EPOCH))
    if state.st_mode & 0o7777 != tarball.FILE_MODE:
        os.chmod(path, tarball.FILE_MODE)  # noqa: PTH101


def _set_times(folder: Path) -> None:
    """Set one time and mode for folders, and one time for links."""
    for base, names, files in os.walk(folder, topdown=False):
        for path in (os.path.join(base, name) for name in (*names, *files)):  # noqa: PTH118  # there may be 100,000
            if os.path.islink(path):  # noqa: PTH114
                os.utime(path, (EPOCH, EPOCH), follow_symlinks=False)
        os.chmod(base, tarball.FOLDER_MODE)  # noqa: PTH101
        os.utime(base, (EPOCH, EPOCH))
