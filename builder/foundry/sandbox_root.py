"""The file system of a sandbox: Debian packages unpacked into a folder of the cache."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from builder.errors import BuildError
from builder.foundry.apt_packages import Apt, check_apt
from builder.foundry.fetched_files import RemoteInput, fetch_inputs
from builder.host import records
from builder.host.files import atomic_folder, disk_errors, mark_used, work_folder
from builder.host.process import run

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from builder.host.session import Session
    from builder.model.builds import LockedBuild, ToolFile
    from builder.model.recipes import Architecture

# Part of the folder's name: raise it when the same packages unpack to something else.
_FORMAT = 1
_TRIPLETS = {"arm64": "aarch64-linux-gnu", "amd64": "x86_64-linux-gnu"}
# Programs that builds call, and libraries that CPythons are linked to.
_PROGRAMS = ("bash", "dash", "coreutils", "sed", "grep", "gawk", "findutils", "diffutils", "tar", "gzip", "bzip2")
_TOOLS = ("xz-utils", "patch", "make", "file", "pkgconf", "bubblewrap")
_LIBRARIES = ("libffi8", "libssl3", "zlib1g", "libsqlite3-0", "libexpat1", "libuuid1", "libbz2-1.0", "liblzma5")
_MORE_LIBRARIES = ("libcrypt1", "libreadline8", "libncursesw6")
_EXCLUDED = ("doc", "man", "locale", "info", "perl", "bash-completion", "gdb", "lintian", "bug")
_MERGED = ("bin", "sbin", "lib", "lib64")
_USERS = "root:x:0:0:root:/root:/bin/sh\nbuild:x:1000:1000:build:/build/home:/bin/sh\n"
_GROUPS = "root:x:0:\nbuild:x:1000:\n"
_COMPILER = re.compile(r"gcc-(?P<major>[0-9]+)(?:-[a-z0-9_]+-linux-gnu)?_(?P<version>[^_]+)_[a-z0-9]+\.deb")
_OLDEST_GCC = 9


def triplet(architecture: Architecture) -> str:
    """Return the architecture's name in Debian's paths and compilers (`aarch64-linux-gnu`)."""
    return _TRIPLETS[architecture]


def system_packages(machine: Architecture, target: Architecture, newest_gcc: int) -> tuple[ToolFile, ...]:
    """Return the packages of a sandbox: programs, and the host compiler, of a version that nvcc accepts.

    Raises:
        BuildError: the machine's sources have none.
        NetworkError: they do not answer.
    """
    check_apt()
    with work_folder("jbuild-apt") as folder, disk_errors(folder):
        apt = Apt(folder=folder)
        apt.update()
        compiler = _compiler(apt, "" if machine == target else f"-{triplet(target).replace('_', '-')}", newest_gcc)
        packages = [compiler, *_PROGRAMS, *_TOOLS, *_LIBRARIES, *_MORE_LIBRARIES]
        return apt.resolve(packages, "system")


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
    older = next((n for n in range(newest, _OLDEST_GCC - 1, -1) if apt.policy(f"g++-{n}{suffix}")), None)
    if older is None:
        raise BuildError(
            f"gcc {major} is too new for this nvcc, which accepts gcc {newest} and older",
            where=f"g++{suffix}",
            hint=f"add a package source with g++-{newest}{suffix}, or use an older release of the distribution",
        )
    return f"g++-{older}{suffix}"


def _major(version: str) -> int:
    # 4:12.2.0-3
    return int(version.rpartition(":")[2].partition(".")[0])


def compiler_of(tools: Sequence[ToolFile]) -> tuple[str, str]:
    """Return the major and the full version of the gcc among a build's files."""
    matches = [match for tool in tools if (match := _COMPILER.fullmatch(tool.filename))]
    if not matches:
        raise BuildError("the lock names no host compiler", hint="run `jbuild lock` again")
    return matches[0]["major"], matches[0]["version"]


def sandbox_root(build: LockedBuild, session: Session) -> Path:
    """Return the folder with the unpacked packages of a build's sandbox, after making it if it is missing.

    Raises:
        NetworkError, IntegrityError, DiskError: a package cannot be fetched, verified or unpacked.
    """
    tools = [tool for tool in build.tools if tool.role == "system"]
    key = records.fingerprint(_FORMAT, sorted(tool.sha256 for tool in tools))
    root = session.workspace.foundry / "roots" / key
    if mark_used(root):
        return root
    packages = fetch_inputs([as_input(tool) for tool in tools], session)
    title = f"unpacking {len(packages)} packages of the sandbox"
    with (
        disk_errors(root),
        atomic_folder(root) as folder,
        session.console.task(title, len(packages), unit="packages") as task,
    ):
        for name in _MERGED:
            (folder / "usr" / name).mkdir(parents=True)
            (folder / name).symlink_to(f"usr/{name}")
        for package in packages:
            unpack_package(package, folder)
            task.advance(1)
        _complete(folder)
    return root


def as_input(tool: ToolFile) -> RemoteInput:
    """Return a tool as a file to download."""
    return RemoteInput(filename=tool.filename, url=tool.url, sha256=tool.sha256, size=tool.size)


def unpack_package(package: Path, folder: Path) -> None:
    """Unpack a Debian package below a folder, without its scripts, following the folder's links."""
    excluded = [f"--exclude=./usr/share/{name}" for name in _EXCLUDED]
    words = ["tar", "--extract", "--keep-directory-symlink", "--no-same-owner", "--directory", str(folder), *excluded]
    # A pipe between two programs; their arguments are data to the shell.
    script = 'set -o pipefail; package=$1; shift; dpkg-deb --fsys-tarfile "$package" | "$@"'
    run(["bash", "-c", script, "bash", str(package), *words])


def _complete(folder: Path) -> None:
    """Add what the packages' scripts would do."""
    etc = folder / "etc"
    (etc / "passwd").write_text(_USERS, encoding="utf-8")
    (etc / "group").write_text(_GROUPS, encoding="utf-8")
    for name, program in (("awk", "gawk"), ("sh", "dash"), ("pkg-config", "pkgconf")):
        link = folder / "usr/bin" / name
        if not link.exists() and not link.is_symlink():
            link.symlink_to(program)
