"""Packs layers: compresses a tar stream into a blob of the layout, once for all cells with that layer.

BuildKit would copy, tar and compress folders on one processor, for every cell again.
"""

from __future__ import annotations

import os
import zlib
from dataclasses import dataclass, field, replace
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING

from builder.errors import BuildError, IntegrityError
from builder.host import records, tarball
from builder.host.files import disk_errors, mark_used, temp_file
from builder.host.threaded_hash import ThreadedHash
from builder.image.oci import virtual_blob
from builder.image.oci.compressors import compressor, release
from builder.image.oci.layout import blob, is_present, mark_blob_used
from builder.model.images import Descriptor, SlimmedWheel
from builder.models.layer_hash import known_layer

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Sequence

    from builder.host.config import LayerCompression
    from builder.host.paths import Workspace
    from builder.image.layers.layer import LayerSource, LayerWork

# Part of every packed layer's key: raise it when the same layer packs to other bytes.
_FORMAT = "5"
# The size of the sample (bytes) that decides whether to compress a stream, and the largest worthwhile ratio.
_SAMPLE = 8 << 20
_WORTH = 0.97
# The most literal bytes of a virtual blob.
_MOST_LITERAL = 1 << 20
# Only the exponents' bits of weights compress; the first level gains as much, ten times as fast.
_WEIGHTS_LEVEL = 1
_MEDIA_TYPE = "application/vnd.oci.image.layer.v1.tar"


@dataclass(frozen=True, kw_only=True, slots=True)
class Packed:
    """A layer's blob, and the digest of its uncompressed content (the configuration's `diff_id`).

    `slimmed` are its wheels without GPU code for other GPUs.
    """

    blob: Descriptor
    diff_id: str
    slimmed: tuple[SlimmedWheel, ...] = field(default=(), metadata=records.OPTIONAL)


def compression_key(compression: LayerCompression) -> str:
    """Return the other inputs of a layer's bytes besides its files: format, compressor, its release and level."""
    return f"{_FORMAT}-{compression.kind}-{release(compression.kind)}-{compression.level}-{_WEIGHTS_LEVEL}"


def pack_layer(
    layer: LayerSource,
    work: LayerWork,
    compression: LayerCompression,
    workspace: Workspace,
    check: Callable[[], object],
    threads: int = 1,
) -> Packed:
    """Return the record of a layer, whose name identifies its content, packing it if its blob is missing.

    `check` is called between blocks; it may raise to end the work. If the files of a model do not compress, the blob is
    virtual and refers to them (`virtual_blob`). `threads` compress.

    Raises:
        BuildError: the layer has a file that a layer cannot contain.
        IntegrityError: a wheel is damaged, or a model's file does not match its sha256.
        DiskError: the disk is full, or cannot be written.
    """
    key = _key(layer.name, compression)
    # Cells that share a layer may build at the same time.
    with workspace.file_lock(f"pack-{key[:16]}"):
        cached = find_packed(layer.name, compression, workspace)
        if cached and is_present(workspace.images, cached.blob):
            work.advance(layer.size)
            return cached
        try:
            with disk_errors(workspace.images):
                packed = _pack_layer(layer, work, compression, workspace, check, threads)
        except tarball.ChangedError as error:
            raise _changed(Path(str(error))) from error
        except ValueError as error:
            hint = "this is a bug in jbuild; please report it"
            raise BuildError(f"layer {layer.name} cannot be packed: {error}", where=layer.name, hint=hint) from error
        packed = replace(packed, slimmed=tuple(work.slimmed))
        records.write(workspace.packed(key), key, packed)
    return packed


def find_packed(name: str, compression: LayerCompression, workspace: Workspace) -> Packed | None:
    """Return the record of a layer if it was packed already, or else None; the blob may have left the cache."""
    key = _key(name, compression)
    packed = records.read(workspace.packed(key), key, Packed)
    if packed:
        mark_used(workspace.packed(key))
        mark_blob_used(workspace.images, packed.blob.digest)
    return packed


def _changed(path: Path) -> IntegrityError:
    hint = "run `jbuild models verify RECIPE` to remove it, then `jbuild render RECIPE --force` to fetch it again"
    return IntegrityError("a model's file no longer matches the lock", where=str(path), hint=hint)


def _pack_layer(
    layer: LayerSource,
    work: LayerWork,
    compression: LayerCompression,
    workspace: Workspace,
    check: Callable[[], object],
    threads: int,
) -> Packed:
    if layer.is_stored:
        segments = tuple(tarball.merged(layer.segments(work)))
        known = known_layer(workspace.models, segments)
        if _is_virtual(segments):
            return _virtual_blob(segments, known, workspace, work.advance)
        fast = replace(compression, level=_WEIGHTS_LEVEL)
        return _compressed(segments, known, fast, workspace, work.advance, threads)
    content = tarball.blocks(layer.segments(work))
    return pack(content, compression, workspace.images, lambda _: check(), threads=threads)


def _is_virtual(segments: Sequence[bytes | tarball.Content]) -> bool:
    """Return whether a layer of stored files needs no file of its own."""
    literal = sum(len(segment) for segment in segments if isinstance(segment, bytes))
    return literal <= _MOST_LITERAL and not _shrinks(_read_sample(tarball.blocks(segments)))


def _virtual_blob(
    segments: Sequence[bytes | tarball.Content],
    known: str | None,
    workspace: Workspace,
    on_bytes: Callable[[float], object],
) -> Packed:
    size = sum(len(segment) if isinstance(segment, bytes) else segment.size for segment in segments)
    if known:
        on_bytes(size)
    else:
        with ThreadedHash() as digest:
            for block in tarball.blocks(segments):
                digest.update(block)
                on_bytes(len(block))
            known = digest.hexdigest()
    name = f"sha256:{known}"
    virtual_blob.write(workspace.images, name, segments)
    return Packed(blob=Descriptor(media_type=_MEDIA_TYPE, digest=name, size=size), diff_id=name)


def _compressed(
    segments: Sequence[bytes | tarball.Content],
    known: str | None,
    compression: LayerCompression,
    workspace: Workspace,
    on_bytes: Callable[[float], object],
    threads: int,
) -> Packed:
    def verify(diff_id: str) -> None:
        if known and diff_id != f"sha256:{known}":
            raise tarball.ChangedError(*(segment.path for segment in files))

    files = [segment for segment in segments if isinstance(segment, tarball.Content)]
    if known:
        # The hash of the whole verifies the file, too.
        segments = [segment if isinstance(segment, bytes) else replace(segment, sha256=None) for segment in segments]
    blocks = tarball.blocks(segments)
    return pack(blocks, compression, workspace.images, on_bytes, threads=threads, verify=verify)


def _key(name: str, compression: LayerCompression) -> str:
    return records.fingerprint(name, compression_key(compression))


def pack(
    content: Iterable[bytes],
    compression: LayerCompression,
    layout: Path,
    on_bytes: Callable[[float], object],
    *,
    threads: int | None = None,
    verify: Callable[[str], object] = lambda _: None,
) -> Packed:
    """Compress a tar stream into a blob of a layout; the result does not depend on the number of processors.

    `threads` compress, by default one a processor. Content that does not compress, such as the weights of many models,
    is stored uncompressed, which also saves a device the decompression. `verify` gets the diff ID before there is a
    blob; it may raise.

    Raises:
        OSError: the stream cannot be read, or the blob cannot be written.
    """
    blocks = iter(content)
    sample = _read_sample(blocks)
    threads = threads or os.cpu_count() or 1
    stream = compressor(compression, threads) if _shrinks(sample) else None
    size = 0
    with temp_file(layout / "blobs" / "sha256") as temporary, ThreadedHash() as inner, ThreadedHash() as outer:
        with temporary.open("wb") as file:

            def write(data: bytes) -> int:
                if data:
                    outer.update(data)
                return file.write(data)

            for block in chain(sample, blocks):
                if stream:
                    inner.update(block)
                size += write(stream.compress(block) if stream else block)
                on_bytes(len(block))
            size += write(stream.flush()) if stream else 0
        digest = f"sha256:{outer.hexdigest()}"
        diff_id = f"sha256:{inner.hexdigest()}" if stream else digest
        verify(diff_id)
        temporary.replace(blob(layout, digest))
    kind = f"{_MEDIA_TYPE}+{compression.kind}" if stream else _MEDIA_TYPE
    return Packed(blob=Descriptor(media_type=kind, digest=digest, size=size), diff_id=diff_id)


def _read_sample(blocks: Iterator[bytes]) -> list[bytes]:
    blocks_read: list[bytes] = []
    while sum(map(len, blocks_read)) < _SAMPLE and (block := next(blocks, None)):
        blocks_read.append(block)
    return blocks_read


def _shrinks(blocks: Sequence[bytes]) -> bool:
    """Return whether to compress a stream, by its beginning alone, so that the result is the same everywhere."""
    sample = b"".join(blocks)
    return len(sample) < _SAMPLE or len(zlib.compress(sample, 1)) < _WORTH * len(sample)
