"""Models in folders: lists their files and refuses links to other folders."""

from __future__ import annotations

import errno
import os
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from builder.errors import ModelError
from builder.model.model_files import kind_of, path_flaw, printable_path
from builder.models.adapters import ADAPTER
from builder.models.config_json import CONFIG
from builder.models.mistral_format import PARAMS
from builder.models.selection import no_config

if TYPE_CHECKING:
    from collections.abc import Iterator

    from builder.remote.model_sources import FolderSource

# Failures to write a copy, not to read the user's file.
_WRITING = (errno.ENOSPC, errno.EDQUOT, errno.EROFS)
_COPY = "`cp -rL FOLDER COPY` makes a folder with files instead of links: name that one"


def list_folder(name: str, source: FolderSource) -> dict[str, os.stat_result]:
    """Return the files of a model's folder, except hidden ones, by their relative path.

    Raises:
        ModelError: no such folder, no configuration, or an entry that cannot be read or be a model's file.
    """
    folder = source.path
    with readable(name):
        if not folder.is_dir():
            flaw = "is not a folder" if folder.exists() else "does not exist"
            raise ModelError(f"model {name}: the folder {flaw}", where=str(folder), hint=source.hint)
        # Checked first: the walk through a wrong folder, such as a home, may take minutes.
        if not any((folder / path).exists() for path in (CONFIG, PARAMS, ADAPTER)):
            raise no_config(name, str(folder))
        return dict(_walk(name, folder, folder.resolve(), ""))


@contextmanager
def readable(name: str) -> Iterator[None]:
    """Turn failures to read a user's files into errors with hints.

    Raises:
        ModelError: a file cannot be read.
    """
    try:
        yield
    except OSError as error:
        if error.errno in _WRITING:
            raise
        raise ModelError(
            f"model {name}: a file cannot be read: {error.strerror}",
            where=printable_path(str(error.filename)),
            hint="check that it exists and that you may read it",
        ) from error


def _walk(name: str, folder: Path, root: Path, above: str) -> Iterator[tuple[str, os.stat_result]]:
    for entry in sorted(os.scandir(folder), key=lambda e: e.name):
        path = above + entry.name
        if entry.name.startswith("."):
            continue
        flaw = path_flaw(path) or _link_flaw(entry, root)
        if flaw:
            hint = _COPY if entry.is_symlink() else "rename it, or move it out of the model's folder"
            raise ModelError(
                f"model {name}: {printable_path(path)} {flaw}", where=printable_path(str(folder)), hint=hint
            )
        if entry.is_dir():
            yield from _walk(name, Path(entry.path), root, f"{path}/")
        elif entry.is_file():
            yield path, entry.stat()
        else:
            kind = kind_of(entry.stat().st_mode)
            hint = "move it out of the model's folder"
            raise ModelError(f"model {name}: {path} is {kind}, not a file", where=str(folder), hint=hint)


def _link_flaw(entry: os.DirEntry[str], root: Path) -> str | None:
    if not entry.is_symlink():
        return None
    target = Path(os.path.realpath(entry.path))
    if not target.exists():
        return "is a link to nothing"
    if not target.is_relative_to(root):
        return "is a link to a file outside the folder"
    return "is a link to a folder" if target.is_dir() else None
