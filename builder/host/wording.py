"""How messages show names, values and key paths, and the nearest name for an unknown one."""

from __future__ import annotations

import difflib
import re
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable

    from builder.host.toml.positions import Key

_BARE_KEY = re.compile(r"[A-Za-z0-9_-]+")
_LONGEST_VALUE = 200
# The most names that a hint lists after "did you mean".
_MOST_NAMES = 4


def nearest(name: str, names: Iterable[str], *, least: float = 0.5) -> str | None:
    """Return the name that is most like `name`, or None if none has at least this similarity, of 0 to 1."""
    return next(iter(difflib.get_close_matches(name, list(names), n=1, cutoff=least)), None)


def suggest(name: str, names: Iterable[str], *, noun: str = "valid") -> str:
    """Return a hint: the nearest choice, several choices that begin with the name, or all choices."""
    choices = sorted(set(names))
    completions = [choice for choice in choices if name and choice.startswith(name)]
    if 1 < len(completions) <= _MOST_NAMES:
        return f"did you mean {', '.join(f'`{choice}`' for choice in completions[:-1])} or `{completions[-1]}`?"
    if similar := nearest(name, choices):
        return f"did you mean `{similar}`?"
    return f"{noun}: {', '.join(choices)}" if choices else "there are none"


def printable(text: str) -> str:
    """Return a value as messages show it: short, on one line, without control characters."""
    text = "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text[: _LONGEST_VALUE + 1])
    return text if len(text) <= _LONGEST_VALUE else f"{text[:_LONGEST_VALUE]}…"


def key_path(path: Iterable[Key]) -> str:
    """Return a key path as people write it: `models[0].source`."""
    text = ""
    for key in path:
        if isinstance(key, int):
            text += f"[{key}]"
            continue
        name = key if _BARE_KEY.fullmatch(key) else f'"{printable(key)}"'
        text += f".{name}" if text else name
    return text
