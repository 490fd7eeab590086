"""The content of a source folder: its hash, a copy, and an archive."""

from __future__ import annotations

import hashlib
import os
import shutil
import tarfile
from pathlib import Path
from typing import TYPE_CHECKING

from builder.host.files import sha256_of

if TYPE_CHECKING:
    from collections.abc import Iterator

# Results of other tools, and their states.
_IGNORED = frozenset({".git", "__pycache__", ".venv", "build", "dist", ".mypy_cache", ".pytest_cache", ".ruff_cache"})
_EXECUTABLE = 0o100


def source_hash(folder: Path) -> str:
    """Return the sha256 of a folder's files: their paths, content, links and executable bits."""
    digest = hashlib.sha256()
    for path in sorted(_files(folder), key=lambda path: path.relative_to(folder).as_posix()):
        name = path.relative_to(folder).as_posix()
        if path.is_symlink():
            row = f"link {name} {path.readlink()}"
        else:
            mode = "program" if path.stat().st_mode & _EXECUTABLE else "file"
            row = f"{mode} {name} {sha256_of(path)}"
        digest.update(f"{row}\n".encode("utf-8", "surrogateescape"))
    return digest.hexdigest()


def copy_source(origin: Path, folder: Path) -> None:
    """Copy the files of `origin` that count for its hash."""
    for path in _files(origin):
        target = folder / path.relative_to(origin)
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy2(path, target, follow_symlinks=False)


def pack_source(origin: Path, target: Path) -> None:
    """Write the files of `origin` that count for its hash into an archive; the same files give the same bytes."""
    with tarfile.open(target, "w", format=tarfile.GNU_FORMAT) as archive:
        for path in sorted(_files(origin), key=lambda path: path.relative_to(origin).as_posix()):
            member = archive.gettarinfo(path, path.relative_to(origin).as_posix())
            plain = tarfile.TarInfo(member.name)
            # Two names of one file are two files of the source.
            plain.type = tarfile.SYMTYPE if member.issym() else tarfile.REGTYPE
            plain.mode = 0o755 if member.mode & _EXECUTABLE else 0o644
            if plain.issym():
                plain.linkname = member.linkname
                archive.addfile(plain)
                continue
            plain.size = path.stat().st_size
            with path.open("rb") as content:
                archive.addfile(plain, content)


def _files(folder: Path) -> Iterator[Path]:
    for root, folders, files in os.walk(folder):
        # Top folders only: packages may have a module named `build`.
        top = Path(root) == folder
        folders[:] = [name for name in folders if name not in (_IGNORED if top else {".git", "__pycache__"})]
        links = [name for name in folders if Path(root, name).is_symlink()]
        yield from (Path(root, name) for name in (*files, *links) if not name.endswith(".pyc"))
