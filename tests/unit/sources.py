"""Source archives for the tests' indexes: as `python -m build --sdist` writes them, with what a package states."""

from __future__ import annotations

import gzip
import io
import tarfile
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path


def make_sdist(
    folder: Path,
    name: str,
    version: str = "1.0",
    *,
    files: Mapping[str, str] | None = None,
    headers: tuple[str, ...] = (),
    requires: tuple[str, ...] = (),
) -> Path:
    """Write a source archive and return its path; its PKG-INFO has `headers` and `requires`."""
    top = f"{name.replace('-', '_')}-{version}"
    lines = ["Metadata-Version: 2.2", f"Name: {name}", f"Version: {version}", *headers]
    lines += [f"Requires-Dist: {text}" for text in requires]
    contents = {"PKG-INFO": "".join(f"{line}\n" for line in lines), **(files or {"setup.py": "raise SystemExit(1)\n"})}
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{top}.tar.gz"
    raw = io.BytesIO()
    with tarfile.open(fileobj=raw, mode="w") as archive:
        for member, text in contents.items():
            entry = tarfile.TarInfo(f"{top}/{member}")
            entry.size = len(text.encode())
            archive.addfile(entry, io.BytesIO(text.encode()))
    path.write_bytes(gzip.compress(raw.getvalue(), mtime=0))
    return path
