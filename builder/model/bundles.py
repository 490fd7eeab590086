"""The records of a bundle: an image in a folder that travels to machines without a registry."""

from __future__ import annotations

from dataclasses import dataclass

from builder.model.images import Descriptor, Image

BUNDLE_FILE = "bundle.json"
PARTS_FILE = "parts.json"
SUMS_FILE = "SHA256SUMS"
PARTS_FOLDER = "parts"
VERDICT_FOLDER = "verdict"
EVIDENCE_FOLDER = "evidence"
PROJECT_FOLDER = "project"
# In a folder whose bundle has not been written to its end: the recipe and the cell.
UNFINISHED_FILE = "unfinished.json"
# An annotation of `index.json`: the fingerprint of the bundle's record without its files, which no other file covers.
RECORD_ANNOTATION = "io.jbuild.bundle"
# Raise it when older versions of jbuild can no longer read new bundles.
BUNDLE_FORMAT = 1


@dataclass(frozen=True, kw_only=True, slots=True)
class BundleFile:
    """A file of a bundle: its path below the bundle's folder, its size in bytes, its sha256 in hex."""

    path: str
    size: int
    sha256: str


@dataclass(frozen=True, kw_only=True, slots=True)
class Bundle:
    """The content of a bundle, as `bundle.json` holds it.

    `files` are all files besides `bundle.json` and the verdicts that other machines add. The receiver must have the
    blobs of `missing` already: those of `since`, an image's digest.
    """

    format: int
    jbuild: str
    created: str
    recipe: str
    cell: str
    repository: str
    image: Image
    files: tuple[BundleFile, ...]
    since: str | None = None
    missing: tuple[Descriptor, ...] = ()


@dataclass(frozen=True, kw_only=True, slots=True)
class BundleParts:
    """The parts of a split bundle, in order, as `parts.json` holds them.

    Together they are a tar archive of a bundle's folder with `size` bytes; `bundle` is the sha256 of its `bundle.json`,
    the archive's first member.
    """

    format: int
    bundle: str
    size: int
    parts: tuple[BundleFile, ...]
