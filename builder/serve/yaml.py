"""Writes the little of YAML that a compose file needs: mappings, lists, strings, numbers and truth values."""

from __future__ import annotations

import json
import re
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

# Whatever a parser of YAML 1.1 or 1.2 could take for something else than this string is quoted.
_PLAIN = re.compile(r"[A-Za-z_/][A-Za-z0-9_./-]*")
_WORDS = frozenset({"true", "false", "yes", "no", "on", "off", "y", "n", "null"})


def dump(document: Mapping[str, Any]) -> str:
    """Return a document as YAML, its keys in the order in which they stand."""
    return "".join(f"{line}\n" for line in _mapping(document, ""))


def _mapping(found: Mapping[str, Any], indent: str) -> Iterator[str]:
    for key, value in found.items():
        head = f"{indent}{scalar(key)}:"
        if isinstance(value, dict) and value:
            yield head
            yield from _mapping(value, indent + "  ")
        elif isinstance(value, (list, tuple)) and value:
            yield head
            yield from (f"{indent}  - {scalar(item)}" for item in value)
        else:
            yield f"{head} {scalar(value)}"


def scalar(value: Any) -> str:
    """Return one value on one line."""
    if isinstance(value, str):
        return value if _PLAIN.fullmatch(value) and value.lower() not in _WORDS else _quoted(value)
    if isinstance(value, (dict, list, tuple)) and not value:
        return "{}" if isinstance(value, dict) else "[]"
    return json.dumps(value)


def _quoted(text: str) -> str:
    """Return a double-quoted string in ASCII; unlike JSON, YAML puts no surrogates together."""
    return '"' + "".join(c if " " <= c <= "~" and c not in '"\\' else f"\\U{ord(c):08x}" for c in text) + '"'
