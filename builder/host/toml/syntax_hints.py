"""Hints at common mistakes in TOML: open brackets and strings, text without quotes, words of other languages."""

from __future__ import annotations

import json
import re

# Brackets, and the strings and comments in which a bracket means nothing; a quotation mark of its own opens a string
# that has no end.
_TOKEN = re.compile(
    r'"""(?:\\.|[^\\])*?"{3,5}|\'\'\'.*?\'{3,5}|"(?:\\.|[^"\\\n])*"|\'[^\'\n]*\'|#[^\n]*|[\[\]{}"\']', re.DOTALL
)
# A value without quotes: it ends with its line, item or list.
_TEXT = re.compile(r"[^,\[\]{}#=\n]+")
# A number that goes on: a version, such as 12.8.1.
_NUMBER = re.compile(r"\d+(?:\.\w+)*$")
_REST_OF_VERSION = re.compile(r"[.+-][\w.+-]*")
# The next line of a list without its end.
_KEY_OR_HEADER = re.compile(r"\s*(?:[\w.\"'-]+\s*=|\[+[\w.\"'-]+\]+\s*(?:#.*)?$)")
_CURLY = "\u201c\u201d\u2018\u2019"
_BOOLEANS = {
    **dict.fromkeys(("True", "TRUE", "yes", "on"), "true"),
    **dict.fromkeys(("False", "FALSE", "no", "off"), "false"),
}
_NO_VALUES = ("None", "null", "nil", "~")


def syntax_hint(text: str, row: int, column: int, reason: str) -> str | None:
    """Return what to correct in a document that is not TOML, or None.

    `reason` is the parser's; it found the mistake in the line `row` at `column`, both from 1.
    """
    lines = text.split("\n")
    line = "".join(lines[row - 1 : row])
    start, rest = line[: column - 1], line[column - 1 :].strip()
    return (
        _backslash(reason)
        or _value(line, start, rest, reason)
        or _version(start, rest, reason)
        or _open_string(text, row)
        or _open_bracket("\n".join([*lines[: row - 1], start]), row, reason, rest)
        or _repeated(line, reason)
        or _colon(rest, reason)
    )


def _open_string(text: str, row: int) -> str | None:
    marks = (match.start() for match in _TOKEN.finditer(text) if match[0] in ('"', "'"))
    at = next(marks, None)
    if at is None or (number := text.count("\n", 0, at) + 1) > row:
        return None
    return f"the string that begins in line {number} has no closing quotation mark"


def _open_bracket(before: str, row: int, reason: str, rest: str) -> str | None:
    """Return a hint at a bracket that is still open before the mistake, which begins with `rest`."""
    opened: list[tuple[int, str]] = []
    for match in _TOKEN.finditer(before):
        if match[0] in ("[", "{"):
            opened.append((before.count("\n", 0, match.start()) + 1, match[0]))
        elif match[0] in ("]", "}") and opened:
            opened.pop()
    if opened and opened[-1][1] == "{" and (not rest or rest.startswith("}")):
        return "write a table in braces in one line, without a comma after its last key"
    is_list = "Unclosed array" in reason or "end of document" in reason
    lists = [number for number, bracket in opened if bracket == "[" and (is_list or number < row)]
    return f"the list that begins in line {lists[-1]} has no `]`, or no comma after one of its items" if lists else None


def _value(line: str, start: str, rest: str, reason: str) -> str | None:
    if "Invalid value" not in reason or (_KEY_OR_HEADER.match(line) and "=" not in start):
        return None
    if not rest:
        return "write a value after the `=`" if start.rstrip().endswith("=") else None
    found = _TEXT.match(rest)
    return _instead_of(found[0].strip()) if found else None


def _instead_of(text: str) -> str:
    if text[0] in _CURLY:
        return "write straight quotation marks"
    if boolean := _BOOLEANS.get(text):
        return f"write it as `{boolean}`"
    if text in _NO_VALUES:
        return "remove the line: a key without a value is left out"
    # One of the two quotation marks may be there.
    return _in_quotes(text.strip("\"'"))


def _version(start: str, rest: str, reason: str) -> str | None:
    number, more = _NUMBER.search(start), _REST_OF_VERSION.match(rest)
    # A key, too, may end like a version.
    return _in_quotes(number[0] + more[0]) if number and more and "Expected '='" not in reason else None


def _in_quotes(text: str) -> str:
    return f"write it in quotes: {json.dumps(text, ensure_ascii=False)}"


def _repeated(line: str, reason: str) -> str | None:
    is_header = line.lstrip().startswith("[")
    if is_header and ("overwrite" in reason or re.search(r"Cannot declare .* twice", reason)):
        return "the table is there already: write its keys in one place, or `[[…]]` for each table of a list"
    return "the key has a value already: remove one of them" if "overwrite" in reason else None


def _colon(rest: str, reason: str) -> str | None:
    return "write `key = value`" if "Expected '='" in reason and rest.startswith(":") else None


def _backslash(reason: str) -> str | None:
    is_escape = "'\\'" in reason or "hex value" in reason
    return "write the string in single quotes, or each backslash twice" if is_escape else None
