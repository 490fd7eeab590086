"""The caches that a server's start fills: read out of its container, counted, and kept."""

from __future__ import annotations

from dataclasses import dataclass
from fnmatch import fnmatchcase
from functools import cache
from pathlib import Path
from typing import IO, TYPE_CHECKING

from builder.host.files import copy_hashed, disk_errors, sha256_of_rest
from builder.host.toml import documents
from builder.image.runtime import FOLDER
from builder.image.runtime.warm_start import ALWAYS, CACHE, FILES
from builder.image.runtime.warm_start import FOLDER as WARM
from builder.model.verdicts import CompiledCount

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from builder.host.engine.container import RunningContainer
    from builder.host.toml.tables import Table

_TABLE = Path(__file__).with_name("start_caches.toml")
_EXECUTE = 0o100


@dataclass(frozen=True, kw_only=True, slots=True)
class StartCache:
    """A folder below the image's cache: what it holds, and the names (globs) of files that a compilation leaves.

    `always` means that its files fit every start of the image, whatever the device and the settings are.
    """

    folder: str
    holds: str
    compiled: tuple[str, ...]
    always: bool


@dataclass(frozen=True, kw_only=True, slots=True)
class CachedFile:
    """A file of a cache: its path below the image's cache, and its content."""

    path: str
    sha256: str
    cache: StartCache

    @property
    def is_compiled(self) -> bool:
        """Whether a compilation leaves such a file."""
        return _is_named(self.path, self.cache.compiled)


@dataclass(slots=True, kw_only=True)
class CompiledStore:
    """Where a smoke run puts what its server compiles.

    The files are written below `keep`, if there is one, each in its folder of the warm layer. After the run, `files`
    are those that the image lacked, None if they were not read, and `conditions` those of the start, as JSON, if files
    are kept.
    """

    keep: Path | None = None
    files: tuple[CachedFile, ...] | None = None
    conditions: str = ""


@dataclass(frozen=True, kw_only=True, slots=True)
class _Tables:
    caches: tuple[StartCache, ...]
    unfinished: tuple[str, ...]


def new_files(container: RunningContainer, keep: Path | None = None) -> tuple[CachedFile, ...]:
    """Return the finished files of all caches that the image lacks, by path; they are written below `keep`.

    Raises:
        DiskError: a file cannot be written.
        EngineError: the engine does not send them.
    """
    return tuple(sorted(_new_files(container, keep), key=lambda file: file.path))


def compiled_files(files: Sequence[CachedFile]) -> tuple[CompiledCount, ...]:
    """Return how many of the files a compilation leaves, by cache."""
    counts: dict[str, int] = {}
    for file in files:
        if file.is_compiled:
            counts[file.cache.holds] = counts.get(file.cache.holds, 0) + 1
    return tuple(CompiledCount(of=holds, files=count) for holds, count in counts.items())


@cache
def _tables() -> _Tables:
    return documents.load(_TABLE, "the table of start caches has mistakes", _parsed)


def _parsed(root: Table) -> _Tables:
    caches = []
    for row in root.rows("caches"):
        caches.append(
            StartCache(
                folder=row.string("folder"),
                holds=row.string("holds"),
                compiled=row.strings("compiled"),
                always=row.boolean("always", default=False),
            )
        )
        row.string("source")
    return _Tables(caches=tuple(caches), unfinished=root.strings("unfinished"))


def _new_files(container: RunningContainer, keep: Path | None) -> Iterator[CachedFile]:
    tables, in_image = _tables(), _files_of_image(container)
    for row in tables.caches:
        for below, mode, content in container.files_below(f"{CACHE}/{row.folder}"):
            path = f"{row.folder}/{below}"
            if _is_named(path, tables.unfinished):
                continue
            target = keep / (ALWAYS if row.always else FILES) / path if keep else None
            sha256 = _read(content, target, mode)
            if in_image.get(path) != sha256:
                yield CachedFile(path=path, sha256=sha256, cache=row)
            elif keep and target:
                _discard(target, keep)


def _files_of_image(container: RunningContainer) -> dict[str, str]:
    """Return the sha256 of the files that the image brings for its caches, by path."""
    files = container.files_below(f"{FOLDER}/{WARM}")
    return {path.partition("/")[2]: sha256_of_rest(content) for path, _, content in files if "/" in path}


def _discard(file: Path, root: Path) -> None:
    """Remove a file, and the folders below `root` that are empty without it."""
    with disk_errors(file):
        file.unlink()
        for folder in file.parents:
            if folder == root or any(folder.iterdir()):
                break
            folder.rmdir()


def _is_named(path: str, names: Sequence[str]) -> bool:
    return any(fnmatchcase(path.rpartition("/")[2], name) for name in names)


def _read(content: IO[bytes], target: Path | None, mode: int) -> str:
    """Return the sha256 of a file; it is copied to `target`, if there is one."""
    if target is None:
        return sha256_of_rest(content)
    with disk_errors(target):
        target.parent.mkdir(parents=True, exist_ok=True)
        sha256 = copy_hashed(content, target)
        target.chmod(0o755 if mode & _EXECUTE else 0o644)
    return sha256
