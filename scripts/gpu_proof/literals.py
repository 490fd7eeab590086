"""Bytes that travel: collected by kind, since files of one kind share more with each other, and compressed together."""

from __future__ import annotations

import os
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import zstandard

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping
    from typing import IO

# Matches are found this far back; zstd's decompressor accepts no more by default.
_WINDOW_LOG = 27
_READ = 1 << 20
_ELF = b"\x7fELF"
_KINDS = ("program", "archive", "cubin", "source", "bytecode", "other", "blob")
_OF_SUFFIX = {".a": "archive", ".cubin": "cubin", ".pyc": "bytecode"} | dict.fromkeys(
    (".py", ".pyi", ".h", ".hpp", ".cuh", ".cu", ".cpp", ".json", ".txt", ".md"), "source"
)


class Place(NamedTuple):
    """Where literal bytes are: their kind, and their offset in it."""

    kind: str
    offset: int


class LiteralSpool:
    """Literal bytes in temporary files, one for each kind."""

    def __init__(self, folder: Path) -> None:
        """Make the files in a folder; each is named by its kind."""
        self._files: dict[str, IO[bytes]] = {kind: (folder / kind).open("w+b") for kind in _KINDS}

    def add_file(self, name: str, blocks: Iterable[bytes]) -> Place:
        """Append the content of a file and return its place; the name and the first bytes tell its kind."""
        rest = iter(blocks)
        first = next(rest, b"")
        return self.add(_kind_of(name, first), chain([first], rest))

    def add(self, kind: str, blocks: Iterable[bytes]) -> Place:
        """Append bytes of a kind and return their place."""
        file = self._files[kind]
        place = Place(kind, file.seek(0, os.SEEK_END))
        file.writelines(blocks)
        return place

    def offsets(self) -> Mapping[str, int]:
        """Return where the bytes of each kind begin among all literals, after the last one was added."""
        offsets, at = {}, 0
        for kind, file in self._files.items():
            offsets[kind] = at
            at += file.seek(0, os.SEEK_END)
        return offsets

    def compress(self, target: Path, level: int) -> None:
        """Write all literals to one compressed file."""
        parameters = zstandard.ZstdCompressionParameters.from_level(
            level, window_log=_WINDOW_LOG, enable_ldm=True, threads=os.cpu_count() or 1
        )
        with (
            target.open("wb") as file,
            zstandard.ZstdCompressor(compression_params=parameters).stream_writer(file) as to,
        ):
            for spooled in self._files.values():
                spooled.seek(0)
                while block := spooled.read(_READ):
                    to.write(block)


def _kind_of(name: str, head: bytes) -> str:
    if name.endswith(".cubin"):
        return "cubin"
    return "program" if head.startswith(_ELF) else _OF_SUFFIX.get(Path(name).suffix, "other")


def expand(compressed: Path, target: Path) -> None:
    """Write the literals of a compressed file to another file.

    Raises:
        ValueError: the file is damaged.
    """
    try:
        with compressed.open("rb") as source, target.open("wb") as file:
            zstandard.ZstdDecompressor().copy_stream(source, file)
    except zstandard.ZstdError as error:
        raise ValueError(f"{compressed} is damaged: {error}") from error


def literal_blocks(file: Path, offset: int, size: int) -> Iterator[bytes]:
    """Yield some of the expanded literals.

    Raises:
        EOFError: there are fewer.
    """
    with file.open("rb") as stream:
        stream.seek(offset)
        while size:
            block = stream.read(min(size, _READ))
            if not block:
                raise EOFError(f"{file} ends before byte {offset + size}")
            size -= len(block)
            yield block
