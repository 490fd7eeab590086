"""Lock files: PEP 751 with a `[tool.jbuild]` table, checked when read, written atomically."""

from __future__ import annotations

import sys
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import tomli_w
from packaging.pylock import Pylock, PylockSelectError, PylockValidationError

from builder.errors import LockError, NoWheelsError, OldLockError
from builder.host import records
from builder.host.files import write_text
from builder.lock.source_metadata import archive_name
from builder.lock.uv_target import markers, tags
from builder.model.locks import LOCK_FORMAT, Lock
from builder.model.wheels import LockedWheel

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

if TYPE_CHECKING:
    from pathlib import Path

    from packaging.pylock import Package, PackageWheel

    from builder.model.builds import LockedBuild
    from builder.model.platforms import Platform

# Errors of reading a damaged lock.
_DAMAGE = (OSError, ValueError, KeyError, TypeError, RecursionError, PylockValidationError)
# The keys of the table that are fields of a lock.
_FIELDS = ("recipe", "cell", "inputs", "platform", "base", "models", "advisories", "indexes", "rules", "warnings")
_OPTIONAL = ("torch-cuda", "interpreter", "compiler", "tools", "builds")
# Keys that older formats did not have.
_ABSENT: dict[str, Any] = {"advisories": [], "indexes": [], "sources": {}, "rules": [], "warnings": []}
# The project as seen from a lock, in locks/RECIPE.
_PROJECT = "../.."
_RELOCK = "run `jbuild lock {recipe} --cell {cell} --force` to make it again"


def wheels_of(text: str, platform: Platform, cell: str) -> tuple[LockedWheel, ...]:
    """Return the wheels of uv's lock, one per package, the best for the platform, sorted by name.

    Raises:
        NoWheelsError: a package has no wheel for the platform, or a wheel has no sha256.
        LockError: the text is not a lock that jbuild can read.
    """
    try:
        return _wheels(Pylock.from_dict(tomllib.loads(text)), platform, cell)
    except (ValueError, PylockValidationError) as error:
        raise LockError(f"uv's lock cannot be read: {error}", where=cell, hint="update uv or jbuild") from error


def write(path: Path, lock: Lock) -> None:
    """Write a lock file.

    Raises:
        DiskError: the file cannot be written.
    """
    write_text(path, tomli_w.dumps(_document(lock), indent=2))


def _packages(lock: Lock) -> list[dict[str, Any]]:
    addresses = {index.name: index.url for index in lock.indexes}
    packages = [_package(wheel, addresses) for wheel in lock.as_written.wheels]
    packages += [_source_package(build) for build in lock.builds or ()]
    return sorted(packages, key=lambda package: package["name"])


def _source_package(build: LockedBuild) -> dict[str, Any]:
    """Return a package that is built, as PEP 751 names its source."""
    source, identity = build.source, {"name": build.name, "version": build.version}
    if source.kind == "git":
        return {**identity, "vcs": {"type": "git", "url": source.location, "commit-id": source.commit}}
    if source.kind == "folder":
        return {**identity, "directory": {"path": f"{_PROJECT}/{source.location}"}}
    size = {"size": source.size} if source.size is not None else {}
    name = archive_name(source.location)
    location = {"url": source.location} if "://" in source.location else {"path": source.location}
    return {**identity, "sdist": {"name": name, **location, **size, "hashes": {"sha256": source.sha256}}}


def read(path: Path, *, recipe: str, cell: str) -> Lock | None:
    """Return the lock in a file, or None if there is no file.

    Raises:
        OldLockError: an older jbuild wrote it.
        LockError: the file is damaged, has another format, or belongs to another cell.
    """
    if not path.is_file():
        return None
    hint = _RELOCK.format(recipe=recipe, cell=cell)
    try:
        data = tomllib.loads(path.read_text(encoding="utf-8"))
        table = data["tool"]["jbuild"]
        if table["format"] != LOCK_FORMAT:
            kind = OldLockError if table["format"] < LOCK_FORMAT else LockError
            raise kind(f"lock format {table['format']} is not {LOCK_FORMAT}", where=str(path), hint=hint)
        if (table["recipe"], table["cell"]) != (recipe, cell):
            raise LockError(f"this is the lock of {table['recipe']}/{table['cell']}", where=str(path), hint=hint)
        lock, checksum = _from_document(data, table), table["content"]
    except _DAMAGE as error:
        raise LockError(f"the lock is damaged: {_reason(error)}", where=str(path), hint=hint) from error
    if checksum != content(lock):
        raise LockError(
            "the lock was edited by hand: its content does not match its checksum", where=str(path), hint=hint
        )
    return lock


def read_old_format(path: Path) -> Lock | None:
    """Return a lock of an older format, as the start of a new one; None if it cannot be read."""
    try:
        data = tomllib.loads(path.read_text(encoding="utf-8"))
        table = data["tool"]["jbuild"]
        return _from_document(data, {**_ABSENT, **table}) if table["format"] < LOCK_FORMAT else None
    except _DAMAGE:
        return None


def read_file(path: Path) -> Lock:
    """Return the lock in a file, for any recipe and cell.

    Raises:
        LockError: there is none, or it is damaged or of another format.
    """
    try:
        table = tomllib.loads(path.read_text(encoding="utf-8"))["tool"]["jbuild"]
        recipe, cell = str(table["recipe"]), str(table["cell"])
    except _DAMAGE as error:
        hint = "jbuild writes its locks to locks/RECIPE/pylock.CELL.toml"
        raise LockError(f"not a jbuild lock file: {_reason(error)}", where=str(path), hint=hint) from error
    lock = read(path, recipe=recipe, cell=cell)
    if lock is None:
        raise LockError("the lock no longer exists", where=str(path), hint=_RELOCK.format(recipe=recipe, cell=cell))
    return lock


def read_unchecked(path: Path) -> tuple[Lock, str]:
    """Return a lock and its checksum without verifying them: for overviews of many locks, not for builds.

    Raises:
        LockError: there is none, or it is damaged or of another format.
    """
    try:
        data = tomllib.loads(path.read_text(encoding="utf-8"))
        table = data["tool"]["jbuild"]
        if table["format"] != LOCK_FORMAT:
            raise LockError(f"lock format {table['format']} is not {LOCK_FORMAT}", where=str(path))
        built = {build["name"] for build in table.get("builds", ())}
        packages = (package for package in data["packages"] if package["name"] not in built)
        wheels = tuple(_glanced(package, table["sources"]) for package in packages)
        return _lock(table, wheels), str(table["content"])
    except _DAMAGE as error:
        raise LockError(f"the lock is damaged: {_reason(error)}", where=str(path)) from error


def _glanced(package: dict[str, Any], sources: dict[str, str]) -> LockedWheel:
    file = package["wheels"][0]
    return LockedWheel(
        name=str(package["name"]),
        version=str(package["version"]),
        filename=str(file["name"]),
        url=str(file.get("url") or file.get("path")),
        sha256=str(file["hashes"]["sha256"]),
        size=file.get("size"),
        index=sources.get(package["name"]),
    )


def content(lock: Lock) -> str:
    """Return the checksum of a lock; wheels that were built from it do not change it."""
    return records.fingerprint(lock.as_written)


def _reason(error: Exception) -> str:
    return f"`{error.args[0]}` is missing" if isinstance(error, KeyError) else str(error)


def _wheels(pylock: Pylock, platform: Platform, cell: str) -> tuple[LockedWheel, ...]:
    fitting = tags(platform)
    try:
        chosen = list(pylock.select(environment=markers(platform), tags=fitting))  # type: ignore[arg-type]
    except PylockSelectError as error:
        raise NoWheelsError(f"a package has no wheel for {platform.name}: {error}", where=cell) from error
    return tuple(sorted((_wheel(package, file, cell) for package, file in chosen), key=lambda w: w.name))


def _wheel(package: Package, file: Any, cell: str) -> LockedWheel:
    if not hasattr(file, "filename") or not file.filename.endswith(".whl"):
        raise NoWheelsError(f"{package.name} has no wheel", where=cell, hint="jbuild installs wheels only")
    wheel: PackageWheel = file
    sha256 = wheel.hashes.get("sha256")
    if not sha256:
        message = f"the index has no sha256 for {wheel.filename}"
        raise NoWheelsError(message, where=cell, hint="use an index that does")
    return LockedWheel(
        name=str(package.name),
        version=str(package.version),
        filename=wheel.filename,
        url=wheel.url or wheel.path or "",
        sha256=sha256.lower(),
        size=wheel.size,
    )


def _document(lock: Lock) -> dict[str, Any]:
    table = {
        "format": LOCK_FORMAT,
        "recipe": lock.recipe,
        "cell": lock.cell,
        "inputs": lock.inputs,
        "content": content(lock),
        "platform": lock.platform,
        "base": lock.base,
        "models": lock.models,
        "advisories": lock.advisories,
        "indexes": lock.indexes,
        "sources": lock.sources,
        "rules": lock.rules,
        "warnings": lock.warnings,
        "torch-cuda": lock.torch_cuda,
        "interpreter": lock.interpreter,
        "compiler": lock.compiler,
        "tools": lock.tools,
        "builds": lock.builds,
    }
    return {
        "lock-version": "1.0",
        "created-by": "jbuild",
        "requires-python": f"=={lock.platform.python}.*",
        "packages": _packages(lock),
        "tool": {"jbuild": _without_none(records.to_json(table))},
    }


def _package(wheel: LockedWheel, addresses: dict[str, str]) -> dict[str, Any]:
    location = {"url": wheel.url} if "://" in wheel.url else {"path": wheel.url}
    size = {"size": wheel.size} if wheel.size is not None else {}
    file = {"name": wheel.filename, **location, **size, "hashes": {"sha256": wheel.sha256}}
    index = {"index": addresses[wheel.index]} if wheel.index else {}
    return {"name": wheel.name, "version": wheel.version, **index, "wheels": [file]}


def _from_document(data: dict[str, Any], table: dict[str, Any]) -> Lock:
    packages = Pylock.from_dict(data).packages
    # Two indexes may have one address, as behind a mirror: names are stored too.
    sources = records.from_json(table["sources"], dict[str, str])
    wheels = (
        replace(_wheel(package, wheel, table["cell"]), index=sources.get(str(package.name)))
        for package in packages
        for wheel in package.wheels or ()
    )
    lock = _lock(table, tuple(sorted(wheels, key=lambda w: w.name)))
    sources = [package for package in data["packages"] if "wheels" not in package]
    if sources != [_source_package(build) for build in lock.builds or ()]:
        raise ValueError("its packages to build are not those of [[tool.jbuild.builds]]")
    return lock


def _lock(table: dict[str, Any], wheels: tuple[LockedWheel, ...]) -> Lock:
    fields = {name: table[name] for name in _FIELDS} | {name.replace("-", "_"): table.get(name) for name in _OPTIONAL}
    lock: Lock = records.from_json({**fields, "wheels": []}, Lock)
    return replace(lock, wheels=wheels)


def _without_none(value: Any) -> Any:
    """TOML has no null: an absent key reads back as the field's default."""
    if isinstance(value, dict):
        return {key: _without_none(item) for key, item in value.items() if item is not None}
    return [_without_none(item) for item in value] if isinstance(value, list) else value
