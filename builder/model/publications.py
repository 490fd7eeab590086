"""The records of a publication: the tags of a digest in each registry."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True, slots=True)
class TagPut:
    """A tag that points to the image's digest; `previous` is its digest before, None for a new tag."""

    name: str
    previous: str | None


@dataclass(frozen=True, kw_only=True, slots=True)
class TagWithheld:
    """A tag that was not set, and why: the verdict is too low, or its digest must not be replaced."""

    name: str
    reason: str


@dataclass(frozen=True, kw_only=True, slots=True)
class Attached:
    """An attachment of the image (`sbom`, `verdict`, `provenance`, `audit`), and its manifest's digest."""

    name: str
    digest: str


@dataclass(frozen=True, kw_only=True, slots=True)
class RegistryPublication:
    """The publication in one registry.

    `repository` is host and path. Sizes are bytes of blobs: sent, mounted from another repository of the registry,
    already there. `seconds` is the time of sending. `withheld` are tags that this registry has on another digest;
    `signed` is whether it has our signature.
    """

    repository: str
    digest: str
    tags: tuple[TagPut, ...]
    bytes_sent: int
    bytes_mounted: int
    bytes_there: int
    seconds: float
    withheld: tuple[TagWithheld, ...] = ()
    attached: tuple[Attached, ...] = ()
    signed: bool = False


@dataclass(frozen=True, kw_only=True, slots=True)
class PublicationFailure:
    """A failed publication in one registry; `stage` is `image` (blobs and manifest), `attachments` or `tags`."""

    repository: str
    stage: str
    message: str
    hint: str | None = None


@dataclass(frozen=True, kw_only=True, slots=True)
class Publication:
    """The publication of an image. With `failures` it is incomplete; another run completes it.

    `level` is that of its best verdict; `withheld` are tags that the level does not earn.
    """

    digest: str
    registries: tuple[RegistryPublication, ...]
    failures: tuple[PublicationFailure, ...] = ()
    level: str | None = None
    withheld: tuple[TagWithheld, ...] = ()

    @property
    def references(self) -> list[str]:
        """The references of the image: every tag in every registry."""
        return [f"{registry.repository}:{tag.name}" for registry in self.registries for tag in registry.tags]

    @property
    def withheld_reasons(self) -> list[str]:
        """The tags that were not set, with their reasons."""
        reasons = [f"{tag.name}: {tag.reason}" for tag in self.withheld]
        return reasons + [
            f"{registry.repository}:{tag.name}: {tag.reason}"
            for registry in self.registries
            for tag in registry.withheld
        ]
