"""Small bundles, whole and split, with images that engines load."""

from __future__ import annotations

import dataclasses
import gzip
import hashlib
import io
import json
import random
import tarfile
from typing import TYPE_CHECKING, TypeAlias

from builder.host import records
from builder.image.oci.layout import image_blobs, put, put_image
from builder.model.bundles import (
    BUNDLE_FILE,
    BUNDLE_FORMAT,
    PARTS_FILE,
    PARTS_FOLDER,
    RECORD_ANNOTATION,
    Bundle,
    BundleFile,
    BundleParts,
)

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence
    from pathlib import Path

    from builder.model.images import Descriptor, Image

_LAYER = "application/vnd.oci.image.layer.v1.tar+gzip"
Layers: TypeAlias = "Sequence[Mapping[str, bytes]]"
LAYERS: Layers = ({"etc/base": b"base" * 5000}, {"opt/model": random.Random(1).randbytes(70_000)}, {"etc/name": b"one"})
PROJECT = {
    "project/recipes/tiny.toml": b'schema = 1\n[meta]\ndescription = "Tiny."\n',
    "project/locks/tiny/pylock.cell-1.toml": b"# a lock\n",
    "evidence/sbom.json": b"{}",
    "README.md": b"# A bundle\n",
    "load.sh": b"#!/bin/sh\n",
}


def sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def write_image(
    layout: Path, layers: Layers = LAYERS, *, labels: Mapping[str, str] | None = None, level: int = 9
) -> Image:
    """Write an image of gzip layers of this level, from the contents of their files, into a layout."""
    described: list[Descriptor] = []
    diff_ids = []
    for files in layers:
        content = tar_of(files)
        diff_ids.append(f"sha256:{sha256(content)}")
        described.append(put(layout, gzip.compress(content, level, mtime=0), _LAYER))
    config = {
        "architecture": "amd64",
        "os": "linux",
        "config": {"Labels": dict(labels or {"io.jbuild.recipe": "tiny"}), "Cmd": ["/bin/true"]},
        "rootfs": {"type": "layers", "diff_ids": diff_ids},
        "history": [{"created_by": f"layer {number}"} for number in range(len(diff_ids))],
    }
    return put_image(layout, json.dumps(config).encode(), described, "linux/amd64")


def tar_of(files: Mapping[str, bytes]) -> bytes:
    """Return a tar archive with files of one time, in their order."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=tarfile.PAX_FORMAT) as archive:
        for path, content in files.items():
            entry = tarfile.TarInfo(path)
            entry.size = len(content)
            archive.addfile(entry, io.BytesIO(content))
    return buffer.getvalue()


def write_bundle(folder: Path, image: Image, missing: Iterable[str] = (), since: str | None = None) -> Bundle:
    """Write the other files of a bundle beside the layout of its image; `missing` blobs are removed from it."""
    lacking = [blob for blob in image_blobs(image) if blob.digest in set(missing)]
    for blob in lacking:
        _path(folder, blob).unlink(missing_ok=True)
    for path, content in {**PROJECT, **layout_files(image)}.items():
        (folder / path).parent.mkdir(parents=True, exist_ok=True)
        (folder / path).write_bytes(content)
    bundle = Bundle(
        format=BUNDLE_FORMAT,
        jbuild="0.1",
        created="2026-11-29T00:00:00Z",
        recipe="tiny",
        cell="cell-1",
        repository="tiny",
        image=image,
        files=(),
        since=since,
        missing=tuple(lacking),
    )
    return seal(folder, bundle)


def layout_files(image: Image) -> dict[str, bytes]:
    """Return the files of a layout beside its blobs."""
    entry = {
        "mediaType": image.manifest.media_type,
        "digest": image.digest,
        "size": image.manifest.size,
        "annotations": {"org.opencontainers.image.ref.name": "cell-1"},
    }
    docker = {"Config": _name(image.config), "RepoTags": ["jbuild/tiny:cell-1"], "Layers": [*map(_name, image.layers)]}
    return {
        "oci-layout": b'{"imageLayoutVersion": "1.0.0"}',
        "index.json": json.dumps({"schemaVersion": 2, "manifests": [entry]}).encode(),
        "manifest.json": json.dumps([docker]).encode(),
    }


def seal(folder: Path, bundle: Bundle) -> Bundle:
    """Write `bundle.json` with all files that a folder has now, and SHA256SUMS; the index names the record."""
    sums, record = folder / "SHA256SUMS", folder / BUNDLE_FILE
    annotate(folder / "index.json", dataclasses.replace(bundle, files=()))
    for old in (sums, record):
        old.unlink(missing_ok=True)
    files = [file_of(folder, path) for path in sorted(folder.rglob("*")) if path.is_file()]
    bundle = dataclasses.replace(bundle, files=tuple(files))
    record.write_text(json.dumps(records.to_json(bundle)))
    listed = [*bundle.files, file_of(folder, record)]
    sums.write_text("".join(f"{file.sha256}  {file.path}\n" for file in listed))
    return bundle


def annotate(path: Path, bundle: Bundle) -> None:
    try:
        index = json.loads(path.read_bytes())
        index["annotations"] = {RECORD_ANNOTATION: records.fingerprint(bundle)}
    except (ValueError, TypeError, RecursionError):
        return
    path.write_text(json.dumps(index))


def file_of(folder: Path, path: Path) -> BundleFile:
    content = path.read_bytes()
    return BundleFile(path=path.relative_to(folder).as_posix(), size=len(content), sha256=sha256(content))


def split(source: Path, folder: Path, size: int) -> BundleParts:
    """Write a whole bundle as a split one."""
    record = json.loads((source / BUNDLE_FILE).read_bytes())
    paths = [BUNDLE_FILE, *(file["path"] for file in record["files"])]
    archive = tar_of({path: (source / path).read_bytes() for path in paths})
    return split_archive(archive, sha256((source / BUNDLE_FILE).read_bytes()), folder, size)


def split_archive(archive: bytes, record: str, folder: Path, size: int) -> BundleParts:
    """Write an archive as the parts of a split bundle; `record` is the sha256 of its `bundle.json`."""
    (folder / PARTS_FOLDER).mkdir(parents=True)
    blocks = [archive[offset : offset + size] for offset in range(0, len(archive), size)]
    for number, block in enumerate(blocks, start=1):
        (folder / PARTS_FOLDER / f"{number:04}").write_bytes(block)
    files = [file_of(folder, path) for path in sorted((folder / PARTS_FOLDER).iterdir())]
    parts = BundleParts(format=BUNDLE_FORMAT, bundle=record, size=len(archive), parts=tuple(files))
    (folder / PARTS_FILE).write_text(json.dumps(records.to_json(parts)))
    (folder / "README.md").write_text("# A bundle\n")
    listed = [*files, file_of(folder, folder / PARTS_FILE), file_of(folder, folder / "README.md")]
    (folder / "SHA256SUMS").write_text("".join(f"{file.sha256}  {file.path}\n" for file in listed))
    return parts


def _path(folder: Path, blob: Descriptor) -> Path:
    return folder / _name(blob)


def _name(blob: Descriptor) -> str:
    return f"blobs/{blob.digest.replace(':', '/', 1)}"
