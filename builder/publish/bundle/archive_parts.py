"""Cuts the tar archive of a bundle into parts, while it is made, without a second copy on the disk."""

from __future__ import annotations

import hashlib
import re
from typing import TYPE_CHECKING

from builder.errors import UsageError
from builder.model.bundles import PARTS_FOLDER, BundleFile

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

    _Write = Callable[[str, int, Iterator[bytes]], None]

LEAST_PART = 1_000_000
_UNITS = {"": 1, "k": 10**3, "m": 10**6, "g": 10**9, "t": 10**12}
_SIZE = re.compile(r"(?P<number>\d+(?:\.\d+)?)\s*(?P<unit>[kmgt]?)b?", re.IGNORECASE)
_DIGITS = 4


def part_bytes(text: str) -> int:
    """Return the bytes of a size such as `60M` or `1G`; units are decimal.

    Raises:
        UsageError: the text is not a size, or too small a one.
    """
    match = _SIZE.fullmatch(text.strip())
    if match is None:
        raise UsageError(f"--split: {text!r} is not a size", where=text, hint="write a size such as 60M or 1G")
    size = int(float(match["number"]) * _UNITS[match["unit"].lower()])
    if size < LEAST_PART:
        raise UsageError(
            f"--split: parts of {size} bytes are too small", where=text, hint="write 1M or more, such as 60M or 1G"
        )
    return size


def part_paths(total: int, size: int) -> tuple[str, ...]:
    """Return the paths of the parts of an archive, in order; sorting the names gives the same order."""
    count = -(-total // size)
    digits = max(_DIGITS, len(str(count)))
    return tuple(f"{PARTS_FOLDER}/{number:0{digits}}" for number in range(1, count + 1))


def write_archive_parts(
    archive: Iterable[bytes],
    paths: Iterable[str],
    total: int,
    size: int,
    write: Callable[[str, int, Iterator[bytes]], None],
) -> Iterator[BundleFile]:
    """Cut an archive of `total` bytes into parts; yield each after `write` got its path, its size and its blocks.

    `write` must read all blocks.
    """
    slices = _Slices(archive)
    for number, path in enumerate(paths):
        length = min(size, total - number * size)
        digest = hashlib.sha256()
        write(path, length, slices.take(length, digest.update))
        yield BundleFile(path=path, size=length, sha256=digest.hexdigest())


class _Slices:
    """Consecutive slices of a stream of blocks."""

    def __init__(self, blocks: Iterable[bytes]) -> None:
        self._blocks = iter(blocks)
        self._left = memoryview(b"")

    def take(self, size: int, on_block: Callable[[bytes], object]) -> Iterator[bytes]:
        """Yield the blocks of the next `size` bytes."""
        while size:
            if not self._left:
                self._left = memoryview(next(self._blocks))
                continue
            block = bytes(self._left[:size])
            self._left = self._left[size:]
            size -= len(block)
            on_block(block)
            yield block
        if not self._left:
            # The check of a file's digest follows its last block.
            self._left = memoryview(next(self._blocks, b""))
