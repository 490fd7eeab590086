from __future__ import annotations

import json
import sys
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from builder.host.toml.positions import Key, line_numbers

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

KEYS = st.one_of(
    st.from_regex(r"\A[A-Za-z0-9_-]{1,6}\Z"),
    st.text(alphabet="ab.=#[]{}\"'\\\n\té ", max_size=5),
)
SCALARS = st.one_of(
    st.integers(-1000, 1000),
    st.booleans(),
    st.text(alphabet="ab,=#[]{}\"'\\\n\té ", max_size=8),
    st.floats(allow_nan=False, allow_infinity=False, width=16),
)
VALUES = st.recursive(
    SCALARS,
    lambda inner: st.one_of(st.lists(inner, max_size=3), st.dictionaries(KEYS, inner, max_size=3)),
    max_leaves=6,
)
TABLES = st.recursive(
    st.dictionaries(KEYS, VALUES, max_size=3),
    lambda inner: st.dictionaries(KEYS, st.one_of(VALUES, inner, st.lists(inner, min_size=1, max_size=3)), max_size=4),
    max_leaves=8,
)


def quoted(key: str) -> str:
    if key and all(c.isascii() and (c.isalnum() or c in "_-") for c in key):
        return key
    return json.dumps(key)


class Writer:
    """Writes TOML and keeps the line of each key path, to compare with."""

    def __init__(self, draw: Any) -> None:
        self.draw = draw
        self.text = ""
        self.lines: dict[tuple[Key, ...], int] = {}

    @property
    def line(self) -> int:
        return self.text.count("\n") + 1

    def put(self, text: str) -> None:
        self.text += text

    def gap(self) -> None:
        self.put(self.draw(st.sampled_from(["", "", "\n", "# a = 1\n", " \n#[b]\n"])))

    def value(self, path: tuple[Key, ...], value: Any) -> None:
        if isinstance(value, dict):
            self.put("{ ")
            for n, (key, item) in enumerate(value.items()):
                self.put(", " if n else "")
                self.pair((*path, key), item)
            self.put(" }")
        elif isinstance(value, list):
            self.put("[")
            for n, item in enumerate(value):
                self.put(self.draw(st.sampled_from(["", "\n", " # , ]\n", "\n\n  "])))
                where = (*path, n)
                self.lines[where] = self.line
                self.value(where, item)
                self.put(", " if n + 1 < len(value) or self.draw(st.booleans()) else "")
            self.put("]")
        elif isinstance(value, str):
            self.string(value)
        else:
            self.put(json.dumps(value))

    def string(self, value: str) -> None:
        forms = [json.dumps(value, ensure_ascii=False)]
        if "'" not in value and "\n" not in value:
            forms.append(f"'{value}'")
        if "'" not in value:
            forms.append(f"'''\n{value}'''")
        forms.append('"""\n' + value.replace("\\", "\\\\").replace('"', '\\"') + '"""')
        self.put(self.draw(st.sampled_from(forms)))

    def pair(self, path: tuple[Key, ...], value: Any) -> None:
        self.lines[path] = self.line
        self.put(f"{quoted(str(path[-1]))} = ")
        self.value(path, value)

    def table(self, path: tuple[Key, ...], names: tuple[str, ...], table: dict[str, Any]) -> None:
        inner = {k: v for k, v in table.items() if isinstance(v, dict) and self.draw(st.booleans())}
        arrays = {k: v for k, v in table.items() if v and isinstance(v, list) and all(isinstance(i, dict) for i in v)}
        for key, value in table.items():
            if key not in inner and key not in arrays:
                self.gap()
                self.pair((*path, key), value)
                self.put(self.draw(st.sampled_from(["\n", "  # x\n"])))
        for key, value in inner.items():
            self.gap()
            where: tuple[Key, ...] = (*path, key)
            self.lines[where] = self.line
            self.put(f"[{'.'.join(map(quoted, (*names, key)))}]\n")
            self.table(where, (*names, key), value)
        for key, items in arrays.items():
            for n, item in enumerate(items):
                self.gap()
                self.lines.setdefault((*path, key), self.line)
                where = (*path, key, n)
                self.lines[where] = self.line
                self.put(f"[[ {' . '.join(map(quoted, (*names, key)))} ]]\n")
                self.table(where, (*names, key), item)


@given(TABLES, st.data())
def test_every_key_of_generated_documents_is_where_it_was_written(table: dict[str, Any], data: st.DataObject) -> None:
    writer = Writer(data.draw)
    writer.table((), (), table)
    assert tomllib.loads(writer.text) == table
    assert line_numbers(writer.text) == writer.lines


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("a.b.c = 1\n", {("a",): 1, ("a", "b"): 1, ("a", "b", "c"): 1}),
        ("\n[a.b]\nc = 1\n", {("a",): 2, ("a", "b"): 2, ("a", "b", "c"): 3}),
        ('"a.b" = """\n\n"""\nc = 2\n', {("a.b",): 1, ("c",): 4}),
        ('"a\\u0062" = 1\n', {("ab",): 1}),
        ("a = [\n  # 1,\n  1,\n  [2,\n 3]]\n", {("a",): 1, ("a", 0): 3, ("a", 1): 4, ("a", 1, 0): 4, ("a", 1, 1): 5}),
        ("a = 1979-05-27 07:32:00 # }\nb=1", {("a",): 1, ("b",): 2}),
        ("a = '''x''''\nb = \"\"\"y\"\"\"\"\"\nc = ''", {("a",): 1, ("b",): 2, ("c",): 3}),
        ("", {}),
    ],
)
def test_places(text: str, expected: dict[tuple[Key, ...], int]) -> None:
    tomllib.loads(text)
    assert line_numbers(text) == expected


def test_arrays_of_tables_within_arrays_of_tables() -> None:
    text = "[[a]]\nx = 1\n[[a.b]]\ny = 1\n[[a.b]]\n[[a]]\n[[a.b]]\n[a.c]\nz = 1\n"
    found = line_numbers(text)
    assert found["a", 0, "b", 1] == 5
    assert found["a", 1, "b", 0] == 7
    assert found["a", 1, "c", "z"] == 9


def test_a_long_document_takes_no_time_by_the_square() -> None:
    text = "".join(f"k{n} = [1, 2]\n" for n in range(20_000))
    assert line_numbers(text)["k19999", 1] == 20_000
