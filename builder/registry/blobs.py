"""Where the bytes of a blob come from that goes into a registry: a file, memory, another registry."""

from __future__ import annotations

import hashlib
import io
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

from builder.errors import IntegrityError
from builder.workspace import sha256_of

if TYPE_CHECKING:
    from collections.abc import Iterator
    from contextlib import AbstractContextManager
    from pathlib import Path

    from builder.errors import JbuildError
    from builder.registry.client import RegistryClient


class Readable(Protocol):
    """Something that gives bytes, none at its end."""

    def read(self, size: int = ..., /) -> bytes:
        """Return the next bytes."""


class BlobSource(Protocol):
    """A blob that can be read from any place on; `size` in bytes."""

    @property
    def digest(self) -> str:
        """What the bytes must hash to."""

    @property
    def size(self) -> int:
        """How many there are."""

    def open(self, offset: int) -> AbstractContextManager[Readable]:
        """Give the bytes from a place on."""

    def fault(self) -> JbuildError | None:
        """Return what is wrong if the bytes are not those of the digest: a registry has refused them."""


@dataclass(frozen=True, slots=True)
class FileBlob:
    """A blob in a file."""

    path: Path
    digest: str

    @property
    def size(self) -> int:
        """The file's size."""
        return self.path.stat().st_size

    @contextmanager
    def open(self, offset: int) -> Iterator[Readable]:
        """Give the file's bytes from a place on."""
        with self.path.open("rb") as file:
            file.seek(offset)
            yield file

    def fault(self) -> JbuildError | None:
        """Compare the file with its digest."""
        if f"sha256:{sha256_of(self.path)}" == self.digest:
            return None
        return IntegrityError(
            f"the built image's blob {self.digest} has changed on disk",
            where=str(self.path),
            hint="remove the file and build the cell again with --force",
        )


@dataclass(frozen=True, slots=True)
class BytesBlob:
    """A small blob in memory."""

    content: bytes

    @property
    def digest(self) -> str:
        """The content's digest."""
        return f"sha256:{hashlib.sha256(self.content).hexdigest()}"

    @property
    def size(self) -> int:
        """The content's length."""
        return len(self.content)

    @contextmanager
    def open(self, offset: int) -> Iterator[Readable]:
        """Give the content from a place on."""
        yield io.BytesIO(self.content[offset:])

    def fault(self) -> JbuildError | None:
        """Bytes in memory are what their digest was made from."""
        return None


@dataclass(frozen=True, slots=True)
class RemoteBlob:
    """A blob in a registry, streamed from there."""

    client: RegistryClient
    repository: str
    digest: str
    size: int

    def open(self, offset: int) -> AbstractContextManager[Readable]:
        """Ask the registry for the bytes from a place on."""
        return self.client.open_blob(self.repository, self.digest, offset)

    def fault(self) -> JbuildError | None:
        """Read the blob again and compare it with its digest."""
        try:
            self.client.get_blob(self.repository, self.digest, lambda _: None)
        except IntegrityError as error:
            return error
        return None
