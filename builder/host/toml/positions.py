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

_BARE_KEY = re.compile(r"[A-Za-z0-9_-]+")
_SPACE = re.compile(r"[ \t]*")
_SPACE_AND_COMMENTS = re.compile(r"(?:[ \t\r\n]|#[^\n]*)*")
_SCALAR = re.compile(r"[^,\]}\n#]+")
_STRINGS = (
    re.compile(r'"""(?:\\.|[^\\])*?"{3,5}', re.DOTALL),
    re.compile(r"'''.*?'{3,5}", re.DOTALL),
    re.compile(r'"(?:\\.|[^"\\])*"'),
    re.compile(r"'[^']*'"),
)


def line_numbers(text: str) -> dict[Path, int]:
    """Return the line (from 1) of every key path in a text that is valid TOML."""
    return _Scanner(text).scan()


class _Scanner:
    """Walks a text that the real parser has accepted, so it checks nothing."""

    def __init__(self, text: str) -> None:
        self.text = text
        self.at = 0
        self.lines: dict[Path, int] = {}
        self.last: dict[Path, int] = {}
        self.newlines = [match.start() for match in re.finditer("\n", text)]

    def scan(self) -> dict[Path, int]:
        table: Path = ()
        self.skip(_SPACE_AND_COMMENTS)
        while self.at < len(self.text):
            if self.text.startswith("[[", self.at):
                table = self.header(2)
            elif self.text[self.at] == "[":
                table = self.header(1)
            else:
                self.pair(table)
            self.skip(_SPACE_AND_COMMENTS)
        return self.lines

    def header(self, brackets: int) -> Path:
        row = self.row()
        self.at += brackets
        names = self.dotted_key()
        self.at += brackets
        if brackets == 1:
            path = self.resolve(names)
        else:
            array = (*self.resolve(names[:-1]), names[-1])
            self.last[array] = self.last.get(array, -1) + 1
            self.lines.setdefault(array, row)
            path = (*array, self.last[array])
        self.lines.setdefault(path, row)
        return path

    def resolve(self, names: list[str]) -> Path:
        """Turn the names of a header into a path; an array of tables stands for its last table."""
        path: Path = ()
        for name in names:
            path = (*path, name)
            self.lines.setdefault(path, self.row())
            if path in self.last:
                path = (*path, self.last[path])
        return path

    def pair(self, table: Path) -> None:
        row = self.row()
        path = table
        for name in self.dotted_key():
            path = (*path, name)
            self.lines.setdefault(path, row)
        self.at += 1  # the equals sign
        self.skip(_SPACE)
        self.value(path)

    def dotted_key(self) -> list[str]:
        names = []
        while True:
            self.skip(_SPACE)
            quoted = self.string()
            bare = None if quoted is not None else _BARE_KEY.match(self.text, self.at)
            if bare:
                self.at = bare.end()
            names.append(bare.group() if bare else _unquoted(quoted or '""'))
            self.skip(_SPACE)
            if not self.text.startswith(".", self.at):
                return names
            self.at += 1

    def value(self, path: Path) -> None:
        opening = self.text[self.at : self.at + 1]
        if opening == "[":
            self.array(path)
        elif opening == "{":
            self.inline_table(path)
        elif self.string() is None:
            self.skip(_SCALAR)

    def array(self, path: Path) -> None:
        self.at += 1
        index = 0
        self.skip(_SPACE_AND_COMMENTS)
        while not self.text.startswith("]", self.at):
            item = (*path, index)
            self.lines[item] = self.row()
            self.value(item)
            index += 1
            self.comma()
        self.at += 1

    def inline_table(self, path: Path) -> None:
        self.at += 1
        self.skip(_SPACE_AND_COMMENTS)
        while not self.text.startswith("}", self.at):
            self.pair(path)
            self.comma()
        self.at += 1

    def comma(self) -> None:
        self.skip(_SPACE_AND_COMMENTS)
        if self.text.startswith(",", self.at):
            self.at += 1
            self.skip(_SPACE_AND_COMMENTS)

    def string(self) -> str | None:
        for pattern in _STRINGS:
            if match := pattern.match(self.text, self.at):
                self.at = match.end()
                return match.group()
        return None

    def skip(self, pattern: re.Pattern[str]) -> None:
        if match := pattern.match(self.text, self.at):
            self.at = match.end()

    def row(self) -> int:
        return bisect_left(self.newlines, self.at) + 1


def _unquoted(key: str) -> str:
    if "\\" not in key or key.startswith("'"):
        return key[1:-1]
    return str(tomllib.loads(f"key = {key}")["key"])
