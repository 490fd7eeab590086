"""Packs layers: a folder becomes a compressed blob of the layout, once; whoever needs the same layer takes that blob.

BuildKit would be sent the folder, copy it, tar it and compress it on one processor, for every cell anew.
"""

from __future__ import annotations

import hashlib
import os
import zlib
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from builder.errors import BuildError, IntegrityError
from builder.host import records
from builder.host.files import disk_errors, mark_used, temp_file
from builder.image.oci import tarball, virtual_blob
from builder.image.oci.layout import blob, is_present, mark_blob_used
from builder.model.images import Descriptor

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence

    from builder.host.config import Compression
    from builder.host.paths import Workspace

# Part of every packed layer's key: raise it when the same folder packs to other bytes.
_FORMAT = "3"
# How much of a stream (bytes) tells whether it compresses, and to what part of itself it must to be worth it.
_SAMPLE = 8 << 20
_WORTH = 0.97
# What a layer whose contents lie elsewhere may have besides them (bytes).
_MOST_LITERAL = 1 << 20
# zstd's 6 is 6 % smaller than its 3, at twice the time, which is still a fraction of unpacking and compiling.
_LEVELS = {"zstd": 6, "gzip": 6}
# All that is to be gained in weights is their exponents' bits, and the first level finds them, ten times as fast.
_WEIGHTS_LEVEL = 1
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
    return f"{_FORMAT}-{compression}-{_release(compression)}-{_LEVELS[compression]}-{_WEIGHTS_LEVEL}"


def pack_folder(
    folder: Path,
    compression: Compression,
    workspace: Workspace,
    on_bytes: Callable[[float], object],
    elsewhere: Mapping[str, Path] | None = None,
) -> Packed:
    """Return the blob of a layer's folder, whose name stands for what is in it, packing it if it is not there.

    `on_bytes` is told of bytes read. `elsewhere` tells of the files of models, by their paths in the image, where the
    cache keeps them: if they do not compress, they stay there, and the blob consists of them (`virtual_blob`).

    Raises:
        BuildError: the folder holds what a layer cannot.
        IntegrityError: a model's file is not what its sha256 says.
        DiskError: the disk is full, or cannot be written.
    """
    key = _key(folder, compression)
    # Cells that share a layer may be built at once.
    with workspace.file_lock(f"pack-{key[:16]}"):
        found = find_packed(folder, compression, workspace)
        if found:
            return found
        try:
            with disk_errors(workspace.images):
                made = _pack_folder(folder, compression, elsewhere or {}, workspace, on_bytes)
        except tarball.ChangedError as error:
            raise _changed(folder, Path(str(error))) from error
        except ValueError as error:
            hint = "this is a bug in jbuild; please report it"
            raise BuildError(f"layer {folder.name} cannot be packed: {error}", where=str(folder), hint=hint) from error
        records.write(workspace.packed(key), key, made)
    return made


def find_packed(folder: Path, compression: Compression, workspace: Workspace) -> Packed | None:
    """Return the blob that a layer's folder was packed into, if it is there."""
    key = _key(folder, compression)
    found = records.read(workspace.packed(key), key, Packed)
    if found is None or not is_present(workspace.images, found.blob):
        return None
    mark_used(workspace.packed(key))
    mark_blob_used(workspace.images, found.blob.digest)
    return found


def _changed(folder: Path, path: Path) -> IntegrityError:
    if path.is_relative_to(folder):
        hint = f"remove {folder}; `jbuild render RECIPE --force` makes it anew"
    else:
        hint = "`jbuild models verify RECIPE` takes it away; then `jbuild render RECIPE --force` fetches it again"
    return IntegrityError("a model's file is not the one that was locked any more", where=str(path), hint=hint)


def _pack_folder(
    folder: Path,
    compression: Compression,
    elsewhere: Mapping[str, Path],
    workspace: Workspace,
    on_bytes: Callable[[float], object],
) -> Packed:
    weights = {name: path for name, path in elsewhere.items() if (folder / name).is_file()}
    if not weights:
        return pack(tarball.stream(folder), compression, workspace.images, on_bytes)
    parts = list(tarball.parts(folder, weights))
    made = _in_pieces(parts, {str(path) for path in weights.values()}, workspace, on_bytes)
    return made or pack(tarball.blocks(parts), compression, workspace.images, on_bytes, level=_WEIGHTS_LEVEL)


def _in_pieces(
    parts: Sequence[bytes | tarball.Content],
    kept: Collection[str],
    workspace: Workspace,
    on_bytes: Callable[[float], object],
) -> Packed | None:
    """Return the blob of a layer that consists of files kept elsewhere; None if it is to have a file of its own."""
    literal = sum(len(part) if isinstance(part, bytes) else part.size * (part.path not in kept) for part in parts)
    if literal > _MOST_LITERAL or _shrinks(_beginning(tarball.blocks(parts))):
        return None
    digest = hashlib.sha256()
    for block in tarball.blocks(parts):
        digest.update(block)
        on_bytes(len(block))
    name = f"sha256:{digest.hexdigest()}"
    size = sum(len(part) if isinstance(part, bytes) else part.size for part in parts)
    virtual_blob.write(workspace.images, name, _joined(parts, kept))
    return Packed(blob=Descriptor(media_type=_MEDIA_TYPE, digest=name, size=size), diff_id=name)


def _joined(parts: Iterable[bytes | tarball.Content], kept: Collection[str]) -> Iterator[bytes | tarball.Content]:
    """Yield the parts, literal ones that follow one another as one; so are the contents that are not kept elsewhere."""
    literal = bytearray()
    for part in parts:
        if isinstance(part, tarball.Content) and part.path in kept:
            yield from (bytes(literal), part)
            literal.clear()
        else:
            literal += b"".join(tarball.blocks([part]))
    yield bytes(literal)


def _key(folder: Path, compression: Compression) -> str:
    return records.fingerprint(folder.name, how(compression))


def pack(
    content: Iterable[bytes],
    compression: Compression,
    layout: Path,
    on_bytes: Callable[[float], object],
    *,
    level: int | None = None,
) -> Packed:
    """Compress a tar stream into a blob of a layout; the same stream gives the same blob on any number of processors.

    `level` is the compressor's, instead of the one that we take. What does not compress, as the weights of many models,
    is stored as it is: a device need not unpack it either.

    Raises:
        OSError: the stream cannot be read, or the blob not written.
    """
    blocks = iter(content)
    beginning = _beginning(blocks)
    compressor = _compressor(compression, level or _LEVELS[compression]) if _shrinks(beginning) else None
    inner, outer, size = hashlib.sha256(), hashlib.sha256(), 0
    with temp_file(layout / "blobs" / "sha256") as temporary:
        with temporary.open("wb") as file:

            def write(data: bytes) -> int:
                outer.update(data)
                return file.write(data)

            for block in chain(beginning, blocks):
                if compressor:
                    inner.update(block)
                size += write(compressor.compress(block) if compressor else block)
                on_bytes(len(block))
            size += write(compressor.flush()) if compressor else 0
        temporary.replace(blob(layout, f"sha256:{outer.hexdigest()}"))
    kind = f"{_MEDIA_TYPE}+{compression}" if compressor else _MEDIA_TYPE
    descriptor = Descriptor(media_type=kind, digest=f"sha256:{outer.hexdigest()}", size=size)
    return Packed(blob=descriptor, diff_id=f"sha256:{(inner if compressor else outer).hexdigest()}")


def _beginning(blocks: Iterator[bytes]) -> list[bytes]:
    found: list[bytes] = []
    while sum(map(len, found)) < _SAMPLE and (block := next(blocks, None)):
        found.append(block)
    return found


def _shrinks(beginning: Sequence[bytes]) -> bool:
    """Return whether compressing is worth it, by the beginning of the stream alone: so it is the same everywhere."""
    sample = b"".join(beginning)
    return len(sample) < _SAMPLE or len(zlib.compress(sample, 1)) < _WORTH * len(sample)


def _compressor(compression: Compression, level: int) -> _Compressor:
    if compression == "gzip":
        return zlib.compressobj(level, zlib.DEFLATED, _GZIP_WINDOW)
    import zstandard  # noqa: PLC0415  # only packing needs it

    # At least one worker: without any, zstd cuts its input otherwise, and the bytes are others.
    threads = max(1, os.cpu_count() or 1)
    found: _Compressor = zstandard.ZstdCompressor(level=level, threads=threads).compressobj()
    return found


def _release(compression: Compression) -> str:
    if compression == "gzip":
        return zlib.ZLIB_RUNTIME_VERSION
    import zstandard  # noqa: PLC0415  # as above

    return ".".join(str(part) for part in zstandard.ZSTD_VERSION)
