"""Which files define what is wanted by any, and what is taken to be defined where files are known by name only."""

from __future__ import annotations

import re
from fnmatch import translate
from functools import lru_cache
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable

    from builder.audit.environment import Environment, Node

_PYTHON = re.compile(r"_?Py[A-Za-z_]")


class Providers:
    """Which files define what is wanted by any."""

    def __init__(self, environment: Environment) -> None:
        wanted: set[int] = set()
        for node in environment.nodes:
            wanted.update(node.binary.wanted_keys)
        self._found: dict[int, set[Node]] = {}
        for node in (*environment.base_nodes, *environment.nodes):
            for key in wanted.intersection(node.binary.defined_keys):
                self._found.setdefault(key, set()).add(node)

    def has(self, node: Node, index: int, scope: set[Node]) -> bool:
        """Return whether a file in scope defines a symbol."""
        keys = node.binary.wanted_keys
        for key in keys[2 * index : 2 * index + 2]:
            found = self._found.get(key)
            if found and not scope.isdisjoint(found):
                return True
        return False

    def of_all(self, node: Node, indices: Iterable[int]) -> tuple[Node, ...]:
        """Return files of wheels that together define all of some symbols; none if one of these is defined nowhere."""
        found: dict[Node, None] = {}
        keys = node.binary.wanted_keys
        for index in indices:
            each = set().union(*(self._found.get(key, ()) for key in keys[2 * index : 2 * index + 2]))
            known = sorted((n for n in each if n.wheel and n is not node), key=lambda n: n.path)
            if not known:
                return ()
            found.setdefault(next((n for n in known if n in found), known[0]))
        return tuple(found)


@lru_cache(maxsize=4096)
def _pattern(symbols: tuple[str, ...]) -> re.Pattern[str]:
    return re.compile("|".join(translate(each) for each in symbols))


def is_given(name: str, patterns: Iterable[tuple[str, ...]]) -> bool:
    """Return whether Python or a library known by name only defines a symbol."""
    return _PYTHON.match(name) is not None or any(_may_define(symbols, name) for symbols in patterns)


def _may_define(symbols: tuple[str, ...], name: str) -> bool:
    """Return whether a library known by name only may define a symbol: by its globs, else anything but C++."""
    return bool(_pattern(symbols).match(name)) if symbols else not name.startswith("_Z")
