"""Reads literals out of the syntax trees of Python modules, without running them."""

from __future__ import annotations

import ast
import warnings
from functools import cached_property
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

# Larger modules are generated code; vLLM's largest one that is read here has 0.2 MB.
_LONGEST = 4 << 20


class Module:
    """The syntax tree of a module; an unreadable one has nothing in it."""

    def __init__(self, source: bytes | None) -> None:
        """Parse a module's source."""
        self._tree = _parsed(source)

    @cached_property
    def assignments(self) -> dict[str, ast.expr]:
        """The values that names get outside functions and classes; the last one counts."""
        return {name: value for statement in _statements(self._tree.body) for name, value in _assigned(statement)}

    @cached_property
    def classes(self) -> dict[str, ast.ClassDef]:
        """The classes at the top level by name."""
        return {statement.name: statement for statement in self._tree.body if isinstance(statement, ast.ClassDef)}

    def function(self, name: str) -> ast.FunctionDef | None:
        """Return a function at the top level."""
        functions = (node for node in self._tree.body if isinstance(node, ast.FunctionDef))
        return next((node for node in functions if node.name == name), None)

    def functions(self, name: str) -> tuple[ast.FunctionDef, ...]:
        """Return all functions of a name at the top level: overloads, and the function itself."""
        return tuple(node for node in self._tree.body if isinstance(node, ast.FunctionDef) and node.name == name)

    def values(self, name: str) -> Iterator[ast.expr]:
        """Yield every value that a name is assigned outside functions, and the arguments of `name.update(...)`."""
        for statement in _statements(self._tree.body):
            yield from (value for target, value in _assigned(statement) if target == name)
            if isinstance(statement, ast.Expr):
                yield from (value for call in calls([statement.value], "update") for value in _updates(call, name))

    def strings(self, name: str) -> tuple[str, ...]:
        """Return the strings of a list, tuple, set or `Literal` that a name is assigned."""
        return strings(self.assignments.get(name))

    def keys(self, name: str) -> tuple[str, ...]:
        """Return the keys of a dictionary that a name is assigned: a display, a call with keywords, or pairs."""
        return keys(self.assignments.get(name))

    def nodes(self) -> Iterator[ast.AST]:
        """Yield all nodes of the tree."""
        return ast.walk(self._tree)

    def calls(self, name: str) -> Iterator[ast.Call]:
        """Yield the calls of a method or function of this name."""
        return calls(self.nodes(), name)

    def imports(self) -> dict[str, str]:
        """Return the module of each name that the module imports, at any depth: `.awq` or `vllm.x.awq`."""
        return dict(_imports(self._tree))


def _parsed(source: bytes | None) -> ast.Module:
    if source is None or len(source) > _LONGEST:
        return ast.Module(body=[], type_ignores=[])
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return ast.parse(source)
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return ast.Module(body=[], type_ignores=[])


def _statements(body: Sequence[ast.stmt]) -> Iterator[ast.stmt]:
    """Yield the statements of a module, with those under `if`, `else` and `try`."""
    for statement in body:
        yield statement
        if isinstance(statement, (ast.If, ast.Try)):
            yield from _statements((*statement.body, *statement.orelse))


def _assigned(statement: ast.stmt) -> Iterator[tuple[str, ast.expr]]:
    if isinstance(statement, ast.AnnAssign) and isinstance(statement.target, ast.Name) and statement.value:
        yield statement.target.id, statement.value
    if isinstance(statement, ast.Assign):
        yield from ((target.id, statement.value) for target in statement.targets if isinstance(target, ast.Name))


def _imports(tree: ast.AST) -> Iterator[tuple[str, str]]:
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom):
            module = "." * node.level + (node.module or "")
            yield from ((alias.asname or alias.name, module) for alias in node.names)


def strings(node: ast.AST | None) -> tuple[str, ...]:
    """Return the strings of a list, tuple, set, `Literal` or single constant, in their order."""
    if isinstance(node, ast.Constant):
        return (node.value,) if isinstance(node.value, str) else ()
    if isinstance(node, (ast.List, ast.Tuple, ast.Set)):
        return tuple(text for element in node.elts for text in strings(element))
    if isinstance(node, ast.Subscript):
        return strings(node.slice)
    return ()


def keys(node: ast.AST | None) -> tuple[str, ...]:
    """Return the constant keys of a dictionary display, of `name(key=...)`, or of `OrderedDict([(key, ...)])`."""
    if isinstance(node, ast.Dict):
        return tuple(text for key in node.keys for text in strings(key))
    if isinstance(node, ast.Call):
        pairs = [argument for argument in node.args if isinstance(argument, (ast.List, ast.Tuple))]
        named = tuple(keyword.arg for keyword in node.keywords if keyword.arg)
        named += tuple(text for keyword in node.keywords if keyword.arg is None for text in keys(keyword.value))
        return named + tuple(text for each in pairs for pair in each.elts for text in _first(pair))
    return ()


def _updates(call: ast.Call, name: str) -> Sequence[ast.expr]:
    owner = call.func.value if isinstance(call.func, ast.Attribute) else None
    return call.args if isinstance(owner, ast.Name) and owner.id == name else ()


def _first(pair: ast.expr) -> tuple[str, ...]:
    return strings(pair.elts[0]) if isinstance(pair, ast.Tuple) and pair.elts else ()


def pairs(node: ast.AST | None) -> dict[str, ast.expr]:
    """Return the values of a dictionary display by their constant keys."""
    if not isinstance(node, ast.Dict):
        return {}
    return {text: value for key, value in zip(node.keys, node.values, strict=True) for text in strings(key)}


def calls(nodes: Iterable[ast.AST], name: str) -> Iterator[ast.Call]:
    """Yield the calls of a method or function of this name among nodes."""
    for node in nodes:
        if isinstance(node, ast.Call) and isinstance(node.func, (ast.Attribute, ast.Name)):
            called = node.func.attr if isinstance(node.func, ast.Attribute) else node.func.id
            if called == name:
                yield node


def method(owner: ast.ClassDef, name: str) -> ast.FunctionDef | None:
    """Return a method of a class."""
    return next((node for node in owner.body if isinstance(node, ast.FunctionDef) and node.name == name), None)


def returned(function: ast.FunctionDef | None) -> ast.expr | None:
    """Return what a function returns if it has one `return` only: several depend on more than its text."""
    results = [node.value for node in ast.walk(function) if isinstance(node, ast.Return)] if function else []
    return results[0] if len(results) == 1 else None


def number(node: ast.expr | None) -> int | None:
    """Return a whole number, which may be negative."""
    try:
        value = ast.literal_eval(node) if node else None
    except ValueError:
        return None
    return value if isinstance(value, int) and not isinstance(value, bool) else None
