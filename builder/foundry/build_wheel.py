"""Builds a wheel with the project's own PEP 517 backend, in a sandbox; an interrupted build resumes."""

from __future__ import annotations

import shutil
import time
from dataclasses import replace
from typing import TYPE_CHECKING

from builder.errors import BuildError, ProgramFailedError
from builder.foundry.build_environment import build_environment
from builder.foundry.build_failure import failure_of
from builder.foundry.build_inputs import unpack_inputs
from builder.foundry.build_jobs import jobs_of, own_capacity
from builder.foundry.build_progress import BuildLog
from builder.foundry.build_python import build_python
from builder.foundry.build_requirements import building_machine
from builder.foundry.build_sandbox import BuildFolder, hook_command, prepare_target, sandbox_of
from builder.foundry.build_source import unpack_source
from builder.foundry.remote_sandbox import RemoteSandbox, docker_environment, require_builder
from builder.foundry.sandbox import run_in_sandbox
from builder.foundry.sandbox_packages import warn_without_sysroot
from builder.foundry.source_patches import apply_patch
from builder.host.file_locks import file_lock
from builder.host.files import atomic_folder, disk_errors, write_text

if TYPE_CHECKING:
    from pathlib import Path

    from builder.foundry.build_python import BuildPython
    from builder.host.session import Session
    from builder.model.builds import BuildOptions, LockedBuild


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
        # An empty name means this machine, whatever the configuration says.
        runner = session.config.runner if options.runner is None else options.runner
        if runner:
            require_builder(runner, docker_environment(session))
        warn_without_sysroot(build, session)
        python = _prepare(build, folder, session)
        return _run(build, folder, python, session, replace(options, runner=runner))


def _prepare(build: LockedBuild, folder: BuildFolder, session: Session) -> BuildPython:
    """Make the folders of a build; those of an interrupted one stay as they are."""
    python = _python(build, session)
    if not folder.source.is_dir():
        with atomic_folder(folder.source) as source:
            unpack_source(build.source, source, session)
            for patch in build.patches:
                apply_patch(patch, source, session.workspace)
    unpack_inputs(build, folder.path, session)
    prepare_target(build, folder, python)
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


def _run(build: LockedBuild, folder: BuildFolder, python: BuildPython, session: Session, options: BuildOptions) -> Path:
    sandbox, remote = sandbox_of(build, folder, python, session), None
    if options.runner:
        remote = RemoteSandbox(
            builder=options.runner, build=build, folder=folder, python=python, sandbox=sandbox, session=session
        )
    jobs = jobs_of(build, options, remote.capacity() if remote else own_capacity())
    command, environment = hook_command("/build/wheel", "/build/cost.json"), build_environment(build, jobs)
    place = f" on {remote.builder}" if remote else ""
    title = f"building {build.name} {build.version} with {jobs} job{'s' if jobs > 1 else ''}{place}"
    begun = time.monotonic()
    with session.console.task(title, unit="units") as task:
        log = BuildLog(task)
        try:
            if remote:
                remote.run(command, environment, log, fresh=options.fresh)
            else:
                run_in_sandbox(command, sandbox, environment, log.take)
        except ProgramFailedError as error:
            raise failure_of(build, list(log.lines), error.code, jobs) from None
        finally:
            write_text(folder.log, "".join(f"{line}\n" for line in log.lines))
            folder.add_cost(time.monotonic() - begun, log.units)
    return _finished(folder)


def _finished(folder: BuildFolder) -> Path:
    wheel = folder.raw_wheel()
    if wheel is None:
        raise BuildError("the project's backend wrote no wheel", where=str(folder.log), hint="read the log")
    for name in ("source", "inputs", "temp", "home"):
        shutil.rmtree(folder.path / name, ignore_errors=True)
    return wheel
