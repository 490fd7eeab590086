"""The compressors of layers: the same bytes from any number of threads."""

from __future__ import annotations

import zlib
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from builder.host.config import Compression, LayerCompression

# zlib's value for a gzip stream without a name and a time.
_GZIP_WINDOW = 31
# Logarithms of the size of a job, the part of the input that one thread compresses (zstd's zstdmt_compress.c,
# ZSTDMT_computeTargetJobLog): the least, and the difference to the window's.
_LEAST_JOB_LOG, _BEYOND_WINDOW = 20, 2


class Compressor(Protocol):
    """A stream that is compressed block by block."""

    def compress(self, data: bytes, /) -> bytes:
        """Append bytes, and return what is ready."""

    def flush(self) -> bytes:
        """End the stream, and return the rest."""


def compressor(compression: LayerCompression, threads: int) -> Compressor:
    """Return a new compressor; `threads` of zstd work beside the caller's."""
    if compression.kind == "gzip":
        return zlib.compressobj(compression.level, zlib.DEFLATED, _GZIP_WINDOW)
    return ZstdStream(compression.level, threads)


def release(compression: Compression) -> str:
    """Return the release of a compressor, on which its bytes depend."""
    if compression == "gzip":
        return zlib.ZLIB_RUNTIME_VERSION
    import zstandard  # noqa: PLC0415  # only packing needs it

    return ".".join(str(number) for number in zstandard.ZSTD_VERSION)


class ZstdStream:
    """A stream of zstd with at least one thread: without any, zstd splits its input differently."""

    def __init__(self, level: int, threads: int) -> None:
        """Start empty."""
        import zstandard  # noqa: PLC0415  # only packing needs it

        self._stream = zstandard.ZstdCompressor(level=level, threads=threads).compressobj()
        window_log = zstandard.ZstdCompressionParameters.from_level(level).window_log
        self._job_bytes = 1 << max(_LEAST_JOB_LOG, window_log + _BEYOND_WINDOW)
        self._end_of_block = zstandard.COMPRESSOBJ_FLUSH_BLOCK
        self._size = 0

    def compress(self, data: bytes, /) -> bytes:
        """Append bytes, and return what is ready."""
        self._size += len(data)
        return self._stream.compress(data)

    def flush(self) -> bytes:
        """End the stream, and return the rest.

        Where the input ends with a job, the end is a block of its own if that job has begun, and a part of the job if
        all threads were busy. Once the job has been flushed, it is always the former.
        """
        last = b"" if self._size % self._job_bytes else self._stream.flush(self._end_of_block)
        return last + self._stream.flush()
