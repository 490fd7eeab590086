"""Lists the shared objects of an environment, and reads them with binutils."""

from __future__ import annotations

import os
import re
import struct
from pathlib import Path
from typing import TYPE_CHECKING

from builder.host.process import run

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

_MAGIC = b"\x7fELF"
_SHARED = 3  # ET_DYN
_INTERPRETER = 3  # PT_INTERP
_NAME = re.compile(r".+\.so(\.[0-9]+)*")
_HEADER = struct.Struct("<16sHHIQQQIHHHHHH")
_SEGMENT_BYTES = 56


def shared_objects(folder: Path) -> Iterator[Path]:
    """Yield the loadable files below a folder: extension modules and shared libraries."""
    for base, names, files in os.walk(folder):
        names.sort()
        for name in sorted(files):
            path = Path(base) / name
            if not path.is_symlink() and _is_shared(path):
                yield path


def _is_shared(path: Path) -> bool:
    with path.open("rb") as file:
        head = file.read(_HEADER.size)
        if not head.startswith(_MAGIC):
            return False
        if _NAME.fullmatch(path.name):
            return True
        if len(head) < _HEADER.size:
            return False
        fields = _HEADER.unpack(head)
        kind, table, count = fields[1], fields[5], fields[10]
        if kind != _SHARED:
            return False
        file.seek(table)
        segments = file.read(count * _SEGMENT_BYTES)
    kinds = {int.from_bytes(segments[at : at + 4], "little") for at in range(0, len(segments), _SEGMENT_BYTES)}
    return _INTERPRETER not in kinds


def needed(path: Path) -> tuple[str, ...]:
    """Return the needed libraries of a file, as readelf prints them; empty if it is not an ELF file."""
    output = run(["readelf", "-dW", str(path)], check=False).stdout
    return tuple(re.findall(r"\(NEEDED\).*\[(.*)\]", output))


def undefined(paths: Iterable[Path], prefix: str) -> tuple[str, ...]:
    """Return the undefined dynamic symbols of files that match a prefix (a regular expression), sorted."""
    symbols: set[str] = set()
    for path in paths:
        output = run(["nm", "-D", "--undefined-only", "--without-symbol-versions", str(path)], check=False).stdout
        symbols.update(re.findall(rf"\b({prefix}\w*)$", output, re.MULTILINE))
    return tuple(sorted(symbols))
