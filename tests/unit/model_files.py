"""Small model files, whole enough to be locked."""

from __future__ import annotations

import json
import struct
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pathlib import Path


ITEM_BYTES = {"F32": 4, "BF16": 2, "U8": 1}


def weights(tensors: dict[str, tuple[str, list[int]]] | None = None, **entries: Any) -> bytes:
    """Return a safetensors file with these tensors (dtype and shape), and other entries in its header."""
    header: dict[str, Any] = {"__metadata__": {"format": "pt"}}
    end = 0
    for name, (dtype, shape) in (tensors if tensors is not None else {"w": ("F32", [4, 4])}).items():
        begin, end = end, end + tensor_bytes(dtype, shape)
        header[name] = {"dtype": dtype, "shape": shape, "data_offsets": [begin, end]}
    text = json.dumps(header | entries).encode()
    return struct.pack("<Q", len(text)) + text + bytes(end)


def tensor_bytes(dtype: str, shape: list[int]) -> int:
    size = ITEM_BYTES[dtype]
    for number in shape:
        size *= number
    return size


def make_folder(folder: Path, **files: bytes | None) -> Path:
    """Write a small whole model; `files` adds to it, or takes away what is None (`__` stands for a dot)."""
    usual: dict[str, bytes | None] = {
        "config.json": b"{}",
        "tokenizer.json": b"{}",
        "model.safetensors": weights(),
        "README.md": b"#",
    }
    folder.mkdir(parents=True, exist_ok=True)
    for name, data in (usual | {name.replace("__", "."): data for name, data in files.items()}).items():
        if data is not None:
            (folder / name).write_bytes(data)
    return folder
