"""Lays a model's files out as they will be in an image."""

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
# Another device, a file system without hard links, too many links, or another owner's file.
_NO_LINK = (errno.EXDEV, errno.EPERM, errno.EMLINK, errno.EOPNOTSUPP, errno.ENOTSUP)


def bake(locked: LockedModel, models: Path, folder: Path, mtime: int) -> None:
    """Lay a model out under `folder/models/<name>`, by hard links to the store `models`, replacing what was there.

    `mtime` (seconds) is set on everything. The links share it with the store, so it must be the same in every call.

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
            _lay(_stored(locked, file, models), target, mtime)
        folders = [Path(path) for path, _, _ in os.walk(root, topdown=False)]
        for path in (*folders, root.parent, folder):
            path.chmod(_FOLDER_MODE)
            os.utime(path, (mtime, mtime))


def kept_files(models: Iterable[LockedModel], store_folder: Path) -> dict[str, Path]:
    """Return where the store has the files of models, by their paths in an image."""
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


def _lay(blob: Path, target: Path, mtime: int) -> None:
    _normalise(blob, mtime)
    try:
        target.hardlink_to(blob)
    except OSError as error:
        if error.errno not in _NO_LINK:
            raise
        shutil.copyfile(blob, target)
        _normalise(target, mtime)


def _normalise(path: Path, mtime: int) -> None:
    """Only where it differs: the file may be open in another build."""
    state = path.stat()
    if state.st_mtime_ns != mtime * 1_000_000_000:
        os.utime(path, (mtime, mtime))
    if state.st_mode & 0o7777 != _FILE_MODE:
        path.chmod(_FILE_MODE)
