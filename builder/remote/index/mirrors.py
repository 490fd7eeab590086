"""The addresses of an index after the configuration's mirror rules, and the indexes in uv's variables."""

from __future__ import annotations

import os
import re
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from builder.remote.index.listing import Address, Index

if TYPE_CHECKING:
    from builder.host.config import IndexMirror


_UV_VARIABLES = ("UV_INDEX", "UV_EXTRA_INDEX_URL")
NAMED_URL = re.compile(r"(?:(?P<name>[A-Za-z0-9._-]+)=)?(?P<url>https?://\S+)")


def own_indexes() -> tuple[Index, ...]:
    """Return the indexes in uv's variables that uv tries before its default one, in its order.

    Folders are left out, since they have no pages. An index without a name gets its server's.
    """
    words = " ".join(os.environ.get(name, "") for name in _UV_VARIABLES).split()
    return tuple(
        Index(
            name=match["name"] or urlsplit(match["url"]).netloc.rpartition("@")[2],
            addresses=(Address(url=match["url"]),),
        )
        for match in map(NAMED_URL.fullmatch, words)
        if match
    )


def addresses(url: str, mirrors: tuple[IndexMirror, ...]) -> tuple[Address, ...]:
    """Return an index's addresses in order: its own or the longest rule's, then the fallbacks.

    Rules of one prefix apply in the order of the files.
    """
    rules = [rule for rule in mirrors if _begins_with(url, rule.prefix)]
    instead = sorted((rule for rule in rules if not rule.fallback), key=lambda rule: -len(rule.prefix))
    first = _mirrored(url, instead[0]) if instead else Address(url=url)
    return (first, *(_mirrored(url, rule) for rule in rules if rule.fallback))


def _begins_with(url: str, prefix: str) -> bool:
    """Return whether an address begins with all components of a prefix."""
    bare = prefix.rstrip("/")
    return url == bare or url.startswith(f"{bare}/")


def _mirrored(url: str, rule: IndexMirror) -> Address:
    return Address(url=rule.mirror.rstrip("/") + url[len(rule.prefix.rstrip("/")) :], stand_in=rule.stand_in)
