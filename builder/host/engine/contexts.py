"""The contexts of the user's `docker` command: the current one, and where the engine of each answers."""

from __future__ import annotations

import hashlib
import json
import os
from pathlib import Path
from typing import Any

from builder.errors import EngineError

_DEFAULT_HOST = "unix:///var/run/docker.sock"


def current_context() -> str:
    """Return the context that the `docker` command uses."""
    name = os.environ.get("DOCKER_CONTEXT")
    return name or str(json_object(docker_folder() / "config.json").get("currentContext") or "default")


def is_context(name: str) -> bool:
    """Return whether a docker context has this name; `default` does not count."""
    return name != "default" and _context_meta(name).is_file()


def _context_meta(name: str) -> Path:
    return docker_folder() / "contexts" / "meta" / hashlib.sha256(name.encode()).hexdigest() / "meta.json"


def context_host(context: str) -> str:
    """Return the address of a context's engine.

    Raises:
        EngineError: the context names none.
    """
    if context == "default":
        return _DEFAULT_HOST
    host = context_endpoint(context).get("Host")
    if not host:
        hint = "run `docker context ls` and `docker context use NAME`"
        raise EngineError(f"docker context `{context}` names no engine", where=context, hint=hint)
    return str(host)


def context_endpoint(context: str) -> dict[str, Any]:
    """Return what a context states about its engine, empty if it states nothing."""
    endpoint = (json_object(_context_meta(context)).get("Endpoints") or {}).get("docker")
    return endpoint if isinstance(endpoint, dict) else {}


def docker_folder() -> Path:
    """Return the folder of the `docker` command's settings."""
    return Path(os.environ.get("DOCKER_CONFIG") or "~/.docker").expanduser()


def json_object(path: Path) -> dict[str, Any]:
    """Return the object in a JSON file, empty if there is none."""
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return data if isinstance(data, dict) else {}
