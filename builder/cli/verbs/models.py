"""`jbuild models lock`, `fetch` and `verify`."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace

from builder.cli.cell_selection import CellSelection, recipe_verb
from builder.cli.results import show
from builder.cli.verb_options import verb_group
from builder.errors import IntegrityError, ModelError
from builder.host import records
from builder.host.file_locks import in_use
from builder.host.paths import check_cache
from builder.lock.recipe_models import UsedModel, Verified, fetch_models, lock_models, used_models, verify_models
from builder.model.model_files import LockedModel
from builder.recipe.matrix import expand


@dataclass(frozen=True, kw_only=True, slots=True)
class ModelUse:
    """A model and the cells that use it; `size` in bytes."""

    model: LockedModel = field(metadata=records.FLAT)
    size: int
    cells: tuple[str, ...]


@dataclass(frozen=True, kw_only=True, slots=True)
class CheckedModel:
    """A model in the cache, compared with its lock; `missing` and `damaged` are files."""

    use: ModelUse = field(metadata=records.FLAT)
    missing: tuple[str, ...]
    damaged: tuple[str, ...]


@dataclass(frozen=True, kw_only=True, slots=True)
class ModelList:
    """Models that were locked (`path` is the lock) or fetched; sizes in bytes."""

    recipe: str
    models: tuple[ModelUse, ...]
    path: str | None = field(default=None, metadata=records.OPTIONAL)


@dataclass(frozen=True, kw_only=True, slots=True)
class ModelCheck:
    """Models in the cache, compared with their locks."""

    recipe: str
    whole: bool
    models: tuple[CheckedModel, ...]


ModelsResult = ModelList | ModelCheck
command = verb_group(
    "models", "Lock, fetch or verify the models of a recipe without its wheels, each once for all cells."
)


@recipe_verb("lock", group=command)
def lock(selection: CellSelection) -> None:
    """Lock the models of RECIPE: every file by sha256 and size, in locks/RECIPE/models.toml.

    `jbuild lock` reads that file, so that all cells use the same revision until the next `jbuild models lock`.
    """
    session, jobs = selection.session, selection.jobs()
    check_cache(session.workspace)
    with in_use(session.workspace):
        every = replace(selection, cells=expand(selection.recipe)).jobs()
        locked = lock_models(jobs, every, session)
    path = session.workspace.model_lock(selection.recipe.name)
    show(_list(selection, locked, str(path)), "\n".join([*map(_model_text, locked), str(path)]), session.console)


@recipe_verb("fetch", group=command)
def fetch(selection: CellSelection) -> None:
    """Fetch the locked models of RECIPE into the cache, and verify them. An interrupted download resumes."""
    session, jobs = selection.session, selection.jobs()
    check_cache(session.workspace)
    used = used_models(jobs, session)
    with in_use(session.workspace):
        fetch_models(used, jobs[0].recipe.path.parent, session)
    text = [*map(_model_text, used), f"all models are in {session.workspace.models}"]
    show(_list(selection, used), "\n".join(text), session.console)


@recipe_verb("verify", group=command)
def verify(selection: CellSelection) -> int:
    """Compare the cached models of RECIPE with their locks, byte by byte.

    Removes damaged files. Exits with code 6 if a file was damaged, and with 9 if one is missing.
    """
    session, jobs = selection.session, selection.jobs()
    check_cache(session.workspace)
    with in_use(session.workspace):
        checked = verify_models(used_models(jobs, session), session)
    damaged, missing = any(model.damaged for model in checked), any(model.missing for model in checked)
    files = tuple(CheckedModel(use=_use(model.used), missing=model.missing, damaged=model.damaged) for model in checked)
    result = ModelCheck(recipe=selection.recipe.name, whole=not (damaged or missing), models=files)
    show(result, _check_text(checked, result), session.console)
    if damaged:
        return IntegrityError.exit_code
    return ModelError.exit_code if missing else 0


def _list(selection: CellSelection, models: Sequence[UsedModel], path: str | None = None) -> ModelList:
    return ModelList(recipe=selection.recipe.name, models=tuple(map(_use, models)), path=path)


def _use(used: UsedModel) -> ModelUse:
    return ModelUse(model=used.model, size=used.model.size, cells=used.cells)


def _check_text(checked: Sequence[Verified], result: ModelCheck) -> str:
    lines = []
    for model in checked:
        count = len(model.used.model.files)
        intact = count - len(model.missing) - len(model.damaged)
        lines.append(f"{model.used.model.name}: {intact} of {count} files are as locked")
        lines += [f"  missing  {path}" for path in model.missing]
        lines += [f"  damaged  {path}, removed" for path in model.damaged]
    if not result.whole:
        lines.append(f"next: `jbuild models fetch {result.recipe}` fetches them")
    return "\n".join(lines)


def _model_text(used: UsedModel) -> str:
    model = used.model
    revision = f" at {model.revision}" if model.revision else ""
    cells = f"{len(used.cells)} cell{'s' if len(used.cells) > 1 else ''}"
    licence = f", {model.licence}" if model.licence else ""
    stand_in = f"; stands in: {model.stand_in}" if model.stand_in else ""
    size = f"{len(model.files)} files, {model.size / 1e6:.1f} MB"
    return f"{model.name}: {model.source}{revision}: {size}, for {cells}{licence}{stand_in}"
