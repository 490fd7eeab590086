"""Packs layers: compresses a folder into a blob of the layout, once for all cells with that layer.

BuildKit would copy, tar and compress the folder on one processor, for every cell again.
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
# The size of the sample (bytes) that decides whether to compress a stream, and the largest worthwhile ratio.
_SAMPLE = 8 << 20
_WORTH = 0.97
# The most literal bytes of a virtual blob.
_MOST_LITERAL = 1 << 20
# zstd's level 6 is 6 % smaller than 3 in twice the time, which is still a fraction of unpacking and compiling.
_LEVELS = {"zstd": 6, "gzip": 6}
# Only the exponents' bits of weights compress; the first level gains as much, ten times as fast.
_WEIGHTS_LEVEL = 1
_MEDIA_TYPE = "application/vnd.oci.image.layer.v1.tar"
# zlib's value for a gzip stream without a name and a time.
_GZIP_WINDOW = 31


@dataclass(frozen=True, kw_only=True, slots=True)
class Packed:
    """A layer's blob, and the digest of its uncompressed content (the configuration's `diff_id`)."""

    blob: Descriptor
    diff_id: str


class _Compressor(Protocol):
    def compress(self, data: bytes, /) -> bytes: ...

    def flush(self) -> bytes: ...


def compression_key(compression: Compression) -> str:
    """Return the other inputs of a layer's bytes besides its files: format, compressor, its release and level."""
    return f"{_FORMAT}-{compression}-{_release(compression)}-{_LEVELS[compression]}-{_WEIGHTS_LEVEL}"


def pack_folder(
    folder: Path,
    compression: Compression,
    workspace: Workspace,
    on_bytes: Callable[[float], object],
    external: Mapping[str, Path] | None = None,
) -> Packed:
    """Return the blob of a layer's folder, whose name identifies its content, packing it if it is missing.

    `on_bytes` gets the number of bytes read. `external` maps the paths of models' files in the image to their files in
    the cache: if they do not compress, the blob is virtual and refers to them (`virtual_blob`).

    Raises:
        BuildError: the folder has a file that a layer cannot contain.
        IntegrityError: a model's file does not match its sha256.
        DiskError: the disk is full, or cannot be written.
    """
    key = _key(folder, compression)
    # Cells that share a layer may build at the same time.
    with workspace.file_lock(f"pack-{key[:16]}"):
        cached = find_packed(folder, compression, workspace)
        if cached:
            return cached
        try:
            with disk_errors(workspace.images):
                packed = _pack_folder(folder, compression, external or {}, workspace, on_bytes)
        except tarball.ChangedError as error:
            raise _changed(folder, Path(str(error))) from error
        except ValueError as error:
            hint = "this is a bug in jbuild; please report it"
            raise BuildError(f"layer {folder.name} cannot be packed: {error}", where=str(folder), hint=hint) from error
        records.write(workspace.packed(key), key, packed)
    return packed


def find_packed(folder: Path, compression: Compression, workspace: Workspace) -> Packed | None:
    """Return the blob of a layer's folder if it was packed already, or else None."""
    key = _key(folder, compression)
    packed = records.read(workspace.packed(key), key, Packed)
    if packed is None or not is_present(workspace.images, packed.blob):
        return None
    mark_used(workspace.packed(key))
    mark_blob_used(workspace.images, packed.blob.digest)
    return packed


def _changed(folder: Path, path: Path) -> IntegrityError:
    if path.is_relative_to(folder):
        hint = f"remove {folder}; `jbuild render RECIPE --force` makes it again"
    else:
        hint = "run `jbuild models verify RECIPE` to remove it, then `jbuild render RECIPE --force` to fetch it again"
    return IntegrityError("a model's file no longer matches the lock", where=str(path), hint=hint)


def _pack_folder(
    folder: Path,
    compression: Compression,
    external: Mapping[str, Path],
    workspace: Workspace,
    on_bytes: Callable[[float], object],
) -> Packed:
    weights = {name: path for name, path in external.items() if (folder / name).is_file()}
    if not weights:
        return pack(tarball.blocks(tarball.segments(folder)), compression, workspace.images, on_bytes)
    segments = list(tarball.segments(folder, weights))
    packed = _virtual_blob(segments, {str(path) for path in weights.values()}, workspace, on_bytes)
    return packed or pack(tarball.blocks(segments), compression, workspace.images, on_bytes, level=_WEIGHTS_LEVEL)


def _virtual_blob(
    segments: Sequence[bytes | tarball.Content],
    external: Collection[str],
    workspace: Workspace,
    on_bytes: Callable[[float], object],
) -> Packed | None:
    """Return the virtual blob of a layer, or None if the layer needs a file of its own."""
    literal = sum(
        len(segment) if isinstance(segment, bytes) else segment.size * (segment.path not in external)
        for segment in segments
    )
    if literal > _MOST_LITERAL or _shrinks(_read_sample(tarball.blocks(segments))):
        return None
    digest = hashlib.sha256()
    for block in tarball.blocks(segments):
        digest.update(block)
        on_bytes(len(block))
    name = f"sha256:{digest.hexdigest()}"
    size = sum(len(segment) if isinstance(segment, bytes) else segment.size for segment in segments)
    virtual_blob.write(workspace.images, name, _merge_literals(segments, external))
    return Packed(blob=Descriptor(media_type=_MEDIA_TYPE, digest=name, size=size), diff_id=name)


def _merge_literals(
    segments: Iterable[bytes | tarball.Content], external: Collection[str]
) -> Iterator[bytes | tarball.Content]:
    """Yield the segments with consecutive literal ones joined; contents that are not external become literal."""
    literal = bytearray()
    for segment in segments:
        if isinstance(segment, tarball.Content) and segment.path in external:
            yield from (bytes(literal), segment)
            literal.clear()
        else:
            literal += b"".join(tarball.blocks([segment]))
    yield bytes(literal)


def _key(folder: Path, compression: Compression) -> str:
    return records.fingerprint(folder.name, compression_key(compression))


def pack(
    content: Iterable[bytes],
    compression: Compression,
    layout: Path,
    on_bytes: Callable[[float], object],
    *,
    level: int | None = None,
) -> Packed:
    """Compress a tar stream into a blob of a layout; the result does not depend on the number of processors.

    `level` overrides the compressor's default level. Content that does not compress, such as the weights of many
    models, is stored uncompressed, which also saves a device the decompression.

    Raises:
        OSError: the stream cannot be read, or the blob cannot be written.
    """
    blocks = iter(content)
    sample = _read_sample(blocks)
    compressor = _compressor(compression, level or _LEVELS[compression]) if _shrinks(sample) else None
    inner, outer, size = hashlib.sha256(), hashlib.sha256(), 0
    with temp_file(layout / "blobs" / "sha256") as temporary:
        with temporary.open("wb") as file:

            def write(data: bytes) -> int:
                outer.update(data)
                return file.write(data)

            for block in chain(sample, blocks):
                if compressor:
                    inner.update(block)
                size += write(compressor.compress(block) if compressor else block)
                on_bytes(len(block))
            size += write(compressor.flush()) if compressor else 0
        temporary.replace(blob(layout, f"sha256:{outer.hexdigest()}"))
    kind = f"{_MEDIA_TYPE}+{compression}" if compressor else _MEDIA_TYPE
    descriptor = Descriptor(media_type=kind, digest=f"sha256:{outer.hexdigest()}", size=size)
    return Packed(blob=descriptor, diff_id=f"sha256:{(inner if compressor else outer).hexdigest()}")


def _read_sample(blocks: Iterator[bytes]) -> list[bytes]:
    blocks_read: list[bytes] = []
    while sum(map(len, blocks_read)) < _SAMPLE and (block := next(blocks, None)):
        blocks_read.append(block)
    return blocks_read


def _shrinks(blocks: Sequence[bytes]) -> bool:
    """Return whether to compress a stream, by its beginning alone, so that the result is the same everywhere."""
    sample = b"".join(blocks)
    return len(sample) < _SAMPLE or len(zlib.compress(sample, 1)) < _WORTH * len(sample)


def _compressor(compression: Compression, level: int) -> _Compressor:
    if compression == "gzip":
        return zlib.compressobj(level, zlib.DEFLATED, _GZIP_WINDOW)
    import zstandard  # noqa: PLC0415  # only packing needs it

    # At least one worker: without any, zstd splits its input differently, and the bytes differ.
    compressor: _Compressor = zstandard.ZstdCompressor(level=level, threads=os.cpu_count() or 1).compressobj()
    return compressor


def _release(compression: Compression) -> str:
    if compression == "gzip":
        return zlib.ZLIB_RUNTIME_VERSION
    import zstandard  # noqa: PLC0415  # as above

    return ".".join(str(number) for number in zstandard.ZSTD_VERSION)
