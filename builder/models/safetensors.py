"""Reads and checks the header of safetensors files.

Format: 8 bytes with the header's length (little-endian), the header as JSON, then the tensors' bytes without gaps
(safetensors' README, "Format").
"""

from __future__ import annotations

import json
import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pathlib import Path

LENGTH_BYTES = 8
# The limit of safetensors' own reader.
_LONGEST_HEADER = 100_000_000
_BITS = {
    "F64": 64, "I64": 64, "U64": 64, "C64": 64, "F32": 32, "I32": 32, "U32": 32,
    "F16": 16, "BF16": 16, "I16": 16, "U16": 16,
    "F8_E5M2": 8, "F8_E4M3": 8, "F8_E8M0": 8, "I8": 8, "U8": 8, "BOOL": 8, "F4": 4,
}  # fmt: skip


class HeaderError(ValueError):
    """A file is damaged or not a safetensors file; the text completes "FILE …"."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Tensor:
    """A tensor of a file; `size` is in bytes."""

    name: str
    dtype: str
    shape: tuple[int, ...]
    size: int


def read_header(path: Path) -> tuple[Tensor, ...]:
    """Return the tensors of a file, sorted by name.

    Raises:
        HeaderError: the file is truncated or damaged.
        OSError: the file cannot be read.
    """
    size = path.stat().st_size
    with path.open("rb") as file:
        length = header_length(file.read(LENGTH_BYTES), size)
        return parse_header(file.read(length), size - LENGTH_BYTES - length)


def header_length(head: bytes, size: int) -> int:
    """Return the length of the JSON header from the first 8 of a file's `size` bytes.

    Raises:
        HeaderError: the header does not fit into the file.
    """
    length = int.from_bytes(head, "little")
    if len(head) < LENGTH_BYTES:
        raise HeaderError(f"is truncated: it has {size} bytes")
    if length > _LONGEST_HEADER:
        raise HeaderError("is not a safetensors file: its header would be longer than the format allows")
    if LENGTH_BYTES + length > size:
        raise HeaderError(f"is truncated: its header ends at byte {LENGTH_BYTES + length}, it has {size} bytes")
    return length


def parse_header(text: bytes, available: int) -> tuple[Tensor, ...]:
    """Return the tensors of a header; `available` bytes follow it.

    Raises:
        HeaderError: the header is damaged, or its tensors are longer or shorter than `available`.
    """
    try:
        header = json.loads(text)
    except (ValueError, RecursionError):
        raise HeaderError("is not a safetensors file: its header is not JSON") from None
    if not isinstance(header, dict):
        raise HeaderError("is not a safetensors file: its header is not a JSON object")
    spans = sorted(_tensor(name, entry) for name, entry in header.items() if name != "__metadata__")
    end = 0
    for begin, stop, tensor in ((b, e, t) for b, e, _, t in spans):
        if begin != end:
            raise HeaderError(f"is damaged: tensor {tensor.name!r} begins at byte {begin}, not {end}")
        end = stop
    if end > available:
        raise HeaderError(f"is truncated: its tensors take {end} bytes, {available} are there")
    if end < available:
        raise HeaderError(f"is damaged: {available - end} bytes follow its last tensor")
    return tuple(sorted((tensor for *_, tensor in spans), key=lambda tensor: tensor.name))


def _tensor(name: str, entry: Any) -> tuple[int, int, str, Tensor]:
    try:
        dtype, shape, (begin, end) = entry["dtype"], entry["shape"], entry["data_offsets"]
        numbers = [*shape, begin, end]
    except (TypeError, KeyError, ValueError):
        raise HeaderError(f"is damaged: tensor {name!r} lacks a dtype, a shape or offsets") from None
    if not isinstance(dtype, str) or any(type(number) is not int or number < 0 for number in numbers) or end < begin:
        raise HeaderError(f"is damaged: tensor {name!r} has an impossible dtype, shape or offset")
    bits = _BITS.get(dtype)
    if bits is not None and math.prod(shape) * bits != (end - begin) * 8:
        raise HeaderError(f"is damaged: tensor {name!r} ({dtype} {list(shape)}) has {end - begin} bytes")
    return begin, end, name, Tensor(name=name, dtype=dtype, shape=tuple(shape), size=end - begin)
