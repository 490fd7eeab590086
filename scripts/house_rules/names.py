"""Collects the names that a package defines, its duplicate class and module names, and its slang."""

from __future__ import annotations

import ast
from collections import defaultdict
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator
    from pathlib import Path

    from house_rules.source import SourceModule

# Words without a specific meaning: pronouns, adverbs, and participles without their noun. A name is slang if the whole
# name, without leading underscores and in lower case, is one of them.
SLANG = frozenset(
    """
    found each said told made kept known own given begun asked wanted shown seen sent brought held taken took gone got
    mended listed place places part parts line piece pieces whole near other others what how where here there elsewhere
    also
    """.split()  # noqa: SIM905  # a list of words reads as words
)
# Module names that every room may use.
SHARED_MODULE_NAMES = frozenset({"__init__", "__main__", "errors", "stage"})
# Keys of the output of `--json` and of records. Programs read them, so a class may have a field of that name.
RESULT_KEYS = frozenset(
    {
        "also",
        "found",
        "kept",
        "line",
        "made",
        "mended",
        "others",
        "parts",
        "pieces",
        "said",
        "wanted",
        "what",
        "where",
        "whole",
    }
)
_NOT_CHOSEN = frozenset({"self", "cls", "_"})


@dataclass(frozen=True, kw_only=True, slots=True)
class Name:
    """A name and the location of its definition."""

    text: str
    path: Path
    row: int

    @property
    def is_slang(self) -> bool:
        """Whether the whole name is a word of the slang list."""
        return self.text.lstrip("_").lower() in SLANG


def identifiers(modules: Iterable[SourceModule]) -> Iterator[Name]:
    """Yield the names of variables, parameters, functions and classes, once per definition.

    The result excludes `self`, `cls`, `_` and names like `__init__`: developers do not choose them.
    """
    for module in modules:
        for node in ast.walk(module.tree):
            text = _bound(node)
            if text and text not in _NOT_CHOSEN and not _is_dunder(text):
                yield Name(text=text, path=module.path, row=getattr(node, "lineno", 1))


def _bound(node: ast.AST) -> str | None:
    if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
        return node.id
    if isinstance(node, ast.arg):
        return node.arg
    if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
        return node.name
    return None


def _is_dunder(text: str) -> bool:
    return text.startswith("__") and text.endswith("__")


def slang_share(modules: Iterable[SourceModule]) -> float:
    """Return the share of identifiers that are slang, from 0 to 1."""
    names = list(identifiers(modules))
    return sum(name.is_slang for name in names) / len(names) if names else 0.0


def public_names(modules: Iterable[SourceModule]) -> Iterator[Name]:
    """Yield the public names of modules, of their functions, classes and constants, and of the classes' attributes.

    The result excludes parameters, which only `slang_share` counts, and fields that are keys of results.
    """
    for module in modules:
        if not module.is_package:
            yield Name(text=module.path.stem, path=module.path, row=1)
        for node in module.tree.body:
            yield from _public(node, module.path)


def _public(node: ast.stmt, path: Path) -> Iterator[Name]:
    for text in _defined(node):
        if not text.startswith("_"):
            yield Name(text=text, path=path, row=node.lineno)
    if isinstance(node, ast.ClassDef) and not node.name.startswith("_"):
        for member in node.body:
            if not _is_result_key(member):
                yield from _public(member, path)
    elif isinstance(node, ast.If | ast.Try):
        for child in ast.iter_child_nodes(node):
            if isinstance(child, ast.stmt):
                yield from _public(child, path)


def _is_result_key(member: ast.stmt) -> bool:
    return isinstance(member, ast.AnnAssign) and not RESULT_KEYS.isdisjoint(_defined(member))


def _defined(node: ast.stmt) -> Iterator[str]:
    if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
        yield node.name
    elif isinstance(node, ast.Assign):
        for target in node.targets:
            yield from (leaf.id for leaf in ast.walk(target) if isinstance(leaf, ast.Name))
    elif isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name):
        yield node.target.id


def classes_by_name(modules: Iterable[SourceModule]) -> dict[str, list[Name]]:
    """Return the top-level classes of modules by name, including private classes."""
    return _grouped(
        Name(text=node.name, path=module.path, row=node.lineno)
        for module in modules
        for node in module.tree.body
        if isinstance(node, ast.ClassDef)
    )


def modules_by_name(modules: Iterable[SourceModule]) -> dict[str, list[Name]]:
    """Return the modules by file name."""
    return _grouped(Name(text=module.path.stem, path=module.path, row=1) for module in modules)


def _grouped(names: Iterable[Name]) -> dict[str, list[Name]]:
    groups: dict[str, list[Name]] = defaultdict(list)
    for name in names:
        groups[name.text].append(name)
    return dict(sorted(groups.items()))
