"""The folders of a plan's layers, filled with hard links where their files are in the cache.

A context of gigabytes then takes seconds and no space.
"""

from __future__ import annotations

import errno
import hashlib
import os
import shutil
from typing import TYPE_CHECKING

from builder.errors import ModelError
from builder.host import records
from builder.host.files import atomic_folder, disk_errors
from builder.image import runtime
from builder.image.wheels.tree import EPOCH, normalise
from builder.model.images import ENVIRONMENT
from builder.models import model_store

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable
    from pathlib import Path

    from builder.model.model_files import LockedModel
    from builder.model.recipes import Spec

# The folder of a distribution's own interpreter.
SYSTEM_HOME = "/usr/bin"
# Failures of a hard link: another file system, one without them, no more of them, or another owner's file.
_NO_LINK = (errno.EXDEV, errno.EMLINK, errno.EPERM, errno.EOPNOTSUPP, errno.ENOSYS)
_FILE_MODE = 0o644


def make_layer(layers: Path, name: str, fill: Callable[[Path], None]) -> str:
    """Make a layer's folder, unless it exists: its name identifies its content. Return the name.

    Raises:
        DiskError: the disk is full or cannot be written.
    """
    target = layers / name
    if not target.is_dir():
        with disk_errors(target), atomic_folder(target) as folder:
            fill(folder)
    return name


def linked_layer(layers: Path, name: str, trees: Iterable[Path]) -> str:
    """Make a layer of trees."""
    return make_layer(layers, name, lambda folder: link_tree(trees, folder))


def environment_layer(layers: Path, python: str, home: str) -> str:
    """Make the layer of the empty virtual environment, in the layout of `python -m venv`.

    `home` is the folder of the interpreter's executable in the image.
    """

    def fill(folder: Path) -> None:
        root = folder / ENVIRONMENT.lstrip("/")
        (root / "bin").mkdir(parents=True)
        (root / "lib" / f"python{python}" / "site-packages").mkdir(parents=True)
        (root / "lib64").symlink_to("lib")
        (root / "bin" / "python").symlink_to(f"{home}/python{python}")
        for name in ("python3", f"python{python}"):
            (root / "bin" / name).symlink_to("python")
        text = f"home = {home}\ninclude-system-site-packages = false\nversion = {python}\n"
        (root / "pyvenv.cfg").write_text(text, encoding="utf-8")
        normalise(folder)

    suffix = "" if home == SYSTEM_HOME else f"-{home.strip('/').replace('/', '-')}"
    return make_layer(layers, f"environment-py{python}{suffix}-1", fill)


def model_layer(layers: Path, model: LockedModel, blobs: Path) -> str:
    """Make the layer of one model from the store `blobs`.

    Raises:
        ModelError: a file is not in the store.
    """
    content = records.fingerprint(model.name, model.files)[:12]
    return make_layer(layers, f"model-{model.name}-{content}", lambda folder: bake(model, blobs, folder))


def runtime_layer(layers: Path, spec: Spec) -> str:
    """Make the layer of the image's runtime: entrypoint, health check and server settings."""
    files = {path.name: path.read_bytes() for path in runtime.scripts()}
    files["server.json"] = runtime.server_json(spec).encode()
    content = records.fingerprint({name: hashlib.sha256(data).hexdigest() for name, data in files.items()})

    def fill(folder: Path) -> None:
        root = folder / runtime.FOLDER.lstrip("/")
        root.mkdir(parents=True)
        for name, data in files.items():
            (root / name).write_bytes(data)
        normalise(folder)

    return make_layer(layers, f"runtime-{content[:12]}", fill)


def bake(locked: LockedModel, models: Path, folder: Path) -> None:
    """Link a model's files from the store `models` into `folder/models/<name>`, `folder` being empty.

    Raises:
        ModelError: a file is not in the store.
        OSError: the disk is full or cannot be written.
    """
    for file in locked.files:
        blob = model_store.blob(models, file.sha256)
        if not model_store.has(models, file):
            raise ModelError(
                f"{file.path} of model {locked.name} is not in the cache",
                where=str(blob),
                hint="run it again with `--from render`, which fetches what is missing",
            )
        _normalise_blob(blob)
        target = folder / "models" / locked.name / file.path
        target.parent.mkdir(parents=True, exist_ok=True)
        _link_file(str(blob), str(target))
    _normalise_folders(folder)


def stored_files(models: Iterable[LockedModel], store_folder: Path) -> dict[str, Path]:
    """Return the paths of models' files in the store, by their paths in an image."""
    return {
        f"models/{model.name}/{file.path}": model_store.blob(store_folder, file.sha256)
        for model in models
        for file in model.files
    }


def link_tree(trees: Iterable[Path], folder: Path) -> None:
    """Merge trees into a folder; for a path in two trees, the later one wins. Folders get one time and mode.

    Raises:
        OSError: the disk is full or cannot be written.
    """
    for tree in trees:
        _link(str(tree), str(folder))
    _normalise_folders(folder)


def _link(source: str, target: str) -> None:
    # Plain strings and scandir: a CUDA stack has 100,000 files, and linking takes most of the render stage's time.
    try:
        os.makedirs(target, exist_ok=True)  # noqa: PTH103
    except FileExistsError:  # an earlier tree has a file of this name
        os.unlink(target)  # noqa: PTH108
        os.makedirs(target)  # noqa: PTH103
    with os.scandir(source) as entries:
        for entry in entries:
            destination = f"{target}/{entry.name}"
            if entry.is_dir(follow_symlinks=False):
                _link(entry.path, destination)
            else:
                _link_file(entry.path, destination)


def _link_file(source: str, destination: str) -> None:
    try:
        os.link(source, destination, follow_symlinks=False)
    except FileExistsError:
        if os.path.isdir(destination) and not os.path.islink(destination):  # noqa: PTH112, PTH114
            shutil.rmtree(destination)
        else:
            os.unlink(destination)  # noqa: PTH108
        _link_file(source, destination)
    except OSError as error:
        if error.errno not in _NO_LINK:
            raise
        shutil.copy2(source, destination, follow_symlinks=False)


def _normalise_blob(path: Path) -> None:
    """Set time and mode, only if they differ: the file may be open in another build."""
    state = path.stat()
    if state.st_mtime_ns != EPOCH * 1_000_000_000:
        os.utime(path, (EPOCH, EPOCH))
    if state.st_mode & 0o7777 != _FILE_MODE:
        path.chmod(_FILE_MODE)


def _normalise_folders(folder: Path) -> None:
    for base, _, _ in os.walk(folder, topdown=False):
        os.chmod(base, 0o755)  # noqa: PTH101, S103  # the image's user must be able to enter
        os.utime(base, (EPOCH, EPOCH))
