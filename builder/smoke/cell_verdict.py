"""The smoke verdict of a cell: from an earlier run or a new one, which is compared with the last run."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from builder.host import records
from builder.host.engine.docker import find_engine
from builder.model.verdicts import SmokeFailedError, Verdict
from builder.smoke import golden, past_verdicts
from builder.smoke.engine_load import loaded
from builder.smoke.launch import facts, level
from builder.smoke.smoke_run import smoke
from builder.smoke.steps import Baseline

if TYPE_CHECKING:
    from builder.host.engine.docker import Engine
    from builder.model.verdicts import Level
    from builder.pipeline.cell import CellRun
    from builder.smoke.golden import Golden


def smoke_cell(run: CellRun) -> Verdict:
    """Return the verdict of a cell's image: an earlier one on the same questions, else of a smoke run.

    Raises:
        SmokeFailedError: the image did not pass; the error carries the verdict.
        RecipeError, DocumentError, EngineError, IntegrityError, DiskError: the smoke run could not start.
    """
    workspace, console, job, image = run.session.workspace, run.session.console, run.job, run.image
    engine, options = find_engine(workspace), run.options
    recorded = golden.of_cell(run)
    question, reached = past_verdicts.question_fingerprint(job.spec, recorded), level(facts(image, engine))
    before = None
    if not (options.forces("smoke") or options.record):
        before = past_verdicts.find_verdict(workspace, image.digest, reached, question)
    with loaded(image, workspace.images, engine, console, keep_as=run.proven_name) as name:
        if before:
            proof = f"this digest passed at level {before.level} on {before.when}"
            console.say(f"{job.cell.id}: {proof}; --force runs it again")
            return before
        try:
            verdict = _smoke(run, name, engine, reached, recorded)
        except SmokeFailedError:
            # An earlier pass of this digest no longer counts.
            past_verdicts.drop_verdict(workspace, image.digest, reached, question)
            raise
        # Before the engine tags the image: a refused tag must not cost another run of many minutes.
        past_verdicts.keep_verdict(workspace, verdict, question)
    return verdict


def _smoke(run: CellRun, name: str, engine: Engine, reached: Level, recorded: tuple[Golden, ...]) -> Verdict:
    session, folder = run.session, run.folder
    last_path = folder.record(f"smoke-{reached}")
    last = records.read(last_path, None, Verdict)
    reference = Baseline(
        golden=() if run.options.record else recorded,
        model=golden.model_of(run),
        recorded=[] if run.options.record else None,
        usual_start_s=last.ready_s if last else None,
    )
    log = folder.path / "smoke.log"
    verdict = smoke(run.image, name, run.job.spec, engine, session.console, log=log, baseline=reference)
    if last:
        verdict = _compared(run, verdict, last)
    records.write(last_path, "", verdict)
    if reference.recorded is not None:
        _record(run, reference.recorded)
    return verdict


def _record(run: CellRun, recorded: list[Golden]) -> None:
    """Write golden answers; cells of one recipe share the file and may write at the same time."""
    workspace = run.session.workspace
    path = workspace.golden(run.job.recipe.path)
    with workspace.file_lock(f"golden-{records.fingerprint(str(path))[:16]}"):
        golden.write(path, recorded)
    run.session.console.say(f"{run.job.cell.id}: {len(recorded)} golden answers are in {path}")


def _compared(run: CellRun, verdict: Verdict, last: Verdict) -> Verdict:
    """Return the verdict with its regressions against the last run as warnings.

    Raises:
        SmokeFailedError: there are regressions, and the recipe treats them as errors.
    """
    limits, job = run.job.spec.smoke.bounds, run.job
    worse = past_verdicts.regressions(limits, verdict, last)
    if worse and limits.exceeded == "error":
        failed = replace(verdict, passed=False, step="bounds", failure="; ".join(worse))
        raise SmokeFailedError(
            f"smoke: passed, but regressed beyond [smoke.bounds]: {failed.failure}",
            verdict=failed,
            where=job.name,
            hint="if that is intended, raise the bound in `[smoke.bounds]`, or delete "
            f"{run.folder.record(f'smoke-{verdict.level}')} to start over",
            log="",
        )
    for regression in worse:
        run.session.console.warn(f"{job.cell.id}: {regression}")
    return replace(verdict, warnings=(*verdict.warnings, *worse))
