"""The files of a cell's model that are on this machine."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from builder.errors import ModelError
from builder.models import model_store
from builder.models.folder import list_folder, readable
from builder.models.model_checks import check_whole
from builder.models.selection import CONFIG, select
from builder.remote.model_sources import FolderSource, locate

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from builder.host.config import Config
    from builder.model.model_files import LockedModel
    from builder.model.recipes import Model


@dataclass(frozen=True, kw_only=True, slots=True)
class ModelFiles:
    """A model's files: sizes in bytes by path; `find` returns a file's path on this machine, or None."""

    name: str
    source: str
    sizes: dict[str, int]
    find: Callable[[str], Path | None]

    def config(self) -> tuple[str, bytes]:
        """Return the path and the bytes of config.json.

        Raises:
            ModelError: it is not on this machine.
        """
        path = self.find(CONFIG)
        if path is None:
            hint = "download it with `jbuild models fetch`"
            raise ModelError(f"{CONFIG} of model {self.name} is not on this machine", where=self.source, hint=hint)
        return str(path), path.read_bytes()


def locked_files(locked: LockedModel, recipe_folder: Path, config: Config, models: Path) -> ModelFiles:
    """Return the files of a locked model, from the store or the folder that it was locked from."""
    source = locate(locked.source, recipe_folder, config)
    by_path = {file.path: file for file in locked.files}

    def find(path: str) -> Path | None:
        file = by_path.get(path)
        if file is None:
            return None
        if model_store.has(models, file):
            return model_store.blob(models, file.sha256)
        local = source.path / path if isinstance(source, FolderSource) else None
        return local if local and local.is_file() and local.stat().st_size == file.size else None

    sizes = {file.path: file.size for file in locked.files}
    return ModelFiles(name=locked.name, source=locked.source, sizes=sizes, find=find)


def local_files(model: Model, recipe_folder: Path, config: Config) -> ModelFiles:
    """Return the files of a model without a lock, from its folder.

    Raises:
        ModelError: the source is not a folder, or the folder's model is incomplete.
    """
    source = locate(model.source, recipe_folder, config)
    if not isinstance(source, FolderSource):
        hint = "lock the recipe's models first: `jbuild models lock RECIPE`, or `jbuild lock RECIPE`"
        raise ModelError(
            f"model {model.name} is not locked, and its source is not a folder", where=model.source, hint=hint
        )
    files, folder = list_folder(model.name, source), source.path
    selection = select(files, model)
    with readable(model.name):
        small = {path: (folder / path).read_bytes() for path in (CONFIG, *selection.indexes)}
    # An incomplete model would give too small an estimate.
    check_whole(model, selection, small)
    sizes = {path: files[path].st_size for path in selection.paths}
    return ModelFiles(
        name=model.name,
        source=model.source,
        sizes=sizes,
        find=lambda path: folder / path if path in sizes else None,
    )
