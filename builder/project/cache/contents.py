"""The contents of the cache by kind, without `engine/` and `stand-in/`, and those that this project needs."""

from __future__ import annotations

import json
import os
import re
import stat
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from builder.errors import LockError
from builder.host.paths import CellFolder
from builder.lock import lockfile
from builder.models import model_pins
from builder.pipeline.cell import CellRecords
from builder.project.cache.cached_images import CacheEntry, blobs_of, borrowed, image_entries

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator
    from pathlib import Path

    from builder.host.paths import Workspace
    from builder.model.builds import LockedBuild


@dataclass(frozen=True, kw_only=True, slots=True)
class References:
    """The contents that locks and built cells need.

    These are the sha256 of wheels (and of interpreters' archives) and of models' files, the digests of images, the
    fingerprints of builds of wheels, and the releases of Python that compile bytecode.
    """

    wheels: frozenset[str] = frozenset()
    models: frozenset[str] = frozenset()
    images: frozenset[str] = frozenset()
    builds: frozenset[str] = frozenset()
    compilers: frozenset[str] = frozenset()


@dataclass(frozen=True, kw_only=True, slots=True)
class KindSummary:
    """The entries of one kind, and those that this project's locks need; sizes in bytes."""

    kind: str
    entries: int
    size: int
    locked_entries: int
    locked_size: int


@dataclass(frozen=True, kw_only=True, slots=True)
class Kind:
    """Entries at `pattern` below a folder of the cache; `of` is what they belong to."""

    name: str
    folder: str
    pattern: str
    of: str


KINDS = (
    Kind(name="wheels", folder="wheels", pattern="??/*", of="wheels"),
    Kind(name="facts", folder="facts", pattern="??/*", of="wheels"),
    Kind(name="metadata", folder="metadata", pattern="??/*", of="wheels"),
    Kind(name="interpreters", folder="interpreters", pattern="*", of="interpreters"),
    Kind(name="tools", folder="tools", pattern="*", of="wheels"),
    Kind(name="compiled kernels", folder="cubins", pattern="??/*", of="nothing"),
    Kind(name="sources", folder="foundry/files", pattern="??/*", of="wheels"),
    Kind(name="checkouts", folder="foundry/checkouts", pattern="*", of="nothing"),
    Kind(name="compilers", folder="foundry/cuda", pattern="*", of="nothing"),
    Kind(name="sandboxes", folder="foundry/roots", pattern="*", of="nothing"),
    Kind(name="C libraries", folder="foundry/sysroots", pattern="*", of="nothing"),
    Kind(name="build requirements", folder="foundry/requirements", pattern="*", of="nothing"),
    Kind(name="torch headers", folder="foundry/torch", pattern="*", of="nothing"),
    Kind(name="builds", folder="foundry/builds", pattern="*", of="nothing"),
    Kind(name="built wheels", folder="built", pattern="??/*.json", of="builds"),
    Kind(name="models", folder="models/sha256", pattern="??/*", of="models"),
    Kind(name="model downloads", folder="models/partial", pattern="*", of="models"),
    Kind(name="packed layers", folder="packed", pattern="??/*", of="layers"),
    Kind(name="system images", folder="systems", pattern="*.json", of="layers"),
    Kind(name="model infos", folder="model-infos", pattern="*.json", of="any image"),
    Kind(name="solutions", folder="advised", pattern="*.json", of="nothing"),
    Kind(name="index states", folder="indexes", pattern="*", of="nothing"),
    Kind(name="verdicts", folder="verdicts", pattern="*", of="images"),
    Kind(name="bundle runs", folder="bundle-runs", pattern="*", of="nothing"),
    Kind(name="signatures", folder="signatures", pattern="*", of="nothing"),
    Kind(name="bundled jbuild", folder="programs", pattern="*", of="nothing"),
    Kind(name="known hashes", folder="models/known", pattern="??/*", of="nothing"),
)
IMAGES, MODELS, UV = "images", "models", "uv"


def references(workspace: Workspace, on_unreadable: Callable[[LockError], object] | None = None) -> References:
    """Read all locks and records of the project; `on_unreadable` gets the errors of unreadable locks.

    Raises:
        LockError: a lock is damaged or of another format, and `on_unreadable` is None.
    """
    locks = []
    for path in sorted((workspace.project / "locks").glob("*/pylock.*.toml")):
        try:
            locks.append(lockfile.read_file(path))
        except LockError as error:
            if on_unreadable is None:
                raise
            on_unreadable(error)
    shared = [
        pin.model for path in (workspace.project / "locks").glob("*/models.toml") for pin in model_pins.read(path)
    ]
    cells = sorted((workspace.project / "build").glob("*/*"))
    cell_records = [CellRecords(CellFolder(path=path)) for path in cells]
    images, built = [of_cell.image() for of_cell in cell_records], [of_cell.built() for of_cell in cell_records]
    interpreters = {lock.interpreter.sha256 for lock in locks if lock.interpreter}
    return References(
        wheels=frozenset(interpreters).union(
            (wheel.sha256 for lock in locks for wheel in (*lock.wheels, *(lock.tools or ()))),
            (sha256 for lock in locks for build in lock.builds or () for sha256 in _inputs(build)),
            (wheel.wheel.sha256 for record in built if record for wheel in record.wheels),
        ),
        models=frozenset(
            file.sha256 for model in (*shared, *(m for lock in locks for m in lock.models)) for file in model.files
        ),
        images=frozenset(image.digest for image in images if image),
        builds=frozenset(build.fingerprint for lock in locks for build in lock.builds or ()),
        compilers=frozenset(lock.compiler for lock in locks if lock.compiler),
    )


def _inputs(build: LockedBuild) -> Iterator[str]:
    """Yield the sha256 of the files that a build needs."""
    yield from (source.sha256 for source in build.sources)
    yield from (wheel.sha256 for wheel in build.requirements)
    yield from (tool.sha256 for tool in build.tools)
    if build.target.torch:
        yield build.target.torch.sha256


def entries(workspace: Workspace, needed: References) -> Iterator[CacheEntry]:
    """Yield all removable entries of the cache except uv's; images by their manifests."""
    lent = borrowed(workspace.images, needed.images)
    layers = blobs_of(workspace.images, needed.images)
    for kind in KINDS:
        for path in sorted((workspace.cache / kind.folder).glob(kind.pattern)):
            entry = _entry(kind, path, needed, layers)
            if entry and kind.name == MODELS and path.name in lent.used:
                # Images need them.
                used = max(entry.used, lent.used[path.name])
                entry = replace(entry, used=used, locked=entry.locked or path.name in lent.locked)
            if entry:
                yield entry
    yield from image_entries(workspace.images, needed.images)


def summarise(all_entries: Iterable[CacheEntry], workspace: Workspace) -> tuple[KindSummary, ...]:
    """Return the size of each kind, uv's own cache last."""
    by_kind: dict[str, list[CacheEntry]] = {name: [] for name in (*(kind.name for kind in KINDS), IMAGES)}
    for entry in all_entries:
        by_kind[entry.kind].append(entry)
    uv_size, _, _ = measure(workspace.cache / UV)
    uv = KindSummary(kind=UV, entries=0, size=uv_size, locked_entries=0, locked_size=0)
    return (*(_summary(kind, members) for kind, members in by_kind.items()), uv)


def measure(path: Path) -> tuple[int, int, float]:
    """Return size, bytes freed by removal, and last use of a file or folder, without following links."""
    try:
        state = path.lstat()
    except FileNotFoundError:
        return 0, 0, 0.0
    if not stat.S_ISDIR(state.st_mode):
        return state.st_size, state.st_size if state.st_nlink == 1 else 0, state.st_ctime
    size = frees = 0
    for base, _, files in os.walk(path):
        for name in files:
            file_state = os.lstat(os.path.join(base, name))  # noqa: PTH118  # a tree has thousands of files
            size += file_state.st_size
            frees += file_state.st_size if file_state.st_nlink == 1 else 0
    # A folder's mtime may be a fixed value; its ctime is the time it was made or marked as used.
    return size, frees, state.st_ctime


def _entry(kind: Kind, path: Path, needed: References, layers: frozenset[str]) -> CacheEntry | None:
    if path.name.endswith(".lock"):
        return None
    match = re.match(r"[0-9a-f]{64}", path.name)
    content = match[0] if match else None
    try:
        size, frees, used = measure(path)
    except FileNotFoundError:  # another process was faster
        return None
    if kind.name == "wheels" and not size:
        return None
    locked = _is_needed(kind, path, content, needed, layers)
    return CacheEntry(kind=kind.name, path=path, content=content, size=size, frees=frees, used=used, locked=locked)


def _is_needed(kind: Kind, path: Path, content: str | None, needed: References, layers: frozenset[str]) -> bool:
    """Return whether a lock or a built cell needs an entry; `layers` are the blobs of the images of built cells."""
    if kind.of == "layers":
        return _layers(path) <= layers
    if kind.of == "any image":
        # Its name does not tell which; it has a kilobyte, and under emulation a minute goes into it.
        return bool(needed.images)
    if kind.of == "interpreters" and any(path.name.startswith(f"cpython-{release}-") for release in needed.compilers):
        return True
    contents = {
        "wheels": needed.wheels,
        "interpreters": needed.wheels,
        "models": needed.models,
        "builds": needed.builds,
        "images": {digest.partition(":")[2] for digest in needed.images},
    }
    return content in contents.get(kind.of, ())


def _layers(path: Path) -> frozenset[str]:
    """Return the digests of the layers that a record names, of a system image or of one packed layer."""
    try:
        record = json.loads(path.read_bytes())["record"]
        return frozenset(str(layer["digest"]) for layer in record.get("layers") or [record["blob"]])
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        # A record that cannot be read has no use.
        return frozenset({path.name})


def _summary(kind: str, members: list[CacheEntry]) -> KindSummary:
    locked = [entry for entry in members if entry.locked]
    return KindSummary(
        kind=kind,
        entries=len(members),
        size=sum(entry.size for entry in members),
        locked_entries=len(locked),
        locked_size=sum(entry.size for entry in locked),
    )
