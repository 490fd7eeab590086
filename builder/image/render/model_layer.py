"""Links a model's files into the folder of an image's layer."""

from __future__ import annotations

import errno
import os
import shutil
from pathlib import Path
from typing import TYPE_CHECKING

from builder.errors import ModelError
from builder.host.files import disk_errors
from builder.models import model_store

if TYPE_CHECKING:
    from collections.abc import Iterable

    from builder.model.model_files import LockedModel, ModelFile

_FILE_MODE = 0o644
_FOLDER_MODE = 0o755
# Failures of a hard link: another device, no support for links, too many of them, or another owner's file.
_NO_LINK = (errno.EXDEV, errno.EPERM, errno.EMLINK, errno.EOPNOTSUPP, errno.ENOTSUP)


def bake(locked: LockedModel, models: Path, folder: Path, mtime: int) -> None:
    """Replace `folder/models/<name>` with hard links to a model's files in the store `models`.

    `mtime` (seconds) is set on all files and folders. The links share it with the store, so every call must use the
    same.

    Raises:
        ModelError: a file is not in the store.
        DiskError: the folder cannot be written.
    """
    root = folder / "models" / locked.name
    with disk_errors(root):
        if root.exists():
            shutil.rmtree(root)
        root.mkdir(parents=True)
        for file in locked.files:
            target = root / file.path
            target.parent.mkdir(parents=True, exist_ok=True)
            _link(_stored(locked, file, models), target, mtime)
        folders = [Path(path) for path, _, _ in os.walk(root, topdown=False)]
        for path in (*folders, root.parent, folder):
            path.chmod(_FOLDER_MODE)
            os.utime(path, (mtime, mtime))


def stored_files(models: Iterable[LockedModel], store_folder: Path) -> dict[str, Path]:
    """Return the paths of models' files in the store, by their paths in an image."""
    return {
        f"models/{model.name}/{file.path}": model_store.blob(store_folder, file.sha256)
        for model in models
        for file in model.files
    }


def _stored(locked: LockedModel, file: ModelFile, models: Path) -> Path:
    if model_store.has(models, file):
        return model_store.blob(models, file.sha256)
    raise ModelError(
        f"{file.path} of model {locked.name} is not in the cache",
        where=str(model_store.blob(models, file.sha256)),
        hint="run it again with `--from render`, which fetches what is missing",
    )


def _link(blob: Path, target: Path, mtime: int) -> None:
    _normalise(blob, mtime)
    try:
        target.hardlink_to(blob)
    except OSError as error:
        if error.errno not in _NO_LINK:
            raise
        shutil.copyfile(blob, target)
        _normalise(target, mtime)


def _normalise(path: Path, mtime: int) -> None:
    """Set time and mode, only if they differ: the file may be open in another build."""
    state = path.stat()
    if state.st_mtime_ns != mtime * 1_000_000_000:
        os.utime(path, (mtime, mtime))
    if state.st_mode & 0o7777 != _FILE_MODE:
        path.chmod(_FILE_MODE)
