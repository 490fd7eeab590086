"""The smoke run of a bundle's image, on a machine that has only the bundle and an engine.

It needs neither a network nor a registry, and writes to the cache and to the bundle's folder of verdicts only.
"""

from __future__ import annotations

import time
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

from builder.errors import IntegrityError
from builder.host import records
from builder.host.engine.docker import find_engine
from builder.host.file_locks import in_use
from builder.host.files import check_writable
from builder.host.paths import BundleWorkspace
from builder.host.units import size_of
from builder.jetson.device import has_gpu_driver
from builder.lock import lockfile
from builder.model.bundles import VERDICT_FOLDER
from builder.model.locks import Locked
from builder.model.verdicts import SmokeFailedError, Verdict
from builder.pipeline import history
from builder.pipeline.cell import start
from builder.pipeline.history import StageResult
from builder.pipeline.runner import alone
from builder.publish.bundle.bundle_job import job_of_bundle
from builder.publish.bundle.bundle_reading import unverified_image
from builder.publish.bundle.engine_loading import load_into_engine
from builder.publish.bundle.opened import open_bundle
from builder.publish.trust import write_statement
from builder.smoke.level_check import require_level
from builder.smoke.stage import STAGE
from builder.smoke.warm_run import read_warm

if TYPE_CHECKING:
    from pathlib import Path

    from builder.host.engine.docker import Engine
    from builder.host.session import Session
    from builder.pipeline.cell import CellRun
    from builder.pipeline.order import RunOptions
    from builder.publish.bundle.opened import OpenBundle


@dataclass(frozen=True, kw_only=True, slots=True)
class BundleVerdict:
    """With --bundle: the verdict on a bundle's image, and the file to carry home.

    `ran` is false for an earlier verdict. `image` is the image's name in the engine, `golden` the file of recorded
    answers.
    """

    recipe: str
    cell: str
    image: str
    file: str
    ran: bool
    verdict: Verdict
    golden: str | None = field(default=None, metadata=records.OPTIONAL)


def smoke_bundle(folder: Path, session: Session, options: RunOptions, level: str | None = None) -> BundleVerdict:
    """Verify a bundle, load its image, run it, and write the verdict into the bundle's folder of verdicts.

    The image stays in the engine.

    Raises:
        SmokeFailedError: the image did not pass; the verdict's file says so too.
        EngineError: the engine cannot reach the `level`, cannot load the image, or does not answer.
        IntegrityError: the bundle is damaged.
        DiskError: the verdict cannot be written.
    """
    _check_machine(folder, session, level)
    with in_use(session.workspace), open_bundle(folder, session) as bundle:
        engine = find_engine(session.workspace, session.config.gpu)
        require_level(bundle.bundle.image, engine, level)
        run = _run_of(bundle, session, options)
        _check_results(bundle.folder / VERDICT_FOLDER)
        with alone(run), session.console.working_on(run.job.cell.id):
            _show_last_end(run)
            return _recorded_run(bundle, run, engine)


def _check_machine(folder: Path, session: Session, level: str | None) -> None:
    """Refuse a machine that cannot test the image, before the bundle's files are read: that takes minutes.

    Raises:
        EngineError: no engine answers, or it cannot reach the level.
        UsageError: the image cannot reach the level on any machine.
        DiskError: the verdict cannot be written.
    """
    image = unverified_image(folder)
    if image is None:
        return
    engine = find_engine(session.workspace, session.config.gpu)
    require_level(image, engine, level)
    results = folder.resolve() / VERDICT_FOLDER
    _check_results(results if results.exists() else results.parent)
    if level == "gpu" and engine.is_local and not has_gpu_driver():
        session.console.warn("this machine shows no driver of an NVIDIA GPU: level gpu may be out of reach")


def _run_of(bundle: OpenBundle, session: Session, options: RunOptions) -> CellRun:
    """Return the run of the bundle's cell, with the lock and the image of the bundle."""
    image, folder = bundle.bundle.image, bundle.folder.absolute()
    workspace = BundleWorkspace(
        project=bundle.project,
        cache=session.workspace.cache,
        layout=bundle.root,
        results=folder / VERDICT_FOLDER,
        digest=image.digest,
    )
    job = job_of_bundle(bundle)
    lock = lockfile.read(workspace.lock(job.recipe.name, job.cell.id), recipe=job.recipe.name, cell=job.cell.id)
    if lock is None or lockfile.content(lock) != dict(image.labels).get("io.jbuild.lock"):
        raise IntegrityError(
            "the bundle's lock is not the one that its image was built from",
            where=str(folder),
            hint="make the bundle again",
        )
    return start(job, replace(session, workspace=workspace), options).with_records(Locked(lock=lock), image)


def _show_last_end(run: CellRun) -> None:
    """Print where the last run on this machine was cut off, if it was."""
    if failure := history.cut_off(run.folder):
        run.session.console.say(f"{run.job.cell.id}: the last smoke run on this machine did not end: {failure.message}")


def _recorded_run(bundle: OpenBundle, run: CellRun, engine: Engine) -> BundleVerdict:
    began, began_s = history.now(), time.monotonic()
    with history.attempt(run) as attempt:
        run = replace(run, on_step=attempt.reaches)
        attempt.begins((), STAGE.name)
        try:
            verdict = _verdict(bundle, run, engine)
        except BaseException as error:
            history.note(run, (), error, STAGE.name, step=attempt.step)
            raise
        ran = verdict.when >= began
        result = StageResult(stage=STAGE.name, ran=ran, seconds=round(time.monotonic() - began_s, 2))
        history.note(run.with_records(verdict), (result,), None, STAGE.name)
    return _result(bundle, run, verdict, ran=ran)


def _verdict(bundle: OpenBundle, run: CellRun, engine: Engine) -> Verdict:
    """Load the image and return its verdict, an earlier one or that of a smoke run; a failed one is written too."""
    session = run.session
    run.on_step("loading the image into the engine")
    # The image stays, whatever follows: the next run does not load it again.
    image = load_into_engine(bundle, engine, session)
    session.console.say(
        f"{image.name} is in the engine already: nothing was sent"
        if image.present
        else f"loaded {image.name}, {size_of(bundle.bundle.image.size)}"
    )
    try:
        verdict = STAGE.make(run)
    except SmokeFailedError as failed:
        write_statement(run.job, run.image, failed.verdict, session, _file(bundle, failed.verdict))
        raise
    write_statement(run.job, run.image, verdict, session, _file(bundle, verdict))
    if warm := read_warm(run.folder.warm, run.image.digest):
        warm_image, warm_verdict = warm
        write_statement(run.job, warm_image.image, warm_verdict, session, _file(bundle, warm_verdict, "-warm"))
    return verdict


def _file(bundle: OpenBundle, verdict: Verdict, suffix: str = "") -> Path:
    return bundle.folder / VERDICT_FOLDER / f"verdict-{verdict.level}{suffix}.json"


def _check_results(folder: Path) -> None:
    """Make sure that verdicts can be written: a smoke run takes minutes.

    Raises:
        DiskError: they cannot.
    """
    hint = "mount the bundle's disk writable, or copy the bundle to another one"
    check_writable(folder, "the folder for verdicts cannot be written", where=folder, hint=hint)


def _result(bundle: OpenBundle, run: CellRun, verdict: Verdict, *, ran: bool) -> BundleVerdict:
    golden = run.session.workspace.recorded_golden(run.job.recipe.path) if run.options.record else None
    return BundleVerdict(
        recipe=run.job.recipe.name,
        cell=run.job.cell.id,
        image=run.proven_name,
        file=str(_file(bundle, verdict)),
        ran=ran,
        verdict=verdict,
        golden=str(golden) if golden else None,
    )
