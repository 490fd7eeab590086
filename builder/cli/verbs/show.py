"""`jbuild show`."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import click

from builder.audit.slim_choice import in_words
from builder.cli import results
from builder.cli.cell_selection import CellSelection, recipe_verb
from builder.cli.largest_files import FilesOfCells, show_files
from builder.cli.results import VerbFailure, failed_text, failure_of, running_text
from builder.errors import JbuildError
from builder.host import records
from builder.host.paths import CellFolder
from builder.host.session import Session
from builder.host.wording import printable
from builder.image.render.image_labels import slim_sizes, slim_text
from builder.lock import lockfile
from builder.lock.unresolved import reasons
from builder.model import locks
from builder.model.builds import LockedBuild
from builder.model.images import SlimSize
from builder.model.platforms import Platform
from builder.model.recipes import Cell, Question, Recipe, Spec, TagRule
from builder.pipeline.cell import CellRecords
from builder.pipeline.failure import Failure, RunningStage
from builder.pipeline.history import open_failures, running, runs
from builder.pipeline.order import STAGES, RunOptions
from builder.pipeline.runner import Preview, preview
from builder.recipe.matrix import job_of
from builder.recipe.placeholders import unmarked

_STATES = {"unchanged": "done", "run": "to do", "failed": "failed", "running": "running"}


@dataclass(frozen=True, kw_only=True, slots=True)
class ShownModel:
    """A locked model; `size` in bytes."""

    name: str
    revision: str | None
    size: int
    stand_in: str | None


@dataclass(frozen=True, kw_only=True, slots=True)
class ShownBuild:
    """A package that the cell builds; `wheel` is the file name of its wheel, None before it is built.

    `inputs` are the sources besides its own, None without any.
    """

    name: str
    version: str
    source: str
    patches: tuple[str, ...]
    fingerprint: str
    wheel: str | None
    inputs: tuple[str, ...] | None = field(default=None, metadata=records.OPTIONAL)


@dataclass(frozen=True, kw_only=True, slots=True)
class ShownLock:
    """The lock of a cell; `packages` are versions by name, of packages with a wheel or a build."""

    path: str
    base: locks.LockedBase
    advisories: tuple[locks.LockedAdvisory, ...]
    indexes: tuple[locks.LockedIndex, ...]
    rules: tuple[locks.LockedRule, ...]
    warnings: tuple[locks.LockedWarning, ...]
    torch_cuda: str | None
    packages: dict[str, str]
    models: tuple[ShownModel, ...]
    builds: tuple[ShownBuild, ...] | None = field(default=None, metadata=records.OPTIONAL)


@dataclass(frozen=True, kw_only=True, slots=True)
class ImpossibleCell:
    """A cell that is declared impossible, with the reason."""

    cell: str
    values: dict[str, str]
    impossible: str | None
    note: str | None
    unresolved: str | None


@dataclass(frozen=True, kw_only=True, slots=True)
class UnreadCell(ImpossibleCell):
    """A cell whose lock or records cannot be read, with the error."""

    platform: Platform
    spec: Spec
    lock: None = None
    stages: None = None
    error: VerbFailure
    failures: tuple[Failure, ...]


@dataclass(frozen=True, kw_only=True, slots=True)
class ShownCell(ImpossibleCell):
    """A cell. `stages` are `run`, `running`, `unchanged` or `failed`.

    `failed` is the stage that failed with the same inputs, `running` the one that a process works on now. `failures`
    are the stages that failed and have not succeeded since, the latest last; those of `outdated` stages are about
    another lock than the present one. `slim` tells which GPU code the image has if that is not all of it; `slimmed` are
    the changed wheels of the last plan, with sizes in bytes.
    """

    platform: Platform
    spec: Spec
    lock: ShownLock | None
    stages: dict[str, str]
    failed: str | None
    failures: tuple[Failure, ...]
    outdated: tuple[str, ...] = ()
    running: RunningStage | None = field(default=None, metadata=records.OPTIONAL)
    slim: str | None = None
    slimmed: tuple[SlimSize, ...] = ()


AnyCell = ShownCell | UnreadCell | ImpossibleCell


@dataclass(frozen=True, kw_only=True, slots=True)
class ShownRecipe:
    """A recipe, cell by cell."""

    recipe: str
    path: str
    description: str
    architecture: str
    cells: tuple[AnyCell, ...]


ShowResult = ShownRecipe | FilesOfCells


@recipe_verb(
    "show",
    click.option(
        "--files",
        "most_files",
        type=click.IntRange(min=1),
        metavar="N",
        help="Show the N largest files of the cells' wheels instead.",
    ),
)
def command(selection: CellSelection, most_files: int | None) -> None:
    """Show the cells of RECIPE: their settings, locked versions and stages."""
    if most_files:
        show_files(selection, most_files)
        return
    session, recipe = selection.session, selection.recipe
    result = ShownRecipe(
        recipe=recipe.name,
        path=str(recipe.path),
        description=recipe.description,
        architecture=recipe.architecture,
        cells=tuple(_cell(recipe, cell, session) for cell in selection.cells),
    )
    results.show(result, text(result), session.console)


def _cell(recipe: Recipe, cell: Cell, session: Session) -> AnyCell:
    unresolved = reasons(recipe, (cell,), session.workspace, lambda: session.config).get(cell.id)
    head: dict[str, Any] = {"cell": cell.id, "values": dict(cell.values), "impossible": cell.impossible}
    head |= {"note": cell.note, "unresolved": unresolved}
    if cell.impossible:
        return ImpossibleCell(**head)
    job = job_of(recipe, cell)
    head |= {"platform": job.platform, "spec": job.spec}
    path, folder = session.workspace.lock(recipe.name, cell.id), session.workspace.cell(recipe.name, cell.id)
    now = running(folder)
    try:
        lock = lockfile.read(path, recipe=recipe.name, cell=cell.id)
        states = preview(job, session, RunOptions(until=STAGES[-1]))
    except JbuildError as error:
        return UnreadCell(**head, error=failure_of(error), failures=open_failures(runs(folder), now))
    failures = open_failures(runs(folder), now, lock=lock)
    failed = {failure.stage for failure in failures if not failure.outdated}
    return ShownCell(
        **head,
        lock=_lock(CellRecords(folder).with_built(lock), path) if lock else None,
        stages={state.stage: _state(state, failed, now) for state in states},
        failed=next((f"{state.stage}: {state.why}" for state in states if state.why and not _is(now, state)), None),
        failures=failures,
        outdated=tuple(failure.stage for failure in failures if failure.outdated),
        running=now,
        slim=in_words(job),
        slimmed=_slimmed(folder),
    )


def _state(preview: Preview, failed: set[str], now: RunningStage | None) -> str:
    if _is(now, preview):
        return "running"
    return "failed" if preview.state == "run" and preview.stage in failed else preview.state


def _is(now: RunningStage | None, preview: Preview) -> bool:
    return now is not None and now.stage == preview.stage


def _slimmed(folder: CellFolder) -> tuple[SlimSize, ...]:
    plan = CellRecords(folder).plan()
    return slim_sizes(dict(plan.settings.labels)) if plan else ()


def _lock(lock: locks.Lock, path: Path) -> ShownLock:
    return ShownLock(
        path=str(path),
        base=lock.base,
        advisories=lock.advisories,
        indexes=lock.indexes,
        rules=lock.rules,
        warnings=lock.warnings,
        torch_cuda=lock.torch_cuda,
        packages=dict(sorted(lock.versions.items())),
        models=tuple(
            ShownModel(name=model.name, revision=model.revision, size=model.size, stand_in=model.stand_in)
            for model in lock.models
        ),
        builds=tuple(_build(build, lock) for build in lock.builds) if lock.builds else None,
    )


def _build(build: LockedBuild, lock: locks.Lock) -> ShownBuild:
    return ShownBuild(
        name=build.name,
        version=build.version,
        source=build.source.words,
        patches=tuple(patch.name for patch in build.all_patches),
        fingerprint=build.fingerprint,
        wheel=next((wheel.filename for wheel in lock.built_wheels if wheel.name == build.name), None),
        inputs=tuple(entry.words for entry in build.inputs) if build.inputs else None,
    )


def text(result: ShownRecipe) -> str:
    """Return a recipe as text."""
    heading = f"{result.recipe}: {result.description}\n{result.path}, for {result.architecture}"
    return "\n\n".join([heading, *("\n".join(_cell_lines(cell)) for cell in result.cells)])


def _cell_lines(cell: AnyCell) -> Iterator[str]:
    yield cell.cell
    if not isinstance(cell, (ShownCell, UnreadCell)):
        yield f"  impossible  {cell.impossible}"
        return
    yield from _settings(cell)
    if isinstance(cell, ShownCell):
        yield from _slim_lines(cell)
    if isinstance(cell, UnreadCell):
        yield "  lock        not read, see the error"
    else:
        yield from _lock_lines(cell.lock) if cell.lock else iter(["  lock        none yet"])
    if cell.unresolved:
        yield f"  no wheels   {cell.unresolved}"
    if isinstance(cell, UnreadCell):
        yield f"  error       {cell.error.message}"
        yield from _failure_lines(cell.failures)
        return
    yield "  stages      " + ", ".join(f"{stage} {_STATES[state]}" for stage, state in cell.stages.items())
    if cell.running:
        yield f"  running     {running_text(cell.running)}"
    yield from _failure_lines(cell.failures)
    if cell.failed and cell.failed.partition(":")[0] not in {failure.stage for failure in cell.failures}:
        yield f"  failed      {cell.failed}"


def _slim_lines(cell: ShownCell) -> Iterator[str]:
    if cell.slim:
        yield f"  slim        {cell.slim}"
    if cell.slim and cell.slimmed:
        yield f"  slimmed     {slim_text(cell.slimmed)}"


def _failure_lines(failures: Sequence[Failure]) -> Iterator[str]:
    for failure in reversed(failures):
        yield f"  {'before' if failure.outdated else 'failed'}      {failed_text(failure)}"
        if failure.hint and not failure.outdated:
            yield f"  next        {printable(failure.hint)}"


def _settings(cell: ShownCell | UnreadCell) -> Iterator[str]:
    platform, spec = cell.platform, cell.spec
    yield f"  platform    {platform.name}: Python {platform.python}, glibc {platform.glibc}"
    if platform.sms:
        yield f"  GPU         SM {', '.join(platform.sms)}"
    if cell.note:
        yield f"  note        {cell.note}"
    yield f"  base        {spec.base or platform.base}"
    yield f"  requires    {', '.join(spec.requires)}"
    if spec.builds:
        names = ", ".join(build.name for build in spec.builds.packages)
        yield f"  build       {names or 'packages without a wheel that fits'}"
    if spec.constraints:
        yield f"  constraints {', '.join(spec.constraints)}"
    if spec.replace:
        yield f"  replace     {', '.join(spec.replace)}"
    if platform.has_gpu and spec.image.precompile:
        yield f"  precompile  {spec.image.precompile}"
    if spec.image.warm:
        yield "  warm        a second image with what the server's first start compiles; its tags end in -warm"
    if platform.has_gpu and spec.kernels != "any":
        yield f"  kernels     {spec.kernels}"
    if spec.apt:
        yield f"  apt         {', '.join(spec.apt)}"
    yield from (f"  model       {model.name} from {model.source}" for model in spec.models)
    yield from (f"  question    {_question(question)}" for question in spec.smoke.questions)
    yield f"  tags        {', '.join(map(_tag, spec.publish.tags))}"


def _question(question: Question) -> str:
    names = ("expect", "text", "tokens", "min_tokens", "schema")
    values = ((name.replace("_", "-"), getattr(question, name)) for name in names)
    expectations = [f"{name} {value}" for name, value in values if value]
    parallel = f", {question.at_once} at once" if question.at_once > 1 else ""
    return f"{question.title} ({', '.join(expectations)}{parallel})"


def _tag(rule: TagRule) -> str:
    conditions = [f"from level {rule.level}"] if rule.level else []
    conditions += [name for name in ("moving", "immutable") if getattr(rule, name)]
    name = unmarked(rule.name)
    return f"{name} ({', '.join(conditions)})" if conditions else name


def _lock_lines(lock: ShownLock) -> Iterator[str]:
    packages = lock.packages
    leading = ", ".join(f"{name} {packages[name]}" for name in locks.LEADING if name in packages)
    yield f"  lock        {lock.path}"
    yield f"  wheels      {len(packages)}: {leading}, …"
    yield from (f"  build       {build.name}: {build.wheel or 'not built yet'}" for build in lock.builds or ())
    if lock.torch_cuda:
        yield f"  torch       a build for CUDA {lock.torch_cuda}"
    yield from (f"  applied     {rule.rule} ({rule.why})" for rule in lock.rules)
    yield from (f"  warning     {row.symptom} ({row.source}); {row.hint}" for row in lock.warnings)
    yield from (f"  index       {index.name}: {index.url}" for index in lock.indexes)
    yield from (f"  stand-in    index {index.name}: {index.stand_in}" for index in lock.indexes if index.stand_in)
    yield from (f"  advisory    {row.id}: {', '.join(row.constrain)} ({row.source})" for row in lock.advisories)
    yield f"  base digest {lock.base.digest}"
    if lock.base.stand_in:
        yield f"  stand-in    {lock.base.used}: {lock.base.stand_in}"
    yield from (f"  stand-in    model {model.name}: {model.stand_in}" for model in lock.models if model.stand_in)
