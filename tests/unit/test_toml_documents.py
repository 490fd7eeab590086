from __future__ import annotations

from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING

import pytest
from hypothesis import given
from hypothesis import strategies as st

from builder.errors import DocumentError, Problem
from builder.host.toml import documents
from builder.host.wording import printable

if TYPE_CHECKING:
    from collections.abc import Callable

    from builder.host.toml.tables import Table


def mistakes(path: Path, text: str, parse: Callable[[Table], object]) -> list[tuple[int | None, str, str, str | None]]:
    path.write_text(text, encoding="utf-8")
    with pytest.raises(DocumentError) as caught:
        documents.collect(documents.read(path), "mistakes", parse)
    return [(p.line, p.key, p.message, p.hint) for p in caught.value.problems]


def problem_in(path: Path) -> Problem:
    """Read a file that is not TOML."""
    with pytest.raises(DocumentError) as caught:
        documents.read(path)
    (problem,) = caught.value.problems
    return problem


@pytest.mark.parametrize(
    ("text", "parse", "expected"),
    [
        ("", lambda t: t.string("a"), (None, "", "`a` is missing", "add `a = …` (a string)")),
        ("a = 1", lambda t: t.string("a"), (1, "a", "must be a string, not a whole number", 'write it in quotes: "1"')),
        ("a = true", lambda t: t.integer("a"), (1, "a", "must be a whole number, not true or false", None)),
        ("a = 1.5", lambda t: t.integer("a"), (1, "a", "must be a whole number, not a number", None)),
        ("a = nan", lambda t: t.number("a", high=2), (1, "a", "nan is out of bounds", "a number from 0 to 2")),
        ("\na = 9", lambda t: t.integer("a", high=8), (2, "a", "9 is out of bounds", "a whole number from 0 to 8")),
        ('a = "x"', lambda t: t.boolean("a", default=True), (1, "a", "must be true or false, not a string", None)),
        (
            'a = "x"',
            lambda t: t.strings("a"),
            (1, "a", "must be a list of strings, not a string", 'write it as a list: ["x"]'),
        ),
        (
            "a = [\n1.5]",
            lambda t: t.strings("a"),
            (2, "a[0]", "must be a string, not a number", 'write it in quotes: "1.5"'),
        ),
        ("a = 3.10", lambda t: t.string("a"), (1, "a", "must be a string, not a number", 'write it in quotes: "3.10"')),
        (
            "a = 3.10",
            lambda t: t.strings("a"),
            (1, "a", "must be a list of strings, not a number", 'write it as a list: ["3.10"]'),
        ),
        ('a = ["x"]', lambda t: t.strings("a", pattern="y", noun="a y"), (1, "a[0]", "`x` is not a y", None)),
        (
            'a = "x"',
            lambda t: list(t.tables("a")),
            (1, "a", "must be a list of tables, not a string", "write `[[a]]` tables"),
        ),
        ("a = []", lambda t: t.table("a"), (1, "a", "must be a table, not a list", None)),
        (
            "a = [1]",
            lambda t: list(t.tables("a")),
            (1, "a[0]", "must be a table, not a whole number", "write `[[a]]` tables"),
        ),
        ("a = 07:32:00", lambda t: t.string("a"), (1, "a", "must be a string, not a date or time", None)),
        (
            "[a]\nb = 1",
            lambda t: t.string_map("a"),
            (2, "a.b", "must be a string, not a whole number", 'write it in quotes: "1"'),
        ),
        ("[x]\nab = 1", lambda t: t.table("x").done(["abc"]), (2, "x.ab", "unknown key `ab`", "did you mean `abc`?")),
        ("zz = 1", lambda t: t.done(["abc"]), (1, "zz", "unknown key `zz`", "valid here: abc")),
        ('"a b" = 1', lambda t: t.done(), (1, '"a b"', "unknown key `a b`", "there are none")),
        (
            "[a]\nb = 1",
            lambda t: list(t.tables("a")),
            (1, "a", "must be a list of tables, not a table", "write `[[a]]`, with two brackets on each side"),
        ),
        (
            "[x]\n[[x.a]]\nb = 1",
            lambda t: t.table("x").table("a"),
            (2, "x.a", "must be a table, not a list", "write `[x.a]`, with one bracket on each side, and only once"),
        ),
        (
            'a = "20"',
            lambda t: t.integer("a"),
            (1, "a", "must be a whole number, not a string", "write it without quotes: 20"),
        ),
        (
            'a = "0.5"',
            lambda t: t.number("a"),
            (1, "a", "must be a number, not a string", "write it without quotes: 0.5"),
        ),
        ('a = "0.5"', lambda t: t.integer("a"), (1, "a", "must be a whole number, not a string", None)),
        (
            'a = "true"',
            lambda t: t.boolean("a", default=True),
            (1, "a", "must be true or false, not a string", "write it without quotes: true"),
        ),
    ],
)
def test_mistakes_are_located(
    tmp_path: Path,
    text: str,
    parse: Callable[[Table], object],
    expected: tuple[int | None, str, str, str | None],
) -> None:
    assert expected in mistakes(tmp_path / "x.toml", text, parse)


@pytest.mark.parametrize(
    ("content", "line", "message"),
    [
        (b"a = 1\nb = \n", 2, "not valid TOML: "),
        (b"a = 1\na = 2\n", 2, "not valid TOML: "),
        (b"a = 1\nwarm = ture\n", 2, "not valid TOML: Invalid value (at line 2, column 8): `ture`"),
        (b"a = 1\nb = [2,\n\n", 2, "not valid TOML: "),
        (b"\xff", None, "cannot be read: not UTF-8 text"),
        (b"a = " + b"[" * 5000, None, "not valid TOML: nested too deeply"),
        (b"a = " + b"1" * 9999, None, "cannot be read: "),
    ],
)
def test_what_is_not_toml(tmp_path: Path, content: bytes, line: int | None, message: str) -> None:
    path = tmp_path / "x.toml"
    path.write_bytes(content)
    problem = problem_in(path)
    assert problem.message.startswith(message)
    assert problem.line == line or line is None


@pytest.mark.parametrize(
    ("text", "line", "hint"),
    [
        ('a = [\n  "]",  # ]\n\n[server]\n', 4, "the list that begins in line 1 has no `]`"),
        ('a = 1\nb = ["x",\nc = ["y"]\n', 3, "the list that begins in line 2 has no `]`"),
        ('b = [\n  ["x"]\n  "y",\n]\n', 3, "the list that begins in line 1 has no `]`, or no comma"),
        ("b = [", 1, "the list that begins in line 1 has no `]`"),
        ('b = ["x" "y"]\n', 1, "the list that begins in line 1 has no `]`, or no comma"),
        ("a = { b = 1,\n  c = 2\n}", 1, "write a table in braces in one line"),
        ("a = [1]\nb = [2]]\n", 2, None),
        ("[a\nb = 1\n", 1, None),
        ('a = "x\nb = 2\n', 1, "the string that begins in line 1 has no closing quotation mark"),
        ("a = 1\nb = 'x\nc = 2\n", 3, "the string that begins in line 2 has no closing quotation mark"),
        ('a = """x\n\n', 1, "the string that begins in line 1 has no closing quotation mark"),
        ("# don't\na = \"it's\"\nb = debian12\n", 3, 'write it in quotes: "debian12"'),
        ("a = [/models/x]\n", 1, 'write it in quotes: "/models/x"'),
        ("a = True\n", 1, "write it as `true`"),
        ("a = off\n", 1, "write it as `false`"),
        ("a = null\n", 1, "remove the line"),
        ("a =\n", 1, "write a value after the `=`"),
        ("a = 12.8.1\n", 1, 'write it in quotes: "12.8.1"'),
        ("a = 36.4.4-r1 # L4T\n", 1, 'write it in quotes: "36.4.4-r1"'),
        ("a = 1\na = 2\n", 2, "the key has a value already"),
        ("[a]\n[a]\n", 2, "the table is there already"),
        ("a: 1\n", 1, "write `key = value`"),
        ('a = "C:\\dir"\n', 1, "write the string in single quotes, or each backslash twice"),
        ("a = { b = 1, }\n", 1, "write a table in braces in one line, without a comma"),
        ("a = [36.4.4, 36.5.0]\n", 1, 'write it in quotes: "36.4.4"'),
        ("a = [\n  debian12,\n]\n", 2, 'write it in quotes: "debian12"'),
        ("a = [\n  True,\n]\n", 2, "write it as `true`"),
        ("a = x y # z\n", 1, 'write it in quotes: "x y"'),
        ('a = x-1"\n', 1, 'write it in quotes: "x-1"'),
        ("a = don't\n", 1, 'write it in quotes: "don\'t"'),
        ("a = \u201cx\u201d\n", 1, "write straight quotation marks"),
        ("vllm-0.15.1+cu130 = 1\n", 1, None),
        ("[a]\n[[a]]\n", 2, "the table is there already"),
        ("[[a]\nb = 1\n", 1, None),
        ('a = "C:\\dir\\"\n', 1, "write the string in single quotes"),
        ('a = "C:\\Users"\n', 1, "write the string in single quotes"),
        ("a = = 1\n", 1, None),
        ('a = "x" b = 1\n', 1, None),
    ],
)
def test_common_mistakes_in_the_syntax_have_hints(tmp_path: Path, text: str, line: int, hint: str | None) -> None:
    path = tmp_path / "x.toml"
    path.write_text(text)
    problem = problem_in(path)
    assert problem.line == line
    assert (problem.hint or "").startswith(hint) if hint else problem.hint is None


@given(st.text(alphabet="ab=[]{}\"'#\n\\ ,.:-1_"))
def test_any_text_is_read_or_gives_one_problem_in_a_line_of_it(text: str) -> None:
    with TemporaryDirectory() as folder:
        path = Path(folder, "x.toml")
        path.write_text(text)
        try:
            documents.read(path)
        except DocumentError as error:
            (problem,) = error.problems
            assert problem.line is not None
            assert 1 <= problem.line <= text.count("\n") + 1
            assert "\n" not in problem.message + (problem.hint or "")


@pytest.mark.parametrize(
    ("text", "key", "hint"),
    [
        ("places = 1", "places", "write it under `[x]`"),
        ("[x]\nname = 1", "x.name", "write it above the first `[table]`"),
        ("kind = 1\n[[rows]]\nkind = 2", "kind", "write it under `[[rows]]`"),
        ("[[rows]]\nboth = 2", "rows[0].both", "write it under `[x]` or above the first `[table]`"),
        ("[x.table]", "x.table", "write `[table]`"),
        ("[x.rows]", "x.rows", "write `[[rows]]`"),
        ('[other]\nrows = ["a"]', "other.rows", "write it under `[y]`"),
        ("[[x.rows]]", "x.rows", "write `[[rows]]`"),
        ("[x]\nnames = 1", "x.names", "did you mean `name`?"),
        ("[x.map]\nhere = 'y'\n[[rows]]\nhere = 1", "rows[0].here", "valid here: first, kind"),
        ("[x]\nleft = 1\n[[rows]]\nleft = 1", "rows[0].left", "valid here: first, kind"),
        ("[[rows]]\nfirst = 1\n[[rows]]\nfirst = 2", "rows[1].first", "valid here: kind"),
    ],
)
def test_an_unknown_key_is_named_with_its_table(tmp_path: Path, text: str, key: str, hint: str) -> None:
    def parse(root: Table) -> None:
        root.expect(["name", "both"])
        root.table("table").done()
        inner = root.table("x")
        inner.expect(["places", "both", "map", *(["name"] if "names" in inner else [])])
        inner.string_map("map")
        inner.leave("left")
        inner.done()
        root.table("y").expect(["rows"])
        root.table("other").done()
        for index, row in enumerate(root.rows("rows")):
            row.expect(["kind", *(["first"] if index == 0 else [])])

    ((_, found, message, given),) = mistakes(tmp_path / "x.toml", text, parse)
    assert (found, message, given) == (key, f"unknown key `{key.rpartition('.')[2]}`", hint)


def test_a_value_in_a_list_of_tables_is_named_with_its_table(tmp_path: Path) -> None:
    def parse(root: Table) -> None:
        list(root.tables("rows"))
        list(root.tables("others"))
        root.table("y").strings("rows")

    (found,) = mistakes(tmp_path / "x.toml", 'rows = ["a"]', parse)
    assert found == (1, "rows[0]", "must be a table, not a string", "write it under `[y]`")
    (found,) = mistakes(tmp_path / "x.toml", "others = [1]", parse)
    assert found == (1, "others[0]", "must be a table, not a whole number", "write `[[others]]` tables")


def test_absent_and_folder(tmp_path: Path) -> None:
    for path, message in ((tmp_path / "no.toml", "No such file"), (tmp_path, "Is a directory")):
        with pytest.raises(DocumentError) as caught:
            documents.read(path)
        assert message in caught.value.problems[0].message


def test_all_mistakes_come_together_in_the_order_of_lines(tmp_path: Path) -> None:
    found = mistakes(tmp_path / "x.toml", "a = 1\nb = 2\nc = 3\n", lambda t: (t.string("c"), t.string("a")))
    assert [line for line, *_ in found] == [1, 2, 3]


@given(st.text())
def test_shown_is_one_printable_line(text: str) -> None:
    assert printable(text).isprintable()
    assert len(printable(text * 100)) <= 201


def test_place_of_a_problem(tmp_path: Path) -> None:
    problem = Problem(path=tmp_path / "r.toml", line=3, key="a[0].b", message="bad")
    assert problem.location == f"{tmp_path}/r.toml:3: a[0].b"


def test_deep_but_valid_documents_give_errors_not_tracebacks(tmp_path: Path) -> None:
    for depth in (50, 100, 200, 300, 400, 450):
        path = tmp_path / "x.toml"
        path.write_text("a = " + "[" * depth + "]" * depth, encoding="utf-8")
        with pytest.raises(DocumentError):
            documents.collect(documents.read(path), "mistakes", lambda table: table.string("b"))
