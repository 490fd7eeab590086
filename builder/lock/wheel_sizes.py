"""Sizes of wheels whose index does not tell them: which wheels have a layer of their own depends on them."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import unquote, urlsplit

import requests

from builder.host.concurrency import TaskGroup
from builder.remote import http
from builder.remote.index.index_client import client_of

if TYPE_CHECKING:
    from collections.abc import Sequence

    from builder.host.session import Session
    from builder.model.locks import LockedWheel
    from builder.remote.index.index_client import IndexClient

_AT_ONCE = 8
# Answers which the same request will get again; fetching the wheel says what is wrong with it.
_REFUSED = range(400, 429)


def measured(wheels: Sequence[LockedWheel], session: Session) -> tuple[LockedWheel, ...]:
    """Return the wheels with the size (bytes) of each that its server, or this disk, knows.

    Raises:
        NetworkError: a server does not answer.
    """
    unknown = [wheel for wheel in wheels if wheel.size is None]
    if not unknown:
        return tuple(wheels)
    client = client_of(session.config, session.workspace.index_states)
    with (
        session.console.task("asking for sizes", len(unknown), unit="wheels") as task,
        TaskGroup(min(_AT_ONCE, len(unknown))) as group,
    ):

        def one(wheel: LockedWheel) -> int | None:
            size = _size(wheel, session.workspace.wheel(wheel.sha256, wheel.filename), client)
            task.advance(1)
            return size

        found = dict(zip((wheel.sha256 for wheel in unknown), group.map(one, unknown), strict=True))
    return tuple(replace(wheel, size=found[wheel.sha256]) if wheel.size is None else wheel for wheel in wheels)


def _size(wheel: LockedWheel, kept: Path, client: IndexClient) -> int | None:
    if kept.is_file():
        return kept.stat().st_size
    if not wheel.url.startswith(("http://", "https://")):
        path = Path(unquote(urlsplit(wheel.url).path) if "://" in wheel.url else wheel.url)
        return path.stat().st_size if path.is_file() else None
    try:
        return http.Retry().run(lambda: _asked(wheel.url, client))
    except requests.RequestException as error:
        raise http.network_error(error, wheel.url) from error


def _asked(url: str, client: IndexClient) -> int | None:
    # The beginning of an answer to GET: signed addresses are not good for HEAD, and some servers refuse it.
    with client.get(url, headers={"Accept-Encoding": "identity"}) as answer:
        if answer.status_code in _REFUSED:
            return None
        answer.raise_for_status()
        length = answer.headers.get("Content-Length", "")
        return int(length) if length.isdecimal() else None
