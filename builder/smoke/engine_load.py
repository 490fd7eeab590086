"""Brings an image from the workspace's layout into the engine for as long as it is needed."""

from __future__ import annotations

import hashlib
import json
import os
import re
import socket
import uuid
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING

from docker.errors import APIError, DockerException, ImageNotFound
from requests import RequestException

from builder.errors import EngineError, IntegrityError
from builder.host.engine.container import is_alive
from builder.image.oci.layout import blob, damaged_blobs, find_corruption, image_blobs
from builder.smoke import engine_archive as oci

if TYPE_CHECKING:
    from collections.abc import Collection, Iterator
    from pathlib import Path

    from docker import DockerClient

    from builder.host.console import Console
    from builder.host.engine.docker import Engine
    from builder.model.images import Image

REPOSITORY = "jbuild-smoke"
_OWNED = re.compile(REPOSITORY + r":[0-9a-f]{12}-([0-9a-f]{6})-(\d+)-[0-9a-f]{6}")
_DISK_FULL = re.compile(r"no space left on device", re.IGNORECASE)


@contextmanager
def loaded(
    image: Image, layout: Path, engine: Engine, console: Console, *, keep_as: str | None = None
) -> Iterator[str]:
    """Give a reference by which the engine runs the image, loading it first if the engine lacks it.

    What was loaded is deleted at the end; with `keep_as` it stays under that name if the block succeeds.

    Raises:
        EngineError: the engine does not take the image, or does not give it the name.
        IntegrityError: one of the image's blobs is not whole in the layout.
    """
    client = engine.client()
    try:
        present = _present(client, image)
        reference = present or _load(client, image, layout, console)
        try:
            yield reference
            if keep_as:
                _tag(client, reference, keep_as)
        finally:
            if not present:
                _forget(client, reference)
            _forget_abandoned(client)
    finally:
        client.close()


def _present(client: DockerClient, image: Image) -> str | None:
    """Return the name of the image in the engine: its manifest's digest, or its config's where layers are unpacked."""
    for digest in (image.digest, image.config.digest):
        with suppress(ImageNotFound):
            if client.images.get(digest).attrs.get("Architecture") == image.platform.split("/")[1]:
                return digest
    return None


def _load(client: DockerClient, image: Image, layout: Path, console: Console) -> str:
    lost = damaged_blobs(layout, image)
    if lost:
        hint = "build it again: `jbuild build RECIPE --force`"
        raise IntegrityError("a cached blob is missing or truncated", where=str(lost[0]), hint=hint)
    # The rest of the tag keeps two jbuild processes from taking each other's image away, and tells whose it was.
    tag = f"{_machine()}-{os.getpid()}-{uuid.uuid4().hex[:6]}"
    name = f"{REPOSITORY}:{image.digest.partition(':')[2][:12]}-{tag}"
    layers = _layers_in_use(client, layout)
    if layers and not _send(client, image, layout, name, console, without=layers):
        return name
    reason = _send(client, image, layout, name, console)
    if reason:
        # It may have been right to refuse.
        changed = next(filter(None, (find_corruption(layout, blob.digest) for blob in image_blobs(image))), None)
        raise changed or _not_taken(reason, name)
    return name


def _send(
    client: DockerClient, image: Image, layout: Path, name: str, console: Console, without: Collection[str] = ()
) -> str | None:
    """Send an image to the engine; return why it was not taken, None if it was."""
    try:
        with console.task("loading the image into the engine", float(image.size), unit="B") as task:
            blobs = oci.stream(image, layout, name, task.advance, without)
            events = list(client.api.load_image(blobs))  # type: ignore[no-untyped-call]
        reason = next((str(event["error"]) for event in events if "error" in event), None)
    except (DockerException, RequestException) as error:
        reason = str(getattr(error, "explanation", None) or error)
    if reason:
        # containerd names an image before it checks all layers, and would accept a damaged one the next time.
        _forget(client, name)
    return reason


def _layers_in_use(client: DockerClient, layout: Path) -> frozenset[str]:
    """Return the layers that an engine with containerd's store has: those of its images that are of this layout.

    It takes an image without them; other engines name images by their configuration.
    """
    layers: set[str] = set()
    for image in client.api.images():
        path = blob(layout, str(image["Id"]))
        with suppress(OSError, ValueError, KeyError, TypeError):
            layers |= {str(layer["digest"]) for layer in json.loads(path.read_bytes())["layers"]}
    return frozenset(layers)


def _not_taken(reason: str, name: str) -> EngineError:
    hint = "run `jbuild doctor`"
    if _DISK_FULL.search(reason):
        hint = "free space where the engine keeps its data: `docker system df`, `docker image prune`"
    return EngineError(f"the engine does not take the image: {reason.strip()}", where=name, hint=hint)


def _tag(client: DockerClient, reference: str, name: str) -> None:
    """Move a name to an image; the one that had it goes, unless it has another: rebuilds would fill the disk."""
    before = None
    repository, _, tag = name.rpartition(":")
    try:
        with suppress(ImageNotFound):
            before = client.images.get(name)
        client.api.tag(reference, repository, tag, force=True)
        if before is None or before.id == client.images.get(name).id:
            return
    except (DockerException, RequestException) as error:
        reason = str(getattr(error, "explanation", None) or error).strip()
        hint = "`jbuild doctor` looks at the engine; the same command then goes on from here"
        raise EngineError(f"the engine does not name the image: {reason}", where=name, hint=hint) from error
    with suppress(ImageNotFound, APIError):
        # Without force: an image that is named, or that a container runs, stays.
        if not client.images.get(str(before.id)).tags:
            client.api.remove_image(str(before.id))


def _machine() -> str:
    return hashlib.sha256(socket.gethostname().encode()).hexdigest()[:6]


def _forget_abandoned(client: DockerClient) -> None:
    """Take the names away that jbuild processes of this machine left which were killed."""
    for image in client.api.images(name=REPOSITORY):
        for name in image.get("RepoTags") or ():
            owner = _OWNED.fullmatch(name)
            if owner and owner[1] == _machine() and not is_alive(int(owner[2])):
                _forget(client, name)


def _forget(client: DockerClient, name: str) -> None:
    # Failing to tidy up must not hide what the block found out.
    with suppress(APIError, RequestException):
        client.api.remove_image(name, force=True)
