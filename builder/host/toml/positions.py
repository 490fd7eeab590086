"""Line numbers of the keys of a TOML text, which the standard parser does not give."""

from __future__ import annotations

import re
import sys
from bisect import bisect_left

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

Key = str | int
Path = tuple[Key, ...]

# A key, bare or in quotes, and the dot before the next one.
_KEY = re.compile(r"""[ \t]*([A-Za-z0-9_-]+|"(?:\\.|[^"\\])*"|'[^']*')[ \t]*(\.?)""")
_SPACE = re.compile(r"[ \t]*")
_SPACE_AND_COMMENTS = re.compile(r"(?:[ \t\r\n]|#[^\n]*)*")
_SEPARATOR = re.compile(rf"{_SPACE_AND_COMMENTS.pattern},?{_SPACE_AND_COMMENTS.pattern}")
_SCALAR = re.compile(
    r'"""(?:\\.|[^\\])*?"{3,5}'
    r"|'''.*?'{3,5}"
    r'|"(?:\\.|[^"\\])*"'
    r"|'[^']*'"
    r"|[^,\]}\n#]+",
    re.DOTALL,
)


def line_numbers(text: str) -> dict[Path, int]:
    """Return the line (from 1) of every key path in a text that is valid TOML."""
    return _Scanner(text).scan()


class _Scanner:
    """Walks a text that the real parser has accepted, so it checks nothing."""

    def __init__(self, text: str) -> None:
        self.text = text
        self.at = 0
        self.rows: dict[Path, int] = {}
        self.last: dict[Path, int] = {}
        self.newlines = [match.start() for match in re.finditer("\n", text)]

    def scan(self) -> dict[Path, int]:
        table: Path = ()
        self.skip(_SPACE_AND_COMMENTS)
        while self.at < len(self.text):
            if self.text[self.at] == "[":
                table = self.header()
            else:
                self.pair(table)
            self.skip(_SPACE_AND_COMMENTS)
        return self.rows

    def header(self) -> Path:
        brackets = 2 if self.text.startswith("[[", self.at) else 1
        self.at += brackets
        names = self.dotted_key()
        self.at += brackets
        if brackets == 1:
            return self.resolve(names)
        array = (*self.resolve(names[:-1]), names[-1])
        self.last[array] = self.last.get(array, -1) + 1
        self.rows.setdefault(array, self.row())
        path = (*array, self.last[array])
        self.rows.setdefault(path, self.row())
        return path

    def resolve(self, names: list[str]) -> Path:
        """Turn the names of a header into a path; an array of tables stands for its last table."""
        path: Path = ()
        for name in names:
            path = (*path, name)
            self.rows.setdefault(path, self.row())
            if path in self.last:
                path = (*path, self.last[path])
        return path

    def pair(self, table: Path) -> None:
        path = table
        for name in self.dotted_key():
            path = (*path, name)
            self.rows.setdefault(path, self.row())
        self.at += 1  # the equals sign
        self.skip(_SPACE)
        self.value(path)

    def dotted_key(self) -> list[str]:
        names: list[str] = []
        while match := _KEY.match(self.text, self.at):
            self.at = match.end()
            names.append(_unquoted(match[1]))
            if not match[2]:
                break
        return names

    def value(self, path: Path) -> None:
        opening = self.text[self.at : self.at + 1]
        if opening == "[":
            self.array(path)
        elif opening == "{":
            self.inline_table(path)
        else:
            self.skip(_SCALAR)

    def array(self, path: Path) -> None:
        self.at += 1
        self.skip(_SPACE_AND_COMMENTS)
        index = 0
        while not self.text.startswith("]", self.at):
            item = (*path, index)
            self.rows[item] = self.row()
            self.value(item)
            self.skip(_SEPARATOR)
            index += 1
        self.at += 1

    def inline_table(self, path: Path) -> None:
        self.at += 1
        self.skip(_SPACE_AND_COMMENTS)
        while not self.text.startswith("}", self.at):
            self.pair(path)
            self.skip(_SEPARATOR)
        self.at += 1

    def skip(self, pattern: re.Pattern[str]) -> None:
        if match := pattern.match(self.text, self.at):
            self.at = match.end()

    def row(self) -> int:
        return bisect_left(self.newlines, self.at) + 1


def _unquoted(key: str) -> str:
    if not key.startswith('"'):
        return key.strip("'")
    return str(tomllib.loads(f"key = {key}")["key"]) if "\\" in key else key[1:-1]
