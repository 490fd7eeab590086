"""Checks the sources of the quickstart's recipe: prints `base` and `model` for each unreachable source.

It needs jbuild, and sends the same requests as jbuild: with the user's mirrors, certificates and log-ins.
"""

from __future__ import annotations

import os
import sys
from concurrent.futures import ThreadPoolExecutor
from concurrent.futures import wait as wait_for
from pathlib import Path
from typing import TYPE_CHECKING

from builder.errors import JbuildError
from builder.host import config
from builder.host.paths import Workspace
from builder.remote import hub_client
from builder.remote.http import Retry
from builder.remote.model_sources import HubSource, locate
from builder.remote.registry.base_lookup import resolve_digest

if TYPE_CHECKING:
    from builder.host.config import Config

BASE = "docker.io/library/debian:bookworm-slim"
MODEL = "hf://HuggingFaceTB/SmolLM2-135M-Instruct@main"
LIMIT_S = 40
"""A network that drops packets must not delay the quickstart for longer."""

TWICE = Retry(tries=2)


def main() -> int:
    """Print the names of unreachable sources, and the reasons to stderr."""
    settings = config.load(Workspace.current().config_files)
    pool = ThreadPoolExecutor()
    names = {pool.submit(check_base, settings): "base", pool.submit(check_model, settings): "model"}
    finished, unfinished = wait_for(names, timeout=LIMIT_S)
    for request in finished:
        error = request.exception()
        if isinstance(error, JbuildError):
            _report(names[request], error.message)
        elif error:
            raise error
    for request in unfinished:
        _report(names[request], f"no answer within {LIMIT_S} s")
    sys.stdout.flush()
    # Exit without waiting for threads that still hang in a connection.
    os._exit(0)


def check_base(settings: Config) -> None:
    """Request the digest of the recipe's base image."""
    resolve_digest(BASE, settings, "arm64", retry=TWICE)


def check_model(settings: Config) -> None:
    """Request the list of the recipe's model files."""
    source = locate(MODEL, Path(), settings)
    if isinstance(source, HubSource):
        hub_client.list_files(source, settings, TWICE)


def _report(name: str, reason: str) -> None:
    print(name)
    print(f"{name}: {reason}", file=sys.stderr)


if __name__ == "__main__":
    sys.exit(main())
