"""TOML files: they are read and parsed, and all their mistakes are reported at once."""

from __future__ import annotations

import re
import sys
from typing import TYPE_CHECKING, TypeVar

from builder.errors import DocumentError, Problem
from builder.host.toml.syntax_hints import syntax_hint
from builder.host.toml.tables import Document
from builder.host.wording import printable

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from builder.host.toml.tables import Table

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

_T = TypeVar("_T")
# How much of a line a mistake in the syntax shows.
_EXCERPT = 40


class _Float(float):
    """A number with its text in the file, since it may be a version without quotes, such as 3.10."""

    text: str

    def __str__(self) -> str:
        return self.text


def _float(text: str) -> _Float:
    number = _Float(text)
    number.text = text
    return number


def read(path: Path) -> Document:
    """Parse a TOML file.

    Raises:
        DocumentError: the file cannot be read or is not TOML.
    """
    try:
        text = path.read_text(encoding="utf-8")
        return Document(path=path, data=tomllib.loads(text, parse_float=_float), text=text)
    except tomllib.TOMLDecodeError as error:
        problem = _syntax_problem(path, text, str(error))
    except RecursionError:
        problem = Problem(path=path, line=None, key="", message="not valid TOML: nested too deeply")
    except (OSError, ValueError) as error:
        problem = Problem(path=path, line=None, key="", message=f"cannot be read: {_reason(error)}")
    raise DocumentError(f"{path.name} cannot be read", [problem])


def _syntax_problem(path: Path, text: str, reason: str) -> Problem:
    """Return a mistake in the syntax, with its line and the text from where it begins."""
    at, lines = re.search(r"at line (\d+), column (\d+)", reason), text.split("\n")
    # Truncated files fail at the end.
    row = int(at[1]) if at else text.rstrip().count("\n") + 1
    column = int(at[2]) if at else len(lines[row - 1]) + 1
    rest = lines[row - 1][column - 1 :].strip()[:_EXCERPT]
    shown = f": `{printable(rest)}`" if rest else ""
    message = f"not valid TOML: {printable(reason)}{shown}"
    hint = syntax_hint(text, row, column, reason)
    return Problem(path=path, line=row, key="", message=message, hint=hint and printable(hint))


def _reason(error: OSError | ValueError) -> str:
    if isinstance(error, OSError):
        return error.strerror or type(error).__name__
    # The parser passes on Python's limit on the digits of a number.
    return "not UTF-8 text" if isinstance(error, UnicodeDecodeError) else str(error)


def load(path: Path, title: str, parse: Callable[[Table], _T]) -> _T:
    """Read and parse a file.

    Raises:
        DocumentError: it cannot be read, or has mistakes.
    """
    return collect(read(path), title, parse)


def collect(document: Document, title: str, parse: Callable[[Table], _T]) -> _T:
    """Parse a document's top table.

    Raises:
        DocumentError: the document has mistakes.
    """
    root = document.root()
    result = parse(root)
    root.done()
    document.finish(title)
    return result
