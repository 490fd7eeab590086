"""Trees of slimmed wheels for tests: a library with code for several GPUs, the rules for Orin, and what a tree has."""

from __future__ import annotations

import base64
import csv
import hashlib
import sys
from typing import TYPE_CHECKING

from builder.image.wheels.tree import prepare
from builder.model.images import site_packages
from builder.model.slimming import SlimRules
from slimming.gpu_library import make_container, make_entry, make_library

if TYPE_CHECKING:
    from pathlib import Path

    from builder.host.session import Session
    from builder.model.wheels import LockedWheel

PYTHON = f"{sys.version_info[0]}.{sys.version_info[1]}"
ORIN = SlimRules(sms=(87,), same_major=False)
GPU = make_library((make_container(*(make_entry(f"sm_{sm}", size=9000) for sm in (80, 87, 90))),))


def unpacked(wheel: LockedWheel, session: Session, rules: SlimRules | None) -> Path:
    slim = {wheel.sha256: rules} if rules else {}
    return prepare([wheel], PYTHON, None, session, slim)[wheel.sha256]


def packages(tree: Path) -> Path:
    return tree / site_packages(PYTHON).lstrip("/")


def files_of(tree: Path) -> dict[str, bytes]:
    return {str(path.relative_to(tree)): path.read_bytes() for path in tree.rglob("*") if path.is_file()}


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
