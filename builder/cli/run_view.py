"""The end of a run: its result, and its text with the image, answers, tags and times of each cell."""

from __future__ import annotations

import shlex
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal

from builder.cli.results import VerbFailure, failure_of
from builder.device.service_records import CACHE
from builder.host import records
from builder.host.engine.emulation import emulator_settings
from builder.host.engine.gpu_access import BY_RUNTIME, GpuAccess
from builder.host.units import duration, size_of
from builder.host.wording import printable
from builder.model.audits import Audit, FindingCounts
from builder.model.builds import BuiltWheel, BuiltWheels
from builder.model.images import Image, Plan
from builder.model.locks import LockChange, Locked
from builder.model.publications import Publication
from builder.model.recipes import Cell
from builder.model.verdicts import Verdict, WarmStart

if TYPE_CHECKING:
    from collections.abc import Iterator

    from builder.host.paths import CellFolder
    from builder.model.locks import Lock
    from builder.pipeline.cell import CellRun
    from builder.pipeline.runner import CellResult, Preview


@dataclass(frozen=True, kw_only=True, slots=True)
class StageTime:
    """One stage: whether it ran, and for how many seconds."""

    ran: bool
    seconds: float


@dataclass(frozen=True, kw_only=True, slots=True)
class ShownChange:
    """A change of a lock; `words` is the same for people."""

    change: LockChange = field(metadata=records.FLAT)
    words: str


@dataclass(frozen=True, kw_only=True, slots=True)
class FinishedCell:
    """The outcome of a cell. `lock` and `plan` are paths, `size` is in bytes, compressed.

    `failed_at` is the stage of the error, `ended` the end of the cell's run (UTC, ISO 8601).
    """

    cell: str
    status: Literal["done", "unchanged", "failed"]
    error: VerbFailure | None
    failed_at: str | None
    ended: str
    stages: dict[str, StageTime]
    lock: str | None
    changes: tuple[ShownChange, ...]
    audit: FindingCounts | None
    plan: str | None
    digest: str | None
    verified: str | None
    size: int | None
    verdict: Verdict | None
    publication: Publication | None


@dataclass(frozen=True, kw_only=True, slots=True)
class SkippedCell:
    """A cell that is declared impossible."""

    cell: str
    status: Literal["impossible"] = "impossible"
    reason: str


@dataclass(frozen=True, kw_only=True, slots=True)
class RunResult:
    """The outcome of a run: the cells of a recipe."""

    recipe: str
    seconds: float
    cells: tuple[FinishedCell | SkippedCell, ...]


@dataclass(frozen=True, kw_only=True, slots=True)
class DryRun:
    """With --dry-run: `run`, `unchanged` or `failed` for each stage of each cell, and the reasons of failures."""

    recipe: str
    dry_run: dict[str, dict[str, str]]
    failed: dict[str, str]


RecipeResult = RunResult | DryRun


def summary(
    results: Sequence[CellResult], seconds: float, docker_host: str | None = None, gpu: GpuAccess | None = None
) -> str:
    """Return the summary of a run as text.

    Its commands reach the engine with `docker_host`, if it is set, and give containers the GPU by `gpu`; by default by
    NVIDIA's runtime, as on a board.
    """
    reach = f"DOCKER_HOST={docker_host} " if docker_host else ""
    blocks = [_cell(result, reach, gpu or BY_RUNTIME) for result in results]
    if all(result.status == "unchanged" and not result.verified for result in results):
        blocks.append(f"nothing to do: everything is up to date ({seconds:.1f} s)")
    else:
        blocks.append(f"{_counts(results)} in {duration(seconds)}")
    return "\n\n".join(blocks)


def run_result(recipe: str, results: Sequence[CellResult], impossible: Sequence[Cell], seconds: float) -> RunResult:
    """Return the result of a run of some cells, with the impossible ones at the end."""
    skipped = [SkippedCell(cell=cell.id, reason=cell.impossible or "") for cell in impossible]
    return RunResult(recipe=recipe, seconds=round(seconds, 1), cells=(*map(finished_cell, results), *skipped))


def finished_cell(result: CellResult) -> FinishedCell:
    """Return the outcome of a cell as a result."""
    run = result.run
    locked, audit, image = run.find(Locked), run.find(Audit), run.find(Image)
    changes = locked.changes if locked else ()
    return FinishedCell(
        cell=run.job.cell.id,
        status=result.status,
        error=failure_of(result.error) if result.error else None,
        failed_at=result.failed_at,
        ended=result.ended,
        stages={stage.stage: StageTime(ran=stage.ran, seconds=stage.seconds) for stage in result.stages},
        lock=_lock_path(run) if locked else None,
        changes=tuple(ShownChange(change=change, words=change.words) for change in changes),
        audit=audit.counts if audit else None,
        plan=str(run.folder.path) if run.find(Plan) else None,
        digest=image.digest if image else None,
        verified=result.verified,
        size=image.size if image else None,
        verdict=run.find(Verdict),
        publication=run.find(Publication),
    )


def dry_run_of(recipe: str, previews: Mapping[str, Sequence[Preview]]) -> DryRun:
    """Return the result of a dry run, from the previews of each cell."""
    return DryRun(
        recipe=recipe,
        dry_run={cell: {stage.stage: stage.state for stage in stages} for cell, stages in previews.items()},
        failed={cell: stage.why for cell, stages in previews.items() for stage in stages if stage.why},
    )


def dry_run_text(previews: Mapping[str, Sequence[Preview]]) -> str:
    """Return the stages that a run would execute, and the failures of the last run."""
    lines = []
    for cell, stages in previews.items():
        states = (f"{stage.stage} {'run' if stage.state == 'failed' else stage.state}" for stage in stages)
        lines.append(f"{cell}: {', '.join(states)}")
        lines += [f"  {stage.stage} failed in the last run: {stage.why}" for stage in stages if stage.why]
    return "\n".join(lines)


def _lock_path(run: CellRun) -> str:
    return str(run.session.workspace.lock(run.job.recipe.name, run.job.cell.id))


def _plan_lines(folder: CellFolder, plan: Plan, reach: str) -> Iterator[str]:
    yield f"  plan      {folder.path}"
    if plan.layers and all((folder.layers / name).is_dir() for name in plan.layers):
        # The command's context and outputs are relative to the folder.
        yield f"  build it  cd {shlex.quote(str(folder.path))} && {reach}{' '.join(plan.command)}"


def _cell(result: CellResult, reach: str, gpu: GpuAccess) -> str:
    run, lines = result.run, [f"{result.run.job.name}: {result.status}"]
    locked, audit, plan, image = run.find(Locked), run.find(Audit), run.find(Plan), run.find(Image)
    if result.error:
        lines.append(f"  error     {result.error.message}")
    if locked:
        lines += _lock_lines(run, locked.lock)
    if audit:
        lines.append(f"  audit     {_findings(audit.counts)}")
    if plan and not image:
        lines += _plan_lines(run.folder, plan, reach)
    if image:
        lines += [f"  image     {image.digest}", f"  size      {image.size / 1e6:.0f} MB compressed"]
    if result.verified:
        lines.append("  verified  a second build without any cache gave the same digest")
    if verdict := run.find(Verdict):
        lines += [f"  {line}" for line in verdict_lines(verdict, earlier=_is_earlier(result, verdict))]
    if publication := run.find(Publication):
        lines += [f"  pushed    {tag}" for tag in publication.references]
        lines += [f"  withheld  {reason}" for reason in publication.withheld_reasons]
    if result.stages:
        stages = ", ".join(f"{s.stage} {duration(s.seconds) if s.ran else 'unchanged'}" for s in result.stages)
        lines.append(f"  time      {duration(sum(s.seconds for s in result.stages))}: {stages}")
    command = _run_command(run, gpu)
    return "\n".join(lines + ([f"  run it    {reach}{command}"] if command else []))


def _findings(counts: FindingCounts) -> str:
    """Return the counts without zeros: `0 warnings` would contradict the warnings of other stages above it."""
    words = [word for word in str(counts).split(", ") if not word.startswith("0 ")]
    return ", ".join(words) or "no findings"


def _is_earlier(result: CellResult, verdict: Verdict) -> bool:
    """Return whether the verdict is from an earlier run: a run that started the server took longer than the start."""
    seconds = sum(stage.seconds for stage in result.stages if stage.stage == "smoke" and stage.ran)
    return seconds < (verdict.ready_s or 0.0)


def verdict_lines(verdict: Verdict, *, earlier: bool = False) -> list[str]:
    """Return a passed verdict as lines of text: its level, its answers and its warnings.

    The times of an `earlier` run are marked as such, since they are not part of this run's time.
    """
    when = f" (in an earlier run, {verdict.when[:16].replace('T', ' ')} UTC)" if earlier else ""
    lines = [f"smoke     passed at level {verdict.level}, ready after {verdict.ready_s:.0f} s{when}"]
    if verdict.emulation:
        lines.append(f"emulation {'; '.join(verdict.emulation)}")
    if verdict.modules:
        count = len(verdict.modules.need_driver)
        lines.append(f"modules   {verdict.modules.loaded} load, {count} need the GPU's driver and could not be tried")
    for answer in verdict.answers:
        lines.append(f"asked     {answer.question}")
        # The answer of a model may hold control characters.
        lines.append(f"answer    {printable(' '.join(answer.text.split()))}")
    if verdict.compilations:
        lines.append(f"compiled  {verdict.compilations}")
    if verdict.warm:
        lines.append(f"warm      {_warm_words(verdict.warm)}")
    return lines + [f"warning   {printable(warning)}" for warning in verdict.warnings]


def _warm_words(warm: WarmStart) -> str:
    if warm.failure or warm.size is None:
        return f"none: {warm.failure}"
    more = f"{size_of(warm.size)} more; `jbuild promote RECIPE --warm` publishes it"
    return f"ready after {warm.ready_s:.0f} s, compiled nothing, {more}"


def _lock_lines(run: CellRun, lock: Lock) -> Iterator[str]:
    builds, built = f", {len(lock.builds)} to build" if lock.builds else "", run.find(BuiltWheels)
    yield f"  lock      {_lock_path(run)} ({len(lock.wheels)} wheels{builds})"
    yield from (f"  wheel     {wheel.wheel.filename} ({_origin(wheel)})" for wheel in (built.wheels if built else ()))


def _origin(wheel: BuiltWheel) -> str:
    if wheel.origin != "built":
        return f"from the {wheel.origin}" if wheel.origin == "cache" else f"from {wheel.origin}"
    return f"built in {duration(wheel.seconds or 0)}"


def _run_command(run: CellRun, gpu: GpuAccess) -> str | None:
    job, verdict, publication = run.job, run.find(Verdict), run.find(Publication)
    if not verdict:
        return None
    pushed = publication.references if publication else []
    image = pushed[0] if pushed else run.proven_name
    options = f"{gpu.options} " if job.platform.has_gpu else ""
    if verdict.level == "emulated":
        # The settings of the smoke run make emulation bearable here too.
        environment = (*emulator_settings(job.platform.architecture), *job.spec.smoke.environment)
        options += "".join(f"-e {shlex.quote(f'{name}={value}')} " for name, value in environment)
    port = job.spec.server.port
    # The second start reuses what the first one compiled and inspected.
    options += f"-p 127.0.0.1:{port}:{port} -v vllm-cache:{CACHE}"
    return f"docker run --rm --platform linux/{job.platform.architecture} {options} {image}"


def _counts(results: Sequence[CellResult]) -> str:
    counts = Counter(result.status for result in results)
    return ", ".join(f"{counts[word]} {word}" for word in ("done", "unchanged", "failed") if counts[word])
