"""Builds the graph of imports between modules, with its cycles and its longest chain.

An import counts at the top of a module, in a function, and below `if TYPE_CHECKING`. The graph lacks imports of a name
that is computed at run time.
"""

from __future__ import annotations

import ast
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping
    from pathlib import Path

    from house_rules.source import SourceModule


@dataclass(frozen=True, kw_only=True, slots=True)
class ImportEdge:
    """An import of a module by another module, with its row in the file."""

    source: SourceModule
    target: SourceModule
    row: int

    @property
    def location(self) -> tuple[Path, int]:
        """The file and the row of the import."""
        return self.source.path, self.row


def import_edges(modules: Iterable[SourceModule]) -> tuple[ImportEdge, ...]:
    """Return every import between the modules of one package."""
    by_name = {module.name: module for module in modules}
    return tuple(
        ImportEdge(source=module, target=by_name[name], row=row)
        for module in by_name.values()
        for name, row in _imported(module, by_name)
        if name != module.name
    )


def _imported(module: SourceModule, by_name: Mapping[str, SourceModule]) -> Iterator[tuple[str, int]]:
    for node in ast.walk(module.tree):
        if isinstance(node, ast.Import):
            for alias in node.names:
                if alias.name in by_name:
                    yield alias.name, node.lineno
        elif isinstance(node, ast.ImportFrom):
            package = _package_of(module, node)
            for alias in node.names:
                # `from builder.image import build` imports a module, `from builder.image.build import run` its parent.
                name = f"{package}.{alias.name}"
                if name in by_name:
                    yield name, node.lineno
                elif package in by_name:
                    yield package, node.lineno


def _package_of(module: SourceModule, node: ast.ImportFrom) -> str:
    if not node.level:
        return node.module or ""
    names = module.name.split(".")
    above = node.level - 1 if module.is_package else node.level
    return ".".join([*names[: len(names) - above], *([node.module] if node.module else [])])


def module_graph(edges: Iterable[ImportEdge]) -> dict[str, set[str]]:
    """Return the modules that each module imports, by name."""
    return _graph((edge.source.name, edge.target.name) for edge in edges)


def entry_graph(edges: Iterable[ImportEdge]) -> dict[str, set[str]]:
    """Return the top-level entries that each top-level entry imports, without the package's `__init__.py`."""
    pairs = ((edge.source.entry, edge.target.entry) for edge in edges)
    return _graph((source, target) for source, target in pairs if source and target and source != target)


def _graph(pairs: Iterable[tuple[str, str]]) -> dict[str, set[str]]:
    graph: dict[str, set[str]] = {}
    for source, target in pairs:
        graph.setdefault(source, set()).add(target)
        graph.setdefault(target, set())
    return graph


def cycles(graph: Mapping[str, set[str]]) -> tuple[tuple[str, ...], ...]:
    """Return the groups of nodes that import each other, directly or indirectly, sorted by name."""
    reach = {node: _reachable(graph, node) for node in graph}
    groups = {tuple(sorted({node} | {target for target in reach[node] if node in reach[target]})) for node in graph}
    return tuple(sorted(group for group in groups if len(group) > 1))


def _reachable(graph: Mapping[str, set[str]], start: str) -> set[str]:
    reached: set[str] = set()
    stack = [start]
    while stack:
        for node in graph[stack.pop()] - reached:
            reached.add(node)
            stack.append(node)
    return reached


def longest_chain(graph: Mapping[str, set[str]]) -> int:
    """Return the number of nodes in the longest chain of imports; a cycle counts as one node."""
    group_of = {node: (node,) for node in graph} | {node: group for group in cycles(graph) for node in group}
    heights: dict[tuple[str, ...], int] = {}

    def height(group: tuple[str, ...]) -> int:
        if group not in heights:
            below = {group_of[target] for node in group for target in graph[node]} - {group}
            heights[group] = 1 + max((height(lower) for lower in below), default=0)
        return heights[group]

    return max((height(group) for group in group_of.values()), default=0)


def imported_names(path: Path) -> Iterator[tuple[str, int]]:
    """Yield the dotted names that a file imports, as the file writes them, with their rows.

    Raises:
        SyntaxError: the file is not Python.
    """
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"), filename=str(path))):
        if isinstance(node, ast.Import):
            yield from ((alias.name, node.lineno) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield node.module or "", node.lineno
