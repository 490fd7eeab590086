"""Where the bytes of a blob come from that goes into a registry: memory, another registry."""

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
