"""What is in a wheel, and whether its RECORD is right."""

from __future__ import annotations

import base64
import csv
import hashlib
import zipfile
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pathlib import Path


def contents_of(wheel: Path) -> dict[str, bytes]:
    with zipfile.ZipFile(wheel) as archive:
        assert archive.testzip() is None
        return {name: archive.read(name) for name in archive.namelist()}


def check_record(wheel: Path) -> None:
    contents = contents_of(wheel)
    record = next(name for name in contents if name.endswith(".dist-info/RECORD"))
    rows = {row[0]: row for row in csv.reader(contents[record].decode().splitlines())}
    assert set(rows) == set(contents)
    for name, digest, size in rows.values():
        if name != record:
            expected = base64.urlsafe_b64encode(hashlib.sha256(contents[name]).digest()).rstrip(b"=").decode()
            assert (digest, int(size)) == (f"sha256={expected}", len(contents[name]))
