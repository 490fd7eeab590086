"""Looks up the digest of a base image."""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING

from builder.errors import NetworkError, RecipeError, RegistryError
from builder.host.json_documents import decode_json
from builder.model.locks import LockedBase
from builder.remote.http import announced
from builder.remote.registry.reference import Reference
from builder.remote.registry.registry_client import INDEXES, RegistryClient, connect
from builder.remote.registry.registry_failures import ImageMissingError, RegistryUnreachableError

if TYPE_CHECKING:
    from collections.abc import Iterator

    from builder.host.config import Config, RegistryMirror
    from builder.host.session import Session
    from builder.remote.http import Patience, Retry

_ADD_MIRROR = "or name a mirror of it in [[registry-mirrors]] of jbuild.toml"


def resolve_digest(
    image: str, config: Config, architecture: str, *, retry: Retry | None = None, patience: Patience | None = None
) -> LockedBase:
    """Look the digest of an image or index up in its registry, or in the mirror of a rule; check its architecture.

    Raises:
        NetworkError: the registry does not answer.
        ImageMissingError: the registry does not have the image.
        RegistryError: the registry refuses.
        RecipeError: the name is not an image's, or the image is for other platforms.
    """
    used, rule = _mirrored(image, config)
    redirect = f"a mirror rule sends {rule.prefix} to {rule.mirror}" if rule else ""
    reference = Reference.parse(used)
    client = connect_to(reference, config, retry=retry, patience=patience)
    try:
        content, descriptor = client.get_manifest(reference.repository, reference.tag_or_digest)
        platforms = _platforms(client, reference, content, descriptor.media_type)
    except RegistryUnreachableError as error:
        mirror = redirect or _ADD_MIRROR
        raise NetworkError(
            f"the base image {image} cannot be looked up: {error.message}", where=used, hint=f"{error.hint}; {mirror}"
        ) from error
    except ImageMissingError as error:
        hint = f"{redirect}{redirect and '; '}correct `image` under [base] in the recipe"
        raise ImageMissingError(f"there is no base image {image}: {error.message}", where=used, hint=hint) from error
    except RegistryError as error:
        if rule:
            error.hint = f"{error.hint} ({redirect})"
        raise
    target = f"linux/{architecture}"
    if target not in platforms:
        raise RecipeError(
            f"the base image is for {', '.join(platforms) or 'no platform'}, not for {target}",
            where=image if used == image else f"{image}, from {used}",
            hint=f"name a base image for {target}",
        )
    return LockedBase(name=image, used=used, digest=descriptor.digest, stand_in=rule.stand_in if rule else None)


@contextmanager
def base_registry(name: str) -> Iterator[None]:
    """Turn a base image's registry that does not answer into an error of the network.

    Raises:
        NetworkError: it does not answer, or a web page answers.
    """
    try:
        yield
    except RegistryUnreachableError as error:
        message = f"the base image cannot be read: {error.message}"
        raise NetworkError(message, where=name, hint=f"{error.hint}; {_ADD_MIRROR}") from error


def image_manifest(client: RegistryClient, reference: Reference, architecture: str) -> bytes:
    """Return the manifest of an image, or of the one for an architecture in an index.

    Raises:
        ImageMissingError: the registry does not have the image.
        RegistryError: the registry refuses.
        ValueError, KeyError, TypeError: there is no image for this architecture.
    """
    content, descriptor = client.get_manifest(reference.repository, reference.tag_or_digest)
    if descriptor.media_type not in INDEXES:
        return content
    for entry in decode_json(content)["manifests"]:
        platform = entry.get("platform") or {}
        if (platform.get("os"), platform.get("architecture")) == ("linux", architecture):
            return client.get_manifest(reference.repository, entry["digest"])[0]
    raise ValueError(f"no image for {architecture}")


def connect_to(
    reference: Reference, config: Config, *, retry: Retry | None = None, patience: Patience | None = None
) -> RegistryClient:
    """Return a client for the registry of an image; jbuild publishes to the configured registries."""
    publish_hosts = {Reference.parse(f"{registry}/x").host for registry in config.registries}
    is_ours = reference.host in publish_hosts
    return connect(reference.host, config, publish=is_ours, retry=retry, patience=patience)


def connect_in(session: Session, reference: Reference) -> RegistryClient:
    """Return a client for the registry of an image, whose retries and waits are said on the console."""
    return connect_to(reference, session.config, retry=announced(session.console.say, reference.host))


def _mirrored(image: str, config: Config) -> tuple[str, RegistryMirror | None]:
    """Apply the rules to the name as written, then to the full name."""
    used, rule = config.mirrored(image)
    return (used, rule) if rule else config.mirrored(str(Reference.parse(image)))


def _platforms(client: RegistryClient, reference: Reference, content: bytes, media_type: str) -> tuple[str, ...]:
    try:
        document = decode_json(content)
        if media_type in INDEXES:
            entries = [entry.get("platform") or {} for entry in document["manifests"]]
        else:
            entries = [decode_json(client.read_blob(reference.repository, document["config"]["digest"]))]
        names = {f"{entry.get('os')}/{entry.get('architecture')}" for entry in entries}
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise RegistryError(
            "the registry's manifest cannot be read", where=str(reference), hint="is it a container image?"
        ) from error
    # An index lists attestations as entries of an unknown platform.
    return tuple(sorted(names - {"unknown/unknown", "None/None"}))
