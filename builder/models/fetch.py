"""Downloads a locked model's files into the store: verified, resumed, each once for all processes."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Protocol

from builder.errors import IntegrityError, ModelError
from builder.host import records
from builder.host.concurrency import map_with_progress
from builder.host.files import disk_errors
from builder.model.model_files import HubFile, ModelFile
from builder.models import model_store
from builder.models.folder import readable
from builder.models.layer_hash import hashing_layer, remember_layer
from builder.models.model_checks import check_fetched, check_file
from builder.remote import http
from builder.remote.artifact import RegistryFetcher
from builder.remote.download import Expected, download
from builder.remote.model_sources import FolderSource, RegistrySource, locate
from builder.remote.registry.base_lookup import connect_to

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from builder.host.concurrency import Progress
    from builder.host.config import Config
    from builder.host.session import Session
    from builder.model.locks import Job, Lock
    from builder.model.model_files import LockedModel
    from builder.remote.download import PartialFile
    from builder.remote.model_sources import HubSource


def fetch_models(job: Job, lock: Lock, session: Session) -> None:
    """Download the missing files of a lock's models into the store.

    Raises:
        ModelError, NetworkError, RegistryError, IntegrityError, DiskError: as for `fetch_model`.
    """
    for model in lock.models:
        fetch_model(model, job.recipe.path.parent, session)


def fetch_model(locked: LockedModel, recipe_folder: Path, session: Session) -> None:
    """Download the missing files of a model into the store.

    Raises:
        ModelError: the model's source no longer has it, or its weights do not agree with their index.
        NetworkError, RegistryError: its hub or registry cannot be reached, or refuses.
        IntegrityError: a file is not the locked one.
        DiskError: the store cannot be written.
    """
    models = session.workspace.models
    missing = {file.sha256: file for file in locked.files if not model_store.use(models, file)}
    if missing:
        _fetch_missing(locked, missing, recipe_folder, session)
    # Without missing files too: an earlier run may have stored them all and found that they do not agree.
    warnings = check_fetched(
        locked.name, {f.path: model_store.blob(models, f.sha256) for f in locked.files}, locked.source
    )
    for warning in warnings if missing else ():
        session.console.warn(warning)


def _fetch_missing(locked: LockedModel, missing: dict[str, ModelFile], recipe_folder: Path, session: Session) -> None:
    models = session.workspace.models
    fetcher = _fetchers(locked, recipe_folder, session.config)
    # Largest first, so that no large one is left for the end.
    files = sorted(missing.values(), key=lambda file: (-file.size, file.sha256))
    total = sum(file.size for file in files)
    with disk_errors(models), session.console.task(f"fetching model {locked.name}", total) as task:
        map_with_progress(
            lambda file, progress: obtain(locked.name, fetcher(_hub_file(file)), models, progress), files, task.advance
        )


class ModelFetcher(Protocol):
    """The source of one file of a model."""

    @property
    def uri(self) -> str:
        """The model as recipes write it."""

    @property
    def file(self) -> HubFile:
        """The file in the source's listing."""

    def fetch(self, content: PartialFile) -> None:
        """Append the missing bytes to `content`.

        Raises:
            JbuildError: the source refuses or cannot be reached; the bytes so far stay.
        """

    def mismatch(self, content: PartialFile) -> IntegrityError:
        """Return the error for content with a flaw."""


def fetchers(source: HubSource | RegistrySource, config: Config) -> Callable[[HubFile], ModelFetcher]:
    """Connect to a hub or registry; threads share the connections.

    Raises:
        NetworkError: HF_HUB_OFFLINE is set.
    """
    if isinstance(source, RegistrySource):
        client = connect_to(source.reference, config)
        return lambda file: RegistryFetcher(source=source, file=file, client=client)
    from builder.remote.hub_client import HubFetcher, require_online  # noqa: PLC0415  # huggingface_hub is slow to import

    require_online(source)
    session = http.session(config)
    return lambda file: HubFetcher(source=source, file=file, session=session)


def obtain(name: str, fetcher: ModelFetcher, models: Path, progress: Progress) -> str:
    """Download one file of the model `name` into the store and return its sha256.

    Raises:
        ModelError, NetworkError, RegistryError, IntegrityError: as `fetch_model` does.
    """
    file = fetcher.file
    sha256 = _stored(models, file)
    if sha256 is None:
        key = file.sha256 or records.fingerprint(fetcher.uri, file.path, file.git_id)
        with model_store.partial(models, key, progress.token.check) as partial:
            # Another thread or process may have downloaded it meanwhile.
            sha256 = _stored(models, file)
            if sha256 is None:
                return _fetch(name, fetcher, partial, models, progress)
    progress.advance(file.size)
    return sha256


def _fetch(name: str, fetcher: ModelFetcher, partial: Path, models: Path, progress: Progress) -> str:
    file = fetcher.file
    expected = Expected(sha256=file.sha256, size=file.size, git_id=file.git_id)
    with hashing_layer(name, file.path, file.size) as framed:
        sha256 = download(fetcher.fetch, fetcher.mismatch, partial, expected, progress, framed)
        try:
            check_file(name, file.path, partial, fetcher.uri)
        except ModelError:
            partial.unlink()
            raise
        model_store.adopt(models, partial, sha256)
        remember_layer(models, sha256, framed)
    if file.git_id:
        model_store.remember(models, _git_key(file), sha256)
    return sha256


def _stored(models: Path, file: HubFile) -> str | None:
    sha256 = file.sha256 or (model_store.remembered(models, _git_key(file)) if file.git_id else None)
    if sha256 and model_store.has(models, ModelFile(path=file.path, sha256=sha256, size=file.size)):
        return sha256
    return None


def _git_key(file: HubFile) -> str:
    return records.fingerprint("git", file.git_id, file.size)


def _hub_file(file: ModelFile) -> HubFile:
    return HubFile(path=file.path, size=file.size, sha256=file.sha256, git_id=None)


def _fetchers(locked: LockedModel, recipe_folder: Path, config: Config) -> Callable[[HubFile], ModelFetcher]:
    source = locate(locked.source, recipe_folder, config)
    if isinstance(source, FolderSource):
        folder = source.path
        return lambda file: _FolderFetcher(model=locked, file=file, path=folder / file.path)
    if isinstance(source, RegistrySource):
        return fetchers(source.at(locked.revision) if locked.revision else source, config)
    if locked.stand_in:
        raise ModelError(
            f"model {locked.name} was locked from a folder instead of {locked.source}, which is not configured here",
            where=locked.source,
            hint="add its [[model-mirrors]] to jbuild.toml, or run `jbuild lock` to take the model from the hub",
        )
    return fetchers(replace(source, revision=locked.revision or source.revision), config)


@dataclass(frozen=True, kw_only=True, slots=True)
class _FolderFetcher:
    """A file of a model in a folder."""

    model: LockedModel
    file: HubFile
    path: Path

    @property
    def uri(self) -> str:
        return self.model.source

    def fetch(self, content: PartialFile) -> None:
        with readable(self.model.name), self.path.open("rb") as file:
            content.copy_from(file)

    def mismatch(self, content: PartialFile) -> IntegrityError:
        return IntegrityError(
            f"{self.file.path} of model {self.model.name} is not the locked file: "
            f"sha256 {content.sha256} ({content.size} bytes), expected {self.file.sha256} ({self.file.size} bytes)",
            where=str(self.path),
            hint="put the locked file back, or, if the change is intended, "
            "run `jbuild lock RECIPE` (or `jbuild models lock RECIPE`)",
        )
