"""Reads the layers of an image from its registry as a stream, lowest first, without storing them."""

from __future__ import annotations

import gzip
import os
import tarfile
import threading
import zlib
from contextlib import contextmanager
from typing import IO, TYPE_CHECKING, Any

from builder.audit.byte_source import MalformedError
from builder.errors import JbuildError, RegistryError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from builder.remote.registry.registry_client import RegistryClient

_FLAWS = (tarfile.TarError, OSError, EOFError, zlib.error, ValueError)


@contextmanager
def streamed(client: RegistryClient, repository: str, digest: str) -> Iterator[IO[bytes]]:
    """Provide the bytes of a blob as a file that is read once, while they arrive.

    Raises:
        RegistryError, IntegrityError: the blob cannot be fetched or its digest differs; raised at the end of the block.
    """
    reading, writing = os.pipe()
    failures: list[BaseException] = []

    def fetch() -> None:
        try:
            with os.fdopen(writing, "wb", buffering=0) as target:
                client.get_blob(repository, digest, lambda block: _write_all(target, block))
        except BrokenPipeError:
            # The reader stopped, and raises its own error.
            return
        except JbuildError as error:
            failures.append(error)

    thread = threading.Thread(target=fetch, daemon=True)
    with os.fdopen(reading, "rb", buffering=1 << 20) as source:
        thread.start()
        try:
            yield source
            while source.read(1 << 20):
                pass
        except MalformedError:
            # A failed transfer that cut the blob off is not the image's fault.
            source.close()
            thread.join()
            if failures:
                raise failures[0] from None
            raise
    thread.join()
    if failures:
        raise failures[0]


def _write_all(target: Any, block: bytes) -> None:
    view = memoryview(block)
    while view:
        view = view[target.write(view) :]


def members(blob: IO[bytes], media_type: str) -> Iterator[tuple[tarfile.TarInfo, Callable[[], IO[bytes] | None]]]:
    """Yield the entries of a layer, each with a function that opens it before the next one is read.

    Raises:
        MalformedError: the layer cannot be read.
        RegistryError: its compression is not supported.
    """
    try:
        with tarfile.open(fileobj=_plain(blob, media_type), mode="r|") as archive:
            for entry in archive:
                yield entry, lambda entry=entry: archive.extractfile(entry)  # type: ignore[misc]
    except _FLAWS as error:
        raise MalformedError(f"a layer of the base image cannot be read: {error}") from error


def _plain(blob: IO[bytes], media_type: str) -> IO[bytes]:
    if media_type.endswith(("gzip", "tar.gzip", "+gzip")):
        return gzip.GzipFile(fileobj=blob)  # type: ignore[return-value]
    if media_type.endswith("zstd"):
        import zstandard  # noqa: PLC0415  # few base images need it

        return zstandard.ZstdDecompressor(max_window_size=1 << 31).stream_reader(blob)
    if media_type.endswith("tar"):
        return blob
    raise RegistryError(
        f"layers of the type {media_type} cannot be read", hint="use a base image with gzip or zstd layers"
    )
