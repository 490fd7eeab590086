"""One registry that an image goes to: blobs, then the manifest by digest, and later its tags; each read back."""

from __future__ import annotations

import time
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING

from builder.errors import IntegrityError, RegistryError
from builder.image import layout as oci
from builder.publish.model import TagPut
from builder.publish.parallel import Stop, run_or_raise

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from builder.console import Console, Task
    from builder.image.model import Image
    from builder.registry.client import RegistryClient
    from builder.registry.model import Descriptor
    from builder.registry.reference import Reference

# One connection seldom fills a line, and more than a few make registries slow.
_WORKERS = 4


@dataclass(frozen=True, kw_only=True, slots=True)
class Sent:
    """Bytes of blobs by the way they came to be there, and the seconds it took."""

    sent: int
    mounted: int
    there: int
    seconds: float


@dataclass(frozen=True, kw_only=True, slots=True)
class Source:
    """An image on disk: its record, its manifest's bytes, and the OCI layout with its blobs."""

    image: Image
    manifest: bytes
    layout: Path

    @property
    def blobs(self) -> tuple[Descriptor, ...]:
        """Layers, largest first, and the configuration; each once."""
        distinct = {blob.digest: blob for blob in (*self.image.layers, self.image.config)}
        return tuple(sorted(distinct.values(), key=lambda blob: (-blob.size, blob.digest)))

    def path(self, blob: Descriptor) -> Path:
        """Return a blob's file.

        Raises:
            IntegrityError: it is missing or has another size.
        """
        return blob_file(self.layout, blob)


def blob_file(layout: Path, blob: Descriptor) -> Path:
    """Return the file of a blob in an OCI layout.

    Raises:
        IntegrityError: it is missing or has another size.
    """
    path = oci.blob(layout, blob.digest)
    if not oci.is_present(layout, blob):
        state = "damaged" if path.is_file() else "missing"
        raise IntegrityError(
            f"the built image's blob {blob.digest} is {state}",
            where=str(path),
            hint="build the cell again with --force",
        )
    return path


@dataclass(frozen=True, kw_only=True, slots=True)
class Target:
    """A repository of a registry."""

    client: RegistryClient
    reference: Reference
    stop: Stop

    def send(self, source: Source, mount_from: tuple[str, ...], console: Console) -> Sent:
        """Bring blobs and manifest there, what is missing only, and read the manifest back by its digest.

        Raises:
            RegistryError, IntegrityError: it could not be done.
        """
        started, repository = time.monotonic(), self.reference.repository
        blobs = source.blobs
        held = self._for_each(blobs, lambda blob: self.client.has_blob(repository, blob.digest, right="push"))
        missing = tuple(blob for blob, there in zip(blobs, held, strict=True) if not there)
        mounted = self._for_each(missing, lambda blob: self._mount(blob, mount_from))
        to_send = tuple(blob for blob, done in zip(missing, mounted, strict=True) if not done)
        if to_send:
            self._upload(source, to_send, console)
        digest = source.image.digest
        if self.client.head_manifest(repository, digest) is None:
            self.client.put_manifest(repository, digest, source.manifest, source.image.manifest.media_type)
        self._compare(digest, source.manifest)
        sent, lacking = _bytes(to_send), _bytes(missing)
        return Sent(
            sent=sent,
            mounted=lacking - sent,
            there=_bytes(blobs) - lacking,
            seconds=round(time.monotonic() - started, 3),
        )

    def tag(self, source: Source, tags: tuple[str, ...], done: Callable[[TagPut], object]) -> None:
        """Put tags on the digest and read them back; `done` is told of each that reads back right.

        Raises:
            RegistryError: it could not be done; tags before the failing one are put.
        """
        for name in tags:
            self.stop.check()
            before = self.client.head_manifest(self.reference.repository, name)
            previous = before.digest if before else None
            if previous != source.image.digest:
                media_type = source.image.manifest.media_type
                self.client.put_manifest(self.reference.repository, name, source.manifest, media_type)
            self._compare(name, source.manifest)
            done(TagPut(name=name, previous=previous))

    def _for_each(self, blobs: tuple[Descriptor, ...], ask: Callable[[Descriptor], bool]) -> list[bool]:
        return run_or_raise([partial(ask, blob) for blob in blobs], _WORKERS, self.stop)

    def _mount(self, blob: Descriptor, mount_from: tuple[str, ...]) -> bool:
        repository = self.reference.repository
        return any(
            self.client.mount_blob(repository, blob.digest, other) for other in mount_from if other != repository
        )

    def _upload(self, source: Source, blobs: tuple[Descriptor, ...], console: Console) -> None:
        with console.task(f"pushing to {self.reference.name}", _bytes(blobs)) as task:
            run_or_raise([partial(self._upload_one, source, blob, task) for blob in blobs], _WORKERS, self.stop)

    def _upload_one(self, source: Source, blob: Descriptor, task: Task) -> None:
        def count(amount: int) -> None:
            self.stop.check()
            task.advance(amount)

        self.client.upload_blob(self.reference.repository, source.path(blob), blob.digest, count)

    def _compare(self, reference: str, manifest: bytes) -> None:
        content, descriptor = self.client.get_manifest(self.reference.repository, reference)
        if content != manifest:
            raise RegistryError(
                f"{reference} reads back as {descriptor.digest}, another image than was put",
                where=self.reference.name,
                hint="does somebody else push the same tag? Run it again when they have finished",
            )


def _bytes(blobs: tuple[Descriptor, ...]) -> int:
    return sum(blob.size for blob in blobs)
