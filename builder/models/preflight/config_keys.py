"""The keys that options with JSON values take: the fields of vLLM's configuration classes.

In later releases (0.20.2), `@config` makes every class refuse other keys (`extra="forbid"` in `vllm/config/utils.py`).
In earlier ones (0.15.1), some classes do so by themselves (`@dataclass(config=ConfigDict(extra="forbid"))`), and the
others ignore such keys.
"""

from __future__ import annotations

import ast
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from builder.models.preflight.syntax import Module

_DECORATOR = "config"
_DATACLASSES = (_DECORATOR, "dataclass")
_FORBID = "extra='forbid'"
# A class within a class within an option's class; compilation-config has two levels.
_DEEPEST = 3


class ConfigKeys:
    """The keys of configuration classes, and which classes refuse others."""

    def __init__(self, modules: Sequence[Module]) -> None:
        """Take the modules of `vllm/config`."""
        self._classes = {name: owner for module in modules for name, owner in module.classes.items()}
        decorators = (module.functions(_DECORATOR) for module in modules)
        self._forbids = any(_FORBID in ast.unparse(function) for each in decorators for function in each)

    def keys(self, name: str, depth: int = 1) -> tuple[str, ...]:
        """Return the keys of a class and, after a dot, those of the classes of its fields; () if they are unknown."""
        owner = self._classes.get(name)
        if owner is None or not _decorators(owner) & set(_DATACLASSES):
            return ()
        return tuple(dict.fromkeys(self._of(owner, depth)))

    def refuses_others(self, name: str) -> bool:
        """Return whether a class refuses other keys, and does not ignore them."""
        owner = self._classes.get(name)
        if owner is None:
            return False
        own = any(_FORBID in ast.unparse(decorator) for decorator in owner.decorator_list)
        return own or (self._forbids and _DECORATOR in _decorators(owner))

    def _of(self, owner: ast.ClassDef, depth: int) -> Iterator[str]:
        for base in owner.bases:
            if isinstance(base, ast.Name) and base.id in self._classes:
                yield from self._of(self._classes[base.id], depth)
        for field, annotation in fields(owner):
            yield field
            inner = [node.id for node in ast.walk(annotation) if isinstance(node, ast.Name)]
            if depth < _DEEPEST and len(inner) == 1 and self.refuses_others(inner[0]):
                yield from (f"{field}.{key}" for key in self.keys(inner[0], depth + 1))


def fields(owner: ast.ClassDef) -> Iterator[tuple[str, ast.expr]]:
    """Yield the fields of a dataclass with their annotations."""
    for node in owner.body:
        if isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name):
            yield node.target.id, node.annotation


def class_of(types: set[str], known: ConfigKeys) -> str | None:
    """Return the configuration class among an annotation's types."""
    return next((name for name in sorted(types) if known.keys(name)), None)


def _decorators(owner: ast.ClassDef) -> set[str]:
    called = (node.func if isinstance(node, ast.Call) else node for node in owner.decorator_list)
    return {node.id for node in called if isinstance(node, ast.Name)}
