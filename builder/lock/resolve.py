"""Makes the lock of a cell: asks indexes, registry and hub, and says what it applied and what changed."""

from __future__ import annotations

from contextlib import contextmanager
from dataclasses import replace
from typing import TYPE_CHECKING

from builder.errors import IntegrityError, LockError, ModelError, NetworkError, NoWheelsError
from builder.host.concurrency import TaskGroup
from builder.host.index_rows import DEFAULT
from builder.host.interpreters import find_compiler
from builder.jetson.distributions import standalone
from builder.lock import lockfile, unresolved
from builder.lock.advisory_solve import solve_with_advisories
from builder.lock.build_sources import missing_builds, source_of, source_project, source_projects
from builder.lock.build_tools import lock_tools
from builder.lock.graph import changes_of, requirements
from builder.lock.index_sources import index_pins_of, lock_inputs
from builder.lock.inspect_index import IndexInspector, index_error
from builder.lock.locked_builds import built, lock_builds
from builder.lock.solve import SolveRequest
from builder.lock.vault_stand_ins import announce, limits, stand_ins, vault_rules
from builder.lock.wheel_properties import check_torch, measured
from builder.model.builds import SolvedSource
from builder.model.locks import Lock, LockedBase, LockedIndex, LockedInterpreter, LockedRule
from builder.models import model_pins
from builder.models.fit.cell_fit import fit_cell
from builder.models.fit.cell_fit import warning as fit_warning
from builder.models.model_lock import lock_model
from builder.remote.http import announced
from builder.remote.index.index_client import IndexUnreachableError, client_of
from builder.remote.index.index_proxy import running_proxy
from builder.remote.index.index_view import IndexView
from builder.remote.index.logins import without_login
from builder.remote.registry.base_lookup import resolve_digest

if TYPE_CHECKING:
    from collections.abc import Iterator
    from concurrent.futures import Future

    from builder.host.session import Session
    from builder.lock.advisory_solve import Solution
    from builder.model.locks import Job, LockChange
    from builder.model.model_files import LockedModel
    from builder.model.platforms import Platform
    from builder.model.recipes import Model
    from builder.model.wheels import LockedWheel
    from builder.remote.index.index_client import IndexClient
    from builder.remote.index.index_proxy import IndexProxy

_ALL = "*"
_AS_LOCKED = ", as it was locked"
_NO_TIMES = "its pages have no upload times, so the date says nothing about it"


def make(
    job: Job, session: Session, *, before: Lock | None = None, upgrade: tuple[str, ...] = (), fetching: bool = False
) -> tuple[Lock, tuple[LockChange, ...]]:
    """Make, write and return the lock of a cell, and what is different from the one before.

    Versions of the lock before are kept where they still fit, except those of `upgrade` (`*` for all). `fetching` says
    that the models will be fetched next.

    Raises:
        LockError, NetworkError, IntegrityError, ModelError, RegistryError: the cell cannot be locked.
    """
    path = session.workspace.lock(job.recipe.name, job.cell.id)
    client = client_of(session.config, session.workspace.index_states)
    shelf = _index_view(job, session, client, before, upgrade)
    question = SolveRequest(spec=job.spec, platform=job.platform, before=path if before else None, upgrade=upgrade)
    with TaskGroup(1) as group:
        base = group.submit(
            resolve_digest,
            job.base,
            session.config,
            job.platform.architecture,
            retry=announced(session.console.say, job.base),
        )
        with _noting(job, session, shelf), session.console.task(f"{job.cell.id}: solving", unit="steps"):
            solution = _solve_missing(job, session, question, shelf)
            torch_cuda = check_torch(job, solution.wheels, shelf.pins, client, session)
        found = _base(base, session)
        builds = lock_builds(job, solution, found, session, before, upgrade)
        vaults = stand_ins((wheel.index for wheel in solution.wheels), shelf, client)
        lock = Lock(
            recipe=job.recipe.name,
            cell=job.cell.id,
            inputs=lock_inputs(job, session.config),
            platform=job.platform,
            base=found,
            wheels=measured(solution.wheels, session),
            models=tuple(lock_one(model, job, session, fetching=fetching) for model in job.spec.models),
            advisories=solution.advisories,
            indexes=_indexes(solution.wheels, shelf),
            rules=(*_rules(job, solution, shelf, upgrade), *vault_rules(vaults)),
            warnings=solution.warnings,
            torch_cuda=torch_cuda,
            interpreter=interpreter_of(job.platform),
            compiler=compiler_of(job.platform, before, session),
            tools=lock_tools(job, session, before, upgrade),
            builds=builds or None,
        )
    lockfile.write(path, lock)
    unresolved.forget(job, session.workspace)
    changes = changes_of(before, lock, job, client, session, upgrade=upgrade)
    _tell(lock, changes, upgrade, session)
    announce(vaults, job, session)
    warn_of_boards(job, lock, session)
    return lock, changes


def _index_view(
    job: Job, session: Session, client: IndexClient, before: Lock | None, upgrade: tuple[str, ...]
) -> IndexView:
    """Return what the indexes offer to a cell, with its sources in place of the wheels that they lack."""
    view = IndexView(
        pins=index_pins_of(job, session.config),
        client=client,
        workspace=session.workspace,
        locked=_kept_as_locked(before, upgrade),
    )
    view.sources.update(source_projects(job, session, client))
    return view


def _rules(job: Job, solution: Solution, shelf: IndexView, upgrade: tuple[str, ...]) -> tuple[LockedRule, ...]:
    """Return the rules of a solution besides the recipe's requirements."""
    return (
        *_ties(solution.wheels, shelf),
        *_cut_off(solution.wheels, shelf, job),
        *_kept_files(solution.wheels, shelf, job, upgrade),
        *built(job, solution),
    )


def _kept_as_locked(before: Lock | None, upgrade: tuple[str, ...]) -> dict[str, tuple[str, str]]:
    """Return the tied files whose bytes stay as they are locked, whatever the index serves under their names now."""
    if before is None or _ALL in upgrade:
        return {}
    return {w.filename: (w.sha256, w.url) for w in before.wheels if w.index and w.name not in upgrade}


def solve_only(job: Job, session: Session, client: IndexClient) -> Solution:
    """Return the wheels that a cell would be locked to, and the advisories that they keep; nothing is written.

    Raises:
        LockError, NetworkError, IntegrityError: there are none, or they cannot be had.
    """
    shelf = IndexView(pins=index_pins_of(job, session.config), client=client, workspace=session.workspace)
    shelf.sources.update(source_projects(job, session, client))
    solution = _solve_missing(job, session, SolveRequest(spec=job.spec, platform=job.platform), shelf)
    check_torch(job, solution.wheels, shelf.pins, client, session)
    return solution


def lock_one(model: Model, job: Job, session: Session, *, fetching: bool = False) -> LockedModel:
    """Return a model of a cell with its files and their hashes: as the recipe's model lock has it, else as it is now.

    Raises:
        ModelError, NetworkError, IntegrityError, RegistryError: it cannot be had, or is not one.
        LockError: the recipe's model lock is damaged.
    """
    pinned = model_pins.find(session.workspace.model_lock(job.recipe.name), model)
    if pinned and pinned.origin != "folder":
        return pinned
    return lock_model(model, job.recipe.path.parent, session, fetching=fetching)


def _solve_missing(job: Job, session: Session, question: SolveRequest, shelf: IndexView) -> Solution:
    """Solve, and with `build = "missing"` again with the sources of packages without a wheel that fits."""
    while True:
        try:
            return _solve(job, session, question, shelf)
        except NoWheelsError as error:
            if not (job.spec.builds and job.spec.builds.missing):
                raise
            missing = list(missing_builds(job, error, shelf.sources, session, shelf.client))
            if not missing:
                raise
        for build in missing:
            session.console.say(f"{job.cell.id}: no wheel of {build.name} fits; it will be built from source")
            shelf.sources[build.name] = source_project(build, job, session, shelf.client)


def _solve(job: Job, session: Session, question: SolveRequest, shelf: IndexView) -> Solution:
    if not shelf:
        return solve_with_advisories(job, session, question, shelf.pins)
    with running_proxy(shelf) as front:
        try:
            solution = solve_with_advisories(job, session, replace(question, front=front.url), shelf.pins)
        except (LockError, NetworkError) as error:
            # uv saw a failed request only; the shelf knows what was wrong.
            error.log = front.upstream(error.log or "") or None
            raise (shelf.errors[0] if shelf.errors else error) from error
        sources = tuple(_source(wheel, shelf) for wheel in solution.wheels if wheel.name in shelf.sources)
        wheels = (wheel for wheel in solution.wheels if wheel.name not in shelf.sources)
        return replace(solution, wheels=tuple(_upstream(wheel, front, shelf) for wheel in wheels), sources=sources)


def _source(wheel: LockedWheel, shelf: IndexView) -> SolvedSource:
    """Return the source that a candidate stands for."""
    return SolvedSource(
        name=wheel.name,
        version=wheel.version,
        source=source_of(shelf.sources[wheel.name], wheel.sha256),
        requires=tuple(map(str, requirements(shelf.metadata(wheel.sha256)))),
    )


@contextmanager
def _noting(job: Job, session: Session, shelf: IndexView) -> Iterator[None]:
    """Remember that no wheels were found for a cell, and say how to find out why."""
    more = f"`jbuild why {job.recipe.name} --cell {job.cell.id}` tells more"
    try:
        yield
    except IndexUnreachableError as error:
        error.hint = "; ".join(filter(None, (error.hint, more)))
        raise
    except NoWheelsError as error:
        examiner = IndexInspector(job=job, session=session, client=shelf.client, ties=shelf.pins)
        if fault := index_error(error.log or "", examiner):
            raise fault from error
        unresolved.note(job, lock_inputs(job, session.config), error, session.workspace)
        tied = (index.name for index in shelf.pins.indexes)
        limited = limits(stand_ins((DEFAULT, *tied), shelf, shelf.client))
        error.hint = "; ".join(filter(None, (limited, error.hint, more)))
        raise


def _upstream(wheel: LockedWheel, front: IndexProxy, shelf: IndexView) -> LockedWheel:
    """Return a wheel where its index has it, for the front is gone tomorrow.

    Raises:
        LockError: it came from one of uv's own indexes or folders, but its package is pinned to another index.
    """
    if wheel.url.startswith(front.root):
        index, file = shelf.candidates[wheel.sha256].index, shelf.hashed(wheel.sha256)
        return replace(wheel, url=file.url, sha256=file.sha256 or "", size=file.size, index=index.name)
    if tie := shelf.pins.of(wheel.name):
        hint = (
            "unset UV_FIND_LINKS, UV_NO_INDEX and UV_TORCH_BACKEND (also in uv.toml), "
            f'or allow it: `from = {{ {wheel.name} = "{DEFAULT}" }}` under [packages]'
        )
        url = without_login(wheel.url)
        raise LockError(
            f"{wheel.name} is pinned to index {tie.index}, but uv resolved it from elsewhere", where=url, hint=hint
        )
    return wheel


def _base(base: Future[LockedBase], session: Session) -> LockedBase:
    resolved = base.result()
    if resolved.stand_in:
        session.console.warn(f"{resolved.used} stands in for {resolved.name}: {resolved.stand_in}")
    return resolved


def _indexes(wheels: tuple[LockedWheel, ...], shelf: IndexView) -> tuple[LockedIndex, ...]:
    pages = {wheel.index: shelf.pages[wheel.name] for wheel in wheels if wheel.index and wheel.name in shelf.pages}
    return tuple(
        LockedIndex(name=name, url=page.url.removesuffix("/").rpartition("/")[0] + "/", stand_in=page.stand_in)
        for name, page in sorted(pages.items())
    )


def _ties(wheels: tuple[LockedWheel, ...], shelf: IndexView) -> tuple[LockedRule, ...]:
    """Say which packages came from which index only, and why."""
    found: dict[tuple[str, str], list[str]] = {}
    for wheel in wheels:
        if tie := shelf.pins.of(wheel.name):
            found.setdefault((tie.index, tie.why), []).append(wheel.name)
    return tuple(
        LockedRule(rule=f"{', '.join(names)} from the index {index} only", why=why)
        for (index, why), names in sorted(found.items())
    )


def _cut_off(wheels: tuple[LockedWheel, ...], shelf: IndexView, job: Job) -> tuple[LockedRule, ...]:
    if not job.spec.released_before:
        return ()
    rule = LockedRule(
        rule=f"nothing released from {job.spec.released_before} on", why="`released-before` of the recipe"
    )
    used = {wheel.index for wheel in wheels if wheel.index}
    offers = (offer for wheel in wheels if (offer := shelf.candidates.get(wheel.sha256)))
    timeless = {offer.index.name for offer in offers if offer.file.upload_time is None}
    timeless |= {index.name for index in shelf.pins.indexes if not index.upload_times}
    names = sorted(timeless & used)
    return (rule, *(LockedRule(rule=f"no cut-off by date for the index {name}", why=_NO_TIMES) for name in names))


def _kept_files(
    wheels: tuple[LockedWheel, ...], shelf: IndexView, job: Job, upgrade: tuple[str, ...]
) -> tuple[LockedRule, ...]:
    """Say which locked files the index serves with other bytes now.

    Raises:
        IntegrityError: one of them is in no wheelhouse or vault, and its package was not to be upgraded.
    """
    rules = []
    for wheel in wheels:
        changed = shelf.changed.get(wheel.filename)
        if changed is None:
            continue
        message = f"the index {changed.index} serves another {changed.filename} now: sha256 {changed.served}"
        if not changed.in_wheelhouse and wheel.name not in upgrade and _ALL not in upgrade:
            raise IntegrityError(
                f"{message}, locked was {changed.locked}",
                where=wheel.url,
                hint="find out why; to take the new one: "
                f"`jbuild lock {job.recipe.name} --cell {job.cell.id} --upgrade {wheel.name}`",
            )
        if changed.in_wheelhouse and wheel.sha256 == changed.locked:
            local = shelf.workspace.wheel(changed.locked, changed.filename).is_file()
            where = "the wheelhouse" if local else "a vault"
            rules.append(LockedRule(rule=f"{changed.filename} from {where}{_AS_LOCKED}", why=message))
    return tuple(rules)


def _tell(lock: Lock, changes: tuple[LockChange, ...], upgrade: tuple[str, ...], session: Session) -> None:
    console = session.console
    for name in upgrade:
        if name != _ALL and name not in lock.versions:
            console.warn(f"{lock.cell}: there is no {name} to upgrade")
    for change in changes:
        console.say(f"{lock.cell}: {change.words}")
    for index in lock.indexes:
        if index.stand_in:
            console.warn(f"{index.url} stands in for the index {index.name}: {index.stand_in}")
    for rule in lock.rules:
        if rule.rule.endswith(_AS_LOCKED):
            console.warn(f"{lock.cell}: {rule.why}; {rule.rule}")
    for warning in lock.warnings:
        console.warn(f"{lock.cell}: {warning.symptom} ({warning.source}); {warning.hint}")


def warn_of_boards(job: Job, lock: Lock, session: Session) -> None:
    """Warn of boards that a locked model does not fit; the estimate never fails a lock."""
    try:
        estimate = fit_cell(job, lock.models, session)
    except ModelError as error:
        session.console.say(f"{job.cell.id}: memory cannot be estimated: {error.message}")
        return
    message = fit_warning(estimate, named=bool(job.recipe.boards))
    if message:
        # Without `boards`, the platform's small boards are seldom a target.
        is_meant = job.recipe.boards or not estimate.fits_somewhere
        (session.console.warn if is_meant else session.console.say)(message)


def interpreter_of(platform: Platform) -> LockedInterpreter | None:
    """Return the interpreter to fetch for a platform whose distribution packages none."""
    if platform.standalone is None:
        return None
    row, architecture = standalone(platform.python), platform.architecture
    return LockedInterpreter(release=row.release, url=row.url(architecture), sha256=dict(row.sha256)[architecture])


def compiler_of(platform: Platform, before: Lock | None, session: Session) -> str | None:
    """Return the release that compiles: the image's own if it is fetched, that of the lock before, or one found here.

    Another one would change the bytes of every layer.
    """
    if platform.standalone:
        return standalone(platform.python).version
    if before and before.compiler and before.platform.python == platform.python:
        return before.compiler
    compiler = find_compiler(platform.python, None, session.workspace.interpreters)
    return compiler.version if compiler else None
