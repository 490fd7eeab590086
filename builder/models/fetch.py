"""Brings a locked model's files into the store: verified, resumed, each once, whoever else does the same."""

from __future__ import annotations

from typing import TYPE_CHECKING

from builder import http, records
from builder.errors import IntegrityError, ModelError
from builder.models import store
from builder.models.artifact import RegistryLine, client_for
from builder.models.checks import check_weights
from builder.models.download import HubLine
from builder.models.folder import readable
from builder.models.hub import HubFile, require_online
from builder.models.model import ModelFile
from builder.models.places import FolderPlace, HubPlace, Place, RegistryPlace, locate
from builder.models.threads import together
from builder.workspace import disk_errors

if TYPE_CHECKING:
    from pathlib import Path

    from builder.config import Config
    from builder.console import Console
    from builder.models.download import Line
    from builder.models.model import LockedModel
    from builder.models.threads import Watch


def fetch_model(locked: LockedModel, recipe_folder: Path, config: Config, models: Path, console: Console) -> None:
    """Bring every file of a model into the store `models` (`Workspace.models`); what is there already costs nothing.

    Raises:
        ModelError: the model is no longer where it was.
        NetworkError, RegistryError: its hub or registry cannot be reached, or refuses.
        IntegrityError: a file is not the one that was locked.
        DiskError: the store cannot be written.
    """
    missing = {file.sha256: file for file in locked.files if not store.use(models, file)}
    if not missing:
        return
    place = _place(locked, recipe_folder, config)
    # The largest first: the last to end should be a small one.
    keys = sorted(missing, key=lambda sha256: (-missing[sha256].size, sha256))
    total = sum(file.size for file in missing.values())
    with disk_errors(models), console.task(f"fetching model {locked.name}", total) as task:
        if isinstance(place, FolderPlace):
            folder = place.path
            together(lambda key, watch: _copy(locked, missing[key], folder, models, watch), keys, task.advance)
        else:
            line = line_to(place, config)
            together(
                lambda key, watch: obtain(locked.name, _listed(missing[key]), line, models, watch), keys, task.advance
            )


def line_to(place: HubPlace | RegistryPlace, config: Config) -> Line:
    """Return a connection to a place.

    Raises:
        NetworkError: the user wants no connections to hubs.
    """
    if isinstance(place, RegistryPlace):
        return RegistryLine(place=place, client=client_for(place, config))
    require_online(place)
    return HubLine(place=place, session=http.session(config))


def obtain(name: str, wanted: HubFile, line: Line, models: Path, watch: Watch) -> str:
    """Bring one file of a hub or registry into the store and return its sha256; `name` is for messages.

    Raises:
        ModelError, NetworkError, IntegrityError: as `fetch_model` does.
    """
    here = _here(models, wanted)
    if here:
        watch.advance(wanted.size)
        return here
    with store.partial(models, _key(wanted, line), watch.look) as partial:
        # Another thread or process may have brought it while this one waited.
        here = _here(models, wanted)
        if here:
            watch.advance(wanted.size)
            return here
        sha256 = line.bring(wanted, partial, watch)
        try:
            check_weights(name, wanted.path, partial)
        except ModelError:
            partial.unlink()
            raise
        store.adopt(models, partial, sha256)
        if wanted.git_id:
            store.remember(models, _git_key(wanted), sha256)
        return sha256


def _here(models: Path, wanted: HubFile) -> str | None:
    sha256 = wanted.sha256 or (store.remembered(models, _git_key(wanted)) if wanted.git_id else None)
    if sha256 and store.has(models, ModelFile(path=wanted.path, sha256=sha256, size=wanted.size)):
        return sha256
    return None


def _key(wanted: HubFile, line: Line) -> str:
    return wanted.sha256 or records.fingerprint(line.source, wanted.path, wanted.git_id)


def _git_key(wanted: HubFile) -> str:
    return records.fingerprint("git", wanted.git_id, wanted.size)


def _listed(file: ModelFile) -> HubFile:
    return HubFile(path=file.path, size=file.size, sha256=file.sha256, git_id=None)


def _place(locked: LockedModel, recipe_folder: Path, config: Config) -> Place:
    place = locate(locked.source, recipe_folder, config)
    if isinstance(place, FolderPlace):
        return place
    if isinstance(place, RegistryPlace):
        return place.at(locked.revision) if locked.revision else place
    if locked.stand_in:
        raise ModelError(
            f"model {locked.name} was locked from a folder in place of {locked.source}, which is not configured here",
            where=locked.source,
            hint="add its [[model-mirrors]] to jbuild.toml, or run `jbuild lock` to take the model from the hub",
        )
    revision = locked.revision or place.revision
    return HubPlace(repository=place.repository, revision=revision, endpoint=place.endpoint)


def _copy(locked: LockedModel, file: ModelFile, folder: Path, models: Path, watch: Watch) -> None:
    with store.partial(models, file.sha256, watch.look) as partial:
        if store.has(models, file):
            return
        partial.touch()
        source = folder / file.path
        with readable(locked.name), source.open("rb") as original:
            sha256 = store.copy_and_hash(original, partial, watch.advance)
        size = partial.stat().st_size
        if (sha256, size) != (file.sha256, file.size):
            partial.unlink()
            raise _changed(locked, file, source, sha256, size)
        store.adopt(models, partial, sha256)


def _changed(locked: LockedModel, file: ModelFile, source: Path, sha256: str, size: int) -> IntegrityError:
    return IntegrityError(
        f"{file.path} of model {locked.name} is not the file that was locked: "
        f"sha256 {sha256} ({size} bytes), expected {file.sha256} ({file.size} bytes)",
        where=str(source),
        hint="put the locked file back, or, if the change is meant, "
        "run `jbuild lock RECIPE` (or `jbuild models lock RECIPE`)",
    )
