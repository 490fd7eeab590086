"""Images of the cache: one OCI layout whose blobs are shared, so that an image goes with the blobs that only it has."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from builder.host.files import write_text
from builder.image.oci import virtual_blob
from builder.project.cache.cache_usage import CacheEntry

if TYPE_CHECKING:
    from collections.abc import Collection, Iterator
    from pathlib import Path

KIND = "images"
# Manifests are small; nothing larger is read to find out whether it is one.
_LONGEST_MANIFEST = 1 << 20


@dataclass(frozen=True, kw_only=True, slots=True)
class Borrowed:
    """Files of the cache that images consist of, by name: when such an image was last used, and which must stay."""

    used: dict[str, float]
    locked: frozenset[str]


def image_entries(layout: Path, needed: Collection[str]) -> Iterator[CacheEntry]:
    """Yield the images of a layout, and the blobs that belong to none."""
    manifests = _manifests(layout)
    owned: set[str] = set()
    for digest, blobs in sorted(manifests.items(), key=lambda item: (item[0] not in needed, item[0])):
        fresh = blobs - owned
        owned |= blobs
        size = sum(_size(layout, each) for each in fresh)
        path = _path(layout, digest)
        yield CacheEntry(
            kind=KIND,
            path=path,
            content=digest,
            size=size,
            frees=size,
            used=path.stat().st_ctime,
            locked=digest in needed,
        )
    for path in _blobs(layout):
        if f"sha256:{path.name}" not in owned:
            state = path.stat()
            size = state.st_size
            yield CacheEntry(kind=KIND, path=path, content=None, size=size, frees=size, used=state.st_ctime)


def removable(layout: Path, going: Collection[CacheEntry]) -> dict[Path, int]:
    """Return the blobs, with their bytes, that go with these entries: those that no other image has."""
    manifests = _manifests(layout)
    digests = {entry.content for entry in going if entry.content}
    kept = set().union(*(blobs for digest, blobs in manifests.items() if digest not in digests))
    own = set().union(*(blobs for digest, blobs in manifests.items() if digest in digests)) - kept
    paths = [*(_path(layout, digest) for digest in own), *(entry.path for entry in going if not entry.content)]
    return {path: path.stat().st_size for path in sorted(set(paths)) if path.is_file()}


def borrowed(layout: Path, needed: Collection[str]) -> Borrowed:
    """Return what images borrow of the rest of the cache: the names of files that blobs of theirs consist of.

    `needed` are the digests of images that stay.
    """
    kept = set().union(*(blobs for digest, blobs in _manifests(layout).items() if digest in needed))
    used: dict[str, float] = {}
    locked: set[str] = set()
    for path in _files(layout / virtual_blob.FOLDER):
        digest = f"sha256:{path.name}"
        found = virtual_blob.read(layout, digest)
        names = [file.name for file in virtual_blob.files_of(layout, found)] if found else []
        used |= {name: max(used.get(name, 0.0), path.stat().st_ctime) for name in names}
        locked.update(names if digest in kept else ())
    return Borrowed(used=used, locked=frozenset(locked))


def forget_gone(layout: Path) -> None:
    """Take the images whose manifests are gone out of the layout's index.

    Raises:
        DiskError: the index cannot be written.
    """
    index = layout / "index.json"
    document = _json(index)
    listed = document.get("manifests") if document else None
    if document is None or not isinstance(listed, list):
        return
    left = [entry for entry in listed if _path(layout, str(entry.get("digest"))).is_file()]
    if left != listed:
        write_text(index, json.dumps({**document, "manifests": left}))


def _manifests(layout: Path) -> dict[str, set[str]]:
    """Return each manifest's digest with the digests of everything that belongs to it, itself too."""
    found = {}
    for path in _blobs(layout):
        if path.stat().st_size > _LONGEST_MANIFEST:
            continue
        document = _json(path)
        if document and isinstance(document.get("config"), dict) and isinstance(document.get("layers"), list):
            digest = f"sha256:{path.name}"
            parts = (document["config"], *document["layers"])
            found[digest] = {digest, *(str(part.get("digest")) for part in parts if isinstance(part, dict))}
    return found


def _blobs(layout: Path) -> list[Path]:
    return [*_files(layout / "blobs"), *_files(layout / virtual_blob.FOLDER)]


def _files(folder: Path) -> list[Path]:
    own = folder / "sha256"
    return sorted(path for path in own.iterdir() if path.is_file()) if own.is_dir() else []


def _path(layout: Path, digest: str) -> Path:
    name = digest.partition(":")[2].replace("/", "_")
    path = layout / "blobs" / "sha256" / name
    return path if path.is_file() else layout / virtual_blob.FOLDER / "sha256" / name


def _size(layout: Path, digest: str) -> int:
    path = _path(layout, digest)
    return path.stat().st_size if path.is_file() else 0


def _json(path: Path) -> dict[str, Any] | None:
    """Return a file's JSON object, or None: most small blobs are something else."""
    try:
        found = json.loads(path.read_bytes())
    except (OSError, ValueError, RecursionError):
        return None
    return found if isinstance(found, dict) else None
