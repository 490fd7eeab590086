"""Removes what killed processes of this user left: temporary files and folders, containers and tags of the engine."""

from __future__ import annotations

import os
import re
import shutil
import tempfile
from contextlib import closing, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from builder.errors import EngineError
from builder.host.engine.docker import find_engine
from builder.host.engine.temporary import EngineLeftovers, find_engine_leftovers
from builder.host.file_locks import abandoned
from builder.host.files import is_left_over
from builder.host.units import count_of

if TYPE_CHECKING:
    from collections.abc import Iterator

    from builder.host.engine.docker import Engine
    from builder.host.paths import Workspace
    from builder.host.session import Session

# The project's folders with temporary files, and the number of levels below them: a cell's layers are the deepest.
_PROJECT = {"": 0, "build": 3, "locks": 1, "recipes": 1, "schemas": 0}
# The deepest folders of the cache with entries, such as `models/sha256/ab`.
_CACHE_LEVELS = 3
# Folders of other programs, and those of `scratch`, which have their own rule.
_FOREIGN = re.compile(r"uv|engine|stand-in|test|scratch-.*")
# Entries of the cache, such as unpacked wheels, have thousands of files.
_ENTRY = re.compile(r"[0-9a-f]{64}.*")


@dataclass(frozen=True, kw_only=True, slots=True)
class Leftovers:
    """What killed processes left: files and folders by their paths, and objects of the engine."""

    paths: tuple[Path, ...] = ()
    engine: EngineLeftovers = field(default_factory=EngineLeftovers)

    @property
    def words(self) -> str:
        """The number of leftovers of each kind; empty if there are none."""
        counts = {
            "container": len(self.engine.containers),
            "temporary image": len(self.engine.tags),
            "temporary file or folder": len(self.paths),
        }
        return ", ".join(count_of(count, noun) for noun, count in counts.items() if count)


def clear(session: Session, *, dry_run: bool = False) -> Leftovers:
    """Remove what killed processes of this user on this machine left, and say so in one line; return what is gone.

    Nothing of a process that may still run is removed. With `dry_run`, nothing is removed at all.
    """
    paths = tuple(find_paths(session.workspace))
    gone = Leftovers(
        paths=paths if dry_run else tuple(filter(_remove, paths)),
        engine=_clear_engine(session, dry_run=dry_run),
    )
    if gone.words:
        verb = "would remove" if dry_run else "removed"
        session.console.note(f"{verb} what killed jbuild processes left: {gone.words}")
    return gone


def find_paths(workspace: Workspace) -> Iterator[Path]:
    """Yield temporary files and folders of processes that have ended, in the project, the cache and the system's."""
    for name, levels in _PROJECT.items():
        yield from _walk(workspace.project / name, levels)
    yield from _walk(workspace.cache, _CACHE_LEVELS)
    # Their folders have the names of entries, and a few files.
    for folder in (*workspace.verdicts.glob("*"), *workspace.bundle_runs.glob("*")):
        yield from _walk(folder, 0)
    yield from abandoned(workspace.cache)
    yield from _walk(Path(tempfile.gettempdir()), 0)


def _walk(folder: Path, levels: int) -> Iterator[Path]:
    try:
        with os.scandir(folder) as entries:
            found = list(entries)
    except OSError:
        # It does not exist, or another user's folder is closed.
        return
    for entry in found:
        if is_left_over(entry.name):
            yield Path(entry.path)
        elif levels and not _is_closed(entry.name) and entry.is_dir(follow_symlinks=False):
            yield from _walk(Path(entry.path), levels - 1)


def _is_closed(name: str) -> bool:
    return name.startswith(".") or bool(_FOREIGN.fullmatch(name) or _ENTRY.fullmatch(name))


def _remove(path: Path) -> bool:
    """Remove a file or folder; return whether it is gone."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path, ignore_errors=True)
    else:
        with suppress(OSError):
            path.unlink(missing_ok=True)
    return not os.path.lexists(path)


def _clear_engine(session: Session, *, dry_run: bool) -> EngineLeftovers:
    try:
        engine = find_engine(session.workspace)
    except EngineError:
        # Without an engine there are no containers.
        return EngineLeftovers()
    return _clear_found(engine, session, dry_run=dry_run)


def _clear_found(engine: Engine, session: Session, *, dry_run: bool) -> EngineLeftovers:
    try:
        left = find_engine_leftovers(engine)
        if dry_run or left == EngineLeftovers():
            return left
        return _remove_from_engine(left, engine)
    except EngineError as error:
        session.console.warn(f"the engine's leftovers of killed processes stay: {error.message}")
        return EngineLeftovers()


def _remove_from_engine(left: EngineLeftovers, engine: Engine) -> EngineLeftovers:
    """Remove leftovers, containers first, since they use the images; return those that are gone."""
    from builder.host.engine.container import forget_tag, remove_container  # noqa: PLC0415  # slow to import

    with closing(engine.client()) as client:
        containers = tuple(name for name in left.containers if remove_container(client, name))
        tags = tuple(name for name in left.tags if forget_tag(client, name))
    return EngineLeftovers(containers=containers, tags=tags)
