"""The part of GitHub's expression language that our workflows use; anything else is an error."""

from __future__ import annotations

import fnmatch
import hashlib
import json
import re
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

_TOKENS = re.compile(r"\s*(?:(?P<op>&&|\|\||==|!=|!|[(),])|'(?P<text>(?:[^']|'')*)'|(?P<name>[A-Za-z_][\w.-]*))")
_TEMPLATE = re.compile(r"\$\{\{(.*?)\}\}", re.DOTALL)


def fill(text: Any, contexts: Mapping[str, Any], folder: Path) -> Any:
    """Return a value with its expressions evaluated; one that is an expression as a whole keeps its type."""
    if not isinstance(text, str):
        return text
    whole = _TEMPLATE.fullmatch(text.strip())
    if whole and "}}" not in whole[1]:
        return evaluate(whole[1], contexts, folder)
    return _TEMPLATE.sub(lambda found: shown(evaluate(found[1], contexts, folder)), text)


def condition(text: str | None, contexts: Mapping[str, Any], folder: Path, *, failed: bool) -> bool:
    """Return whether a job or step runs: unless it asks for the status itself, only if nothing failed before."""
    if text is None:
        return not failed
    inner = _TEMPLATE.fullmatch(text.strip())
    text = inner[1] if inner else text
    asks = re.search(r"\b(always|failure|success|cancelled)\(\)", text)
    return bool(evaluate(text, contexts, folder)) and (bool(asks) or not failed)


def shown(value: Any) -> str:
    """Return a value as it stands in a text."""
    return {None: "", True: "true", False: "false"}.get(value) if value in (None, True, False) else str(value)  # type: ignore[return-value]


def evaluate(text: str, contexts: Mapping[str, Any], folder: Path) -> Any:
    """Return the value of an expression."""
    parser = _Parser(text, contexts, folder)
    value = parser.disjunction()
    assert parser.at == len(parser.tokens), f"not understood: {text}"
    return value


class _Parser:
    def __init__(self, text: str, contexts: Mapping[str, Any], folder: Path) -> None:
        self.tokens: list[tuple[str, str]] = []
        self.contexts, self.folder, self.at = contexts, folder, 0
        end = 0
        while end < len(text.rstrip()):
            found = _TOKENS.match(text, end)
            assert found, f"not understood: {text[end:]}"
            self.tokens.append((str(found.lastgroup), found[str(found.lastgroup)]))
            end = found.end()

    def disjunction(self) -> Any:
        value = self.conjunction()
        while self.takes("||"):
            other = self.conjunction()
            value = value or other
        return value

    def conjunction(self) -> Any:
        value = self.comparison()
        while self.takes("&&"):
            other = self.comparison()
            value = value and other
        return value

    def comparison(self) -> Any:
        value = self.unary()
        if self.takes("=="):
            return self.same(value, self.unary())
        return not self.same(value, self.unary()) if self.takes("!=") else value

    def same(self, one: Any, two: Any) -> bool:
        return one.lower() == two.lower() if isinstance(one, str) and isinstance(two, str) else one == two

    def unary(self) -> Any:
        return not self.unary() if self.takes("!") else self.primary()

    def primary(self) -> Any:
        if self.takes("("):
            value = self.disjunction()
            assert self.takes(")")
            return value
        kind, text = self.tokens[self.at]
        self.at += 1
        if kind == "text":
            return text.replace("''", "'")
        assert kind == "name", f"not understood: {text}"
        return self.call(text) if self.takes("(") else self.look_up(text)

    def takes(self, symbol: str) -> bool:
        there = self.at < len(self.tokens) and self.tokens[self.at] == ("op", symbol)
        self.at += there
        return there

    def look_up(self, name: str) -> Any:
        if name in ("true", "false"):
            return name == "true"
        value: Any = self.contexts
        first, *rest = name.split(".")
        assert first in self.contexts, f"there is no context `{first}`"
        value = self.contexts[first]
        for part in rest:
            value = value.get(part) if value else None
        return "" if value is None else value

    def call(self, name: str) -> Any:
        arguments: list[Any] = []
        while not self.takes(")"):
            arguments.append(self.disjunction())
            self.takes(",")
        if name in ("always", "success"):
            return True
        if name == "fromJSON":
            return json.loads(arguments[0])
        assert name == "hashFiles", f"there is no function `{name}`"
        return self.hash_files(arguments)

    def hash_files(self, patterns: list[str]) -> str:
        paths = sorted(str(path.relative_to(self.folder)) for path in self.folder.rglob("*") if path.is_file())
        found = [path for path in paths if any(fnmatch.fnmatch(path, pattern) for pattern in patterns)]
        texts = [(self.folder / path).read_bytes() for path in found]
        return hashlib.sha256(b"".join(texts)).hexdigest() if texts else ""
