"""Pushes an image to one registry: blobs, the manifest by digest, later the tags; manifest and tags are read back."""

from __future__ import annotations

import time
from contextlib import suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeVar

from builder.errors import RegistryError
from builder.host.concurrency import CancelToken, TaskGroup
from builder.model.publications import TagPut, TagWithheld
from builder.publish.image_source import labels_of
from builder.publish.tag_policy import not_forward, other_recipe
from builder.remote.registry.manifests import parts_of
from builder.remote.registry.registry_failures import BlobUnknownError, RegistryUnreachableError, TagImmutableError

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from builder.host.console import Console, Task
    from builder.model.recipes import TagRule
    from builder.publish.image_source import ImageSource
    from builder.remote.registry.reference import Reference
    from builder.remote.registry.registry_client import RegistryClient
    from builder.remote.registry.upload import BlobSource

_T = TypeVar("_T")
# One connection seldom uses the whole bandwidth, and more than a few make registries slow.
_WORKERS = 4
_SETTLE_S = (0.2, 1.0)


@dataclass(frozen=True, kw_only=True, slots=True)
class BytesSent:
    """Bytes of blobs uploaded, mounted and present before, and the seconds of the push."""

    uploaded: int
    mounted: int
    present: int
    seconds: float


@dataclass(frozen=True, kw_only=True, slots=True)
class TagMoves:
    """The tags that stay where they are, and warnings about those that move."""

    withheld: tuple[TagWithheld, ...]
    warnings: tuple[str, ...]


@dataclass(frozen=True, kw_only=True, slots=True)
class RegistryTarget:
    """A repository of a registry."""

    client: RegistryClient
    reference: Reference
    token: CancelToken

    def send(self, source: ImageSource, mount_from: tuple[str, ...], console: Console) -> BytesSent:
        """Push the missing blobs and the manifest, and read the manifest back by its digest.

        Raises:
            RegistryError, IntegrityError: the push failed.
        """
        started, repository = time.monotonic(), self.reference.repository
        blobs = source.blobs
        present = self._for_each(blobs, self._has)
        missing = tuple(blob for blob, is_present in zip(blobs, present, strict=True) if not is_present)
        others = [name for name in mount_from if name != repository]
        mounted = self._for_each(
            missing, lambda blob: any(self.client.mount_blob(repository, blob.digest, name) for name in others)
        )
        to_send = tuple(blob for blob, done in zip(missing, mounted, strict=True) if not done)
        if to_send:
            source.provide({blob.digest for blob in to_send})
            with console.task(f"pushing to {self.reference.name}", _bytes(to_send)) as task:
                self._for_each(to_send, lambda blob: self._upload(blob, task))
        if self.client.head_manifest(repository, source.digest) is None:
            self._put(source)
        self._compare(source.digest, source.content)
        sizes, lacking = _bytes(to_send), _bytes(missing)
        return BytesSent(
            uploaded=sizes,
            mounted=lacking - sizes,
            present=_bytes(blobs) - lacking,
            seconds=round(time.monotonic() - started, 3),
        )

    def judge(self, source: ImageSource, rules: Sequence[TagRule], *, force: bool) -> TagMoves:
        """Return the tags that must not move in this registry, and those that move from another recipe's image.

        Raises:
            RegistryError: immutable tags are on another image; the message names all of them.
        """
        withheld, accepted, warnings = [], [], []
        for rule in rules if not force else ():
            self.token.check()
            before = self.client.head_manifest(self.reference.repository, rule.name)
            if before is None or before.digest == source.digest:
                continue
            if rule.immutable:
                accepted.append(f"{rule.name} is on {before.digest}")
            elif rule.moving:
                reason = not_forward(dict(source.labels), dict(self.labels(before.digest)))
                withheld += [TagWithheld(name=rule.name, reason=reason)] if reason else []
            elif recipe := self._other_recipe(source, before.digest):
                warnings.append(
                    f"{self.reference.name}:{rule.name} moves from an image of recipe {recipe} to the new image; "
                    "if the recipe is a copy, give it other `tags` under [publish]"
                )
        if accepted:
            raise RegistryError(
                f"immutable tags are on another image than {source.digest}: {', '.join(accepted)}",
                where=self.reference.name,
                hint="give the new image another tag, or move the tags with --force-tags",
            )
        return TagMoves(withheld=tuple(withheld), warnings=tuple(warnings))

    def tag(self, source: ImageSource, names: Sequence[str], done: Callable[[TagPut], object]) -> None:
        """Set tags on the digest and read them back; `done` gets each correct one.

        Raises:
            RegistryError: a tag could not be put; the tags before it are put.
        """
        for name in names:
            self.token.check()
            before = self.client.head_manifest(self.reference.repository, name)
            previous = before.digest if before else None
            if previous != source.digest:
                self._move(name, previous, source)
            self._compare(name, source.content)
            done(TagPut(name=name, previous=previous))

    def _move(self, name: str, previous: str | None, source: ImageSource) -> None:
        try:
            self.client.put_manifest(self.reference.repository, name, source.content, source.manifest.media_type)
        except (RegistryUnreachableError, TagImmutableError):
            raise
        except RegistryError as error:
            if previous:
                # Registries word it in many ways.
                error.hint = f"{error.hint}; the tag is on {previous} now: if it is immutable there, use another tag"
            raise

    def labels(self, digest: str) -> tuple[tuple[str, str], ...]:
        """Return the labels of an image in this registry; none for other artifacts.

        Raises:
            RegistryError: the image could not be read.
        """
        content, _ = self.client.get_manifest(self.reference.repository, digest)
        parts = parts_of(content)
        return labels_of(self.client.read_blob(self.reference.repository, parts[0]["digest"])) if parts else ()

    def _other_recipe(self, source: ImageSource, digest: str) -> str | None:
        # A tag on something unreadable may move: this image replaces it.
        with suppress(RegistryError):
            return other_recipe(dict(source.labels), dict(self.labels(digest)))
        return None

    def _put(self, source: ImageSource) -> None:
        """Put the manifest; retry if the registry does not find a blob yet.

        distribution's file system driver misses a blob while another run writes the same blob's link.
        """
        for wait_s in (*_SETTLE_S, None):
            try:
                self.client.put_manifest(
                    self.reference.repository, source.digest, source.content, source.manifest.media_type
                )
            except BlobUnknownError:
                if wait_s is None:
                    raise
                self.token.sleep(wait_s)
            else:
                return

    def _has(self, blob: BlobSource) -> bool:
        return self.client.has_blob(self.reference.repository, blob.digest, right="push", size=blob.size)

    def _for_each(self, blobs: tuple[BlobSource, ...], work: Callable[[BlobSource], _T]) -> list[_T]:
        with TaskGroup(_WORKERS, token=self.token) as group:
            return group.map(work, blobs)

    def _upload(self, blob: BlobSource, task: Task) -> None:
        def count(amount: int) -> None:
            self.token.check()
            task.advance(amount)

        self.client.send_blob(self.reference.repository, blob, count)

    def _compare(self, reference: str, manifest: bytes) -> None:
        content, descriptor = self.client.get_manifest(self.reference.repository, reference)
        if content != manifest:
            raise RegistryError(
                f"{reference} now points to {descriptor.digest}, not to the image just pushed",
                where=self.reference.name,
                hint="run it again when no other client pushes this tag",
            )


def _bytes(blobs: tuple[BlobSource, ...]) -> int:
    return sum(blob.size for blob in blobs)
