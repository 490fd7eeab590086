"""The file systems of a sandbox: Debian packages unpacked into folders of the cache."""

from __future__ import annotations

import os
import re
from typing import TYPE_CHECKING

from builder.errors import BuildError
from builder.foundry.fetched_files import RemoteInput, fetch_inputs
from builder.foundry.sandbox import MERGED
from builder.host import records
from builder.host.files import atomic_folder, disk_errors, mark_used
from builder.host.process import run

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

    from builder.host.session import Session
    from builder.model.builds import LockedBuild, ToolFile, ToolRole
    from builder.model.recipes import Architecture

# Part of the folder's name: raise it when the same packages unpack to something else.
_FORMAT = 1
_TRIPLETS = {"arm64": "aarch64-linux-gnu", "amd64": "x86_64-linux-gnu"}
_EXCLUDED = ("doc", "man", "locale", "info", "perl", "bash-completion", "gdb", "lintian", "bug")
_USERS = "root:x:0:0:root:/root:/bin/sh\nbuild:x:1000:1000:build:/build/home:/bin/sh\n"
_GROUPS = "root:x:0:\nbuild:x:1000:\n"
_LIBRARY = re.compile(r"libstdc\+\+-(?P<major>[0-9]+)-dev_[^_]+_[a-z0-9]+\.deb")
_COMPILER = re.compile(r"gcc-(?P<major>[0-9]+)(?:-[a-z0-9-]+-linux-gnu)?_(?P<version>[^_]+)_[a-z0-9]+\.deb")


def triplet(architecture: Architecture) -> str:
    """Return the architecture's name in Debian's paths and compilers (`aarch64-linux-gnu`)."""
    return _TRIPLETS[architecture]


def compiler_of(tools: Sequence[ToolFile]) -> tuple[str, str]:
    """Return the major and the full version of the gcc among a build's files."""
    matches = [match for tool in tools if (match := _COMPILER.fullmatch(tool.filename))]
    if not matches:
        raise BuildError("the lock names no host compiler", hint="run `jbuild lock` again")
    return matches[0]["major"], matches[0]["version"]


def library_of(tools: Sequence[ToolFile]) -> str | None:
    """Return the major version of the base image's libstdc++ among a build's files; None without a sysroot."""
    matches = [match for tool in tools if tool.role == "sysroot" and (match := _LIBRARY.fullmatch(tool.filename))]
    return matches[0]["major"] if matches else None


def sandbox_root(build: LockedBuild, session: Session) -> Path:
    """Return the folder with the unpacked packages of a build's sandbox, after making it if it is missing.

    Raises:
        NetworkError, IntegrityError, DiskError: a package cannot be fetched, verified or unpacked.
    """
    return _unpacked(_packages(build, "system"), session.workspace.foundry / "roots", _complete, session)


def sysroot(build: LockedBuild, session: Session) -> Path | None:
    """Return the folder with the base image's C library and headers, after making it; None if the build needs none.

    Raises:
        NetworkError, IntegrityError, DiskError: a package cannot be fetched, verified or unpacked.
    """
    tools = _packages(build, "sysroot")
    return _unpacked(tools, session.workspace.foundry / "sysroots", _relate_links, session) if tools else None


def _packages(build: LockedBuild, role: ToolRole) -> list[ToolFile]:
    return [tool for tool in build.tools if tool.role == role]


def _unpacked(tools: list[ToolFile], parent: Path, complete: Callable[[Path], None], session: Session) -> Path:
    """Return the folder of unpacked packages, named by their hashes."""
    root = parent / records.fingerprint(_FORMAT, sorted(tool.sha256 for tool in tools))
    if mark_used(root):
        return root
    packages = fetch_inputs([as_input(tool) for tool in tools], session)
    title = f"unpacking {len(packages)} packages of the sandbox"
    with (
        disk_errors(root),
        atomic_folder(root) as folder,
        session.console.task(title, len(packages), unit="packages") as task,
    ):
        for name in MERGED:
            (folder / "usr" / name).mkdir(parents=True)
        write_links(folder)
        for package in packages:
            unpack_package(package, folder)
            task.advance(1)
        complete(folder)
    return root


def write_links(folder: Path) -> None:
    """Write the links at the top of a file system to the folders in `usr`."""
    folder.mkdir(exist_ok=True)
    for name in MERGED:
        (folder / name).symlink_to(f"usr/{name}")


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


def _relate_links(folder: Path) -> None:
    """Make absolute links relative, since they are meant from the top of the folder."""
    for path in folder.rglob("*"):
        if path.is_symlink() and (target := path.readlink()).is_absolute():
            path.unlink()
            path.symlink_to(os.path.relpath(folder / target.relative_to("/"), path.parent))
