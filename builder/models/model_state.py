"""The state of a model's source, to see in milliseconds whether it may have changed."""

from __future__ import annotations

from typing import TYPE_CHECKING

from builder.errors import ModelError
from builder.models.folder import list_folder
from builder.models.selection import select
from builder.remote.model_sources import FolderSource, HubSource, locate

if TYPE_CHECKING:
    from pathlib import Path

    from builder.host.config import Config
    from builder.model.recipes import Model


def quick_state(model: Model, recipe_folder: Path, config: Config) -> tuple[str, ...]:
    """Return names, sizes and times of the files of a model in a folder, without network access and hashing.

    The state of a model on a hub or in a registry is its name, that of an unusable folder is the error.
    """
    try:
        source = locate(model.source, recipe_folder, config)
        if not isinstance(source, FolderSource):
            return ("hub" if isinstance(source, HubSource) else "registry", source.uri)
        entries = list_folder(model.name, source)
        paths = select(entries, model).paths
    except ModelError as error:
        return ("unusable", error.message)
    states = (f"{path} {entries[path].st_size} {entries[path].st_mtime_ns}" for path in paths)
    return ("folder", source.stand_in or "", *states)
