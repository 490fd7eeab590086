"""Compiles bytecode in long-lived processes of the image's Python, a batch of sources at a time."""

from __future__ import annotations

import os
import queue
import re
import tempfile
from collections import deque
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

from builder.errors import IntegrityError, ProgramFailedError
from builder.host.concurrency import TaskGroup
from builder.host.process import PipedProgram
from builder.host.tarball import file_of
from builder.host.toml import documents
from builder.host.toml.tables import pattern_of

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from concurrent.futures import Future

    from builder.host.interpreters import Compiler
    from builder.host.tarball import LayerEntry
    from builder.host.toml.tables import Table

    _Source = tuple[str, bytes]

# Run as text: a script's folder would be where the interpreter looks for modules first.
_PROGRAM = Path(__file__).with_name("compile_sources.py").read_text(encoding="utf-8")
# A fixed hash seed: the same source gives the same bytes. Empty counts as unset: the user's settings must not change
# the output.
_SETTINGS = {"PYTHONHASHSEED": "0"} | dict.fromkeys(
    ("PYTHONDONTWRITEBYTECODE", "PYTHONOPTIMIZE", "PYTHONPYCACHEPREFIX", "PYTHONPATH"), ""
)
_WORD = 8
# Where modules are installed: `site-packages`, or `dist-packages` of a distribution.
_ROOT = "-packages/"
# The bytes of sources in a batch, and the most batches of one stream that wait for their compilation: they decide the
# bytes of layers, so they do not depend on the machine.
_BATCH = 2 << 20
_AHEAD = 8


class BytecodePool:
    """Processes that compile, one a processor, which start with the first batches."""

    def __init__(self, compiler: Compiler, group: TaskGroup) -> None:
        """Use the threads of a group to wait for the processes."""
        self._compiler, self._group = compiler, group
        self._idle: queue.SimpleQueue[PipedProgram] = queue.SimpleQueue()
        self._all: list[PipedProgram] = []

    @property
    def tag(self) -> str:
        """The word before `.pyc` in the names of compiled files."""
        return "cpython-" + "".join(self._compiler.version.split(".")[:2])

    def submit(self, sources: Sequence[_Source]) -> Future[list[bytes]]:
        """Compile sources, with their paths in the image; a `.pyc` for each, empty if it cannot be compiled."""
        return self._group.submit(self._compile, sources)

    def end(self) -> None:
        """End all processes at once."""
        for program in tuple(self._all):
            program.end()

    def close(self) -> None:
        """End all processes and close their pipes, once no thread uses them."""
        for program in self._all:
            program.close()

    def _compile(self, sources: Sequence[_Source]) -> list[bytes]:
        try:
            program = self._idle.get_nowait()
        except queue.Empty:
            argv = [self._compiler.path, "-S", "-c", _PROGRAM]
            program = PipedProgram(argv, _SETTINGS, Path(tempfile.gettempdir()))
            self._all.append(program)
        try:
            program.send(_word(len(sources)), *(part for source in sources for part in _parts(source)))
            answer = [program.read(int.from_bytes(program.read(_WORD), "little")) for _ in sources]
        except ProgramFailedError as error:
            self._group.token.check()
            raise IntegrityError(
                f"{sources[0][0]} or a source after it could not be compiled",
                where=self._compiler.path,
                log=error.output,
            ) from error
        self._idle.put(program)
        return answer


@contextmanager
def bytecode_pool(compiler: Compiler | None) -> Iterator[BytecodePool | None]:
    """Yield a pool for a compiler, if there is one; on any exception, its processes end at once."""
    if compiler is None:
        yield None
        return
    group = TaskGroup(os.cpu_count() or 2)
    pool = BytecodePool(compiler, group)
    try:
        with group:
            try:
                yield pool
            except BaseException:
                group.cancel()
                pool.end()
                raise
    finally:
        pool.close()


class CompiledFiles:
    """The compiled files of one stream, some batches behind their sources; the order is the same on all machines."""

    def __init__(self, pool: BytecodePool | None) -> None:
        """Compile with a pool; without one, nothing is compiled."""
        self._pool = pool
        self._batch: list[_Source] = []
        self._size = 0
        self._waiting: deque[tuple[list[_Source], Future[list[bytes]]]] = deque()

    def wants(self, path: str) -> bool:
        """Return whether to compile a file of this path."""
        return (
            self._pool is not None and path.endswith(".py") and not _uncompiled().fullmatch(path.rpartition(_ROOT)[2])
        )

    def add(self, path: str, source: bytes) -> Iterator[LayerEntry]:
        """Take a source, and yield files that are to follow it."""
        self._batch.append((f"/{path}", source))
        self._size += len(source)
        if self._size >= _BATCH:
            self._submit()
            if len(self._waiting) > _AHEAD:
                yield from self._next()

    def rest(self) -> Iterator[LayerEntry]:
        """Yield the files that are still to follow."""
        if self._batch:
            self._submit()
        while self._waiting:
            yield from self._next()

    def _submit(self) -> None:
        if self._pool:
            self._waiting.append((self._batch, self._pool.submit(self._batch)))
        self._batch, self._size = [], 0

    def _next(self) -> Iterator[LayerEntry]:
        sources, future = self._waiting.popleft()
        tag = self._pool.tag if self._pool else ""
        for (path, _), compiled in zip(sources, future.result(), strict=True):
            folder, _, name = path[1:].rpartition("/")
            if compiled:
                yield file_of(f"{folder}/__pycache__/{name[:-3]}.{tag}.pyc", compiled)


@cache
def _uncompiled() -> re.Pattern[str]:
    """Return the pattern of the sources that stay without bytecode.

    Raises:
        DocumentError: the table has mistakes.
    """
    path = Path(__file__).with_name("uncompiled.toml")
    patterns = documents.load(path, "the table of uncompiled sources has mistakes", _patterns)
    return re.compile("|".join(f"(?:{pattern})" for pattern in patterns))


def _patterns(root: Table) -> tuple[str, ...]:
    patterns = []
    for table in root.rows("uncompiled"):
        patterns.append(pattern_of(table, "pattern").pattern)
        table.string("source")
    return tuple(patterns)


def _parts(source: _Source) -> tuple[bytes, ...]:
    path, content = source[0].encode("utf-8", "surrogateescape"), source[1]
    return _word(len(path)), path, _word(len(content)), content


def _word(number: int) -> bytes:
    return number.to_bytes(_WORD, "little")
