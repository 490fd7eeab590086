"""Audits wheels that belong to no recipe."""

from __future__ import annotations

import time
from dataclasses import replace
from typing import TYPE_CHECKING

from packaging.utils import InvalidWheelFilename, parse_wheel_filename

from builder.audit.audit_context import AuditContext
from builder.audit.base_image import read_base
from builder.audit.environment import Environment
from builder.audit.gather_facts import gather_files
from builder.audit.stage import judge
from builder.errors import NetworkError, RegistryError, UsageError
from builder.host.files import sha256_of
from builder.jetson.boards import dotted_sm
from builder.jetson.distributions import distributions, platforms
from builder.jetson.platform import platform_for
from builder.model.wheels import LockedWheel
from builder.remote.registry.base_lookup import resolve_digest

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from builder.host.session import Session
    from builder.model.audits import Audit, BaseFacts
    from builder.model.platforms import Platform
    from builder.model.recipes import Architecture

_USUAL = "debian-12"


def audit_wheels(
    paths: Sequence[Path],
    session: Session,
    *,
    base: str | None,
    sms: Sequence[int] = (),
    l4t: str | None = None,
    python: str | None = None,
    apt: tuple[str, ...] = (),
) -> Audit:
    """Return the audit of wheel files in one environment on a base image.

    The architecture is that of the wheels' names, arm64 if they have none; the distribution is the base image's, else
    the L4T release's, else the one that ships the Python.

    Raises:
        UsageError: a file is missing or not a wheel.
        RecipeError: the L4T release is unknown, or has no such Python.
    """
    started = time.monotonic()
    wheels = {path: _wheel(path) for path in paths}
    _check_once(list(wheels.values()))
    architecture = _architecture(list(wheels.values()))
    facts, unread = (None, "no --base was given") if base is None else _base(base, architecture, session)
    platform = _platform(facts, architecture, l4t=l4t or _l4t_of(base), python=python)
    # No option names a distribution: the image's own is right.
    platform = replace(platform, distribution=facts.distribution[0]) if facts and facts.distribution else platform
    if sms:
        platform = replace(platform, sms=tuple(map(dotted_sm, sms)))
    by_sha256 = gather_files({wheel.sha256: path for path, wheel in wheels.items()}, session)
    ordered = tuple(sorted(wheels.values(), key=lambda wheel: wheel.name))
    environment = Environment(platform=platform, wheels=ordered, facts=by_sha256, base=facts, apt=apt)
    case = AuditContext(environment=environment, unread=unread, loose=True)
    return judge(case, "wheels", base or platform.base, (), started)


def _wheel(path: Path) -> LockedWheel:
    if path.is_dir():
        raise UsageError("this is a folder", where=str(path), hint=f"--wheels takes wheel files: {path}/*.whl")
    if not path.is_file():
        raise UsageError("no such file", where=str(path), hint="--wheels takes wheel files")
    try:
        name, version, *_ = parse_wheel_filename(path.name)
    except InvalidWheelFilename as error:
        raise UsageError(f"not a wheel's name: {error}", where=str(path), hint="--wheels takes wheel files") from error
    digest = sha256_of(path)
    return LockedWheel(name=name, version=str(version), filename=path.name, url=str(path), sha256=digest)


def _check_once(wheels: Sequence[LockedWheel]) -> None:
    names = [wheel.name for wheel in wheels]
    twice = next((name for name in names if names.count(name) > 1), None)
    if twice:
        files = ", ".join(wheel.filename for wheel in wheels if wheel.name == twice)
        raise UsageError(
            f"{twice} has several wheels: {files}", hint="an environment has one wheel of a name: name one"
        )


def _architecture(wheels: Sequence[LockedWheel]) -> Architecture:
    names = [wheel.filename for wheel in wheels]
    return "amd64" if any("x86_64" in n for n in names) and not any("aarch64" in n for n in names) else "arm64"


def _base(image: str, architecture: Architecture, session: Session) -> tuple[BaseFacts | None, str | None]:
    try:
        pinned = resolve_digest(image, session.config, architecture)
        return read_base(pinned.used, pinned.digest, architecture, session), None
    except (NetworkError, RegistryError) as error:
        return None, error.message


def _l4t_of(base: str | None) -> str | None:
    """Return the L4T release of a base image that a platform has, if its name contains `l4t`."""
    return next((row.l4t for row in platforms() if base == row.base and "l4t" in row.base), None)


def _platform(facts: BaseFacts | None, architecture: Architecture, *, l4t: str | None, python: str | None) -> Platform:
    axes = [("python", python)] if python else []
    if l4t:
        return platform_for([("l4t", l4t), *axes], architecture)
    rows = {row.name: row for row in distributions()}
    named = next((name for name in (facts.distribution if facts else ()) if name in rows), None)
    by_python = next((row.name for row in distributions() if row.python == python), _USUAL)
    platform = platform_for([("distribution", named or by_python)], architecture)
    return replace(platform, python=python) if python else platform
