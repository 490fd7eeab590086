"""Where an index is asked: at itself, or where rules of the configuration send it; and the user's own ones of uv."""

from __future__ import annotations

import os
import re
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from builder.remote.index.listing import Address, Index

if TYPE_CHECKING:
    from builder.host.config import IndexMirror


_OWN = ("UV_INDEX", "UV_EXTRA_INDEX_URL")
_NAMED = re.compile(r"(?:(?P<name>[A-Za-z0-9._-]+)=)?(?P<url>https?://\S+)")


def own_indexes() -> tuple[Index, ...]:
    """Return the indexes of uv's variables that it asks before its default one, in its order.

    Folders are left out: they have no pages. An index without a name is called by its server.
    """
    words = " ".join(os.environ.get(name, "") for name in _OWN).split()
    named = (found for word in words if (found := _NAMED.fullmatch(word)))
    return tuple(
        Index(
            name=found["name"] or urlsplit(found["url"]).netloc.rpartition("@")[2],
            addresses=(Address(url=found["url"]),),
        )
        for found in named
    )


def addresses(url: str, mirrors: tuple[IndexMirror, ...]) -> tuple[Address, ...]:
    """Return where an index is asked, in order: at itself or where the longest rule sends it, then at the fallbacks.

    Rules of one prefix count in the order of the files.
    """
    rules = [rule for rule in mirrors if _begins_with(url, rule.prefix)]
    instead = sorted((rule for rule in rules if not rule.fallback), key=lambda rule: -len(rule.prefix))
    first = _mirrored(url, instead[0]) if instead else Address(url=url)
    return (first, *(_mirrored(url, rule) for rule in rules if rule.fallback))


def _begins_with(url: str, prefix: str) -> bool:
    """Tell whether whole parts of an address are its prefix."""
    bare = prefix.rstrip("/")
    return url == bare or url.startswith(f"{bare}/")


def _mirrored(url: str, rule: IndexMirror) -> Address:
    return Address(url=rule.mirror.rstrip("/") + url[len(rule.prefix.rstrip("/")) :], stand_in=rule.stand_in)
