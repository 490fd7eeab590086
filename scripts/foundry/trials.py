"""One package of the campaign: locked, built, finished, audited and imported."""

from __future__ import annotations

import time
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING

from packaging.utils import parse_wheel_filename
from packaging.version import Version

from builder.errors import JbuildError
from builder.foundry.build_wheel import build_folder, build_wheel
from builder.foundry.check_wheel import check_wheel
from builder.foundry.finish_wheel import finish_wheel
from builder.foundry.prepare_build import lock_build
from builder.host.index_rows import DEFAULT
from builder.lock import lockfile
from builder.lock.build_sources import source_of
from builder.lock.inspect_index import default_address
from builder.lock.solve import SolveRequest, solve
from builder.model.builds import BuildOptions, BuildSpec, BuildTarget
from builder.model.locks import BuildBase, Lock
from builder.model.recipes import Spec
from builder.remote.index.index_client import client_of
from builder.remote.index.listing import Address, Index
from builder.remote.index.source_project import ArchiveProject

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from builder.host.session import Session
    from builder.model.builds import BuildSource
    from builder.model.locks import LockedBase, LockedInterpreter
    from builder.model.platforms import Platform
    from builder.model.wheels import LockedWheel


@dataclass(frozen=True, kw_only=True, slots=True)
class Package:
    """A row of `packages.toml`; `build_requires` are those that its backend names only when it runs."""

    name: str
    version: str
    build: str
    build_requires: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True, slots=True)
class Cell:
    """The cell that the wheels are for; without an `interpreter` nothing is imported."""

    platform: Platform
    base: LockedBase
    interpreter: LockedInterpreter | None


@dataclass(slots=True)
class Trial:
    """What became of a package: the wheel's name, and the stage and the message of a failure.

    `same` tells whether a second build gave the same bytes, None without one.
    """

    package: Package
    wheel: str = ""
    units: int = 0
    seconds: float = 0.0
    size: int = 0
    same: bool | None = None
    imported: tuple[str, ...] = ()
    warnings: tuple[str, ...] = ()
    stage: str = ""
    failure: str = ""

    @property
    def passed(self) -> bool:
        """Whether all stages passed."""
        return not self.failure


def run_trial(package: Package, cell: Cell, session: Session, output: Path, *, twice: bool = False) -> Trial:
    """Build, audit and import one package, or build it `twice`; a failure is part of the result."""
    trial = Trial(package=package)
    began = time.monotonic()
    try:
        _run(trial, cell, session, output, twice=twice)
    except JbuildError as error:
        trial.failure = f"{error.message}"
        session.console.warn(
            f"{package.name}: {trial.stage}: {error.message} ({error.where}; {error.hint})\n{error.log}"
        )
    trial.seconds = trial.seconds or time.monotonic() - began
    return trial


def _run(trial: Trial, cell: Cell, session: Session, output: Path, *, twice: bool) -> None:
    package, platform = trial.package, cell.platform
    target = BuildTarget(architecture=platform.architecture, python=platform.python, glibc=platform.glibc)
    step = partial(_step, trial)
    spec = BuildSpec(name=package.name, version=package.version, requires=package.build_requires)
    base = BuildBase(image=cell.base)
    build = step("lock", lambda: lock_build(spec, _source(package, session), target, base, session))
    raw = step("build", lambda: build_wheel(build, session, BuildOptions(jobs=1)))
    cost = build_folder(build, session).cost()
    trial.seconds, trial.units = cost.seconds, cost.units
    built = step("finish", lambda: finish_wheel(raw, build, output))
    trial.wheel, trial.size = built.wheel.filename, built.wheel.size or 0
    others = step("solve", lambda: _dependencies(package, platform, session))
    lock = Lock(
        recipe="campaign",
        cell=package.name,
        inputs="",
        platform=platform,
        base=cell.base,
        wheels=others,
        models=(),
        interpreter=cell.interpreter,
    )
    imports = cell.interpreter is not None
    check = step("check", lambda: check_wheel(output / trial.wheel, build, session, lock, imports=imports))
    trial.warnings = check.warnings
    trial.imported = check.imports.imported if check.imports else ()
    if twice:
        fresh = step("second build", lambda: build_wheel(build, session, BuildOptions(jobs=1, fresh=True)))
        again = step("second build", lambda: finish_wheel(fresh, build, output / "again"))
        trial.same = again.wheel.sha256 == built.wheel.sha256


def _step(trial: Trial, name: str, work: Callable):  # type: ignore[type-arg, no-untyped-def]  # noqa: ANN202
    trial.stage = name
    return work()


def _source(package: Package, session: Session) -> BuildSource:
    """Return the package's source archive in uv's index."""
    client = client_of(session.config, session.workspace.index_states)
    index = Index(name=DEFAULT, addresses=(Address(url=default_address(session) or ""),))
    # What the archive requires is read from its wheel, once that is built.
    project = ArchiveProject(
        name=package.name, index=index, client=client, workspace=session.workspace, describe=lambda *_: b""
    )
    offered = {parse_wheel_filename(row.file.filename)[1]: row.file.sha256 or "" for row in project.candidates()}
    return source_of(project, offered[Version(package.version)])


def _dependencies(package: Package, platform: Platform, session: Session) -> tuple[LockedWheel, ...]:
    """Return the index's wheels of what the package requires."""
    request = SolveRequest(spec=Spec(requires=(f"{package.name}=={package.version}",)), platform=platform)
    text = solve(request, session.config, session.workspace)
    return tuple(w for w in lockfile.wheels_of(text, platform, package.name) if w.name != package.name)
