"""The smoke run of a cell: what it is compared with, what is kept of it, and when none is needed."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from builder import records
from builder.image.runtime import served_model
from builder.smoke import golden, past_verdicts
from builder.smoke.model import SmokeFailedError, Verdict

if TYPE_CHECKING:
    from builder.engine import Engine
    from builder.image.model import Image
    from builder.resolve.model import Job, Lock
    from builder.session import Session
    from builder.smoke.golden import Golden
    from builder.smoke.steps import Reference
    from builder.workspace import CellFolder


@dataclass(frozen=True, kw_only=True, slots=True)
class Request:
    """A cell whose image is to prove itself.

    `proven` is its name in the engine once it has. With `again` it is asked even if it has before, and with `record`
    its answers become the golden ones.
    """

    job: Job
    lock: Lock
    image: Image
    folder: CellFolder
    proven: str
    again: bool = False
    record: bool = False


def inputs_of(job: Job, lock: Lock, image: Image, session: Session) -> str:
    """Return the fingerprint of everything that a verdict follows from.

    Raises:
        DocumentError: the golden tokens have mistakes.
    """
    return records.fingerprint(image.digest, job.spec.smoke, job.spec.server, _golden(job, lock, session))


def smoke_cell(request: Request, session: Session) -> Verdict:
    """Return the verdict of a cell's image: one that it has already, else of a smoke run.

    Raises:
        SmokeFailedError: the image did not prove itself; the error carries the verdict.
        RecipeError, DocumentError, EngineError, IntegrityError, DiskError: it could not be tried.
    """
    from builder.engine import find_engine  # noqa: PLC0415
    from builder.smoke.launch import facts, level  # noqa: PLC0415
    from builder.smoke.load import loaded  # noqa: PLC0415

    engine, job, image = find_engine(session.workspace), request.job, request.image
    known = _golden(job, request.lock, session)
    question, reached = past_verdicts.question_fingerprint(job.spec, known), level(facts(image, engine))
    before = None
    if not (request.again or request.record):
        before = past_verdicts.find_verdict(session.workspace, image.digest, reached, question)
    layout = session.workspace.images
    with loaded(image, layout, engine, session.console, keep_as=request.proven) as name:
        if before:
            said = f"this digest proved itself at level {before.level} on {before.when}"
            session.console.say(f"{job.cell.id}: {said}; --force asks it again")
            _tidy(engine)
            return before
        try:
            verdict = _smoke(request, name, engine, session, known)
        except SmokeFailedError:
            # It has passed before, perhaps: what it does now counts.
            past_verdicts.drop_verdict(session.workspace, image.digest, reached, question)
            raise
        # Before the engine names the image: a name that is refused must not cost another run of many minutes.
        past_verdicts.keep_verdict(session.workspace, verdict, question)
    return verdict


def _tidy(engine: Engine) -> None:
    """Remove what killed runs left, as every smoke run does."""
    from builder.host.engine.container import remove_leftovers  # noqa: PLC0415

    client = engine.client()
    try:
        remove_leftovers(client)
    finally:
        client.close()


def _smoke(request: Request, name: str, engine: Engine, session: Session, known: tuple[Golden, ...]) -> Verdict:
    from builder.smoke.launch import facts, level  # noqa: PLC0415
    from builder.smoke.runner import smoke  # noqa: PLC0415

    spec, folder = request.job.spec, request.folder
    last_path = folder.record(f"smoke-{level(facts(request.image, engine))}")
    last = records.read(last_path, None, Verdict)
    reference = _reference(request, known, last)
    verdict = smoke(request.image, name, spec, engine, session.console, log=folder.path / "smoke.log", given=reference)
    if last:
        verdict = _compared(request, verdict, last, session)
    records.write(last_path, "", verdict)
    if reference.recorded is not None:
        _record(request, reference.recorded, session)
    return verdict


def _record(request: Request, recorded: list[Golden], session: Session) -> None:
    """Write golden answers; cells of one recipe, which share the file, may do it at the same time."""
    path = session.workspace.golden(request.job.recipe.path)
    with session.workspace.file_lock(f"golden-{records.fingerprint(str(path))[:16]}"):
        golden.write(path, recorded)
    session.console.say(f"{request.job.cell.id}: {len(recorded)} golden answers are in {path}")


def _reference(request: Request, known: tuple[Golden, ...], last: Verdict | None) -> Reference:
    from builder.smoke.steps import Reference  # noqa: PLC0415

    return Reference(
        golden=() if request.record else known,
        model=_model(request.job, request.lock),
        recorded=[] if request.record else None,
        usual_start_s=last.ready_s if last else None,
    )


def _compared(request: Request, verdict: Verdict, last: Verdict, session: Session) -> Verdict:
    """Return the verdict with what is worse than the last time.

    Raises:
        SmokeFailedError: something is, and the recipe says that this is an error.
    """
    limits, job = request.job.spec.smoke.bounds, request.job
    worse = past_verdicts.regressions(limits, verdict, last)
    if worse and limits.exceeded == "error":
        failed = replace(verdict, passed=False, step="bounds", failure="; ".join(worse))
        raise SmokeFailedError(
            f"smoke: it works, but is worse than the last verdict of this cell: {failed.failure}",
            verdict=failed,
            where=job.name,
            hint="if it is meant to be so, raise the bound in `[smoke.bounds]`, or delete "
            f"{request.folder.record(f'smoke-{verdict.level}')} to begin anew",
            log="",
        )
    for each in worse:
        session.console.warn(f"{job.cell.id}: {each}")
    return replace(verdict, warnings=(*verdict.warnings, *worse))


def _model(job: Job, lock: Lock) -> str:
    served = served_model(job.spec)
    return golden.model_print(next((each for each in lock.models if served and each.name == served.name), None))


def _golden(job: Job, lock: Lock, session: Session) -> tuple[Golden, ...]:
    """Return what was recorded for this cell's questions and model."""
    known, model = golden.read(session.workspace.golden(job.recipe.path)), _model(job, lock)
    found = (golden.find(known, question, model) for question in job.spec.smoke.questions)
    return tuple(dict.fromkeys(each for each in found if each))
