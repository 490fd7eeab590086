"""The contents of the cache by kind, without `engine/` and `stand-in/`, and those that this project needs."""

from __future__ import annotations

import os
import re
import stat
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from builder.errors import LockError
from builder.host import records
from builder.host.paths import CellFolder
from builder.image.oci.pack import Packed
from builder.lock import lockfile
from builder.model.images import Image
from builder.models import model_pins
from builder.pipeline.cell import CellRecords
from builder.project.cache.cached_images import CacheEntry, blobs_of, borrowed, image_entries

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator
    from pathlib import Path

    from builder.host.paths import Workspace
    from builder.model.builds import LockedBuild
    from builder.model.images import Descriptor


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
    Kind(name="model infos", folder="model-infos", pattern="*.json", of="model infos"),
    Kind(name="solutions", folder="advised", pattern="*.json", of="nothing"),
    Kind(name="index states", folder="indexes", pattern="*", of="nothing"),
    Kind(name="verdicts", folder="verdicts", pattern="*", of="images"),
    Kind(name="bundle runs", folder="bundle-runs", pattern="*", of="nothing"),
    Kind(name="signatures", folder="signatures", pattern="*", of="nothing"),
    Kind(name="bundled jbuild", folder="programs", pattern="*", of="nothing"),
    Kind(name="known hashes", folder="models/known", pattern="??/*", of="nothing"),
)
# The folder of a Python that uv fetched.
_RELEASE = re.compile(r"cpython-([0-9.]+)-")
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
    layers = blobs_of(workspace.images, needed.images)
    lent = borrowed(workspace.images, layers)
    names = _names_by_kind(needed, layers)
    for kind in KINDS:
        for path in sorted((workspace.cache / kind.folder).glob(kind.pattern)):
            entry = _entry(kind, path, names.get(kind.of, frozenset()))
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


def _entry(kind: Kind, path: Path, names: frozenset[str]) -> CacheEntry | None:
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
    locked = _is_needed(kind, path, content, names)
    return CacheEntry(kind=kind.name, path=path, content=content, size=size, frees=frees, used=used, locked=locked)


def _names_by_kind(needed: References, layers: frozenset[str]) -> dict[str, frozenset[str]]:
    """Return the names of what locks and built cells need, by `Kind.of`; `layers` are the blobs of their images."""
    return {
        "wheels": needed.wheels,
        "interpreters": needed.wheels | needed.compilers,
        "models": needed.models,
        "builds": needed.builds,
        "images": frozenset(digest.partition(":")[2] for digest in needed.images),
        "layers": layers,
        # The name of a model info does not tell whose it is: any built cell keeps all of them, a kilobyte each.
        "model infos": needed.images,
    }


def _is_needed(kind: Kind, path: Path, content: str | None, names: frozenset[str]) -> bool:
    if kind.of == "layers":
        return _layers(kind, path) <= names
    if kind.of == "model infos":
        return bool(names)
    release = _RELEASE.match(path.name)
    return (release[1] if release else content) in names


def _layers(kind: Kind, path: Path) -> frozenset[str]:
    """Return the digests of the layers of a system image, or of one packed layer."""
    if kind.name == "packed layers":
        packed = records.read(path, None, Packed)
        layers: tuple[Descriptor, ...] = (packed.blob,) if packed else ()
    else:
        image = records.read(path, None, Image)
        layers = image.layers if image else ()
    # Without layers, the record is unreadable: nothing needs it.
    return frozenset(layer.digest for layer in layers) or frozenset({path.name})


def _summary(kind: str, members: list[CacheEntry]) -> KindSummary:
    locked = [entry for entry in members if entry.locked]
    return KindSummary(
        kind=kind,
        entries=len(members),
        size=sum(entry.size for entry in members),
        locked_entries=len(locked),
        locked_size=sum(entry.size for entry in locked),
    )
