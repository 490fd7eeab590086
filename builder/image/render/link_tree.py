"""Links trees into a layer's folder with hard links, so that a context of gigabytes takes seconds and no space."""

from __future__ import annotations

import errno
import os
import shutil
from typing import TYPE_CHECKING

from builder.image.wheels.tree import EPOCH

if TYPE_CHECKING:
    from collections.abc import Iterable
    from pathlib import Path


def link_tree(trees: Iterable[Path], folder: Path) -> None:
    """Merge trees into a folder; for a path in two trees, the later one wins. Folders get one time and mode.

    Raises:
        OSError: the disk is full or cannot be written.
    """
    for tree in trees:
        _link(str(tree), str(folder))
    for base, _, _ in os.walk(folder, topdown=False):
        os.chmod(base, 0o755)  # noqa: PTH101, S103  # as in `_link`
        os.utime(base, (EPOCH, EPOCH))


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
        # Another file system, or one without hard links, or with no more links for this file.
        if error.errno not in (errno.EXDEV, errno.EMLINK, errno.EPERM, errno.EOPNOTSUPP, errno.ENOSYS):
            raise
        shutil.copy2(source, destination, follow_symlinks=False)
