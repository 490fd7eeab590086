"""The cache's files of facts: one for each wheel or base image, a JSON head and the bytes that it points to."""

from __future__ import annotations

import json
import struct
from dataclasses import fields
from typing import TYPE_CHECKING, Any, TypeVar

from builder.host.files import atomic_file, disk_errors
from builder.model.audits import BaseFacts, Binary, GpuCode, GpuTarget, Header, VersionNeed, WheelFacts

if TYPE_CHECKING:
    from pathlib import Path

_Facts = TypeVar("_Facts", WheelFacts, BaseFacts)

_MAGIC = b"jbuild-facts\n"
_LENGTH = struct.Struct("<I")
_BLOBS = ("defines", "wants", "wanted")
_FACTS_BLOBS = ("files", "file_keys", "contents")


class _Blobs:
    """Collects bytes, and returns the offset and size of each."""

    def __init__(self) -> None:
        self.blobs: list[bytes] = []
        self._size = 0

    def add(self, blob: bytes) -> tuple[int, int]:
        self.blobs.append(blob)
        self._size += len(blob)
        return self._size - len(blob), len(blob)


def write(path: Path, facts: WheelFacts | BaseFacts) -> None:
    """Store the facts of a wheel or a base image.

    Raises:
        DiskError: the file cannot be written.
    """
    blobs = _Blobs()
    head: dict[str, Any] = {field.name: getattr(facts, field.name) for field in fields(facts)}
    head |= {name: blobs.add(value) for name, value in head.items() if isinstance(value, bytes)}
    head["binaries"] = [_row(binary, blobs) for binary in facts.binaries]
    text = json.dumps(head, separators=(",", ":")).encode()
    with disk_errors(path), atomic_file(path) as temporary:
        temporary.write_bytes(b"".join([_MAGIC, _LENGTH.pack(len(text)), text, *blobs.blobs]))


def read(path: Path, kind: type[_Facts]) -> _Facts | None:
    """Return the facts of a wheel or a base image, or None if the file is missing or damaged."""
    try:
        data = path.read_bytes()
        start = len(_MAGIC) + _LENGTH.size
        (length,) = _LENGTH.unpack_from(data, len(_MAGIC))
        head, body = json.loads(data[start : start + length]), start + length
        return kind(**{field.name: _value(field.name, head[field.name], data, body) for field in fields(kind)})
    except (OSError, ValueError, KeyError, TypeError, struct.error):
        return None


def _value(name: str, value: list[Any], data: bytes, body: int) -> Any:
    if name in _FACTS_BLOBS:
        return _blob(data, body, value)
    if name == "binaries":
        return tuple(_binary(row, data, body) for row in value)
    return tuple(tuple(entry) if isinstance(entry, list) else entry for entry in value)


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
