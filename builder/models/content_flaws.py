"""Recognises files that hold something else than their name says: Git LFS pointers, HTML pages, broken JSON."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import TYPE_CHECKING

from builder.errors import ModelError
from builder.model.model_files import suffix_of

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

# A pointer is shorter than 1024 bytes (git-lfs' specification, "The Pointer").
LONGEST_POINTER = 1023
_POINTER = re.compile(
    rb"version https://(?:git-lfs\.github\.com|hawser\.github\.com)/spec/v1\r?\n(?:[^\n]*\n)*?size (\d+)"
)
_PAGE = re.compile(rb"(?:\xef\xbb\xbf)?\s*<(?:!doctype\s+html|html|head)\b", re.IGNORECASE)
# Some models have their licence as a page.
_MAYBE_PAGES = ("LICEN", "NOTICE", "COPYING")
_MOST_NAMES = 3
DAMAGED = "copy or download the model again"


@dataclass(frozen=True, kw_only=True, slots=True)
class Pointer:
    """A Git LFS pointer in place of a file of `size` bytes."""

    path: str
    size: int


def pointer_size(head: bytes) -> int | None:
    """Return the size of the file that a Git LFS pointer stands for, or None if the bytes are not a pointer."""
    match = _POINTER.match(head)
    return int(match[1]) if match else None


def is_page(path: str, head: bytes) -> bool:
    """Return whether a file begins as an HTML page, although its name promises something else."""
    name = PurePosixPath(path).name.upper()
    return not name.startswith(_MAYBE_PAGES) and suffix_of(path) not in ("html", "htm") and bool(_PAGE.match(head))


def refuse_other_content(name: str, files: Mapping[str, Path], where: str) -> None:
    """Refuse pointers, HTML pages and broken JSON among the files (path in the model: path on this machine).

    Raises:
        ModelError: a file has other content than its name says.
    """
    heads = {path: _head(file) for path, file in sorted(files.items())}
    pointers = [
        Pointer(path=path, size=size) for path, head in heads.items() if (size := pointer_size(head)) is not None
    ]
    if pointers:
        raise _pointers(name, pointers, where)
    for path, head in heads.items():
        if is_page(path, head):
            hint = f"download {path} again: the server sent a page, such as its log-in, instead of the file"
            raise ModelError(f"model {name}: {path} is an HTML page", where=where, hint=hint)
        if suffix_of(path) == "json":
            parse_json(name, path, files[path].read_bytes(), where)


def parse_json(name: str, path: str, data: bytes, where: str) -> object:
    """Return the value of a JSON file.

    Raises:
        ModelError: it is not JSON.
    """
    try:
        return json.loads(data)
    except (ValueError, RecursionError) as error:
        reason = str(error) if isinstance(error, json.JSONDecodeError) else "it cannot be decoded"
        flaw = f"is not JSON: {reason}" if data.strip() else "is empty"
        raise ModelError(f"model {name}: {path} {flaw}", where=where, hint=DAMAGED) from error


def _head(file: Path) -> bytes:
    with file.open("rb") as opened:
        return opened.read(LONGEST_POINTER)


def _pointers(name: str, pointers: list[Pointer], where: str) -> ModelError:
    first, others = pointers[0], [pointer.path for pointer in pointers[1:]]
    more = f"; so {'is' if len(others) == 1 else 'are'} {_some(others)}" if others else ""
    message = f"model {name}: {first.path} is a Git LFS pointer to a file of {first.size} bytes{more}"
    if "://" in where:
        hint = "upload the files themselves: run `git lfs pull` in the folder that was uploaded, then upload it again"
    else:
        hint = f"install Git LFS and run `git lfs pull` in that folder, or download {first.path}"
    return ModelError(message, where=where, hint=hint)


def _some(paths: list[str]) -> str:
    names = ", ".join(paths[:_MOST_NAMES])
    return f"{names} and {len(paths) - _MOST_NAMES} more" if len(paths) > _MOST_NAMES else names
