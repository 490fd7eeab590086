"""TOML documents and their tables, read key by key; mistakes are noted with line, key path and the right spelling."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, TypeVar, cast

from builder.errors import DocumentError, Problem
from builder.host.toml.positions import Key, line_numbers
from builder.host.wording import key_path, nearest, printable, suggest

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator
    from pathlib import Path

_T = TypeVar("_T")
REQUIRED: Any = object()
# A pattern, and the noun for what it matches as a whole.
_Rule = tuple[str, str]
Advice = Callable[[str], "str | None"]
_ANY = ("(?s:.*)", "a string")
_NOUNS: dict[type, str] = {
    bool: "true or false",
    str: "a string",
    int: "a whole number",
    float: "a number",
    list: "a list",
    dict: "a table",
}
_LIST_OF_TABLES = "a list of tables"
# The most tables that a hint names for a key of theirs.
_MOST_HOMES = 2
# From this similarity on, a key of the same table is meant, not one of another.
_SURE = 0.8


@dataclass(slots=True)
class Document:
    """A parsed TOML file and the mistakes found in it so far."""

    path: Path
    data: dict[str, Any]
    text: str
    problems: list[Problem] = field(default_factory=list)
    _tables: list[Table] = field(default_factory=list)
    _lines: dict[tuple[Key, ...], int] | None = None

    def line_of(self, path: tuple[Key, ...]) -> int | None:
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
            Problem(path=self.path, line=self.line_of(path), key=key_path(path), message=message, hint=hint)
        )

    def root(self) -> Table:
        """Return the document's top table."""
        return Table(self, (), self.data)

    def add(self, table: Table) -> None:
        """Note a table that is read, for `homes`."""
        self._tables.append(table)

    def homes(self, table: Table, key: str, value: object) -> list[Table]:
        """Return the other tables that read such a key, one of each name; none if they are too many for a hint."""
        found = {other.names: other for other in self._tables if other.takes(key, value)}
        found.pop(table.names, None)
        return list(found.values()) if len(found) <= _MOST_HOMES else []

    def finish(self, title: str) -> None:
        """Raise all mistakes noted so far.

        Raises:
            DocumentError: there is at least one.
        """
        for table in self._tables:
            table.note_strays()
        if self.problems:
            raise DocumentError(title, sorted(self.problems, key=lambda p: (p.line or 0, p.key)))


class Table:
    """A table of a document, read key by key; keys that stay unread are unknown ones."""

    def __init__(
        self, document: Document, path: tuple[Key, ...], data: dict[str, Any], *, is_map: bool = False
    ) -> None:
        """Read `data` at `path` of `document`; the user chooses the keys of a map."""
        self.document = document
        self.path = path
        self._data = data
        # The nouns of the known keys' values; empty if another module checks the value.
        self._keys: dict[str, str] = {}
        self._unknown: list[str] = []
        self._left: set[str] = set()
        self._strays: list[tuple[str, int]] = []
        self._is_map = is_map
        document.add(self)

    def __contains__(self, key: str) -> bool:
        return key in self._data

    def __iter__(self) -> Iterator[str]:
        return iter(list(self._data))

    def problem(self, key: str | tuple[Key, ...] | None, message: str, hint: str | None = None) -> None:
        """Note a mistake at a key of this table, at a path below it, or at the table itself."""
        keys = (key,) if isinstance(key, str) else key or ()
        self.document.problem((*self.path, *keys), message, hint)

    def value(self, key: str, kind: type[_T] | tuple[type, ...], default: _T, noun: str) -> _T:
        """Return a value of one type; a wrong type is a problem and gives the default."""
        self._keys[key] = noun
        value = self._data.get(key, REQUIRED)
        if value is REQUIRED:
            if default is REQUIRED:
                self.problem(None, f"`{key}` is missing", f"add `{key} = …` ({noun})")
            return default
        # TOML's booleans are Python ints too; only an explicit bool accepts them.
        if not isinstance(value, kind) or (isinstance(value, bool) and kind is not bool):
            hint = self._brackets(key, value, noun) or _fix(value, kind)
            self.problem(key, f"must be {noun}, not {_noun(value)}", hint)
            return default
        return cast("_T", value)

    def _brackets(self, key: str, value: object, noun: str) -> str | None:
        """Return a hint at a header with the brackets of the other kind of table, or at a missing header."""
        header = self.header_of(key)
        if noun == _LIST_OF_TABLES:
            is_table = isinstance(value, dict)
            return f"write {header}, with two brackets on each side" if is_table else f"write {header} tables"
        if noun == _NOUNS[dict] and _is_list_of_tables(value):
            return f"write {header}, with one bracket on each side, and only once"
        return None

    def string(
        self,
        key: str,
        default: str = REQUIRED,
        *,
        pattern: str | None = None,
        noun: str = "a string",
        advise: Advice | None = None,
    ) -> str:
        """Return a string that matches a pattern as a whole; `advise` returns the hint for one that does not."""
        value = self.value(key, str, default, noun)
        if pattern and key in self._data and isinstance(value, str) and not re.fullmatch(pattern, value):
            self.problem(key, f"`{printable(value)}` is not {noun}", advise and advise(value))
        return "" if value is REQUIRED else value

    def optional_string(self, key: str, *, pattern: str | None = None, noun: str = "a string") -> str | None:
        """Return a string, or None if the key is absent."""
        self.expect([key])
        return self.string(key, pattern=pattern, noun=noun) if key in self._data else None

    def boolean(self, key: str, *, default: bool) -> bool:
        """Return true or false."""
        return self.value(key, bool, default, "true or false")

    def integer(self, key: str, default: int = REQUIRED, *, low: int = 0, high: int = 2**62) -> int:
        """Return a whole number within bounds."""
        return int(self.bounded(key, int, default, "a whole number", low, high))

    def number(self, key: str, default: float = REQUIRED, *, low: float = 0, high: float = 1e12) -> float:
        """Return a number within bounds."""
        return float(self.bounded(key, (int, float), default, "a number", low, high))

    def bounded(self, key: str, kind: Any, default: Any, noun: str, low: float, high: float) -> Any:
        """Return a number of one type within bounds; another value is a problem and gives the default, else `low`."""
        value = self.value(key, kind, default, noun)
        if key in self._data and isinstance(value, (int, float)) and not low <= value <= high:
            self.problem(key, f"{printable(str(value))} is out of bounds", f"{noun} from {low} to {high}")
            value = default
        return low if value is REQUIRED else value

    def strings(
        self, key: str, *, pattern: str | None = None, noun: str = "a list of strings", advise: Advice | None = None
    ) -> tuple[str, ...]:
        """Return a list of strings, each matching a pattern as a whole; absent means empty.

        `advise` returns the hint for a string that does not match.
        """
        strings: list[str] = []
        for index, item in enumerate(self.value(key, list, [], "a list of strings")):
            if not isinstance(item, str):
                self.problem((key, index), f"must be a string, not {_noun(item)}", _fix(item, str))
            elif pattern and not re.fullmatch(pattern, item):
                self.problem((key, index), f"`{printable(item)}` is not {noun}", advise and advise(item))
            else:
                strings.append(item)
        return tuple(strings)

    def string_map(self, key: str, keys: _Rule = _ANY, values: _Rule = _ANY) -> tuple[tuple[str, str], ...]:
        """Return a table of strings as pairs in file order; `keys` and `values` are pattern and noun."""
        table = self._map(key, keys)
        return tuple((name, table.string(name, pattern=values[0], noun=values[1])) for name in table)

    def boolean_map(self, key: str, keys: _Rule = _ANY) -> tuple[tuple[str, bool], ...]:
        """Return a table of true and false as pairs in file order; `keys` is pattern and noun."""
        table = self._map(key, keys)
        return tuple((name, bool(table.value(name, bool, False, "true or false"))) for name in table)

    def list_map(self, key: str, keys: _Rule = _ANY, items: _Rule = _ANY) -> tuple[tuple[str, tuple[str, ...]], ...]:
        """Return a table of lists of strings as pairs in file order; `keys` and `items` are pattern and noun."""
        table = self._map(key, keys)
        return tuple((name, table.strings(name, pattern=items[0], noun=items[1])) for name in table)

    def _map(self, key: str, keys: _Rule) -> Table:
        """Return a table whose keys are names that the user chose."""
        table = self.table(key, is_map=True)
        for name in table:
            if not re.fullmatch(keys[0], name):
                table.problem(name, f"`{printable(name)}` is not {keys[1]}")
        return table

    def table(self, key: str, *, is_map: bool = False) -> Table:
        """Return a table below this one, or a map, whose keys the user chooses; absent means empty."""
        return Table(self.document, (*self.path, key), self.value(key, dict, {}, _NOUNS[dict]), is_map=is_map)

    def tables(self, key: str) -> Iterator[Table]:
        """Yield the tables of an array of tables; absent means none."""
        for index, item in enumerate(self.value(key, list, [], _LIST_OF_TABLES)):
            if isinstance(item, dict):
                yield Table(self.document, (*self.path, key, index), item)
            else:
                self._strays.append((key, index))

    def rows(self, key: str) -> Iterator[Table]:
        """Yield the tables of an array of tables; the keys of each that are not read in its turn are unknown ones."""
        for table in self.tables(key):
            yield table
            table.done()

    def strings_and_tables(self, key: str) -> Iterator[tuple[int, str | Table]]:
        """Yield the items of a list of strings and tables with their indexes; absent means none."""
        for index, item in enumerate(self.value(key, list, [], "a list")):
            if isinstance(item, str):
                yield index, item
            elif isinstance(item, dict):
                yield index, Table(self.document, (*self.path, key, index), item)
            else:
                self.problem((key, index), f"must be a string or a table, not {_noun(item)}", _fix(item, str))

    def raw(self, key: str) -> Any:
        """Return a value of any type, or None; the caller checks it."""
        self.expect([key])
        return self._data.get(key)

    def expect(self, keys: Iterable[str]) -> None:
        """Count keys as known, whether they are read or not."""
        for key in keys:
            self._keys.setdefault(key, "")

    def leave(self, key: str) -> None:
        """Leave an unknown key to the caller, who notes the mistake."""
        self._left.add(key)

    def done(self, more: Iterable[str] = ()) -> None:
        """Count every key that was not read, nor is one of `more`, as unknown: `note_strays` notes it, once."""
        self.expect(more)
        noted = {*self._keys, *self._left}
        self._unknown += [key for key in self._data if key not in noted]
        self._left.update(self._unknown)

    @property
    def names(self) -> tuple[str, ...]:
        """The path without the indexes of lists."""
        return tuple(key for key in self.path if isinstance(key, str))

    def takes(self, key: str, value: object) -> bool:
        """Return whether a key is read in this table, with such a value; names that users choose are not."""
        if self._is_map or key not in self._keys:
            return False
        holds_tables = self._keys[key] in (_NOUNS[dict], _LIST_OF_TABLES)
        return holds_tables == (isinstance(value, dict) or _is_list_of_tables(value))

    def note_strays(self) -> None:
        """Note unknown keys, and values in lists of tables: each with the table that it belongs to, if there is one."""
        for key in self._unknown:
            is_typo = nearest(key, self._keys, least=_SURE)
            hint = (not is_typo and self._home_of(key)) or suggest(key, self._keys, noun="valid here")
            self.problem(key, f"unknown key `{printable(key)}`", hint)
        for key, index in self._strays:
            hint = self._home_of(key) or f"write {self.header_of(key)} tables"
            self.problem((key, index), f"must be a table, not {_noun(self._data[key][index])}", hint)
        self._unknown.clear()
        self._strays.clear()

    def _home_of(self, key: str) -> str | None:
        value = self._data[key]
        homes = sorted(self.document.homes(self, key, value), key=lambda home: not home.path)
        if not homes:
            return None
        if isinstance(value, dict) or _is_list_of_tables(value):
            return f"write {' or '.join(home.header_of(key) for home in homes)}"
        return f"write it {' or '.join(home.location() for home in homes)}"

    def header_of(self, key: str) -> str:
        """Return the header of a table below this one."""
        name = key_path((*self.names, key))
        return f"`[[{name}]]`" if self._keys[key] == _LIST_OF_TABLES else f"`[{name}]`"

    def location(self) -> str:
        """Return where the keys of this table are written."""
        if not self.path:
            return "above the first `[table]`"
        name = key_path(self.names)
        return f"under `[[{name}]]`" if isinstance(self.path[-1], int) else f"under `[{name}]`"


def pattern_of(table: Table, key: str) -> re.Pattern[str]:
    """Return a regular expression; a wrong one is a problem and gives one without matches."""
    try:
        return re.compile(table.string(key))
    except re.error as error:
        table.problem(key, f"not a regular expression: {error}")
        return re.compile(r"(?!)")


def _is_list_of_tables(value: object) -> bool:
    return isinstance(value, list) and bool(value) and all(isinstance(item, dict) for item in value)


def _noun(value: object) -> str:
    # Python's booleans are whole numbers, too.
    return next((noun for kind, noun in _NOUNS.items() if isinstance(value, kind)), "a date or time")


def _fix(value: object, kind: type | tuple[type, ...]) -> str | None:
    """Return a hint for a value of the wrong type, if the right spelling is clear."""
    is_number = isinstance(value, (int, float)) and not isinstance(value, bool)
    if kind is str and is_number:
        return f'write it in quotes: "{value}"'
    if kind is list and (is_number or isinstance(value, str)):
        return f"write it as a list: [{json.dumps(printable(str(value)), ensure_ascii=False)}]"
    if isinstance(value, str) and kind is not str and _plain(value, kind):
        return f"write it without quotes: {value}"
    return None


def _plain(text: str, kind: type | tuple[type, ...]) -> bool:
    """Return whether a text would be a value of a type without its quotes."""
    if kind is bool:
        return text in ("true", "false")
    number = r"-?(0|[1-9]\d*)" if kind is int else r"-?(0|[1-9]\d*)(\.\d+)?"
    return kind in (int, (int, float)) and re.fullmatch(number, text) is not None
