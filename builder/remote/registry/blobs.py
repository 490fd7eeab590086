"""Sources of the blobs that are sent to a registry: memory, another registry."""

from __future__ import annotations

import hashlib
import io
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

from builder.errors import IntegrityError

if TYPE_CHECKING:
    from collections.abc import Iterator
    from contextlib import AbstractContextManager

    from builder.errors import JbuildError
    from builder.remote.registry.registry_client import RegistryClient


class Readable(Protocol):
    """A stream of bytes; an empty read is its end."""

    def read(self, size: int = ..., /) -> bytes:
        """Return the next bytes."""


class BlobSource(Protocol):
    """A blob that can be read from any offset; `size` is in bytes."""

    @property
    def digest(self) -> str:
        """The digest of the bytes."""

    @property
    def size(self) -> int:
        """The number of bytes."""

    def open(self, offset: int) -> AbstractContextManager[Readable]:
        """Open the bytes from an offset on."""

    def find_corruption(self) -> JbuildError | None:
        """Return an error if the bytes, which a registry has refused, do not have the digest."""


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
        """Open the content from an offset on."""
        yield io.BytesIO(self.content[offset:])

    def find_corruption(self) -> JbuildError | None:
        """Return None: the digest is computed from these bytes."""
        return None


@dataclass(frozen=True, slots=True)
class RemoteBlob:
    """A blob that is streamed from a registry."""

    client: RegistryClient
    repository: str
    digest: str
    size: int

    def open(self, offset: int) -> AbstractContextManager[Readable]:
        """Request the bytes from an offset on."""
        return self.client.open_blob(self.repository, self.digest, offset)

    def find_corruption(self) -> JbuildError | None:
        """Read the blob again and compare it with its digest."""
        try:
            self.client.get_blob(self.repository, self.digest, lambda _: None)
        except IntegrityError as error:
            return error
        return None
