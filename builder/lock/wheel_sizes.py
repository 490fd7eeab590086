"""Sizes of wheels whose index does not list them; the grouping of wheels into layers depends on sizes."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import requests

from builder.host.concurrency import TaskGroup
from builder.remote import http
from builder.remote.download import local_path
from builder.remote.index.index_client import client_of

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from builder.host.session import Session
    from builder.model.locks import LockedWheel
    from builder.remote.index.index_client import IndexClient

_AT_ONCE = 8
# A retry gets the same status; fetching the wheel reports the error.
_REFUSED = range(400, 429)


def measured(wheels: Sequence[LockedWheel], session: Session) -> tuple[LockedWheel, ...]:
    """Return the wheels with their sizes (bytes) from the cache or from their servers.

    Raises:
        NetworkError: a server does not answer.
    """
    unknown = [wheel for wheel in wheels if wheel.size is None]
    if not unknown:
        return tuple(wheels)
    client = client_of(session.config, session.workspace.index_states)
    with (
        session.console.task("reading sizes", len(unknown), unit="wheels") as task,
        TaskGroup(min(_AT_ONCE, len(unknown))) as group,
    ):

        def measure(wheel: LockedWheel) -> int | None:
            size = _size(wheel, session.workspace.wheel(wheel.sha256, wheel.filename), client)
            task.advance(1)
            return size

        sizes = dict(zip((wheel.sha256 for wheel in unknown), group.map(measure, unknown), strict=True))
    return tuple(replace(wheel, size=sizes[wheel.sha256]) if wheel.size is None else wheel for wheel in wheels)


def _size(wheel: LockedWheel, stored: Path, client: IndexClient) -> int | None:
    if stored.is_file():
        return stored.stat().st_size
    if path := local_path(wheel.url):
        return path.stat().st_size if path.is_file() else None
    try:
        return http.Retry().run(lambda: _content_length(wheel.url, client))
    except requests.RequestException as error:
        raise http.network_error(error, wheel.url) from error


def _content_length(url: str, client: IndexClient) -> int | None:
    # GET, closed after the headers: signed URLs are not valid for HEAD, and some servers refuse it.
    with client.get(url, headers={"Accept-Encoding": "identity"}) as response:
        if response.status_code in _REFUSED:
            return None
        response.raise_for_status()
        length = response.headers.get("Content-Length", "")
        return int(length) if length.isdecimal() else None
