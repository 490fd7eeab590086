"""The C library of a base image: its development packages, from the package sources of the image itself."""

from __future__ import annotations

import base64
import re
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING

from builder.audit.base_image import read_base
from builder.errors import BuildError
from builder.foundry.apt_packages import Apt
from builder.foundry.sandbox_root import library_of
from builder.host.files import disk_errors, work_folder

if TYPE_CHECKING:
    from collections.abc import Collection, Iterator
    from pathlib import Path

    from builder.host.session import Session
    from builder.model.builds import ToolFile
    from builder.model.locks import LockedBase
    from builder.model.recipes import Architecture

_SOURCES = "etc/apt/sources.list"
# Paths of keys in sources. Addresses have no such path after a blank, `=`, `,` or a line's begin.
_KEY = re.compile(r"(?<![^\s=,])/(?=(?:etc/apt|usr/share/keyrings)/)")


@dataclass(frozen=True, kw_only=True, slots=True)
class Sysroot:
    """The packages of a base's C library and libstdc++, and the major version of the compiler to use with them."""

    compiler: int
    tools: tuple[ToolFile, ...]


def base_sysroot(base: LockedBase, architecture: Architecture, compilers: Collection[int], session: Session) -> Sysroot:
    """Return the development packages of a base image for one of the compilers (major versions).

    Raises:
        BuildError: the image has no package sources, or they have no packages for these compilers.
        NetworkError, RegistryError, AuditError: the image or its sources cannot be read.
    """
    with _apt_of(base, architecture, session) as apt:
        messages = apt.update(all_sources=False)
        libraries = majors_of(apt, "libstdc++", "-dev")
        if not libraries:
            message = "none of the base image's package sources has libstdc++-dev, or none answers"
            raise BuildError(message, log=messages)
        compiler, library = _pair(compilers, libraries)
        return Sysroot(compiler=compiler, tools=apt.resolve([f"libstdc++-{library}-dev", "libc6-dev"], "sysroot"))


def locked_sysroot(tools: tuple[ToolFile, ...], compilers: Collection[int]) -> Sysroot:
    """Return packages that were locked before, with one of the compilers.

    Raises:
        BuildError: none of them fits.
    """
    return Sysroot(compiler=_pair(compilers, {int(library_of(tools) or 0)})[0], tools=tools)


def majors_of(apt: Apt, name: str, suffix: str) -> set[int]:
    """Return the versions of packages that have theirs in the name: 12 of `g++-12` and `libstdc++-12-dev`."""
    pattern = re.compile(rf"{re.escape(name)}-(?P<major>[0-9]+){re.escape(suffix)}")
    return {int(match["major"]) for found in apt.names(f"{name}-") if (match := pattern.fullmatch(found))}


def _pair(compilers: Collection[int], libraries: Collection[int]) -> tuple[int, int]:
    """Return a compiler and the libstdc++ to use with it: of the same version, or the next older one.

    Code that is compiled with the headers of a libstdc++ needs no newer one.
    """
    if same := set(compilers).intersection(libraries):
        return max(same), max(same)
    newest = max(libraries)
    newer = [compiler for compiler in compilers if compiler > newest]
    if not newer:
        raise BuildError(f"this machine has no compiler for the base image's libstdc++ {newest}")
    return min(newer), newest


@contextmanager
def _apt_of(base: LockedBase, architecture: Architecture, session: Session) -> Iterator[Apt]:
    files = read_base(base.used, base.digest, architecture, session).apt
    if not any(path.startswith(_SOURCES) for path, _ in files):
        raise BuildError("the base image has no package sources")
    with work_folder("jbuild-apt") as folder, disk_errors(folder):
        for path, content in files:
            _write(folder / "system", path, base64.b64decode(content))
        yield Apt(folder=folder, system=folder / "system", architecture=architecture)


def _write(system: Path, path: str, content: bytes) -> None:
    target = system / path
    target.parent.mkdir(parents=True, exist_ok=True)
    if path.startswith(_SOURCES):
        content = _KEY.sub(f"{system}/", content.decode("utf-8", "replace")).encode()
    target.write_bytes(content)
