"""The packages of a sandbox: programs and the host compiler of this machine, and the C library of the base image."""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING

from builder.audit.rule_tables import version_numbers
from builder.errors import AuditError, BuildError, NetworkError, RegistryError
from builder.foundry.apt_packages import Apt, check_apt
from builder.foundry.base_packages import Sysroot, base_sysroot, locked_sysroot, majors_of
from builder.foundry.sandbox_root import triplet
from builder.host.files import disk_errors, work_folder

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from builder.host.session import Session
    from builder.model.builds import LockedBuild, ToolFile
    from builder.model.locks import BuildBase
    from builder.model.recipes import Architecture

# Programs that builds call, and libraries that CPythons are linked to.
_PROGRAMS = ("bash", "dash", "coreutils", "sed", "grep", "gawk", "findutils", "diffutils", "tar", "gzip", "bzip2")
_TOOLS = ("xz-utils", "patch", "make", "file", "pkgconf", "bubblewrap")
_LIBRARIES = ("libffi8", "libssl3", "zlib1g", "libsqlite3-0", "libexpat1", "libuuid1", "libbz2-1.0", "liblzma5")
_MORE_LIBRARIES = ("libcrypt1", "libreadline8", "libncursesw6")
_ALWAYS = (*_PROGRAMS, *_TOOLS, *_LIBRARIES, *_MORE_LIBRARIES)
_OLDEST_GCC = 9
_C_LIBRARY = re.compile(r"libc6-dev(-[a-z0-9]+-cross)?_(?P<version>[0-9]+\.[0-9]+)[^_]*_[a-z0-9]+\.deb")
# Its headers and libraries are parts of the compiler.
_OF_COMPILER = re.compile(r"libgcc-[0-9]+-dev")


@dataclass(frozen=True, kw_only=True, slots=True)
class SandboxTarget:
    """What decides the packages.

    `machine` builds for `architecture`, `newest_gcc` is the newest compiler that nvcc accepts, and `glibc` is the
    version that the base has (`2.35`).
    """

    machine: Architecture
    architecture: Architecture
    newest_gcc: int
    glibc: str
    base: BuildBase

    @property
    def suffix(self) -> str:
        """The end of the compilers' package names."""
        return "" if self.machine == self.architecture else f"-{triplet(self.architecture).replace('_', '-')}"


@dataclass(frozen=True, kw_only=True, slots=True)
class SandboxPackages:
    """The packages, and the reason why those of the base's C library are missing, if they should be among them."""

    tools: tuple[ToolFile, ...]
    without_sysroot: str | None = None


@cache
def sandbox_packages(target: SandboxTarget, session: Session) -> SandboxPackages:
    """Return the packages of a sandbox. If this machine's C library is newer than the base's, the base's is used.

    All builds of a process share them, since apt takes seconds.

    Raises:
        BuildError: the machine's sources have none.
        NetworkError: they do not answer.
    """
    check_apt()
    with work_folder("jbuild-apt") as folder, disk_errors(folder):
        apt = Apt(folder=folder)
        apt.update()
        usual = apt.resolve([_compiler(apt, target.suffix, target.newest_gcc), *_ALWAYS], "system")
        own = c_library_of(usual)
        if version_numbers(own) <= version_numbers(target.glibc):
            return SandboxPackages(tools=usual)
        offered = tuple(_offered(apt, target.suffix, target.newest_gcc))
        try:
            sysroot = base_sysroot(target.base.image, target.architecture, offered, session)
        except (AuditError, BuildError, NetworkError, RegistryError) as error:
            if error.log:
                session.console.say(error.log.rstrip())
            if not target.base.sysroot:
                return SandboxPackages(tools=usual, without_sysroot=error.message)
            session.console.warn(f"the C library of {target.base.image.name} stays as locked: {error.message}")
            sysroot = locked_sysroot(target.base.sysroot, offered)
        chosen = apt.resolve([f"g++-{sysroot.compiler}{target.suffix}", *_ALWAYS], "system")
        return SandboxPackages(tools=(*_kept(chosen, sysroot, target), *sysroot.tools))


def _compiler(apt: Apt, suffix: str, newest: int) -> str:
    """Return the distribution's usual compiler, or the newest older one if that is too new."""
    usual = apt.policy(f"g++{suffix}")
    if not usual:
        raise BuildError(
            f"this machine's package sources lack g++{suffix}",
            hint="add the distribution's main archive to apt's sources (Ubuntu: also universe)",
        )
    major = _major(usual[0])
    if major <= newest:
        return f"g++-{major}{suffix}" if apt.policy(f"g++-{major}{suffix}") else f"g++{suffix}"
    older = next(iter(_offered(apt, suffix, newest)), None)
    if older is None:
        raise BuildError(
            f"gcc {major} is too new for this nvcc, which accepts gcc {newest} and older",
            where=f"g++{suffix}",
            hint=f"add a package source with g++-{newest}{suffix}, or use an older release of the distribution",
        )
    return f"g++-{older}{suffix}"


def _offered(apt: Apt, suffix: str, newest: int) -> Iterator[int]:
    """Yield the major versions of the distribution's compilers, newest first."""
    majors = majors_of(apt, "g++", suffix)
    yield from sorted((major for major in majors if _OLDEST_GCC <= major <= newest), reverse=True)


def _major(version: str) -> int:
    # 4:12.2.0-3
    return int(version.rpartition(":")[2].partition(".")[0])


def c_library_of(tools: Iterable[ToolFile]) -> str:
    """Return the version of the C library that a compiler of these packages uses (`2.36`).

    Raises:
        BuildError: there is none.
    """
    matches = [match for tool in tools if (match := _C_LIBRARY.fullmatch(tool.filename))]
    if not matches:
        raise BuildError("the compiler's packages have no C library", hint="check this machine's package sources")
    return matches[0]["version"]


def warn_without_sysroot(build: LockedBuild, session: Session) -> None:
    """Say that a build uses the machine's C library although the base has an older one."""
    if build.without_sysroot:
        own = c_library_of(tool for tool in build.tools if tool.role == "system")
        session.console.warn(
            f"{build.name} is compiled against this machine's glibc {own}, and its wheel is refused if that needs a "
            f"newer one than the base's {build.target.glibc}: {build.without_sysroot}"
        )


def _kept(tools: Iterable[ToolFile], sysroot: Sysroot, target: SandboxTarget) -> Iterator[ToolFile]:
    """Yield the machine's packages without those for the target that the sysroot replaces."""
    replaced = {_name(tool) for tool in sysroot.tools}
    ending = f"-{target.architecture}-cross" if target.suffix else ""
    for tool in tools:
        name = _name(tool)
        # Natively, the machine's programs need its libraries.
        is_of_target = name.endswith(ending or "-dev")
        stem = name.removesuffix(ending)
        if not (is_of_target and stem in replaced) or _OF_COMPILER.fullmatch(stem):
            yield tool


def _name(tool: ToolFile) -> str:
    return tool.filename.partition("_")[0]
