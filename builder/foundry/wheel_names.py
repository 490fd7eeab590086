"""The names in a wheel that contain its version: file, `.dist-info`, `.data`, METADATA and RECORD."""

from __future__ import annotations

import base64
import csv
import io
import re
from typing import TYPE_CHECKING, NamedTuple

from packaging.utils import InvalidWheelFilename, canonicalize_name, parse_wheel_filename
from packaging.version import InvalidVersion, Version

from builder.audit.byte_source import MalformedError
from builder.errors import UsageError

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping

_VERSION = re.compile(r"^Version:[ \t]*(\S+)[ \t]*$", re.MULTILINE)
# Signatures of a RECORD are for its bytes: with another RECORD they are wrong.
SIGNATURES = ("RECORD.jws", "RECORD.p7s")


class WheelName(NamedTuple):
    """A wheel's normalised name, its version, and the words of its file name."""

    package: str
    version: str
    words: tuple[str, ...]

    def labelled(self, label: str | None) -> str:
        """Return the file's name with a local version label."""
        distribution, version, *rest = self.words
        return "-".join((distribution, with_label(version, label), *rest)) + ".whl"


def wheel_name(filename: str) -> WheelName:
    """Return the words of a wheel's file name.

    Raises:
        UsageError: it is not one.
    """
    try:
        package, version, *_ = parse_wheel_filename(filename)
    except InvalidWheelFilename as error:
        raise UsageError(f"not a wheel's name: {error}", where=filename, hint="name wheel files: *.whl") from error
    return WheelName(canonicalize_name(package), str(version), tuple(filename.removesuffix(".whl").split("-")))


def with_label(version: str, label: str | None) -> str:
    """Return a version with a local label, after a dot if it has one already."""
    return f"{version}{'.' if '+' in version else '+'}{label}" if label else version


class Renaming(NamedTuple):
    """The folder of a wheel's metadata, and the version in it and the new one."""

    folder: str
    old: str
    new: str

    def __call__(self, name: str) -> str:
        """Return the new name of a member."""
        folder, slash, rest = name.partition("/")
        for kind in (".dist-info", ".data"):
            if self.new != self.old and folder == self.folder.removesuffix(".dist-info") + kind:
                stem = folder.removesuffix(kind).removesuffix(self.old)
                return f"{stem}{self.new}{kind}{slash}{rest}"
        return name


def renaming(folder: str, label: str | None) -> Renaming:
    """Return how members are called with a label; `folder` is the wheel's `NAME-VERSION.dist-info`.

    Raises:
        MalformedError: the folder has no version.
    """
    version = folder.removesuffix(".dist-info").rpartition("-")[2]
    try:
        Version(version.replace("_", "-"))
    except InvalidVersion as error:
        raise MalformedError(f"its metadata is in {folder}, whose name has no version") from error
    return Renaming(folder, version, with_label(version, label))


def labelled_metadata(metadata: bytes, label: str) -> bytes:
    """Return METADATA with a local label after its version.

    Raises:
        MalformedError: it has no version.
    """
    head, separator, body = metadata.decode("utf-8", "surrogateescape").partition("\n\n")
    match = _VERSION.search(head)
    if not match:
        raise MalformedError("its METADATA has no version")
    head = head[: match.start(1)] + with_label(match[1], label) + head[match.end(1) :]
    return f"{head}{separator}{body}".encode("utf-8", "surrogateescape")


def updated_record(
    record: bytes, rename: Renaming, changed: Mapping[str, tuple[bytes, int]], gone: Collection[str] = ()
) -> bytes:
    """Return RECORD with the sha256 and the size of members that changed, by their old names, without those `gone`.

    Raises:
        MalformedError: it is not a RECORD, or lacks one of them.
    """
    rows: list[tuple[str, str, str]] = []
    missing = set(changed)
    try:
        for name, digest, size in csv.reader(io.StringIO(record.decode("utf-8", "surrogateescape"))):
            missing.discard(name)
            if name not in gone:
                rows.append((rename(name), *(_hashed(*changed[name]) if name in changed else (digest, size))))
    except (csv.Error, ValueError) as error:
        raise MalformedError(f"its RECORD cannot be read: {error}") from error
    if missing:
        raise MalformedError(f"its RECORD lacks {min(missing)}")
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows(rows)
    return text.getvalue().encode("utf-8", "surrogateescape")


def _hashed(digest: bytes, size: int) -> tuple[str, str]:
    return record_digest(digest), str(size)


def record_digest(digest: bytes) -> str:
    """Return a sha256 as RECORD has it."""
    return "sha256=" + base64.urlsafe_b64encode(digest).rstrip(b"=").decode()
