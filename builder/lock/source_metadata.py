"""The metadata of a source: of an archive's PKG-INFO, of pyproject.toml, or of the recipe; nothing is run."""

from __future__ import annotations

import re
import sys
import tarfile
import zipfile
from contextlib import closing
from dataclasses import dataclass, replace
from email.parser import BytesHeaderParser
from email.policy import compat32
from typing import TYPE_CHECKING, Any
from urllib.parse import unquote, urlsplit

from packaging.requirements import InvalidRequirement, Requirement
from packaging.version import InvalidVersion, Version

from builder.errors import IntegrityError, LockError

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator
    from pathlib import Path

    from builder.host.paths import Workspace
    from builder.model.builds import LockedBuild
    from builder.model.recipes import PackageBuild

_LONGEST = 8 << 20
_PKG_INFO, _PYPROJECT, _REQUIRES = "PKG-INFO", "pyproject.toml", "requires.txt"
_DAMAGE = (tarfile.TarError, zipfile.BadZipFile, EOFError, OSError, ValueError, NotImplementedError, RuntimeError)
# The sections of requires.txt: an extra, a marker, or both.
_SECTION = re.compile(r"\[(?P<extra>[^:\]]*)(?::(?P<marker>.*))?\]")


@dataclass(frozen=True, kw_only=True, slots=True)
class SourceMetadata:
    """What a source states: None for what only its build knows. `requires` are requirements of PEP 508."""

    version: str | None = None
    requires_python: str | None = None
    requires: tuple[str, ...] | None = None
    extras: tuple[str, ...] = ()

    def text(self, name: str, version: str) -> bytes:
        """Return it as METADATA."""
        lines = ["Metadata-Version: 2.1", f"Name: {name}", f"Version: {version}"]
        lines += [f"Requires-Python: {self.requires_python}"] if self.requires_python else []
        lines += [f"Provides-Extra: {extra}" for extra in self.extras]
        lines += [f"Requires-Dist: {requirement}" for requirement in self.requires or ()]
        return "".join(f"{line}\n" for line in lines).encode()


def of_archive(path: Path) -> SourceMetadata:
    """Return the metadata of a source archive: the requirements that its build had on the machine of its author.

    Raises:
        IntegrityError: the archive is damaged.
    """
    try:
        files = dict(_zip_files(path) if path.suffix == ".zip" else _tar_files(path))
    except _DAMAGE as error:
        hint = "find out why its author's index serves it, or name another version in `requires`"
        raise IntegrityError(f"{path.name} is not a source archive: {error}", where=str(path), hint=hint) from error
    return _of_files(files)


def of_folder(folder: Path) -> SourceMetadata:
    """Return the metadata of a folder with sources.

    Raises:
        LockError: its pyproject.toml cannot be read.
    """
    paths = {name: folder / name for name in (_PKG_INFO, _PYPROJECT)}
    try:
        return _of_files({name: path.read_bytes() for name, path in paths.items() if path.is_file()})
    except (OSError, ValueError) as error:
        hint = "correct the file"
        raise LockError(f"its pyproject.toml cannot be read: {error}", where=str(folder), hint=hint) from error


def of_locked(build: LockedBuild, listed: PackageBuild | None, workspace: Workspace) -> bytes | None:
    """Return the METADATA of a locked build, or None if its source is not on this machine or is another one now."""
    source = build.source
    path = workspace.source(source.sha256, archive_name(source.location))
    try:
        if source.kind == "folder":
            stated = of_folder(workspace.project / source.location)
        elif source.kind == "sdist" and path.is_file():
            stated = of_archive(path)
        else:
            return None
    except (IntegrityError, LockError):
        return None
    return with_recipe(stated, listed).text(build.name, build.version)


def archive_name(url: str) -> str:
    """Return the file name of a source archive at an address."""
    return unquote(urlsplit(url).path.rpartition("/")[2])


def with_recipe(metadata: SourceMetadata, build: PackageBuild | None) -> SourceMetadata:
    """Return the metadata with what the recipe states."""
    if build is None:
        return metadata
    requires = metadata.requires if build.requires is None else build.requires
    return replace(metadata, version=build.version or metadata.version, requires=requires)


def complete(metadata: SourceMetadata, name: str, where: str) -> SourceMetadata:
    """Return metadata that a solver can use.

    Raises:
        LockError: only the build of the source knows its version or its requirements.
    """
    if metadata.version is None:
        hint = f'add `version = "…"` to the [[packages.build]] table of {name}'
        raise LockError(f"the source of {name} states no version", where=where, hint=hint)
    if metadata.requires is None:
        hint = f"add `requires = […]` to the [[packages.build]] table of {name}: what it needs in the image"
        raise LockError(f"the source of {name} states no requirements", where=where, hint=hint)
    return metadata


def _tar_files(path: Path) -> Iterator[tuple[str, bytes]]:
    with tarfile.open(path) as archive:
        for member in archive:
            name = _wanted(member.name)
            if name and member.isfile() and member.size <= _LONGEST and (file := archive.extractfile(member)):
                yield name, file.read()


def _zip_files(path: Path) -> Iterator[tuple[str, bytes]]:
    with closing(zipfile.ZipFile(path)) as archive:
        for member in archive.infolist():
            if (name := _wanted(member.filename)) and member.file_size <= _LONGEST:
                yield name, archive.read(member)


def _wanted(path: str) -> str | None:
    """Return the kind of a member that has metadata: of the archive's top folder, or of an egg-info in it."""
    _, _, inner = path.removeprefix("./").partition("/")
    if inner in (_PKG_INFO, _PYPROJECT):
        return inner
    return _REQUIRES if re.fullmatch(r"(?:src/|python/)?[^/]+\.egg-info/requires\.txt", inner) else None


def _of_files(files: dict[str, bytes]) -> SourceMetadata:
    project = _of_pyproject(files[_PYPROJECT]) if _PYPROJECT in files else SourceMetadata()
    if _PKG_INFO not in files:
        return project
    headers = BytesHeaderParser(policy=compat32).parsebytes(files[_PKG_INFO])
    stated = tuple(str(text) for text in headers.get_all("Requires-Dist", ()))
    # Before PEP 643 only requires.txt had the requirements.
    requires = stated or _of_requires(files.get(_REQUIRES, b"").decode("utf-8", "replace"))
    return SourceMetadata(
        version=_version(str(headers.get("Version", ""))) or project.version,
        requires_python=headers.get("Requires-Python") or project.requires_python,
        requires=_usable(requires) or project.requires or (),
        extras=tuple(str(text) for text in headers.get_all("Provides-Extra", ())) or project.extras,
    )


def _of_pyproject(content: bytes) -> SourceMetadata:
    """Return the static part of a `[project]` table (PEP 621)."""
    project: dict[str, Any] = tomllib.loads(content.decode()).get("project", {})
    dynamic = project.get("dynamic", ())
    if "name" not in project:
        return SourceMetadata()
    optional: dict[str, list[str]] = project.get("optional-dependencies", {})
    extra = (_with_extra(text, name) for name, texts in optional.items() for text in texts)
    requires = None if "dependencies" in dynamic else _usable((*project.get("dependencies", ()), *extra))
    return SourceMetadata(
        version=None if "version" in dynamic else _version(str(project.get("version", ""))),
        requires_python=project.get("requires-python"),
        requires=requires,
        extras=tuple(optional),
    )


def _of_requires(text: str) -> tuple[str, ...]:
    """Return the requirements in an egg-info's requires.txt."""
    extra, marker, requires = "", "", []
    for line in filter(None, map(str.strip, text.splitlines())):
        if match := _SECTION.fullmatch(line):
            extra, marker = match["extra"], match["marker"] or ""
        else:
            conditional = f"{line} ; {marker}" if marker else line
            requires.append(_with_extra(conditional, extra) if extra else conditional)
    return tuple(requires)


def _with_extra(requirement: str, extra: str) -> str:
    text, separator, marker = requirement.partition(";")
    condition = f'extra == "{extra}"'
    return f"{text.strip()} ; ({marker.strip()}) and {condition}" if separator else f"{text.strip()} ; {condition}"


def _usable(requirements: Iterable[str]) -> tuple[str, ...]:
    """Return the requirements that follow PEP 508; uv refuses METADATA with others."""
    usable = []
    for text in requirements:
        try:
            usable.append(str(Requirement(text)))
        except InvalidRequirement:
            continue
    return tuple(usable)


def _version(text: str) -> str | None:
    try:
        return str(Version(text))
    except InvalidVersion:
        return None
