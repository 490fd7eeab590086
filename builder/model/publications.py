"""The records of a publication: which tag is on which digest in which registry."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True, slots=True)
class TagPut:
    """A tag that is on the image's digest now; `previous` is the digest it was on before, None for a new tag."""

    name: str
    previous: str | None


@dataclass(frozen=True, kw_only=True, slots=True)
class TagWithheld:
    """A tag that was not put, and why: the verdict does not earn it, or what it is on is not to be replaced."""

    name: str
    reason: str


@dataclass(frozen=True, kw_only=True, slots=True)
class Attached:
    """Something that refers to the image: `sbom`, `verdict`, `provenance`, `audit`; the digest of its manifest."""

    name: str
    digest: str


@dataclass(frozen=True, kw_only=True, slots=True)
class RegistryPublication:
    """What one registry holds.

    `repository` is host and path. Sizes are bytes of blobs: sent now, mounted from another repository of that
    registry, there already. `seconds` is what sending took. `withheld` are tags that this registry keeps elsewhere;
    `attached` is what lies beside the image there; `signed` says whether it has our signature.
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
    """A registry that does not hold all it should.

    `stage` is `image` (blobs and manifest), `attachments` or `tags`.
    """

    repository: str
    stage: str
    message: str
    hint: str | None = None


@dataclass(frozen=True, kw_only=True, slots=True)
class Publication:
    """Where an image went. With `failures` it is incomplete; a second run finishes it.

    `level` is the best of its verdicts; `withheld` are tags that it does not earn anywhere.
    """

    digest: str
    registries: tuple[RegistryPublication, ...]
    failures: tuple[PublicationFailure, ...] = ()
    level: str | None = None
    withheld: tuple[TagWithheld, ...] = ()

    @property
    def references(self) -> list[str]:
        """The references that the image can be pulled by: every tag in every registry."""
        return [f"{registry.repository}:{tag.name}" for registry in self.registries for tag in registry.tags]

    @property
    def withheld_reasons(self) -> list[str]:
        """The tags that were not put, with their reasons."""
        reasons = [f"{tag.name}: {tag.reason}" for tag in self.withheld]
        return reasons + [
            f"{registry.repository}:{tag.name}: {tag.reason}"
            for registry in self.registries
            for tag in registry.withheld
        ]
