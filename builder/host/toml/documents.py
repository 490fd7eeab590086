"""TOML documents whose mistakes can be located: file, line, key path, nearest valid name, all at once."""

from __future__ import annotations

import difflib
import re
import sys
from contextlib import suppress
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, TypeVar, cast

from builder.errors import DocumentError, Problem
from builder.host.toml.positions import Key, line_numbers

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator
    from pathlib import Path

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

_T = TypeVar("_T")
_MISSING: Any = object()
_BARE_KEY = re.compile(r"[A-Za-z0-9_-]+")
_SHOWN = 200
# As many names as are read at a glance.
_FEW = 4


def nearest(name: str, names: Iterable[str]) -> str | None:
    """Return the name that is most like `name`, or None if nothing is near."""
    found = difflib.get_close_matches(name, list(names), n=1, cutoff=0.5)
    return found[0] if found else None


def suggest(name: str, names: Iterable[str], *, noun: str = "valid") -> str:
    """Return a hint that names the nearest choice, those that begin with the name if several do, else all choices."""
    choices = sorted(set(names))
    begun = [choice for choice in choices if name and choice.startswith(name)]
    if 1 < len(begun) <= _FEW:
        return f"did you mean {', '.join(f'`{choice}`' for choice in begun[:-1])} or `{begun[-1]}`?"
    near = nearest(name, choices)
    if near:
        return f"did you mean `{near}`?"
    return f"{noun}: {', '.join(choices)}" if choices else "there are none"


def printable(text: str) -> str:
    """Write a value as a message may show it: short, on one line, without anything a terminal would obey."""
    text = "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text[: _SHOWN + 1])
    return text if len(text) <= _SHOWN else f"{text[:_SHOWN]}…"


def key_path(path: Iterable[Key]) -> str:
    """Write a key path as people do: `models[0].source`."""
    text = ""
    for part in path:
        if isinstance(part, int):
            text += f"[{part}]"
            continue
        name = part if _BARE_KEY.fullmatch(part) else f'"{printable(part)}"'
        text += f".{name}" if text else name
    return text


@dataclass(slots=True)
class Document:
    """A parsed TOML file and the mistakes found in it so far."""

    path: Path
    data: dict[str, Any]
    text: str
    problems: list[Problem] = field(default_factory=list)
    _lines: dict[tuple[Key, ...], int] | None = None

    def line(self, path: tuple[Key, ...]) -> int | None:
        """Return the line of a key, or of the nearest table around it."""
        if self._lines is None:  # only mistakes need it, and most documents have none
            with suppress(RecursionError):
                self._lines = line_numbers(self.text)
            self._lines = self._lines or {}
        while path:
            if path in self._lines:
                return self._lines[path]
            path = path[:-1]
        return None

    def problem(self, path: tuple[Key, ...], message: str, hint: str | None = None) -> None:
        """Note a mistake at a key path."""
        self.problems.append(
            Problem(path=self.path, line=self.line(path), key=key_path(path), message=message, hint=hint)
        )

    def root(self) -> Table:
        """Return the document's top table."""
        return Table(self, (), self.data)

    def finish(self, title: str) -> None:
        """Raise all mistakes noted so far.

        Raises:
            DocumentError: there is at least one.
        """
        if self.problems:
            raise DocumentError(title, sorted(self.problems, key=lambda p: (p.line or 0, p.key)))


def read(path: Path) -> Document:
    """Parse a TOML file.

    Raises:
        DocumentError: the file cannot be read or is not TOML.
    """
    try:
        text = path.read_text(encoding="utf-8")
        return Document(path=path, data=tomllib.loads(text), text=text)
    except tomllib.TOMLDecodeError as error:
        at = re.search(r"at line (\d+)", str(error))
        # What is cut short is noticed at the end.
        line = int(at.group(1)) if at else len(text.rstrip().splitlines())
        problem = Problem(path=path, line=line, key="", message=f"not valid TOML: {printable(str(error))}")
    except RecursionError:
        problem = Problem(path=path, line=None, key="", message="not valid TOML: nested too deeply")
    except (OSError, ValueError) as error:
        problem = Problem(path=path, line=None, key="", message=f"cannot be read: {_reason(error)}")
    raise DocumentError(f"{path.name} cannot be read", [problem])


def _reason(error: OSError | ValueError) -> str:
    if isinstance(error, OSError):
        return error.strerror or type(error).__name__
    # Besides bad UTF-8, the parser lets Python's limit on the digits of a number through.
    return "not UTF-8 text" if isinstance(error, UnicodeDecodeError) else str(error)


class Table:
    """One table of a document, read key by key; what is left unread is an unknown key."""

    def __init__(self, document: Document, path: tuple[Key, ...], data: dict[str, Any]) -> None:
        """Read `data`, found at `path` of `document`."""
        self.document = document
        self.path = path
        self._data = data
        self._known: set[str] = set()

    def __contains__(self, key: str) -> bool:
        return key in self._data

    def __iter__(self) -> Iterator[str]:
        return iter(list(self._data))

    def problem(self, key: str | None, message: str, hint: str | None = None) -> None:
        """Note a mistake at a key of this table, or at the table itself."""
        self.document.problem((*self.path, key) if key is not None else self.path, message, hint)

    def value(self, key: str, kind: type[_T] | tuple[type, ...], default: _T, noun: str) -> _T:
        """Return a value of one type; a wrong type is a problem and gives the default."""
        self._known.add(key)
        found = self._data.get(key, _MISSING)
        if found is _MISSING:
            if default is _MISSING:
                self.problem(None, f"`{key}` is missing", f"add `{key} = …` ({noun})")
            return default
        # TOML's booleans are Python ints too; only an explicit bool accepts them.
        if not isinstance(found, kind) or (isinstance(found, bool) and kind is not bool):
            self.problem(key, f"must be {noun}, not {_noun(found)}", _mend(found, kind))
            return default
        return cast("_T", found)

    def string(self, key: str, default: str = _MISSING, *, pattern: str | None = None, noun: str = "a string") -> str:
        """Return a string that matches a pattern as a whole."""
        found = self.value(key, str, default, noun)
        if isinstance(found, str) and key in self._data:
            self._check(key, found, pattern, noun)
            return found
        return "" if default is _MISSING else default

    def optional_string(self, key: str, *, pattern: str | None = None, noun: str = "a string") -> str | None:
        """Return a string, or None if the key is absent."""
        self._known.add(key)
        return self.string(key, pattern=pattern, noun=noun) if key in self._data else None

    def boolean(self, key: str, *, default: bool) -> bool:
        """Return true or false."""
        return self.value(key, bool, default, "true or false")

    def integer(self, key: str, default: int = _MISSING, *, low: int = 0, high: int = 2**62) -> int:
        """Return a whole number within bounds."""
        return int(self._number(key, int, default, low=low, high=high, noun="a whole number"))

    def number(self, key: str, default: float = _MISSING, *, low: float = 0, high: float = 1e12) -> float:
        """Return a number within bounds."""
        return float(self._number(key, (int, float), default, low=low, high=high, noun="a number"))

    def strings(self, key: str, *, pattern: str | None = None, noun: str = "a list of strings") -> tuple[str, ...]:
        """Return a list of strings, each matching a pattern as a whole; absent means empty."""
        found: list[Any] = self.value(key, list, [], "a list of strings")
        kept: list[str] = []
        for index, item in enumerate(found):
            if not isinstance(item, str):
                self.document.problem(
                    (*self.path, key, index), f"must be a string, not {_noun(item)}", _mend(item, str)
                )
                continue
            if pattern and not re.fullmatch(pattern, item):
                self.document.problem((*self.path, key, index), f"`{printable(item)}` is not {noun}")
                continue
            kept.append(item)
        return tuple(kept)

    def string_map(
        self,
        key: str,
        *,
        key_pattern: str | None = None,
        value_pattern: str | None = None,
        noun: str = "a string",
        key_noun: str | None = None,
    ) -> tuple[tuple[str, str], ...]:
        """Return a table of strings as pairs in file order; absent means empty."""
        table = self.table(key)
        pairs = []
        for name in table:
            if key_pattern and not re.fullmatch(key_pattern, name):
                table.problem(name, f"`{printable(name)}` is not {key_noun or 'a valid name here'}")
            pairs.append((name, table.string(name, pattern=value_pattern, noun=noun)))
        return tuple(pairs)

    def table(self, key: str) -> Table:
        """Return a table below this one; absent means empty."""
        found = self.value(key, dict, {}, "a table")
        return Table(self.document, (*self.path, key), found)

    def tables(self, key: str) -> Iterator[Table]:
        """Yield the tables of an array of tables; absent means none."""
        for index, item in enumerate(self.value(key, list, [], "a list of tables")):
            if isinstance(item, dict):
                yield Table(self.document, (*self.path, key, index), item)
            else:
                self.document.problem((*self.path, key, index), f"must be a table, not {_noun(item)}")

    def strings_and_tables(self, key: str) -> Iterator[tuple[int, str | Table]]:
        """Yield the items of a list, which are strings or tables, with their places; absent means none."""
        for index, item in enumerate(self.value(key, list, [], "a list")):
            if isinstance(item, str):
                yield index, item
            elif isinstance(item, dict):
                yield index, Table(self.document, (*self.path, key, index), item)
            else:
                self.document.problem(
                    (*self.path, key, index), f"must be a string or a table, not {_noun(item)}", _mend(item, str)
                )

    def raw(self, key: str) -> Any:
        """Return a value of any type, or None; the caller checks it."""
        self._known.add(key)
        return self._data.get(key)

    def expect(self, keys: Iterable[str]) -> None:
        """Make keys known, whether they are read or not."""
        self._known.update(keys)

    def done(self, also: Iterable[str] = ()) -> None:
        """Note every key that was not read as unknown, with the nearest name that is."""
        valid = self._known | set(also)
        for key in self._data:
            if key not in valid:
                self.problem(key, f"unknown key `{printable(key)}`", suggest(key, valid, noun="valid here"))

    def _check(self, key: str, found: str, pattern: str | None, noun: str) -> None:
        if pattern and not re.fullmatch(pattern, found):
            self.problem(key, f"`{printable(found)}` is not {noun}")

    def _number(self, key: str, kind: Any, default: float, *, low: float, high: float, noun: str) -> float:
        found: Any = self.value(key, kind, default, noun)
        if found is _MISSING:
            return 0
        if key in self._data and isinstance(found, (int, float)) and not low <= found <= high:
            self.problem(key, f"{printable(str(found))} is out of bounds", f"{noun} from {low} to {high}")
            return low
        return cast("float", found)


def pattern_of(table: Table, key: str) -> re.Pattern[str]:
    """Return a regular expression; a wrong one is a problem and gives one that matches nothing."""
    try:
        return re.compile(table.string(key))
    except re.error as error:
        table.problem(key, f"no regular expression: {error}")
        return re.compile(r"(?!)")


def _noun(value: object) -> str:
    if isinstance(value, bool):
        return "true or false"
    nouns: dict[type, str] = {
        str: "a string",
        int: "a whole number",
        float: "a number",
        list: "a list",
        dict: "a table",
    }
    return nouns.get(type(value), "a date or time")


def _mend(found: object, kind: type | tuple[type, ...]) -> str | None:
    """Return how to write a value of the wrong type, where that is plain to see."""
    if kind is str and isinstance(found, (int, float)) and not isinstance(found, bool):
        return f'write it in quotes: "{found}"'
    if kind is list and isinstance(found, str):
        return f'write it as a list: ["{printable(found)}"]'
    return None


def load(path: Path, title: str, parse: Callable[[Table], _T]) -> _T:
    """Read and parse a file.

    Raises:
        DocumentError: it cannot be read, or has mistakes.
    """
    return collect(read(path), title, parse)


def collect(document: Document, title: str, parse: Callable[[Table], _T]) -> _T:
    """Parse a document's top table, then raise all its mistakes together.

    Raises:
        DocumentError: the document has mistakes.
    """
    root = document.root()
    result = parse(root)
    root.done()
    document.finish(title)
    return result
