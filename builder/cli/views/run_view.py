"""The end of a run: its result, and its text with the image, answers, tags and times of each cell."""

from __future__ import annotations

import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal

from builder import records
from builder.audit.model import FindingCounts
from builder.cli.failures import Failure, failure_of
from builder.engine import emulator_settings
from builder.host.units import duration
from builder.pipeline import CellResult, Preview
from builder.publish.model import Publication
from builder.recipe.model import Cell
from builder.resolve.changes import Change
from builder.smoke.model import Verdict
from builder.tomldoc import shown


@dataclass(frozen=True, kw_only=True, slots=True)
class StageTime:
    """One stage: whether it ran, and for how many seconds."""

    ran: bool
    seconds: float


@dataclass(frozen=True, kw_only=True, slots=True)
class LockChange:
    """A change of a lock; `words` is the same for people."""

    change: Change = field(metadata=records.FLAT)
    words: str


@dataclass(frozen=True, kw_only=True, slots=True)
class FinishedCell:
    """The outcome of a cell. `lock` and `plan` are paths, `size` is in bytes, compressed."""

    cell: str
    status: Literal["done", "unchanged", "failed"]
    error: Failure | None
    stages: dict[str, StageTime]
    lock: str | None
    changes: tuple[LockChange, ...]
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


def summary(results: Sequence[CellResult], seconds: float, docker_host: str | None = None) -> str:
    """Return the summary of a run as text; its commands reach the engine with `docker_host`, if it is set."""
    reach = f"DOCKER_HOST={docker_host} " if docker_host else ""
    blocks = [_cell(result, reach) for result in results]
    if all(result.status == "unchanged" and not result.work.made.verified for result in results):
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
    made = result.work.made
    return FinishedCell(
        cell=result.work.job.cell.id,
        status=result.status,
        error=failure_of(result.error) if result.error else None,
        stages={s.stage: StageTime(ran=s.ran, seconds=round(s.seconds, 2)) for s in result.stages},
        lock=_lock_path(result) if made.lock else None,
        changes=tuple(LockChange(change=change, words=change.words) for change in made.changes),
        audit=made.audit.counts if made.audit else None,
        plan=str(result.work.folder.path) if made.plan else None,
        digest=made.image.digest if made.image else None,
        verified=made.verified,
        size=made.image.size if made.image else None,
        verdict=made.verdict,
        publication=made.publication,
    )


def dry_run(recipe: str, previews: Mapping[str, Sequence[Preview]]) -> DryRun:
    """Return the result of a dry run, from the previews of each cell."""
    return DryRun(
        recipe=recipe,
        dry_run={cell: {stage.stage: stage.state for stage in stages} for cell, stages in previews.items()},
        failed={cell: stage.why for cell, stages in previews.items() for stage in stages if stage.why},
    )


def dry_run_text(previews: Mapping[str, Sequence[Preview]]) -> str:
    """Return the stages that a run would execute, and the failures of the last run."""
    words = {"unchanged": "unchanged", "run": "run", "failed": "run"}
    lines = []
    for cell, stages in previews.items():
        lines.append(f"{cell}: " + ", ".join(f"{stage.stage} {words[stage.state]}" for stage in stages))
        lines += [f"  {stage.stage} failed in the last run: {stage.why}" for stage in stages if stage.why]
    return "\n".join(lines)


def _lock_path(result: CellResult) -> str:
    work = result.work
    return str(work.session.workspace.lock(work.job.recipe.name, work.job.cell.id))


def _cell(result: CellResult, reach: str) -> str:
    made = result.work.made
    lines = [f"{result.work.job.name}: {result.status}"]
    if result.error:
        lines.append(f"  error     {result.error.message}")
    if made.lock:
        lines.append(f"  lock      {_lock_path(result)} ({len(made.lock.wheels)} wheels)")
    if made.audit:
        lines.append(f"  audit     {made.audit.counts}")
    if made.plan and not made.image:
        lines += [f"  plan      {result.work.folder.path}", f"  build it  {reach}{' '.join(made.plan.command)}"]
    if made.image:
        lines += [f"  image     {made.image.digest}", f"  size      {made.image.size / 1e6:.0f} MB compressed"]
    if made.verified:
        lines.append("  verified  a second build without any cache gave the same digest")
    if made.verdict:
        lines += [f"  {line}" for line in _verdict(result)]
    if made.publication:
        lines += [f"  pushed    {tag}" for tag in made.publication.references]
        lines += [f"  withheld  {line}" for line in made.publication.withheld_reasons]
    if result.stages:
        stages = ", ".join(f"{s.stage} {duration(s.seconds) if s.ran else 'unchanged'}" for s in result.stages)
        lines.append(f"  time      {duration(sum(s.seconds for s in result.stages))}: {stages}")
    run = _run_command(result)
    return "\n".join(lines + ([f"  run it    {reach}{run}"] if run else []))


def _verdict(result: CellResult) -> list[str]:
    verdict = result.work.made.verdict
    if verdict is None:
        return []
    lines = [f"smoke     passed at level {verdict.level}, ready after {verdict.ready_s:.0f} s"]
    if verdict.modules:
        count = len(verdict.modules.need_driver)
        lines.append(f"modules   {verdict.modules.loaded} load, {count} need the GPU's driver and could not be tried")
    for answer in verdict.answers:
        lines.append(f"asked     {answer.question}")
        # The answer of a model may hold control characters.
        lines.append(f"answer    {shown(' '.join(answer.text.split()))}")
    lines += [f"warning   {shown(warning)}" for warning in verdict.warnings]
    return lines


def _run_command(result: CellResult) -> str | None:
    made, job = result.work.made, result.work.job
    if not made.verdict:
        return None
    pushed = made.publication.references if made.publication else []
    image = pushed[0] if pushed else result.work.proven
    options = "--runtime nvidia " if job.platform.l4t else ""
    if made.verdict.level == "emulated":
        # The settings of the smoke run make emulation bearable here too.
        environment = (*emulator_settings(job.platform.architecture), *job.spec.smoke.environment)
        options += "".join(f"-e {shlex.quote(f'{name}={value}')} " for name, value in environment)
    port = job.spec.server.port
    return f"docker run --rm --platform linux/{job.platform.architecture} {options}-p 127.0.0.1:{port}:{port} {image}"


def _counts(results: Sequence[CellResult]) -> str:
    words = ("done", "unchanged", "failed")
    counts = {word: sum(1 for r in results if r.status == word) for word in words}
    return ", ".join(f"{count} {word}" for word, count in counts.items() if count)
