"""Temporary objects of the engine, marked with the process that owns them: containers by a label, images by a tag."""

from __future__ import annotations

import json
import os
import re
from contextlib import closing
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

from builder.errors import EngineError
from builder.host import owner
from builder.host.engine.docker import query_socket
from builder.host.engine.image_lists import list_images, read_again
from builder.host.engine.sdk_errors import engine_errors

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from builder.host.engine.docker import Engine

# The value of this label is the owner's word.
LABEL = "jbuild.owner"
SMOKE, DOCTOR = "jbuild-smoke", "jbuild-doctor"
# podman writes names with their registry.
_TAG = re.compile(
    rf"(?:(?:docker\.io/library|localhost)/)?(?:{SMOKE}|{DOCTOR}):\w+-(?P<owner>{owner.PATTERN})-[0-9a-f]{{6}}"
)
_ANSWER_S = 10.0


@dataclass(frozen=True, kw_only=True, slots=True)
class EngineLeftovers:
    """Containers, by their IDs, and tags of processes that have ended."""

    containers: tuple[str, ...] = ()
    tags: tuple[str, ...] = ()


def owner_label() -> dict[str, str]:
    """Return the label of a temporary container of this process."""
    return {LABEL: owner.own_word()}


def temporary_tag(repository: str, subject: str) -> str:
    """Return a new name for an image that this process removes."""
    return f"{repository}:{subject}-{owner.own_word()}-{os.urandom(3).hex()}"


def tags_left(images: Iterable[dict[str, Any]]) -> list[str]:
    """Return the temporary names of processes that have ended, from the engine's list of images."""
    names = [name for image in images for name in image.get("RepoTags") or ()]
    matches = [(name, _TAG.fullmatch(name)) for name in names]
    return [name for name, match in matches if match and owner.has_ended(match["owner"])]


def find_engine_leftovers(engine: Engine) -> EngineLeftovers:
    """Return what processes of this user on this machine left in the engine when they were killed.

    Raises:
        EngineError: the engine does not answer any more.
    """
    containers, images = _lists(engine)
    return EngineLeftovers(
        containers=tuple(_containers_left(containers)),
        tags=tuple(tags_left(images)),
    )


def _containers_left(containers: Iterable[dict[str, Any]]) -> Iterator[str]:
    for container in containers:
        if owner.has_ended(str((container.get("Labels") or {}).get(LABEL))):
            yield str(container["Id"])


def _lists(engine: Engine) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """Return the engine's temporary containers and images."""
    labelled, named = {"label": [LABEL]}, {"reference": [SMOKE, DOCTOR]}
    if engine.endpoint.startswith("unix://"):
        containers = query_socket(engine.endpoint, f"/containers/json?all=1&filters={quote(json.dumps(labelled))}")
        path = f"/images/json?filters={quote(json.dumps(named))}"
        return containers, read_again(lambda: query_socket(engine.endpoint, path), EngineError)
    with engine_errors(engine), closing(engine.client(_ANSWER_S)) as client:
        images = [image for name in (SMOKE, DOCTOR) for image in list_images(client, name)]
        return client.api.containers(all=True, filters=labelled), images
