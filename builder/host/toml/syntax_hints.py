"""Hints at common mistakes in TOML: open brackets and strings, text without quotes, words of other languages."""

from __future__ import annotations

import re

# Brackets, and the strings and comments in which a bracket means nothing; a quotation mark of its own opens a string
# that has no end.
_TOKEN = re.compile(
    r'"""(?:\\.|[^\\])*?"{3,5}|\'\'\'.*?\'{3,5}|"(?:\\.|[^"\\\n])*"|\'[^\'\n]*\'|#[^\n]*|[\[\]{}"\']', re.DOTALL
)
_WORD = re.compile(r"[^\s,\[\]{}#=\"']+")
# A number that goes on: a version, such as 12.8.1.
_VERSION = re.compile(r"(\d+(?:\.\w+)*)$")
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
    before, rest = "\n".join([*lines[: row - 1], line[: column - 1]]), line[column - 1 :].strip()
    return (
        _open_string(text, row)
        or _open_bracket(before, row, reason, rest)
        or _word(rest, reason)
        or _version(line[: column - 1], rest)
        or _repeated(reason)
        or _colon(rest, reason)
        or _backslash(reason)
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
    is_list = "array" in reason or "end of document" in reason
    lists = [number for number, bracket in opened if bracket == "[" and (is_list or number < row)]
    return f"the list that begins in line {lists[-1]} has no `]`, or no comma after one of its items" if lists else None


def _word(rest: str, reason: str) -> str | None:
    word = _WORD.match(rest)
    if "Invalid value" not in reason:
        return None
    if word is None:
        return None if rest else "write a value after the `=`"
    if boolean := _BOOLEANS.get(word[0]):
        return f"write it as `{boolean}`"
    if word[0] in _NO_VALUES:
        return "remove the line: a key without a value is left out"
    return f'write text in quotes: "{word[0]}"'


def _version(before: str, rest: str) -> str | None:
    number, more = _VERSION.search(before), _WORD.match(rest)
    return f'write a version in quotes: "{number[1]}{more[0]}"' if number and more and more[0][0] in ".-+" else None


def _repeated(reason: str) -> str | None:
    if "overwrite" in reason:
        return "the key has a value already: remove one of them"
    if re.search(r"Cannot declare .* twice", reason):
        return "the table is there already: write its keys in one place, or `[[…]]` for each table of a list"
    return None


def _colon(rest: str, reason: str) -> str | None:
    return "write `key = value`" if "Expected '='" in reason and rest.startswith(":") else None


def _backslash(reason: str) -> str | None:
    return "write the string in single quotes, or each backslash twice" if "'\\'" in reason else None
