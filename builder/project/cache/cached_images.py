"""Images of the cache: one OCI layout with shared blobs; an image's own blobs are removed with it."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from builder.host.files import write_text
from builder.image.oci import virtual_blob

if TYPE_CHECKING:
    from collections.abc import Collection, Iterator
    from pathlib import Path

KIND = "images"
# Manifests are small: larger blobs are not read.
_LONGEST_MANIFEST = 1 << 20


@dataclass(frozen=True, kw_only=True, slots=True)
class CacheEntry:
    """One entry of the cache, removed as a whole; `size` in bytes, `used` in seconds since the epoch.

    `frees` are the bytes that removal frees: files that a rendered cell links to stay. `content` is the sha256 of the
    entry's content, None for leftovers of a process. `locked`: a lock of this project needs it.
    """

    kind: str
    path: Path
    content: str | None
    size: int
    frees: int
    used: float
    locked: bool = False


@dataclass(frozen=True, kw_only=True, slots=True)
class Borrowed:
    """Files of the cache in virtual blobs of images, by name: the last use of such an image, and those to keep."""

    used: dict[str, float]
    locked: frozenset[str]


def image_entries(layout: Path, needed: Collection[str]) -> Iterator[CacheEntry]:
    """Yield the images of a layout, and the blobs without an image."""
    manifests = _manifests(layout)
    owned: set[str] = set()
    for digest, blobs in sorted(manifests.items(), key=lambda item: (item[0] not in needed, item[0])):
        fresh = blobs - owned
        owned |= blobs
        size = sum(_size(layout, blob) for blob in fresh)
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
    """Return the blobs of these entries, with their sizes, without those of other images."""
    manifests = _manifests(layout)
    digests = {entry.content for entry in going if entry.content}
    shared = set().union(*(blobs for digest, blobs in manifests.items() if digest not in digests))
    exclusive = set().union(*(blobs for digest, blobs in manifests.items() if digest in digests)) - shared
    paths = [*(_path(layout, digest) for digest in exclusive), *(entry.path for entry in going if not entry.content)]
    return {path: path.stat().st_size for path in sorted(set(paths)) if path.is_file()}


def blobs_of(layout: Path, images: Collection[str]) -> frozenset[str]:
    """Return the digests of the blobs of some images, by the images' digests."""
    return frozenset().union(*(blobs for digest, blobs in _manifests(layout).items() if digest in images))


def borrowed(layout: Path, needed: Collection[str]) -> Borrowed:
    """Return the files of the cache that are part of images' virtual blobs, by name.

    `needed` are the digests of the blobs that stay.
    """
    used: dict[str, float] = {}
    locked: set[str] = set()
    for path in _files(layout / virtual_blob.FOLDER):
        digest = f"sha256:{path.name}"
        virtual = virtual_blob.read(layout, digest)
        names = [file.name for file in virtual_blob.files_of(layout, virtual)] if virtual else []
        used |= {name: max(used.get(name, 0.0), path.stat().st_ctime) for name in names}
        locked.update(names if digest in needed else ())
    return Borrowed(used=used, locked=frozenset(locked))


def forget_gone(layout: Path) -> None:
    """Remove images without a manifest from the layout's index.

    Raises:
        DiskError: the index cannot be written.
    """
    index = layout / "index.json"
    document = _json(index)
    manifests = document.get("manifests") if document else None
    if document is None or not isinstance(manifests, list):
        return
    remaining = [entry for entry in manifests if _path(layout, str(entry.get("digest"))).is_file()]
    if remaining != manifests:
        write_text(index, json.dumps({**document, "manifests": remaining}))


def _manifests(layout: Path) -> dict[str, set[str]]:
    """Return each manifest's digest with the digests of its blobs and of itself."""
    manifests = {}
    for path in _blobs(layout):
        if path.stat().st_size > _LONGEST_MANIFEST:
            continue
        document = _json(path)
        if document and isinstance(document.get("config"), dict) and isinstance(document.get("layers"), list):
            digest = f"sha256:{path.name}"
            descriptors = (document["config"], *document["layers"])
            manifests[digest] = {
                digest,
                *(str(descriptor.get("digest")) for descriptor in descriptors if isinstance(descriptor, dict)),
            }
    return manifests


def _blobs(layout: Path) -> list[Path]:
    return [*_files(layout / "blobs"), *_files(layout / virtual_blob.FOLDER)]


def _files(folder: Path) -> list[Path]:
    blobs = folder / "sha256"
    return sorted(path for path in blobs.iterdir() if path.is_file()) if blobs.is_dir() else []


def _path(layout: Path, digest: str) -> Path:
    name = digest.partition(":")[2].replace("/", "_")
    path = layout / "blobs" / "sha256" / name
    return path if path.is_file() else layout / virtual_blob.FOLDER / "sha256" / name


def _size(layout: Path, digest: str) -> int:
    path = _path(layout, digest)
    return path.stat().st_size if path.is_file() else 0


def _json(path: Path) -> dict[str, Any] | None:
    """Return a file's JSON object, or None for other files, as most small blobs are."""
    try:
        document = json.loads(path.read_bytes())
    except (OSError, ValueError, RecursionError):
        return None
    return document if isinstance(document, dict) else None
