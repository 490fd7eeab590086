"""The service of an image that no recipe here is known of: what the image says itself."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

from builder.errors import UsageError
from builder.serve.model import Health, Published, Service
from builder.smoke.level import CUDA_LABEL

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

_READY_WITHIN_S, _STOP_WITHIN_S = 900, 60
_NS = 10**9


def service_of_image(
    reference: str, facts: Mapping[str, Any], published: Published, arguments: Sequence[str] = ()
) -> Service:
    """Return how an image is run, by what the engine says of it.

    Raises:
        UsageError: it has no entrypoint, or no single port: it is no image of a server.
    """
    config = facts.get("Config") or {}
    ports = [int(found[1]) for name in config.get("ExposedPorts") or () if (found := re.fullmatch(r"(\d+)/tcp", name))]
    if len(ports) != 1 or not config.get("Entrypoint"):
        hint = "name an image of jbuild's, or measure a server that runs with --url"
        raise UsageError("the image is no server's: it has no single port and entrypoint", where=reference, hint=hint)
    begins = (config.get("Healthcheck") or {}).get("StartPeriod") or _READY_WITHIN_S * _NS
    name = re.sub(r"[^a-z0-9_-]+", "-", reference.rpartition("/")[2].partition("@")[0].lower())
    return Service(
        name=f"jbuild-{name}",
        image=reference,
        platform=f"{facts.get('Os') or 'linux'}/{facts['Architecture']}",
        nvidia=bool((config.get("Labels") or {}).get(CUDA_LABEL)),
        port=ports[0],
        published=published,
        volume=f"jbuild-{name}-cache",
        health=Health(test=None, start_period_s=begins // _NS),
        stop_within_s=_STOP_WITHIN_S,
        arguments=tuple(arguments),
    )
