"""Locks a build: every input of a wheel that is built from source, with its hash."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING

from builder.errors import IntegrityError
from builder.foundry.apt_packages import Apt, package_of_suite
from builder.foundry.build_inputs import lock_build_inputs
from builder.foundry.build_python import build_python
from builder.foundry.build_requirements import building_machine, lock_requirements
from builder.foundry.build_sandbox import BuildFolder
from builder.foundry.build_source import index_file, unpack_source
from builder.foundry.late_requirements import late_requirements, may_ask_later
from builder.foundry.sandbox_packages import SandboxTarget, sandbox_packages, warn_without_sysroot
from builder.foundry.sandbox_root import compiler_of
from builder.foundry.source_patches import apply_patch, lock_patches
from builder.foundry.toolchains import toolchain_of
from builder.foundry.torch_headers import torch_headers
from builder.host.files import disk_errors, work_folder
from builder.model.builds import LockedBuild, ToolFile

if TYPE_CHECKING:
    from pathlib import Path

    from builder.foundry.build_python import BuildPython
    from builder.foundry.toolchains import Toolchain, ToolWheel
    from builder.host.session import Session
    from builder.model.builds import BuildSource, BuildSpec, BuildTarget
    from builder.model.locks import BuildBase
    from builder.model.recipes import Architecture

_PROJECT_FILES = ("setup.py", "setup.cfg", "pyproject.toml", "CMakeLists.txt")
_CUDA_SOURCES = ("*.cu", "*.cuh")


def lock_build(
    spec: BuildSpec, source: BuildSource, target: BuildTarget, base: BuildBase, session: Session
) -> LockedBuild:
    """Return all inputs of the build of a source, on this machine, for a target in a base image.

    Sources without CUDA and torch are locked without them, so that all cells share their wheels.

    Raises:
        LockError: a patch or a requirement cannot be locked.
        BuildError: no toolchain fits the target.
        NetworkError: a server does not answer.
    """
    machine = building_machine()
    python = build_python(target.python, session)
    patches = lock_patches(spec.patches, spec.folder, session.workspace)
    inputs = lock_build_inputs(spec, session)
    with work_folder("jbuild-source") as folder, disk_errors(folder):
        tree = folder / "source"
        tree.mkdir()
        unpack_source(source, tree, session)
        for patch in patches:
            apply_patch(patch, tree, session.workspace)
        target = _needed(tree, target)
        toolchain = toolchain_of(target)
        packages = sandbox_packages(_sandbox_of(toolchain, machine, target, base), session)
        tools = (*_tools(toolchain, machine, target, session), *packages.tools)
        build = LockedBuild(
            name=spec.name,
            version=spec.version,
            source=source,
            target=target,
            machine=machine,
            toolchain=toolchain.id,
            compiler=compiler_of(tools)[1],
            interpreter=python.version,
            tools=tools,
            requirements=lock_requirements(spec, tree, target, session),
            patches=patches,
            environment=spec.environment,
            inputs=inputs,
            without_sysroot=packages.without_sysroot,
        )
        warn_without_sysroot(build, session)
        return _with_late_requirements(build, spec, BuildFolder(path=folder), python, session)


def _with_late_requirements(
    build: LockedBuild, spec: BuildSpec, folder: BuildFolder, python: BuildPython, session: Session
) -> LockedBuild:
    """Return a build with what its backend asks for besides what the project states."""
    late = late_requirements(build, folder, python, session) if may_ask_later(folder.source) else ()
    if not late:
        return build
    more = dataclasses.replace(spec, requires=(*spec.requires, *late))
    return dataclasses.replace(build, requirements=lock_requirements(more, folder.source, build.target, session))


def _needed(tree: Path, target: BuildTarget) -> BuildTarget:
    """Return the target with only what the source uses of CUDA and torch."""
    if target.cuda is None and target.torch is None:
        return target
    texts = [path.read_text("utf-8", "replace") for name in _PROJECT_FILES if (path := tree / name).is_file()]
    if any("torch" in text for text in texts):
        return target
    if any("cuda" in text.lower() for text in texts) and any(next(tree.rglob(kind), None) for kind in _CUDA_SOURCES):
        return dataclasses.replace(target, torch=None)
    return dataclasses.replace(target, torch=None, cuda=None, gpus=())


def _sandbox_of(toolchain: Toolchain, machine: Architecture, target: BuildTarget, base: BuildBase) -> SandboxTarget:
    return SandboxTarget(
        machine=machine,
        architecture=target.architecture,
        newest_gcc=toolchain.newest_gcc,
        glibc=target.glibc,
        base=base,
    )


def _tools(toolchain: Toolchain, machine: Architecture, target: BuildTarget, session: Session) -> list[ToolFile]:
    wheels = toolchain.wheels_for(machine, target.architecture)
    tools = [_tool(wheel, session) for wheel in wheels]
    if toolchain.package:
        with work_folder("jbuild-apt") as folder:
            tools += package_of_suite(toolchain.package, Apt(folder=folder))
    if target.torch:
        tools.append(torch_headers(target.torch, target, session))
    return tools


def _tool(wheel: ToolWheel, session: Session) -> ToolFile:
    file = index_file(wheel.file, session)
    if file.sha256 != wheel.sha256:
        raise IntegrityError(
            f"the index has another {wheel.file} than the toolchain's",
            where=file.url,
            hint="find out why; the row is in builder/foundry/toolchains.toml",
        )
    return ToolFile(
        role=wheel.role, filename=wheel.file, url=file.url, sha256=wheel.sha256, size=file.size, record=wheel.record
    )
