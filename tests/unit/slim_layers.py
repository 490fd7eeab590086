"""Layers of slimmed wheels for tests: a library with code for several GPUs, the rules for Orin, and what it has."""

from __future__ import annotations

import base64
import csv
import hashlib
from typing import TYPE_CHECKING

from builder.model.slimming import SlimRules
from slimming.gpu_library import make_container, make_entry, make_library

if TYPE_CHECKING:
    from pathlib import Path

ORIN = SlimRules(sms=(87,), same_major=False)
GPU = make_library((make_container(*(make_entry(f"sm_{sm}", size=9000) for sm in (80, 87, 90))),))


def files_of(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def check_record(folder: Path) -> int:
    (record,) = folder.glob("*.dist-info/RECORD")
    rows = [row for row in csv.reader(record.read_text().splitlines()) if row[1]]
    for name, digest, size in rows:
        content = (folder / name).read_bytes()
        expected = base64.urlsafe_b64encode(hashlib.sha256(content).digest()).rstrip(b"=").decode()
        assert (digest, size) == (f"sha256={expected}", str(len(content))), name
    listed = {(folder / row[0]).resolve() for row in csv.reader(record.read_text().splitlines())}
    assert {path.resolve() for path in folder.rglob("*") if path.is_file()} <= listed
    return len(rows)
