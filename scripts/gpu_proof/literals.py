"""Bytes that travel: collected by kind, cut into frames, and compressed on all processors.

Files of one kind share more with each other than with others, and LZMA's filter for x86 programs needs to know them.
"""

from __future__ import annotations

import lzma
import os
from concurrent.futures import FIRST_COMPLETED, ProcessPoolExecutor, wait
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping
    from concurrent.futures import Future
    from typing import IO

_FRAME = 96 << 20
_DICTIONARY = 64 << 20
_READ = 1 << 20
_ELF = b"\x7fELF"
_SUFFIX = ".xz"
# In the order of the frames: the largest kinds first, since they take the longest.
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

    def compress(self, folder: Path, preset: int) -> None:
        """Write the frames to a folder, each named by its offset among all literals."""
        processors = os.cpu_count() or 1
        offsets = self.offsets()
        running: set[Future[None]] = set()
        with ProcessPoolExecutor(processors) as pool:
            for kind, file in self._files.items():
                file.seek(0)
                at = offsets[kind]
                while data := file.read(_FRAME):
                    # More frames than processors would only take memory.
                    if len(running) > processors:
                        finished, running = wait(running, return_when=FIRST_COMPLETED)
                        for result in finished:
                            result.result()
                    running.add(pool.submit(_compress_frame, data, folder / f"{at:012d}{_SUFFIX}", kind, preset))
                    at += len(data)
            for result in running:
                result.result()


def _kind_of(name: str, head: bytes) -> str:
    if name.endswith(".cubin"):
        return "cubin"
    return "program" if head.startswith(_ELF) else _OF_SUFFIX.get(Path(name).suffix, "other")


def _compress_frame(data: bytes, path: Path, kind: str, preset: int) -> None:
    filters = [{"id": lzma.FILTER_LZMA2, "preset": preset, "dict_size": min(_DICTIONARY, max(len(data), 4096))}]
    if kind == "program":
        filters.insert(0, {"id": lzma.FILTER_X86})
    path.write_bytes(lzma.compress(data, format=lzma.FORMAT_XZ, check=lzma.CHECK_CRC32, filters=filters))


def expand(folder: Path, target: Path) -> None:
    """Write all literals of a folder's frames to one file, with a process for each frame."""
    target.write_bytes(b"")
    frames = sorted(folder.glob(f"*{_SUFFIX}"))
    with ProcessPoolExecutor(min(os.cpu_count() or 1, max(1, len(frames)))) as pool:
        list(pool.map(_expand_frame, frames, [target] * len(frames)))


def _expand_frame(frame: Path, target: Path) -> None:
    with lzma.open(frame) as source, target.open("r+b") as file:
        file.seek(int(frame.name.removesuffix(_SUFFIX)))
        while block := source.read(_READ):
            file.write(block)


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
