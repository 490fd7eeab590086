"""Builds a wheel with the project's own PEP 517 backend, in a sandbox; an interrupted build resumes."""

from __future__ import annotations

import dataclasses
import json
import shutil
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from builder.errors import BuildError, ProgramFailedError
from builder.foundry.build_environment import CUDA, REQUIREMENTS, SYSROOT, TARGET, TORCH, build_environment
from builder.foundry.build_failure import failure_of
from builder.foundry.build_jobs import jobs_of
from builder.foundry.build_progress import BuildLog
from builder.foundry.build_python import HOME, build_python, header_in_sandbox, write_target_python
from builder.foundry.build_requirements import building_machine, requirements_folder
from builder.foundry.build_source import unpack_source
from builder.foundry.cmake_toolchain import write_toolchain
from builder.foundry.cuda_tree import cuda_tree
from builder.foundry.sandbox import Mount, run_in_sandbox
from builder.foundry.sandbox_packages import warn_without_sysroot
from builder.foundry.sandbox_root import sandbox_root, sysroot
from builder.foundry.source_patches import apply_patch
from builder.foundry.torch_tree import torch_tree
from builder.host.files import atomic_folder, disk_errors, write_text
from builder.remote.download import file_lock

if TYPE_CHECKING:
    from builder.foundry.build_python import BuildPython
    from builder.host.session import Session
    from builder.model.builds import BuildOptions, LockedBuild

_HOOK = Path(__file__).with_name("inside") / "pep517_hook.py"


@dataclass(frozen=True, kw_only=True, slots=True)
class BuildCost:
    """What a build cost, over all its runs: seconds, the memory of its largest process in bytes, compiled units."""

    seconds: float = 0.0
    peak_memory: int = 0
    units: int = 0


@dataclass(frozen=True, kw_only=True, slots=True)
class BuildFolder:
    """The files of a build in the cache: they stay when it is interrupted."""

    path: Path

    @property
    def source(self) -> Path:
        """The unpacked and patched source, with the backend's own build folder."""
        return self.path / "source"

    @property
    def wheel(self) -> Path:
        """The folder for the finished wheel."""
        return self.path / "wheel"

    @property
    def target(self) -> Path:
        """What makes compilers and Python work for the target."""
        return self.path / "target"

    @property
    def log(self) -> Path:
        """The build's whole output."""
        return self.path / "build.log"

    def cost(self) -> BuildCost:
        """Return what all runs so far have cost."""
        try:
            return BuildCost(**json.loads(self._total.read_text(encoding="utf-8")))
        except (OSError, ValueError, TypeError):
            return BuildCost()

    def add_cost(self, seconds: float, units: int) -> None:
        """Add a run's cost, with the memory that its hook wrote down, if it came to an end."""
        before, measured = self.cost(), self.path / "cost.json"
        peak = json.loads(measured.read_text(encoding="utf-8"))["peak_memory"] if measured.is_file() else 0
        total = BuildCost(
            seconds=before.seconds + seconds,
            peak_memory=max(before.peak_memory, peak),
            units=before.units + units,
        )
        write_text(self._total, json.dumps(dataclasses.asdict(total)))

    @property
    def _total(self) -> Path:
        return self.path / "total.json"

    def raw_wheel(self) -> Path | None:
        """Return the wheel as the backend wrote it, if the build has ended."""
        return next(iter(sorted(self.wheel.glob("*.whl"))), None)


def build_folder(build: LockedBuild, session: Session) -> BuildFolder:
    """Return the folder of a build in the cache."""
    return BuildFolder(path=session.workspace.foundry / "builds" / build.fingerprint)


def build_wheel(build: LockedBuild, session: Session, options: BuildOptions) -> Path:
    """Return the wheel of a locked build, as the project's backend wrote it.

    Raises:
        BuildError: the project does not build, or the machine cannot build it.
        IntegrityError: an input differs from the lock.
        NetworkError, DiskError: an input cannot be fetched or stored.
    """
    folder = build_folder(build, session)
    with disk_errors(folder.path), file_lock(folder.path.with_suffix(".lock"), session.console.check):
        if options.fresh:
            shutil.rmtree(folder.path, ignore_errors=True)
        finished = folder.raw_wheel()
        if finished:
            return finished
        warn_without_sysroot(build, session)
        python = _prepare(build, folder, session)
        return _run(build, folder, python, session, jobs_of(build, options))


def _prepare(build: LockedBuild, folder: BuildFolder, session: Session) -> BuildPython:
    """Make the folders of a build; those of an interrupted one stay as they are."""
    python = _python(build, session)
    if not folder.source.is_dir():
        with atomic_folder(folder.source) as source:
            unpack_source(build.source, source, session.workspace.project, session)
            for patch in build.patches:
                apply_patch(patch, source, session.workspace)
    for name in ("home", "temp", "wheel"):
        (folder.path / name).mkdir(exist_ok=True)
    write_toolchain(folder.target, build)
    write_target_python(folder.target, python, build)
    shutil.copyfile(_HOOK, folder.target / _HOOK.name)
    return python


def _python(build: LockedBuild, session: Session) -> BuildPython:
    if build.machine != building_machine():
        raise BuildError(
            f"the lock has the compilers of {build.machine} machines, and this one is {building_machine()}",
            where=f"{build.name} {build.version}",
            hint="run `jbuild lock` here, or build on such a machine",
        )
    python = build_python(build.target.python, session, build.interpreter)
    if python.version != build.interpreter:
        raise BuildError(
            f"the lock's builds run with CPython {build.interpreter}, and this machine has {python.version}",
            where=str(python.prefix),
            hint=f"install it (`uv python install {build.interpreter}`), or run `jbuild lock` again",
        )
    return python


def _run(build: LockedBuild, folder: BuildFolder, python: BuildPython, session: Session, jobs: int) -> Path:
    root = sandbox_root(build, session)
    mounts = _mounts(build, folder, python, root, session)
    argv = ["python", f"{TARGET}/{_HOOK.name}", "/build/source", "/build/wheel", "/build/cost.json"]
    title = f"building {build.name} {build.version} with {jobs} job{'s' if jobs > 1 else ''}"
    begun = time.monotonic()
    with session.console.task(title, unit="units") as task:
        log = BuildLog(task)
        try:
            run_in_sandbox(argv, root, mounts, build_environment(build, jobs), log.take)
        except ProgramFailedError as error:
            raise failure_of(build, list(log.lines), error.code, jobs) from None
        finally:
            write_text(folder.log, "".join(f"{line}\n" for line in log.lines))
            folder.add_cost(time.monotonic() - begun, log.units)
    return _finished(folder)


def _mounts(build: LockedBuild, folder: BuildFolder, python: BuildPython, root: Path, session: Session) -> list[Mount]:
    mounts = [
        Mount(source=folder.path, target="/build", writable=True),
        Mount(source=folder.target, target=TARGET),
        Mount(source=python.prefix, target=HOME),
        Mount(source=folder.target / "pyconfig.h", target=header_in_sandbox(python)),
        Mount(source=requirements_folder(build, python, root, session), target=REQUIREMENTS),
    ]
    trees = {CUDA: cuda_tree(build, session), TORCH: torch_tree(build, session), SYSROOT: sysroot(build, session)}
    for target, tree in trees.items():
        if tree:
            mounts.append(Mount(source=tree, target=target))
    return mounts


def _finished(folder: BuildFolder) -> Path:
    wheel = folder.raw_wheel()
    if wheel is None:
        raise BuildError("the project's backend wrote no wheel", where=str(folder.log), hint="read the log")
    for name in ("source", "temp", "home"):
        shutil.rmtree(folder.path / name, ignore_errors=True)
    return wheel
