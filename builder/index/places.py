"""Where an index is asked: at itself, or where rules of the configuration send it."""

from __future__ import annotations

from typing import TYPE_CHECKING

from builder.index.model import Address

if TYPE_CHECKING:
    from builder.config import IndexMirror


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
