"""From the name of a base image to its digest."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import TYPE_CHECKING

from builder.errors import NetworkError, RecipeError, RegistryError
from builder.remote.registry.errors import ImageMissingError, RegistryUnreachableError
from builder.remote.registry.reference import Reference
from builder.remote.registry.registry_client import INDEXES, RegistryClient, connect

if TYPE_CHECKING:
    from builder.host.config import Config, RegistryMirror
    from builder.remote.http import Retry

_OWN_MIRROR = "or take it from a mirror: a rule in [[registry-mirrors]] of jbuild.toml"


@dataclass(frozen=True, kw_only=True, slots=True)
class ResolvedBase:
    """A base image, pinned.

    `asked` is the recipe's name, `used` the one after mirror rules. `digest` is that of the manifest or index behind
    it; `stand_in` says why it is not the image that was asked for, if it is not.
    """

    asked: str
    used: str
    digest: str
    stand_in: str | None = None

    @property
    def pinned(self) -> str:
        """The name to build from: repository at digest."""
        return str(Reference.parse(self.used).at(self.digest))


def resolve_digest(image: str, config: Config, architecture: str, *, retry: Retry | None = None) -> ResolvedBase:
    """Ask the registry, or the mirror that a rule names, for an image's digest, and whether it is for an architecture.

    Raises:
        NetworkError: nobody answers.
        ImageMissingError: the registry has no such image.
        RegistryError: the registry refuses.
        RecipeError: it is no image name, or the image is for other platforms.
    """
    used, rule = _mirrored(image, config)
    reference = Reference.parse(used)
    client = connect_to(reference, config, retry=retry)
    try:
        content, descriptor = client.get_manifest(reference.repository, reference.wanted)
        offered = _platforms(client, reference, content, descriptor.media_type)
    except RegistryUnreachableError as error:
        sent = f"a mirror rule sends {rule.prefix} to {rule.mirror}" if rule else _OWN_MIRROR
        raise NetworkError(
            f"the base image {image} cannot be looked up: {error.message}", where=used, hint=f"{error.hint}; {sent}"
        ) from error
    except ImageMissingError as error:
        sent = f"a mirror rule sends {rule.prefix} to {rule.mirror}; " if rule else ""
        hint = f"{sent}correct `image` under [base] in the recipe"
        raise ImageMissingError(f"there is no base image {image}: {error.message}", where=used, hint=hint) from error
    except RegistryError as error:
        if rule:
            error.hint = f"{error.hint} (a mirror rule sends {rule.prefix} to {rule.mirror})"
        raise
    wanted = f"linux/{architecture}"
    if wanted not in offered:
        raise RecipeError(
            f"the base image is for {', '.join(offered) or 'no platform'}, not for {wanted}",
            where=image if used == image else f"{image}, taken from {used}",
            hint=f"name a base image that is for {wanted} too",
        )
    return ResolvedBase(asked=image, used=used, digest=descriptor.digest, stand_in=rule.stand_in if rule else None)


def image_manifest(client: RegistryClient, reference: Reference, architecture: str) -> bytes:
    """Return the manifest of an image, or of that for an architecture in an index of several.

    Raises:
        ImageMissingError: the registry has no such image.
        RegistryError: the registry refuses.
        ValueError, KeyError, TypeError: what it has is no image for this architecture.
    """
    content, descriptor = client.get_manifest(reference.repository, reference.wanted)
    if descriptor.media_type not in INDEXES:
        return content
    for entry in json.loads(content)["manifests"]:
        platform = entry.get("platform") or {}
        if (platform.get("os"), platform.get("architecture")) == ("linux", architecture):
            return client.get_manifest(reference.repository, entry["digest"])[0]
    raise ValueError(f"no image for {architecture}")


def connect_to(reference: Reference, config: Config, *, retry: Retry | None = None) -> RegistryClient:
    """Return a client for the registry of an image; the configured registries are those that are published to."""
    own = {Reference.parse(f"{registry}/x").host for registry in config.registries}
    return connect(reference.host, config, own=own, retry=retry)


def _mirrored(image: str, config: Config) -> tuple[str, RegistryMirror | None]:
    """Apply the rules to the name as it is written, else as it is in full."""
    used, rule = config.mirrored(image)
    return (used, rule) if rule else config.mirrored(str(Reference.parse(image)))


def _platforms(client: RegistryClient, reference: Reference, content: bytes, media_type: str) -> tuple[str, ...]:
    try:
        document = json.loads(content)
        if media_type in INDEXES:
            entries = [entry.get("platform") or {} for entry in document["manifests"]]
        else:
            entries = [json.loads(client.read_blob(reference.repository, document["config"]["digest"]))]
        names = {f"{entry.get('os')}/{entry.get('architecture')}" for entry in entries}
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise RegistryError(
            "the registry's manifest cannot be understood", where=str(reference), hint="is it a container image?"
        ) from error
    # Attestations lie beside images as entries of an unknown platform.
    return tuple(sorted(names - {"unknown/unknown", "None/None"}))
