"""The smoke stage: the verdict of a cell, from an earlier run or a new one, which is compared with the last run."""

from __future__ import annotations

from dataclasses import replace
from statistics import median
from typing import TYPE_CHECKING

from builder.host import records
from builder.host.engine.docker import find_engine
from builder.image.layers.layer_blobs import blobs_of
from builder.image.oci.engine_load import loaded
from builder.model.images import Plan
from builder.model.verdicts import SmokeFailedError, Verdict
from builder.pipeline.stage import Stage
from builder.smoke import golden
from builder.smoke.launch import facts, level
from builder.smoke.smoke_run import smoke
from builder.smoke.steps import Baseline
from builder.smoke.warm_run import compiled_store, needs_warm_image, warm_start

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
    from pathlib import Path

    from builder.host.engine.docker import Engine
    from builder.host.paths import Workspace
    from builder.model.recipes import Bounds, Spec
    from builder.model.verdicts import Level
    from builder.pipeline.cell import CellRun
    from builder.smoke.golden import Golden
    from builder.smoke.start_caches import CompiledStore


class _SmokeStage(Stage[Verdict]):
    """From an image to a verdict; a failed verdict ends the run."""

    name = "smoke"
    record = Verdict

    def project_inputs(self, run: CellRun) -> Mapping[str, object]:
        warm = {"warm": True} if run.job.spec.image.warm else {}
        return {"recipe": (run.job.spec.smoke, run.job.spec.server), "golden": golden.of_cell(run), **warm}

    def run_inputs(self, run: CellRun) -> object:
        return run.image.digest

    def holds(self, run: CellRun, record: Verdict) -> bool:
        return record.passed and not run.options.record

    def make(self, run: CellRun) -> Verdict:
        """Return the verdict of a cell's image: an earlier one on the same questions, else of a smoke run.

        Raises:
            SmokeFailedError: the image did not pass; the error carries the verdict.
            RecipeError, DocumentError, EngineError, IntegrityError, DiskError: the smoke run could not start.
        """
        workspace, console, job, image = run.session.workspace, run.session.console, run.job, run.image
        engine, options = find_engine(workspace, run.session.config.gpu), run.options
        recorded = golden.of_cell(run)
        question, reached = question_fingerprint(job.spec, recorded), level(facts(image, engine))
        before = None
        if not (options.forces("smoke") or options.record):
            before = find_verdict(workspace, image.digest, reached, question)
            before = before if before and not needs_warm_image(run, before) else None
        run.on_step("loading the image into the engine")
        # The image of a bundle has no plan, and all its blobs.
        make = blobs_of(run).make if run.find(Plan) else None
        with loaded(image, workspace.images, engine, console, keep_as=run.proven_name, make=make) as name:
            if before:
                proof = f"this digest passed at level {before.level} on {before.when}"
                console.say(f"{job.cell.id}: {proof}; --force runs it again")
                return before
            with compiled_store(run) as compiled:
                try:
                    verdict = _smoke(run, name, engine, reached, recorded, compiled)
                except SmokeFailedError:
                    # An earlier pass of this digest no longer counts.
                    _path(workspace, image.digest, reached, question).unlink(missing_ok=True)
                    raise
                # Before the engine tags the image: a refused tag must not cost another run of many minutes.
                keep_verdict(workspace, verdict, question)
                if compiled.keep and verdict.compilations:
                    reference = _baseline(run, recorded, verdict)
                    verdict = replace(verdict, warm=warm_start(run, engine, compiled, reference))
                    keep_verdict(workspace, verdict, question)
        return verdict

    def last_failure(self, run: CellRun) -> str | None:
        verdict = self.load(run)
        return verdict.failure if verdict else None


STAGE = _SmokeStage()


def _smoke(
    run: CellRun, name: str, engine: Engine, reached: Level, recorded: tuple[Golden, ...], compiled: CompiledStore
) -> Verdict:
    session, folder = run.session, run.folder
    last_path = folder.record(f"smoke-{reached}")
    last = records.read(last_path, None, Verdict)
    reference = replace(_baseline(run, recorded, last), recorded=[] if run.options.record else None)
    verdict = smoke(
        run.image,
        name,
        run.job.spec,
        engine,
        session.console,
        log=folder.smoke_log(reached),
        baseline=reference,
        compiled=compiled,
        on_step=run.on_step,
    )
    if last:
        verdict = _compared(run, verdict, last)
    records.write(last_path, "", verdict)
    if reference.recorded is not None:
        _record(run, reference.recorded)
    return verdict


def _baseline(run: CellRun, recorded: tuple[Golden, ...], last: Verdict | None) -> Baseline:
    """Return what a run is compared with: the golden tokens, unless it records them, and the last start."""
    return Baseline(
        golden=() if run.options.record else recorded,
        model=golden.model_of(run),
        usual_start_s=last.ready_s if last else None,
    )


def _record(run: CellRun, recorded: list[Golden]) -> None:
    """Write golden answers; cells of one recipe share the file and may write at the same time."""
    workspace = run.session.workspace
    before, path = workspace.golden(run.job.recipe.path), workspace.recorded_golden(run.job.recipe.path)
    with workspace.file_lock(f"golden-{records.fingerprint(str(path))[:16]}"):
        golden.write(path, recorded, before=before)
    run.session.console.say(f"{run.job.cell.id}: {len(recorded)} golden answers are in {path}")


def _compared(run: CellRun, verdict: Verdict, last: Verdict) -> Verdict:
    """Return the verdict with its regressions against the last run as warnings.

    Raises:
        SmokeFailedError: there are regressions, and the recipe treats them as errors.
    """
    limits, job = run.job.spec.smoke.bounds, run.job
    worse = tuple(regressions(limits, verdict, last))
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


def question_fingerprint(spec: Spec, recorded: Sequence[Golden]) -> str:
    """Return the fingerprint of all questions to an image, without time limits."""
    asked = spec.smoke
    questions = (asked.questions, asked.environment, asked.api_key, asked.golden_tolerance)
    return records.fingerprint(questions, spec.server, [(row.prompt, row.model, row.tokens) for row in recorded])


def find_verdict(workspace: Workspace, digest: str, level: Level, question: str) -> Verdict | None:
    """Return the passed verdict of a digest at a level on these questions, or None."""
    verdict = records.read(_path(workspace, digest, level, question), question, Verdict)
    # A moved or edited file does not prove this digest.
    return verdict if verdict and verdict.passed and (verdict.digest, verdict.level) == (digest, level) else None


def keep_verdict(workspace: Workspace, verdict: Verdict, question: str) -> None:
    """Store a passed verdict.

    Raises:
        DiskError: the verdict cannot be written.
    """
    records.write(_path(workspace, verdict.digest, verdict.level, question), question, verdict)


def _path(workspace: Workspace, digest: str, level: Level, question: str) -> Path:
    return workspace.verdict(digest.partition(":")[2], f"{level}-{question[:16]}")


def regressions(bounds: Bounds, now: Verdict, before: Verdict) -> Iterator[str]:
    """Yield a message for every measure that regressed beyond its bound."""
    for name, (measure, text, noise) in _MEASURES.items():
        bound, new, old = getattr(bounds, name), measure(now), measure(before)
        if bound is None or not new or not old:
            continue
        # More tokens are better, more of everything else is worse.
        worse = old - new if name == "fewer_tokens" else new - old
        if worse > old * bound and worse > noise:
            yield f"{text.format(new)}, last time {text.format(old)}: more than {bound:.0%} worse"


def _median(values: Iterable[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return median(known) if known else None


# By the bound's name: the measure, its text, and the difference that is noise, whatever its ratio.
_MEASURES: dict[str, tuple[Callable[[Verdict], float | None], str, float]] = {
    "slower_start": (lambda verdict: verdict.ready_s, "{:.1f} s to ready", 2.0),
    "later_first_token": (
        lambda verdict: _median(answer.first_token_s for answer in verdict.answers),
        "{:.2f} s to the first token",
        0.2,
    ),
    "fewer_tokens": (
        lambda verdict: _median(answer.tokens_per_s for answer in verdict.answers),
        "{:.1f} tokens/s",
        0.5,
    ),
    "more_memory": (lambda verdict: verdict.peak_memory_bytes, "{:.0f} bytes of memory", 64e6),
    "larger_image": (lambda verdict: verdict.image_bytes, "an image of {:.0f} bytes", 1e6),
}
