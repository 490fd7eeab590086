"""Locks a model: every file that will be baked in, by sha256 and size, checked as far as that can be done early."""

from __future__ import annotations

import time
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from builder.errors import ModelError
from builder.host.concurrency import map_with_progress
from builder.host.files import disk_errors
from builder.model.model_files import LockedModel, ModelFile
from builder.models import model_store
from builder.models.fetch import fetchers, obtain
from builder.models.folder import list_folder, readable
from builder.models.model_checks import check_small_files, check_weights
from builder.models.selection import CONFIG, is_weight, select
from builder.remote import http
from builder.remote.download import Expected, PartialFile
from builder.remote.hub import artifact
from builder.remote.hub.model_sources import FolderSource, HubSource, RegistrySource, locate
from builder.remote.registry.base_lookup import connect_to

if TYPE_CHECKING:
    import os
    from pathlib import Path

    from builder.host.concurrency import Progress
    from builder.host.config import Config
    from builder.host.console import Console
    from builder.model.model_files import HubFile, HubListing
    from builder.model.recipes import Model


def lock_model(
    model: Model, recipe_folder: Path, config: Config, models: Path, console: Console, *, fetching: bool = False
) -> LockedModel:
    """Find a model's files and their hashes; `models` is the store (`Workspace.models`).

    Large files of a folder are hashed once and remembered by path, size, times and inode. Of a hub only small
    files are fetched: it tells the hashes of large ones. `fetching` says that all of it will be fetched next: then the
    files of a folder go into the store as they are hashed, and are read once.

    Raises:
        ModelError: the model cannot be had or is not what a model must be.
        NetworkError, RegistryError: its hub or registry cannot be reached, or refuses.
        IntegrityError: the hub serves other bytes than it lists.
        DiskError: the store cannot be written.
    """
    source = locate(model.source, recipe_folder, config)
    with disk_errors(models):
        if isinstance(source, FolderSource):
            return _lock_folder(model, source, models, console, fetching=fetching)
        return _lock_remote(model, source, config, models, console)


def quick_state(model: Model, recipe_folder: Path, config: Config) -> tuple[str, ...]:
    """Return what changes when the files of a model in a folder change: their names, sizes and times.

    Costs no network and no hashing. The state of a hub or registry is the model's name, that of a folder which cannot
    be used is the error.
    """
    try:
        source = locate(model.source, recipe_folder, config)
        if not isinstance(source, FolderSource):
            return ("hub" if isinstance(source, HubSource) else "registry", source.uri)
        files = list_folder(model.name, source)
        selected = select(files, model).paths
    except ModelError as error:
        return ("unusable", error.message)
    states = (f"{path} {files[path].st_size} {files[path].st_mtime_ns}" for path in selected)
    return ("folder", source.stand_in or "", *states)


def _lock_folder(model: Model, source: FolderSource, models: Path, console: Console, *, fetching: bool) -> LockedModel:
    listing = list_folder(model.name, source)
    selection = select(listing, model)
    if source.stand_in:
        console.warn(f"model {model.name}: {source.path} stands in for {model.source}: {source.stand_in}")
    with readable(model.name):
        small = {path: (source.path / path).read_bytes() for path in (CONFIG, *selection.indexes)}
        check_small_files(model, selection, small, console)
        for path in filter(is_weight, selection.paths):
            check_weights(model.name, path, source.path / path)
    hashes = _Hashing(name=model.name, folder=source.path, models=models, taking=fetching).run(
        {path: listing[path] for path in selection.paths}, console
    )
    files = tuple(ModelFile(path=path, sha256=hashes[path], size=listing[path].st_size) for path in selection.paths)
    return LockedModel(
        name=model.name,
        source=model.source,
        origin="folder",
        files=files,
        revision=source.revision,
        licence=model.licence,
        stand_in=source.stand_in,
    )


@dataclass(frozen=True, kw_only=True, slots=True)
class _Hashing:
    """Hashes the files of a model's folder; with `taking`, into the store `models` at once."""

    name: str
    folder: Path
    models: Path
    taking: bool

    def run(self, states: dict[str, os.stat_result], console: Console) -> dict[str, str]:
        """Return the sha256 of each file, by its path in the folder."""
        keys = {path: model_store.key_of(self.folder / path, state) for path, state in states.items()}
        remembered = {
            path: sha256 for path, key in keys.items() if (sha256 := model_store.remembered(self.models, key))
        }
        unknown = sorted(set(states) - set(remembered), key=lambda path: -states[path].st_size)
        if not unknown:
            return remembered
        total = sum(states[path].st_size for path in unknown)
        with console.task(f"{'fetching' if self.taking else 'hashing'} model {self.name}", total) as task:
            hashes = map_with_progress(
                lambda path, progress: self._one(path, states[path], progress), unknown, task.advance
            )
        return remembered | dict(zip(unknown, hashes, strict=True))

    def _one(self, path: str, before: os.stat_result, progress: Progress) -> str:
        file = self.folder / path
        key = model_store.key_of(file, before)
        if not self.taking:
            return self._read(file, key, None, progress)
        with model_store.partial(self.models, key, progress.token.check) as partial:
            # Another cell's lock may have taken it meanwhile.
            stored_hash = model_store.remembered(self.models, key)
            if stored_hash:
                progress.advance(before.st_size)
                return stored_hash
            try:
                sha256 = self._read(file, key, partial, progress)
                model_store.adopt(self.models, partial, sha256)
            finally:
                # A file of the user's may be another next time: there is nothing to go on from.
                partial.unlink(missing_ok=True)
            return sha256

    def _read(self, path: Path, key: str, copy: Path | None, progress: Progress) -> str:
        """Return the sha256 of a file, and remember it, if nobody wrote to it meanwhile."""
        started_ns = time.time_ns()
        with readable(self.name), path.open("rb") as file:
            if copy:
                with copy.open("w+b") as target:
                    content = PartialFile(target, Expected(), progress)
                    content.copy_from(file)
                sha256 = content.sha256
            else:
                sha256 = model_store.digest_of(file, progress.advance).hexdigest()
            after = path.stat()
        if model_store.key_of(path, after) != key:
            hint = "wait until it is written, then run it again"
            raise ModelError(f"model {self.name}: {path.name} changed while it was read", where=str(path), hint=hint)
        if model_store.is_settled(after, started_ns):
            model_store.remember(self.models, key, sha256)
        return sha256


def _lock_remote(
    model: Model, source: HubSource | RegistrySource, config: Config, models: Path, console: Console
) -> LockedModel:
    listing, pinned = _list_remote(source, config, console)
    files_by_path = {file.path: file for file in listing.files}
    selection = select(files_by_path, model)
    stand_in = None
    if isinstance(source, RegistrySource) and (stand_in := source.stand_in):
        console.warn(f"model {model.name}: {source.reference.name} stands in for {model.source}: {stand_in}")
    early = {CONFIG, *selection.indexes, *(path for path in selection.paths if not files_by_path[path].sha256)}
    hashes = _fetch_early(model, pinned, [files_by_path[path] for path in sorted(early)], config, models, console)
    small = {path: model_store.blob(models, hashes[path]).read_bytes() for path in (CONFIG, *selection.indexes)}
    check_small_files(model, selection, small, console)
    return LockedModel(
        name=model.name,
        source=model.source,
        origin="registry" if isinstance(source, RegistrySource) else "hub",
        files=tuple(
            ModelFile(path=path, sha256=files_by_path[path].sha256 or hashes[path], size=files_by_path[path].size)
            for path in selection.paths
        ),
        revision=listing.commit,
        licence=model.licence or listing.licence,
        stand_in=stand_in,
    )


def _list_remote(
    source: HubSource | RegistrySource, config: Config, console: Console
) -> tuple[HubListing, HubSource | RegistrySource]:
    """Return the files of a model, and its place at the commit or digest that it has now."""
    if isinstance(source, RegistrySource):
        listing = artifact.list_files(source, connect_to(source.reference, config))
        return listing, source.at(listing.commit)
    from builder.remote.hub import hub_client  # noqa: PLC0415  # huggingface_hub is slow to import

    listing = hub_client.list_files(source, config, http.Retry(on_retry=console.warn))
    return listing, replace(source, revision=listing.commit)


def _fetch_early(
    model: Model,
    source: HubSource | RegistrySource,
    files: list[HubFile],
    config: Config,
    models: Path,
    console: Console,
) -> dict[str, str]:
    with console.task(f"reading model {model.name}", sum(file.size for file in files)) as task:
        fetcher = fetchers(source, config)
        hashes = map_with_progress(
            lambda file, progress: obtain(model.name, fetcher(file), models, progress), files, task.advance
        )
    return {file.path: sha256 for file, sha256 in zip(files, hashes, strict=True)}
