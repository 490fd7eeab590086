"""Packs layers: a folder becomes a compressed blob of the layout, once; whoever needs the same layer takes that blob.

BuildKit would be sent the folder, copy it, tar it and compress it on one processor, for every cell anew.
"""

from __future__ import annotations

import hashlib
import os
import zlib
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

from filelock import FileLock

from builder import records
from builder.errors import BuildError
from builder.image import tarball
from builder.image.layout import blob, is_present
from builder.registry.model import Descriptor
from builder.workspace import disk_errors, mark_used, unnamed

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable
    from pathlib import Path

    from builder.config import Compression
    from builder.workspace import Workspace

# Part of every packed layer's key: raise it when the same folder packs to other bytes.
_FORMAT = "1"
_LEVELS = {"zstd": 3, "gzip": 6}
_MEDIA_TYPE = "application/vnd.oci.image.layer.v1.tar"
# What zlib calls a gzip stream without a name and a time in it.
_GZIP_WINDOW = 31


@dataclass(frozen=True, kw_only=True, slots=True)
class Packed:
    """A layer's blob, and the digest of what is compressed in it (the configuration's `diff_id`)."""

    blob: Descriptor
    diff_id: str


class _Compressor(Protocol):
    def compress(self, data: bytes, /) -> bytes: ...

    def flush(self) -> bytes: ...


def how(compression: Compression) -> str:
    """Return what, besides the files, decides a layer's bytes: our format, the compressor, its release and level."""
    return f"{_FORMAT}-{compression}-{_release(compression)}-{_LEVELS[compression]}"


def pack_folder(
    folder: Path, compression: Compression, workspace: Workspace, on_bytes: Callable[[float], object]
) -> Packed:
    """Return the blob of a layer's folder, whose name stands for what is in it, packing it if it is not there.

    `on_bytes` is told of bytes read.

    Raises:
        BuildError: the folder holds what a layer cannot.
        DiskError: the disk is full, or cannot be written.
    """
    key = records.fingerprint(folder.name, how(compression))
    record = workspace.packed(key)
    with disk_errors(workspace.locks_in_use):
        workspace.locks_in_use.mkdir(parents=True, exist_ok=True)
    # Cells that share a layer may be built at once.
    with FileLock(workspace.locks_in_use / f"pack-{key[:16]}"):
        found = records.read(record, key, Packed)
        if found and is_present(workspace.images, found.blob):
            mark_used(record)
            mark_used(blob(workspace.images, found.blob.digest))
            return found
        try:
            with disk_errors(workspace.images):
                made = pack(tarball.stream(folder), compression, workspace.images, on_bytes)
        except ValueError as error:
            hint = "this is a bug in jbuild; please report it"
            raise BuildError(f"layer {folder.name} cannot be packed: {error}", where=str(folder), hint=hint) from error
        records.write(record, key, made)
    return made


def pack(
    content: Iterable[bytes], compression: Compression, layout: Path, on_bytes: Callable[[float], object]
) -> Packed:
    """Compress a tar stream into a blob of a layout; the same stream gives the same blob on any number of processors.

    Raises:
        OSError: the stream cannot be read, or the blob not written.
    """
    compressor = _compressor(compression)
    inner, outer, size = hashlib.sha256(), hashlib.sha256(), 0
    with unnamed(layout / "blobs" / "sha256") as temporary:
        with temporary.open("wb") as file:

            def write(data: bytes) -> int:
                outer.update(data)
                return file.write(data)

            for block in content:
                inner.update(block)
                size += write(compressor.compress(block))
                on_bytes(len(block))
            size += write(compressor.flush())
        temporary.replace(blob(layout, f"sha256:{outer.hexdigest()}"))
    descriptor = Descriptor(media_type=f"{_MEDIA_TYPE}+{compression}", digest=f"sha256:{outer.hexdigest()}", size=size)
    return Packed(blob=descriptor, diff_id=f"sha256:{inner.hexdigest()}")


def _compressor(compression: Compression) -> _Compressor:
    if compression == "gzip":
        return zlib.compressobj(_LEVELS["gzip"], zlib.DEFLATED, _GZIP_WINDOW)
    import zstandard  # noqa: PLC0415  # only packing needs it

    # At least one worker: without any, zstd cuts its input otherwise, and the bytes are others.
    found: _Compressor = zstandard.ZstdCompressor(
        level=_LEVELS["zstd"], threads=max(1, os.cpu_count() or 1)
    ).compressobj()
    return found


def _release(compression: Compression) -> str:
    if compression == "gzip":
        return zlib.ZLIB_RUNTIME_VERSION
    import zstandard  # noqa: PLC0415  # as above

    return ".".join(str(part) for part in zstandard.ZSTD_VERSION)
