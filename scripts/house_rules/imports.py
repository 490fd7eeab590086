"""Which module imports which: the edges, their circles, and the longest chain of them.

An import counts wherever it stands: at the top, in a function, or below `if TYPE_CHECKING`. Modules that are imported
by a name computed at run time are not seen.
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
    """One import of one module by another, with the number of its row in the file."""

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
                # `from builder.image import build` means the module, `from builder.image.build import run` its parent.
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
    """Return which modules each module imports, by name."""
    return _graph((edge.source.name, edge.target.name) for edge in edges)


def entry_graph(edges: Iterable[ImportEdge]) -> dict[str, set[str]]:
    """Return which top-level entries each top-level entry imports. The package's own file is none."""
    pairs = ((edge.source.entry, edge.target.entry) for edge in edges)
    return _graph((source, target) for source, target in pairs if source and target and source != target)


def _graph(pairs: Iterable[tuple[str, str]]) -> dict[str, set[str]]:
    graph: dict[str, set[str]] = {}
    for source, target in pairs:
        graph.setdefault(source, set()).add(target)
        graph.setdefault(target, set())
    return graph


def circles(graph: Mapping[str, set[str]]) -> tuple[tuple[str, ...], ...]:
    """Return the groups of nodes that import each other directly or through others, sorted by name."""
    reach = {node: _reachable(graph, node) for node in graph}
    groups = {tuple(sorted({node} | {other for other in reach[node] if node in reach[other]})) for node in graph}
    return tuple(sorted(group for group in groups if len(group) > 1))


def _reachable(graph: Mapping[str, set[str]], start: str) -> set[str]:
    reached: set[str] = set()
    stack = [start]
    while stack:
        for node in graph[stack.pop()] - reached:
            reached.add(node)
            stack.append(node)
    return reached


def floors(graph: Mapping[str, set[str]]) -> int:
    """Return the number of nodes in the longest chain of imports; a circle counts as one node."""
    group_of = {node: (node,) for node in graph} | {node: group for group in circles(graph) for node in group}
    heights: dict[tuple[str, ...], int] = {}

    def height(group: tuple[str, ...]) -> int:
        if group not in heights:
            below = {group_of[target] for node in group for target in graph[node]} - {group}
            heights[group] = 1 + max((height(lower) for lower in below), default=0)
        return heights[group]

    return max((height(group) for group in group_of.values()), default=0)


def imported_names(path: Path) -> Iterator[tuple[str, int]]:
    """Yield the dotted names that a file imports, as they are written, with their rows.

    Raises:
        SyntaxError: the file is not Python.
    """
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"), filename=str(path))):
        if isinstance(node, ast.Import):
            yield from ((alias.name, node.lineno) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield node.module or "", node.lineno
