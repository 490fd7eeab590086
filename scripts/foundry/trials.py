"""One package of the campaign: locked, built, finished, audited and imported."""

from __future__ import annotations

import time
import zipfile
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
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
from builder.lock.graph import requirements
from builder.lock.inspect_index import default_address
from builder.lock.solve import SolveRequest, solve
from builder.model.builds import BuildOptions, BuildSpec, BuildTarget
from builder.model.locks import BuildBase, Lock
from builder.model.recipes import Spec
from builder.remote.index.index_client import client_of
from builder.remote.index.listing import Address, Index
from builder.remote.index.remote_wheel import metadata_of
from builder.remote.index.source_project import ArchiveProject
from foundry.cuda_torch import RUNTIME, cuda_torch

if TYPE_CHECKING:
    from collections.abc import Callable

    from builder.host.session import Session
    from builder.model.builds import BuildSource, LockedBuild
    from builder.model.locks import LockedBase, LockedInterpreter
    from builder.model.platforms import Platform
    from builder.model.recipes import Pairs
    from builder.model.wheels import LockedWheel

_RECIPES = Path(__file__).parents[2] / "recipes"


@dataclass(frozen=True, kw_only=True, slots=True)
class Package:
    """A row of `packages.toml`.

    `l4t` is the Jetson release that it is built for, None for any arm64 machine, and `torch` the version that it is
    built against. `patches` are files of `recipes/`.
    """

    name: str
    version: str
    build: str
    l4t: str | None = None
    torch: str | None = None
    patches: tuple[str, ...] = ()
    environment: Pairs = ()


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
    step = partial(_step, trial)
    spec = BuildSpec(
        name=package.name,
        version=package.version,
        patches=package.patches,
        environment=package.environment,
        folder=_RECIPES,
    )
    target = step("solve", lambda: _target(package, platform, session))
    source = _source(package, session)
    build = step("lock", lambda: lock_build(spec, source, target, BuildBase(image=cell.base), session))
    raw = step("build", lambda: build_wheel(build, session, BuildOptions(jobs=1)))
    cost = build_folder(build, session).cost()
    trial.seconds, trial.units = cost.seconds, cost.units
    built = step("finish", lambda: finish_wheel(raw, build, output))
    trial.wheel, trial.size = built.wheel.filename, built.wheel.size or 0
    others = step("solve", lambda: _dependencies(output / trial.wheel, package, platform, session))
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
    loaded = step("stand-in", lambda: _with_cuda_torch(build, platform, session, output / "torch"))
    check = step("check", lambda: check_wheel(output / trial.wheel, loaded, session, lock, imports=imports))
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


def _target(package: Package, platform: Platform, session: Session) -> BuildTarget:
    torch = _wheels((f"torch=={package.torch}",), platform, session)[0] if package.torch else None
    return BuildTarget(
        architecture=platform.architecture,
        python=platform.python,
        glibc=platform.glibc,
        gpus=platform.sms,
        cuda=platform.cuda,
        torch=torch,
    )


def _with_cuda_torch(build: LockedBuild, platform: Platform, session: Session, folder: Path) -> LockedBuild:
    """Return a build whose torch has the libraries of CUDA; the index of a Jetson's torch is often out of reach."""
    if build.target.torch is None:
        return build
    return replace(build, target=replace(build.target, torch=cuda_torch(build, platform, session, folder)))


def _dependencies(wheel: Path, package: Package, platform: Platform, session: Session) -> tuple[LockedWheel, ...]:
    """Return the index's wheels of what a built wheel requires."""
    with zipfile.ZipFile(wheel) as archive:
        requires = tuple(str(requirement) for requirement in requirements(metadata_of(archive)))
    if package.torch:
        requires = (*requires, f"torch=={package.torch}", RUNTIME)
    if not requires:
        return ()
    request = SolveRequest(spec=Spec(requires=requires), platform=platform)
    return lockfile.wheels_of(solve(request, session.config, session.workspace), platform, package.name)


def _wheels(requires: tuple[str, ...], platform: Platform, session: Session) -> tuple[LockedWheel, ...]:
    request = SolveRequest(spec=Spec(requires=requires), platform=platform, dependencies=False)
    return lockfile.wheels_of(solve(request, session.config, session.workspace), platform, "torch")
