"""Locks a model: the sha256 and size of every file for the image, with early checks."""

from __future__ import annotations

import time
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from builder.errors import ModelError
from builder.host.concurrency import map_with_progress
from builder.host.files import disk_errors
from builder.model.model_files import LockedModel, ModelFile
from builder.models import model_store
from builder.models.adapters import refuse_adapter
from builder.models.content_flaws import LONGEST_POINTER
from builder.models.fetch import fetchers, obtain
from builder.models.folder import list_folder, readable
from builder.models.layer_hash import hashing_layer, remember_layer
from builder.models.model_checks import check_selected, check_weights
from builder.models.remote_headers import remote_tensors
from builder.models.selection import is_weight, select
from builder.remote import artifact, http
from builder.remote.download import Expected, PartialFile
from builder.remote.model_sources import FolderSource, HubSource, RegistrySource, locate
from builder.remote.registry.base_lookup import connect_in

if TYPE_CHECKING:
    import os
    from pathlib import Path

    from builder.host.concurrency import Progress
    from builder.host.console import Console
    from builder.host.session import Session
    from builder.host.threaded_hash import ThreadedHash
    from builder.model.model_files import HubFile, HubListing
    from builder.model.recipes import Model

# Larger files, such as some tokenizers, are checked when they are fetched.
_SMALL = 1 << 20


def lock_model(model: Model, recipe_folder: Path, session: Session, *, fetching: bool = False) -> LockedModel:
    """Find a model's files and their hashes.

    Large files of a folder are hashed once; their hashes are cached by path, size, times and inode. Hubs list the
    hashes of large files, so only small ones are downloaded. With `fetching` the files of a folder are copied into
    the store while they are hashed, and so read once.

    Raises:
        ModelError: the source does not have the model, or it is not a valid model.
        NetworkError, RegistryError: its hub or registry cannot be reached, or refuses.
        IntegrityError: the hub serves other bytes than it lists.
        DiskError: the store cannot be written.
    """
    source = locate(model.source, recipe_folder, session.config)
    with disk_errors(session.workspace.models):
        if isinstance(source, FolderSource):
            return _lock_folder(model, source, session, fetching=fetching)
        return _lock_remote(model, source, session)


def _lock_folder(model: Model, source: FolderSource, session: Session, *, fetching: bool) -> LockedModel:
    console = session.console
    entries = list_folder(model.name, source)
    with readable(model.name):
        refuse_adapter(model, entries, lambda path: (source.path / path).read_bytes())
    selection = select(entries, model)
    if source.stand_in:
        console.warn(f"model {model.name}: {source.path} stands in for {model.source}: {source.stand_in}")
    with readable(model.name):
        check_selected(model, selection, source.path.joinpath, str(source.path), console)
    hashes = _Hashing(name=model.name, folder=source.path, models=session.workspace.models, copying=fetching).run(
        {path: entries[path] for path in selection.paths}, console
    )
    files = tuple(ModelFile(path=path, sha256=hashes[path], size=entries[path].st_size) for path in selection.paths)
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
    """Hashes the files of a model's folder; with `copying`, copies them into the store `models` at once."""

    name: str
    folder: Path
    models: Path
    copying: bool

    def run(self, states: dict[str, os.stat_result], console: Console) -> dict[str, str]:
        """Return the sha256 of each file, by its path in the folder."""
        keys = {path: model_store.key_of(self.folder / path, state) for path, state in states.items()}
        cached = {path: sha256 for path, key in keys.items() if (sha256 := model_store.remembered(self.models, key))}
        unknown = sorted(set(states) - set(cached), key=lambda path: -states[path].st_size)
        if not unknown:
            return cached
        total = sum(states[path].st_size for path in unknown)
        with console.task(f"{'fetching' if self.copying else 'hashing'} model {self.name}", total) as task:
            hashes = map_with_progress(
                lambda path, progress: self._one(path, states[path], progress), unknown, task.advance
            )
        return cached | dict(zip(unknown, hashes, strict=True))

    def _one(self, path: str, before: os.stat_result, progress: Progress) -> str:
        file = self.folder / path
        key = model_store.key_of(file, before)
        if not self.copying:
            return self._read(file, key, progress)
        with (
            model_store.partial(self.models, key, progress.token.check) as partial,
            hashing_layer(self.name, path, before.st_size) as framed,
        ):
            # Another process may have copied it meanwhile.
            cached = model_store.remembered(self.models, key)
            if cached:
                progress.advance(before.st_size)
                return cached
            try:
                sha256 = self._read(file, key, progress, partial, framed)
                model_store.adopt(self.models, partial, sha256)
                remember_layer(self.models, sha256, framed)
            finally:
                # A partial copy is useless, since the user's file may change.
                partial.unlink(missing_ok=True)
            return sha256

    def _read(
        self, path: Path, key: str, progress: Progress, copy: Path | None = None, framed: ThreadedHash | None = None
    ) -> str:
        """Return the sha256 of a file that does not change meanwhile, and record it; write `copy`, if there is one."""
        start_ns = time.time_ns()
        with readable(self.name), path.open("rb") as file:
            if copy:
                with copy.open("w+b") as target:
                    content = PartialFile(target, Expected(), progress, framed)
                    content.copy_from(file)
                sha256 = content.sha256
            else:
                sha256 = model_store.digest_of(file, progress.advance).hexdigest()
            after = path.stat()
        if model_store.key_of(path, after) != key:
            hint = "wait until the file is complete, then run it again"
            raise ModelError(f"model {self.name}: {path.name} changed while it was read", where=str(path), hint=hint)
        if model_store.is_settled(after, start_ns):
            model_store.remember(self.models, key, sha256)
        return sha256


def _lock_remote(model: Model, source: HubSource | RegistrySource, session: Session) -> LockedModel:
    listing, pinned = _list_remote(source, session)
    by_path = {file.path: file for file in listing.files}
    models = session.workspace.models
    refuse_adapter(model, by_path, lambda path: _read_remote(model, pinned, by_path[path], session))
    selection = select(by_path, model)
    stand_in = None
    if isinstance(source, RegistrySource) and (stand_in := source.stand_in):
        session.console.warn(f"model {model.name}: {source.reference.name} stands in for {model.source}: {stand_in}")
    early = {selection.config, *selection.indexes, *(path for path in selection.paths if _is_early(by_path[path]))}
    hashes = _fetch_early(model, pinned, [by_path[path] for path in sorted(early)], session)
    blobs = {path: model_store.blob(models, sha256) for path, sha256 in hashes.items()}
    tensors = _remote_tensors(model, pinned, [by_path[path] for path in selection.paths if path not in early], session)
    check_selected(model, selection, blobs.get, source.uri, session.console, tensors=tensors)
    return LockedModel(
        name=model.name,
        source=model.source,
        origin="registry" if isinstance(source, RegistrySource) else "hub",
        files=tuple(
            ModelFile(path=path, sha256=by_path[path].sha256 or hashes[path], size=by_path[path].size)
            for path in selection.paths
        ),
        revision=listing.commit,
        licence=model.licence or listing.licence,
        stand_in=stand_in,
    )


def _remote_tensors(
    model: Model, source: HubSource | RegistrySource, files: list[HubFile], session: Session
) -> dict[str, frozenset[str]]:
    """Return the tensors of weights on a hub, without those in the store; a registry's are checked when fetched."""
    if isinstance(source, RegistrySource):
        return {}
    models, known = session.workspace.models, dict[str, frozenset[str]]()
    missing = []
    for file in files:
        if file.sha256 and model_store.has(models, ModelFile(path=file.path, sha256=file.sha256, size=file.size)):
            tensors = check_weights(model.name, file.path, model_store.blob(models, file.sha256), source.uri)
            known |= {file.path: tensors} if tensors is not None else {}
        else:
            missing.append(file)
    return known | remote_tensors(model.name, source, missing, session)


def _list_remote(source: HubSource | RegistrySource, session: Session) -> tuple[HubListing, HubSource | RegistrySource]:
    """Return the files of a model, and its source at its present commit or digest."""
    if isinstance(source, RegistrySource):
        listing = artifact.list_files(source, connect_in(session, source.reference))
        return listing, source.at(listing.commit)
    from builder.remote import hub_client  # noqa: PLC0415  # huggingface_hub is slow to import

    listing = hub_client.list_files(source, session.config, http.Retry(on_retry=session.console.warn))
    return listing, replace(source, revision=listing.commit)


def _is_early(file: HubFile) -> bool:
    """Return whether a lock needs a file itself: for its hash, or since it is small enough to be checked at once."""
    return not file.sha256 or file.size <= (LONGEST_POINTER if is_weight(file.path) else _SMALL)


def _read_remote(model: Model, source: HubSource | RegistrySource, file: HubFile, session: Session) -> bytes:
    sha256 = _fetch_early(model, source, [file], session)[file.path]
    return model_store.blob(session.workspace.models, sha256).read_bytes()


def _fetch_early(
    model: Model, source: HubSource | RegistrySource, files: list[HubFile], session: Session
) -> dict[str, str]:
    models = session.workspace.models
    with session.console.task(f"reading model {model.name}", sum(file.size for file in files)) as task:
        fetcher = fetchers(source, session.config)
        hashes = map_with_progress(
            lambda file, progress: obtain(model.name, fetcher(file), models, progress), files, task.advance
        )
    return {file.path: sha256 for file, sha256 in zip(files, hashes, strict=True)}
