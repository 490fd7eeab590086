"""The stages of a cell: what each is made from, how it is found done, and how it is done."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, TypeVar

from builder import __version__, records
from builder.audit.model import Audit
from builder.config import with_options
from builder.image.model import Image, Plan, proven_name
from builder.publish.model import Publication
from builder.publish.where import targets
from builder.recipe.model import PublishSpec, SmokeSpec
from builder.smoke.model import Verdict
from builder.workspace import sha256_of

if TYPE_CHECKING:
    from collections.abc import Callable

    from builder.image.builders import Builders
    from builder.publish.cell import Proven
    from builder.resolve.changes import Change
    from builder.resolve.model import Job, Lock
    from builder.session import Session
    from builder.workspace import CellFolder

_T = TypeVar("_T")

# Modules of a stage are imported when it runs: a run that finds everything done needs few of them.
STAGES = ("lock", "audit", "render", "build", "smoke", "push")


@dataclass(frozen=True, kw_only=True, slots=True)
class Options:
    """What a run was asked for.

    Stages from `again` on are run even if nothing changed; `until` is the last one. `registries` replaces the
    recipe's and the configuration's; `force_tags` puts tags even where a rule keeps them. `upgrade` are packages whose
    locked versions are not kept (`*` for all). `record` makes the answers of the smoke run the golden ones.
    """

    until: str = "smoke"
    again: str | None = None
    locked_only: bool = False
    upgrade: tuple[str, ...] = ()
    registries: tuple[str, ...] = ()
    force_tags: bool = False
    builders: tuple[str, ...] = ()
    verify: bool = False
    record: bool = False

    def forces(self, stage: str) -> bool:
        """Return whether a stage is to be run even if nothing changed."""
        again = self.again is not None and STAGES.index(stage) >= STAGES.index(self.again)
        return again or (stage == "push" and self.force_tags) or (stage == "smoke" and self.record)

    @property
    def stages(self) -> tuple[str, ...]:
        """The stages up to the last one asked for, in order."""
        return STAGES[: STAGES.index(self.until) + 1]


@dataclass(slots=True)
class Made:
    """What the stages of one cell have made so far; each needs those before it."""

    lock: Lock | None = None
    changes: tuple[Change, ...] = ()
    audit: Audit | None = None
    plan: Plan | None = None
    image: Image | None = None
    verdict: Verdict | None = None
    publication: Publication | None = None
    verified: str | None = None


@dataclass(frozen=True, kw_only=True, slots=True)
class Work:
    """One cell on its way through the stages."""

    job: Job
    session: Session
    options: Options
    builders: Builders | None = None
    made: Made = field(default_factory=Made)

    @property
    def folder(self) -> CellFolder:
        """The cell's folder."""
        return self.session.workspace.cell(self.job.recipe.name, self.job.cell.id)

    @property
    def lock(self) -> Lock:
        """The lock, which every later stage needs."""
        return _made(self.made.lock)

    @property
    def plan(self) -> Plan:
        """The plan, which the build needs."""
        return _made(self.made.plan)

    @property
    def image(self) -> Image:
        """The image, which the smoke run and the push need."""
        return _made(self.made.image)

    @property
    def proven(self) -> str:
        """The name of the image in the engine once it has."""
        return proven_name(self.job.recipe.name, self.job.cell.id)

    @property
    def targets(self) -> tuple[str, ...]:
        """The registries to push to: of the command line, else of the recipe, else of the configuration."""
        return targets(self.job.spec.publish, self.options.registries, self.session.config)


def builders_of(options: Options, session: Session) -> Builders:
    """Return what builds the cells of a run: the builders of the command line, else of the configuration."""
    from builder.image.builders import Builders  # noqa: PLC0415

    return Builders(with_options(session.config, builders=options.builders).builders, session.console)


def check(work: Work) -> None:
    """Refuse at once what would fail only after hours.

    Raises:
        UsageError: the image is to be pushed, and nobody says where to, or it cannot be signed.
    """
    if work.options.until == "push":
        from builder.publish.cell import check  # noqa: PLC0415

        check(work.job, work.options.registries, work.session.config)


def run(stage: str, work: Work) -> bool:
    """Bring one stage of a cell up to date; return whether it had to run.

    Raises:
        JbuildError: the stage failed; what earlier stages made stays.
    """
    if stage == "lock":
        return _run_lock(work)
    step = _STEPS[stage]
    found = _found(stage, step, work)
    if found is not None:
        setattr(work.made, step.attribute, found)
        return False
    made = step.make(work)
    records.write(work.folder.record(step.record), step.inputs(work), made)
    setattr(work.made, step.attribute, made)
    return True


def is_done(stage: str, work: Work) -> bool:
    """Return whether a stage is up to date, and take what it made; nothing is run."""
    if stage == "lock":
        from builder.resolve.locking import current_lock  # noqa: PLC0415

        work.made.lock = None if work.options.forces("lock") else current_lock(work.job, work.session)
        return work.made.lock is not None
    step = _STEPS[stage]
    found = _found(stage, step, work)
    setattr(work.made, step.attribute, found)
    return found is not None


def last_failure(stage: str, work: Work) -> str | None:
    """Return why a stage failed when it was last run with what it would be run with now; None if it did not."""
    if stage not in ("audit", "smoke"):
        # Failures of the others leave no record.
        return None
    step = _STEPS[stage]
    found: Audit | Verdict | None = records.read(work.folder.record(step.record), step.inputs(work), step.kind)
    return found.failure if found else None


@dataclass(frozen=True, kw_only=True, slots=True)
class _Step:
    """A stage with a record: where it is kept, what it is made from, whether one found still holds, how it is made."""

    record: str
    attribute: str
    kind: type[Any]
    inputs: Callable[[Work], str]
    holds: Callable[[Work, Any], bool]
    make: Callable[[Work], Any]


def _found(stage: str, step: _Step, work: Work) -> Any:
    if work.options.forces(stage):
        return None
    found = records.read(work.folder.record(step.record), step.inputs(work), step.kind)
    return found if found is not None and step.holds(work, found) else None


def _run_lock(work: Work) -> bool:
    from builder.resolve.locking import Wish, lock_cell  # noqa: PLC0415

    options = work.options
    wish = Wish(
        locked_only=options.locked_only,
        force=options.forces("lock"),
        upgrade=options.upgrade,
        fetching="render" in options.stages,
    )
    locked = lock_cell(work.job, work.session, wish)
    work.made.lock, work.made.changes = locked.lock, locked.changes
    return locked.made


def _audit_inputs(work: Work) -> str:
    from builder.audit.audit import inputs_of  # noqa: PLC0415

    return inputs_of(work.job, work.lock)


def _audit_holds(_: Work, audit: Audit) -> bool:
    """An audit that had to assume what the base image holds is made again: it may be had by now."""
    return audit.counted("error") == 0 and audit.assumed is None


def _audit(work: Work) -> Audit:
    from builder.audit.audit import audit_cell, inputs_of, refuse  # noqa: PLC0415

    made = audit_cell(work.job, work.lock, work.session)
    # Kept for people to read; one with errors never counts as done.
    records.write(work.folder.record("audit"), inputs_of(work.job, work.lock), made)
    for warning in made.warnings:
        work.session.console.warn(f"{work.job.cell.id}: {warning}")
    refuse(made, work.job.recipe.name)
    if warnings := made.counted("warning"):
        work.session.console.say(
            f"{work.job.cell.id}: {warnings} warnings; `jbuild audit {work.job.recipe.name}` shows them"
        )
    return made


def _render_inputs(work: Work) -> str:
    from builder.compiler import find_compiler  # noqa: PLC0415
    from builder.image import runtime  # noqa: PLC0415
    from builder.image.layers import groups  # noqa: PLC0415
    from builder.resolve import lockfile  # noqa: PLC0415
    from builder.wheels.tree import variant  # noqa: PLC0415

    templates = [path for folder in work.session.workspace.template_folders for path in sorted(folder.rglob("*"))]
    files = [path for path in templates if path.suffix in {".j2", ".sh"}]
    sources = [sha256_of(path) for path in (*files, *runtime.scripts())]
    systems = work.session.workspace.systems
    pins = sha256_of(systems) if systems.is_file() else None
    python, pinned = work.lock.platform.python, work.lock.compiler
    compiler = find_compiler(python, pinned, work.session.workspace.interpreters)
    made = (__version__, groups(), variant(python, compiler), work.session.config.compression, pins)
    spec = replace(work.job.spec, waivers=())
    # What an image is asked and where it goes do not change it; how long it may take to start stands in it.
    baked = replace(spec, smoke=SmokeSpec(ready_within_s=spec.smoke.ready_within_s), publish=PublishSpec(repository=""))
    return records.fingerprint(lockfile.content(work.lock), baked, work.job.recipe.description, sources, made)


def _plan_holds(work: Work, plan: Plan) -> bool:
    folder = work.folder
    return folder.dockerfile.is_file() and all((folder.layers / layer).is_dir() for layer in plan.layers)


def _render(work: Work) -> Plan:
    from builder.image.plan import render  # noqa: PLC0415

    return render(work.job, work.lock, work.session)


def _build_inputs(work: Work) -> str:
    from builder.image.buildx import options  # noqa: PLC0415
    from builder.image.pack import how  # noqa: PLC0415

    made = (options(work.lock.platform.architecture), how(work.session.config.compression))
    return records.fingerprint(work.plan.content, work.plan.layers, work.plan.settings, made)


def _image_holds(work: Work, image: Image) -> bool:
    from builder.image.layout import is_whole, mark_image_used  # noqa: PLC0415

    layout = work.session.workspace.images
    if not is_whole(layout, image):
        return False
    mark_image_used(layout, image)
    return True


def _build(work: Work) -> Image:
    from builder.engine import find_engine  # noqa: PLC0415
    from builder.image.build import build_image  # noqa: PLC0415

    engine, session = find_engine(work.session.workspace), work.session
    builders, again = work.builders or builders_of(work.options, session), work.options.forces("build")
    if not builders.names:
        engine.require(work.lock.platform.architecture)
    return builders.build(
        work.job.cell.id,
        engine,
        lambda name: build_image(work.job, work.lock, work.plan, engine, session, builder=name, again=again),
    )


def _smoke_inputs(work: Work) -> str:
    from builder.smoke.cell import inputs_of  # noqa: PLC0415

    return inputs_of(work.job, work.lock, work.image, work.session)


def _smoke(work: Work) -> Verdict:
    from builder.smoke.cell import Request, smoke_cell  # noqa: PLC0415
    from builder.smoke.model import SmokeFailedError  # noqa: PLC0415

    request = Request(
        job=work.job,
        lock=work.lock,
        image=work.image,
        folder=work.folder,
        proven=work.proven,
        again=work.options.forces("smoke"),
        record=work.options.record,
    )
    try:
        return smoke_cell(request, work.session)
    except SmokeFailedError as error:
        # Kept for people to read; a verdict that did not pass never counts as done.
        records.write(work.folder.record("smoke"), _smoke_inputs(work), error.verdict)
        raise


def _proven(work: Work) -> Proven:
    from builder.publish.cell import Proven  # noqa: PLC0415

    verdict, targets = _made(work.made.verdict), work.targets
    return Proven(job=work.job, lock=work.lock, plan=work.plan, image=work.image, verdict=verdict, targets=targets)


def _push_inputs(work: Work) -> str:
    from builder.publish.cell import inputs_of  # noqa: PLC0415

    return inputs_of(_proven(work), work.session)


def _publication_holds(work: Work, publication: Publication) -> bool:
    from builder.publish.current import still_published  # noqa: PLC0415

    return still_published(publication, work.session.config)


def _push(work: Work) -> Publication:
    from builder.publish.cell import publish_cell  # noqa: PLC0415

    return publish_cell(_proven(work), work.session, force_tags=work.options.force_tags)


_STEPS = {
    "audit": _Step(
        record="audit", attribute="audit", kind=Audit, inputs=_audit_inputs, holds=_audit_holds, make=_audit
    ),
    "render": _Step(record="plan", attribute="plan", kind=Plan, inputs=_render_inputs, holds=_plan_holds, make=_render),
    "build": _Step(
        record="image", attribute="image", kind=Image, inputs=_build_inputs, holds=_image_holds, make=_build
    ),
    "smoke": _Step(
        record="smoke",
        attribute="verdict",
        kind=Verdict,
        inputs=_smoke_inputs,
        holds=lambda _, verdict: bool(verdict.passed),
        make=_smoke,
    ),
    "push": _Step(
        record="publish",
        attribute="publication",
        kind=Publication,
        inputs=_push_inputs,
        holds=_publication_holds,
        make=_push,
    ),
}


def _made(value: _T | None) -> _T:
    if value is None:
        raise AssertionError("stages run in order: an earlier one has made nothing")
    return value
