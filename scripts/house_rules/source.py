"""Reads the modules of a package as syntax trees."""

from __future__ import annotations

import ast
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

_PACKAGE_FILE = "__init__"


@dataclass(frozen=True, kw_only=True, slots=True)
class SourceModule:
    """A module: its dotted name (an `__init__.py` has the package's name), its path, its text and its syntax tree."""

    name: str
    path: Path
    text: str
    tree: ast.Module

    @property
    def is_package(self) -> bool:
        """Whether the module is the `__init__.py` of a package."""
        return self.path.stem == _PACKAGE_FILE

    @property
    def entry(self) -> str:
        """The top-level folder or module of the package that contains it; empty for the package's `__init__.py`."""
        _, _, rest = self.name.partition(".")
        return rest.partition(".")[0]


def read_modules(root: Path) -> tuple[SourceModule, ...]:
    """Read all modules below the folder of a package, sorted by name.

    Raises:
        SyntaxError: a file is not Python.
    """
    return tuple(sorted(_modules(root), key=lambda module: module.name))


def _modules(root: Path) -> Iterator[SourceModule]:
    for path in root.rglob("*.py"):
        names = path.relative_to(root.parent).with_suffix("").parts
        if names[-1] == _PACKAGE_FILE:
            names = names[:-1]
        text = path.read_text(encoding="utf-8")
        yield SourceModule(name=".".join(names), path=path, text=text, tree=ast.parse(text, filename=str(path)))


def functions(module: SourceModule) -> Iterator[ast.FunctionDef | ast.AsyncFunctionDef]:
    """Yield a module's functions, methods and nested functions."""
    for node in ast.walk(module.tree):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            yield node
