"""The tar archive in the parts of a split bundle, read in place."""

from __future__ import annotations

import tarfile
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import IO, TYPE_CHECKING, cast

from builder.errors import IntegrityError
from builder.image.oci import virtual_blob
from builder.image.oci.virtual_blob import Extent, VirtualBlob
from builder.model.bundles import BUNDLE_FILE
from builder.publish.bundle.bundle_records import LONGEST_RECORD

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping
    from pathlib import Path

    from builder.model.bundles import Bundle, BundleParts

# Only headers are read through the archive: the longest holds a path.
_LONGEST_HEADER = 1 << 20
_HINT = "make the bundle again"


@dataclass(frozen=True, kw_only=True, slots=True)
class ArchiveMember:
    """A file of the archive, by the offset and the size of its content."""

    path: str
    offset: int
    size: int


class _HeaderReader:
    """A file of which only short blocks are read, so that a damaged header cannot fill the memory."""

    def __init__(self, file: IO[bytes]) -> None:
        self._file = file
        self.tell, self.seek = file.tell, file.seek

    def read(self, size: int = -1) -> bytes:
        """Return the next block."""
        if not 0 <= size <= _LONGEST_HEADER:
            raise tarfile.ReadError(f"a header of {size:,} bytes")
        return self._file.read(size)


class PartsArchive:
    """The archive in a folder of verified parts."""

    def __init__(self, folder: Path, parts: BundleParts) -> None:
        """Remember the parts; nothing is read."""
        self._folder, self._parts = folder, parts
        self._bytes = VirtualBlob(
            pieces=tuple(Extent(size=part.size, file=str(folder / part.path), offset=0) for part in parts.parts)
        )

    def slices(self, member: ArchiveMember) -> VirtualBlob:
        """Return the slices of the parts that hold a file."""
        return virtual_blob.cut(self._bytes, member.offset, member.size)

    def open(self, member: ArchiveMember) -> IO[bytes]:
        """Open a file of the archive."""
        return virtual_blob.open_extents(self._folder, self.slices(member))

    def record(self) -> bytes:
        """Return the bundle's record: the first file.

        Raises:
            IntegrityError: the archive does not begin with it.
        """
        first = next(self._members(), None)
        if first is None or first.path != BUNDLE_FILE or first.size > LONGEST_RECORD:
            raise self._refused(f"does not begin with {BUNDLE_FILE}")
        with self.open(first) as stream:
            return stream.read()

    def members(self, bundle: Bundle) -> Mapping[str, ArchiveMember]:
        """Return the files that a bundle lists, by their paths.

        Raises:
            IntegrityError: the archive has other files, or a file twice, or in another size.
        """
        sizes = {file.path: file.size for file in bundle.files}
        folders = {str(above) for path in sizes for above in PurePosixPath(path).parents}
        members: dict[str, ArchiveMember] = {}
        for member in self._members(folders):
            path = member.path
            if path in members:
                raise self._refused(f"has {path!r} twice")
            if path not in sizes and path != BUNDLE_FILE:
                raise self._refused(f"has {path!r}, which {BUNDLE_FILE} does not list")
            if member.size != sizes.get(path, member.size):
                raise self._refused(f"has {path!r} in another size ({member.size:,} bytes)")
            members[path] = member
        if lost := sizes.keys() - members:
            raise self._refused(f"lacks {min(lost)!r}")
        return {path: member for path, member in members.items() if path != BUNDLE_FILE}

    def _members(self, folders: Iterable[str] = ()) -> Iterator[ArchiveMember]:
        expected = set(folders)
        with virtual_blob.open_extents(self._folder, self._bytes) as stream:
            try:
                headers = cast("IO[bytes]", _HeaderReader(stream))
                with tarfile.open(fileobj=headers, mode="r:", encoding="utf-8") as archive:
                    while info := archive.next():
                        if not info.isdir():
                            yield self._member(info)
                        elif info.name in expected:
                            # Once only: `tarfile` remembers all members.
                            expected.remove(info.name)
                        else:
                            raise self._refused(f"has the folder {info.name!r}, which {BUNDLE_FILE} does not list")
            except (tarfile.TarError, OSError, ValueError, OverflowError) as error:
                raise self._refused(f"cannot be read ({error})") from error

    def _member(self, info: tarfile.TarInfo) -> ArchiveMember:
        if not info.isreg() or info.issparse():
            raise self._refused(f"has {info.name!r}, which is not a regular file")
        if info.size < 0 or info.offset_data + info.size > self._bytes.size:
            raise self._refused(f"ends within {info.name!r}")
        return ArchiveMember(path=info.name, offset=info.offset_data, size=info.size)

    def _refused(self, flaw: str) -> IntegrityError:
        return IntegrityError(f"the archive in the parts {flaw}", where=str(self._folder), hint=_HINT)
