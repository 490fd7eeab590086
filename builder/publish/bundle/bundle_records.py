"""Reads the records of a bundle, which come from another machine: every field is checked."""

from __future__ import annotations

import re
from pathlib import PurePosixPath
from typing import TYPE_CHECKING, TypeVar

from builder.errors import IntegrityError, UsageError
from builder.host import records
from builder.host.json_documents import decode_json
from builder.image.oci.layout import image_blobs
from builder.model import patterns
from builder.model.bundles import (
    BUNDLE_FILE,
    BUNDLE_FORMAT,
    PARTS_FILE,
    PARTS_FOLDER,
    VERDICT_FOLDER,
    Bundle,
    BundleParts,
)
from builder.remote.registry.reference import DIGEST_PATTERN

if TYPE_CHECKING:
    from collections.abc import Iterable

    from builder.model.bundles import BundleFile
    from builder.model.images import Descriptor

_Record = TypeVar("_Record", Bundle, BundleParts)
# A bundle of 100,000 files has a record of 20 MB.
LONGEST_RECORD = 64 << 20
_COPY = "copy the file again, or make the bundle again"
_SHA256 = re.compile(r"[0-9a-f]{64}")
_PLATFORM = r"linux/(amd64|arm64)(/[a-z0-9]+)?"
_CONTROL = re.compile(r"[\x00-\x1f\x7f\\]")


def parse_bundle(content: bytes, location: str) -> Bundle:
    """Return the record of a bundle; `location` is its file.

    Raises:
        UsageError: a newer jbuild made it.
        IntegrityError: it is damaged.
    """
    bundle = _parse(content, Bundle, location)
    _check_files(bundle.files, location)
    listed = {file.path for file in bundle.files}
    for path in listed:
        if path == BUNDLE_FILE or path.startswith(f"{VERDICT_FOLDER}/"):
            raise _damaged(f"it lists {path}", location)
        if above := listed.intersection(map(str, PurePosixPath(path).parents)):
            raise _damaged(f"{above.pop()} is a file and a folder", location)
    values = (
        ("name of a recipe", patterns.RECIPE_NAME, bundle.recipe),
        ("name of a cell", patterns.TAG, bundle.cell),
        ("repository", patterns.REPOSITORY, bundle.repository),
        ("platform", _PLATFORM, bundle.image.platform),
        ("digest", DIGEST_PATTERN, bundle.since),
    )
    for noun, pattern, value in values:
        if value is not None and not re.fullmatch(pattern, value):
            raise _damaged(f"{value!r} is not a {noun}", location)
    _check_descriptors((*image_blobs(bundle.image), *bundle.image.layers, *bundle.missing), location)
    return bundle


def parse_parts(content: bytes, location: str) -> BundleParts:
    """Return the record of a split bundle's parts; `location` is its file.

    Raises:
        UsageError: a newer jbuild made it.
        IntegrityError: it is damaged.
    """
    parts = _parse(content, BundleParts, location)
    _check_files(parts.parts, location)
    if not parts.parts:
        raise _damaged("it lists no parts", location)
    for part in parts.parts:
        if PurePosixPath(part.path).parent != PurePosixPath(PARTS_FOLDER):
            raise _damaged(f"{part.path} is not in the folder {PARTS_FOLDER}", location)
    if sum(part.size for part in parts.parts) != parts.size:
        raise _damaged("its sizes do not add up", location)
    if not _SHA256.fullmatch(parts.bundle):
        raise _damaged(f"{parts.bundle!r} is not a sha256", location)
    return parts


def _parse(content: bytes, kind: type[_Record], location: str) -> _Record:
    try:
        document = decode_json(content)
        number = document["format"]
        if type(number) is int and number > BUNDLE_FORMAT:
            raise UsageError(
                f"a newer jbuild made this bundle (its format is {number}, this jbuild reads {BUNDLE_FORMAT})",
                where=location,
                hint="update jbuild, or make the bundle with this version",
            )
        if type(number) is not int or number != BUNDLE_FORMAT:
            raise _damaged(f"{number!r} is not a format of bundles", location)
        record: _Record = records.from_json(document, kind)
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        noun = PARTS_FILE if kind is BundleParts else BUNDLE_FILE
        raise _damaged(f"it is not a {noun} of jbuild", location) from error
    return record


def _check_files(files: Iterable[BundleFile], location: str) -> None:
    paths = set()
    for file in files:
        if not is_plain(file.path):
            raise _damaged(f"{file.path!r} is not a path inside the bundle", location)
        if file.path in paths:
            raise _damaged(f"it lists {file.path} twice", location)
        if file.size < 0 or not _SHA256.fullmatch(file.sha256):
            raise _damaged(f"the size or the sha256 of {file.path} is not valid", location)
        paths.add(file.path)


def is_plain(path: str) -> bool:
    """Return whether this is a relative path in its shortest form that stays below its folder."""
    steps = path.split("/")
    return not (_CONTROL.search(path) or any(step in ("", ".", "..") for step in steps)) and path.isprintable()


def _check_descriptors(descriptors: Iterable[Descriptor], location: str) -> None:
    sizes: dict[str, int] = {}
    for descriptor in descriptors:
        if not re.fullmatch(DIGEST_PATTERN, descriptor.digest) or descriptor.size < 0:
            raise _damaged(f"{descriptor.digest!r} of {descriptor.size} bytes is not a blob", location)
        if sizes.setdefault(descriptor.digest, descriptor.size) != descriptor.size:
            raise _damaged(f"it lists {descriptor.digest} with two sizes", location)


def _damaged(flaw: str, location: str) -> IntegrityError:
    return IntegrityError(f"the bundle's record is damaged: {flaw}", where=location, hint=_COPY)
