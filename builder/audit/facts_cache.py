"""The cache's files of facts: one for each wheel or base image, a JSON head and the bytes that it points to."""

from __future__ import annotations

import json
import struct
from typing import TYPE_CHECKING, Any, TypeVar

from builder.host.files import atomic_file, disk_errors
from builder.model.audits import BaseFacts, Binary, GpuCode, GpuTarget, Header, VersionNeed, WheelFacts

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

_T = TypeVar("_T")

_MAGIC = b"jbuild-facts\n"
_LENGTH = struct.Struct("<I")
_BLOBS = ("defines", "wants", "wanted")
_BASE_LISTS = ("folders", "library_path", "packages", "distribution")
_WHEEL_BLOBS = ("files", "file_keys", "contents")


class _Blobs:
    """Collects bytes, and returns the offset and size of each."""

    def __init__(self) -> None:
        self.blobs: list[bytes] = []
        self._size = 0

    def add(self, blob: bytes) -> tuple[int, int]:
        self.blobs.append(blob)
        self._size += len(blob)
        return self._size - len(blob), len(blob)


def write(path: Path, facts: WheelFacts) -> None:
    """Store the facts of a wheel.

    Raises:
        DiskError: the file cannot be written.
    """
    blobs = _Blobs()
    head: dict[str, Any] = {"tags": facts.tags, "requires": facts.requires, "flaws": facts.flaws}
    head |= {name: blobs.add(getattr(facts, name)) for name in _WHEEL_BLOBS}
    head["binaries"] = [_row(binary, blobs) for binary in facts.binaries]
    _write(path, head, blobs)


def write_base(path: Path, facts: BaseFacts) -> None:
    """Store the facts of a base image.

    Raises:
        DiskError: the file cannot be written.
    """
    blobs = _Blobs()
    head: dict[str, Any] = {name: getattr(facts, name) for name in _BASE_LISTS}
    head |= {"links": facts.links, "binaries": [_row(binary, blobs) for binary in facts.binaries]}
    _write(path, head, blobs)


def _write(path: Path, head: dict[str, Any], blobs: _Blobs) -> None:
    text = json.dumps(head, separators=(",", ":")).encode()
    with disk_errors(path), atomic_file(path) as temporary:
        temporary.write_bytes(b"".join([_MAGIC, _LENGTH.pack(len(text)), text, *blobs.blobs]))


def read(path: Path) -> WheelFacts | None:
    """Return the facts of a wheel, or None if the file is missing or damaged."""
    return _read(path, _wheel)


def read_base(path: Path) -> BaseFacts | None:
    """Return the facts of a base image, or None if the file is missing or damaged."""
    return _read(path, _base)


def _read(path: Path, decode: Callable[[dict[str, Any], bytes, int], _T]) -> _T | None:
    try:
        data = path.read_bytes()
        start = len(_MAGIC) + _LENGTH.size
        (length,) = _LENGTH.unpack_from(data, len(_MAGIC))
        return decode(json.loads(data[start : start + length]), data, start + length)
    except (OSError, ValueError, KeyError, TypeError, struct.error):
        return None


def _wheel(head: dict[str, Any], data: bytes, body: int) -> WheelFacts:
    return WheelFacts(
        tags=tuple(head["tags"]),
        requires=tuple(head["requires"]),
        flaws=tuple((path, text) for path, text in head["flaws"]),
        binaries=tuple(_binary(row, data, body) for row in head["binaries"]),
        files=_blob(data, body, head["files"]),
        file_keys=_blob(data, body, head["file_keys"]),
        contents=_blob(data, body, head["contents"]),
    )


def _base(head: dict[str, Any], data: bytes, body: int) -> BaseFacts:
    return BaseFacts(
        binaries=tuple(_binary(row, data, body) for row in head["binaries"]),
        links=tuple((path, target) for path, target in head["links"]),
        **{name: tuple(head[name]) for name in _BASE_LISTS},
    )


def _blob(data: bytes, body: int, extent: list[int]) -> bytes:
    offset, size = extent
    blob = data[body + offset : body + offset + size]
    if len(blob) != size:
        raise ValueError("cut off")
    return blob


def _row(binary: Binary, blobs: _Blobs) -> list[Any]:
    return [
        binary.path,
        binary.header,
        binary.needed,
        binary.soname,
        binary.rpath,
        binary.runpath,
        binary.version_needs,
        binary.version_defines,
        binary.inits,
        [(*g.target, *g.isa, g.times) for g in binary.gpu],
        binary.dynamic,
        binary.executable_stack,
        [blobs.add(getattr(binary, name)) for name in _BLOBS],
    ]


def _binary(row: list[Any], data: bytes, body: int) -> Binary:
    path, header, needed, soname, rpath, runpath, needs, defines, inits, gpu, dynamic, stack, extents = row
    return Binary(
        path=path,
        header=Header(*header),
        needed=tuple(needed),
        soname=soname,
        rpath=rpath,
        runpath=runpath,
        version_needs=tuple(VersionNeed(*need) for need in needs),
        version_defines=tuple(defines),
        inits=tuple(inits),
        gpu=tuple(GpuCode(GpuTarget(kind, sm), (major, minor), count) for kind, sm, major, minor, count in gpu),
        dynamic=dynamic,
        executable_stack=stack,
        **{name: _blob(data, body, extent) for name, extent in zip(_BLOBS, extents, strict=True)},
    )
