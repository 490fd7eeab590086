"""Compressors of layers: the same bytes from any number of threads, also where the input ends with a thread's part."""

from __future__ import annotations

import random

import pytest
import zstandard

from builder.image.oci.compressors import ZstdStream

# An empty block, which is the last one.
LAST_BLOCK = b"\x01\x00\x00"


def text(size: int) -> bytes:
    """Return text of a few thousand words."""
    chance = random.Random(size)
    words = [chance.randbytes(chance.randrange(3, 12)) for _ in range(5000)]
    page = b"".join(chance.choices(words, k=100_000))
    return (page * (size // len(page) + 1))[:size]


def compressed(content: bytes, level: int, threads: int) -> bytes:
    stream = ZstdStream(level, threads)
    blocks = (content[at : at + (1 << 20)] for at in range(0, len(content), 1 << 20))
    return b"".join([*map(stream.compress, blocks), stream.flush()])


@pytest.mark.parametrize("level", [1, 3, 4, 6])
def test_the_end_of_a_job_is_known(level: int) -> None:
    """Where zstd's own stream ends a job with the input, and nowhere else, its end is a block of its own."""
    job = ZstdStream(level, 1)._job_bytes
    for size, alone in ((job, True), (job + (1 << 20), False), (2 * job, True), (job // 2, False)):
        content = text(size)
        stream = zstandard.ZstdCompressor(level=level, threads=1).compressobj()
        plain = stream.compress(content) + stream.flush()
        assert plain.endswith(LAST_BLOCK) == alone
        assert compressed(content, level, 1) == plain


@pytest.mark.parametrize("size", [0, 5, (24 << 20) - 512, 24 << 20, (24 << 20) + 512])
def test_any_number_of_threads_gives_the_same_bytes(size: int) -> None:
    content = text(size)
    one = compressed(content, 4, 1)
    assert zstandard.ZstdDecompressor().decompressobj().decompress(one) == content
    for threads in (2, 3, 5):
        assert compressed(content, 4, threads) == one
