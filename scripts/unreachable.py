"""Tells which sources of the quickstart's recipe cannot be had from here: prints `base`, `model` or nothing.

Needs jbuild itself, and asks exactly as jbuild will: with the user's mirrors, certificates and log-ins.
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
"""A network that swallows packets must not hold the quickstart up for longer."""

TWICE = Retry(tries=2)


def main() -> int:
    """Print the names of what cannot be had, and to stderr why."""
    settings = config.load(Workspace.current().config_files)
    pool = ThreadPoolExecutor()
    asked = {pool.submit(ask_base, settings): "base", pool.submit(ask_model, settings): "model"}
    answered, silent = wait_for(asked, timeout=LIMIT_S)
    for question in answered:
        error = question.exception()
        if isinstance(error, JbuildError):
            _report(asked[question], error.message)
        elif error:
            raise error
    for question in silent:
        _report(asked[question], f"no answer within {LIMIT_S} s")
    sys.stdout.flush()
    # Not waiting for threads that still hang in a connection.
    os._exit(0)


def ask_base(settings: Config) -> None:
    """Ask for the digest of the recipe's base image."""
    resolve_digest(BASE, settings, "arm64", retry=TWICE)


def ask_model(settings: Config) -> None:
    """Ask for the list of the recipe's model files."""
    place = locate(MODEL, Path(), settings)
    if isinstance(place, HubSource):
        hub_client.list_files(place, settings, TWICE)


def _report(name: str, reason: str) -> None:
    print(name)
    print(f"{name}: {reason}", file=sys.stderr)


if __name__ == "__main__":
    sys.exit(main())
