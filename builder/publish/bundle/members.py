"""The files of a bundle as they are written: their paths, their content, and the tar archive of all of them."""

from __future__ import annotations

import hashlib
import tarfile
from dataclasses import dataclass
from typing import TYPE_CHECKING

from builder.errors import IntegrityError
from builder.host import tarball
from builder.model.bundles import BundleFile
from builder.remote.registry.upload import BytesBlob

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from builder.remote.registry.upload import BlobSource

_BLOCK = 1 << 20
_FILE, _PROGRAM = 0o644, 0o755


@dataclass(frozen=True, kw_only=True, slots=True)
class BundleMember:
    """A file of a bundle: its path below the bundle's folder, and its content."""

    path: str
    blob: BlobSource
    executable: bool = False

    @property
    def mode(self) -> int:
        """The file's mode."""
        return _PROGRAM if self.executable else _FILE

    @property
    def entry(self) -> BundleFile:
        """The file in the bundle's records."""
        return BundleFile(path=self.path, size=self.blob.size, sha256=self.blob.digest.partition(":")[2])

    @property
    def header(self) -> bytes:
        """The file's header in a tar archive."""
        return tarball.header(self.path, tarfile.REGTYPE, self.mode, size=self.blob.size)

    def blocks(self) -> Iterator[bytes]:
        """Yield the content.

        Raises:
            IntegrityError: it does not have its digest.
            RegistryError: its registry does not answer.
            OSError: it cannot be read.
        """
        digest = hashlib.sha256()
        with self.blob.open(0) as file:
            while block := file.read(_BLOCK):
                digest.update(block)
                yield block
        if f"sha256:{digest.hexdigest()}" != self.blob.digest:
            hint = "run `jbuild build RECIPE --force`"
            raise self.blob.find_corruption() or IntegrityError(
                f"{self.blob.digest} changed while it was read", where=self.path, hint=hint
            )


def text_member(path: str, content: str | bytes, *, executable: bool = False) -> BundleMember:
    """Return a file with a text, or with bytes."""
    content = content.encode() if isinstance(content, str) else content
    return BundleMember(path=path, blob=BytesBlob(content), executable=executable)


def checksums(files: Iterable[BundleFile]) -> str:
    """Return the text of `SHA256SUMS`, as `sha256sum --check` reads it."""
    return "".join(f"{file.sha256}  {file.path}\n" for file in files)


def archive_size(members: Iterable[BundleMember]) -> int:
    """Return the size of the tar archive of files, in bytes."""
    sizes = (len(member.header) + member.blob.size + _padding(member) for member in members)
    return sum(sizes) + 2 * tarfile.BLOCKSIZE


def archive(members: Iterable[BundleMember]) -> Iterator[bytes]:
    """Yield the tar archive of files: the same bytes for the same files.

    Raises:
        IntegrityError, RegistryError, OSError: a file cannot be read.
    """
    for member in members:
        yield member.header
        yield from member.blocks()
        yield bytes(_padding(member))
    yield bytes(2 * tarfile.BLOCKSIZE)


def _padding(member: BundleMember) -> int:
    return -member.blob.size % tarfile.BLOCKSIZE
