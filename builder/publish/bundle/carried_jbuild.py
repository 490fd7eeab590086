"""jbuild and its requirements as wheels in a bundle, for machines with nothing but Python and an engine."""

from __future__ import annotations

from contextlib import suppress
from dataclasses import dataclass, replace
from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path
from typing import TYPE_CHECKING

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from builder.errors import NoWheelsError
from builder.host.records import as_bytes
from builder.lock import lockfile
from builder.lock.solve import SolveRequest, solve
from builder.model.recipes import Spec
from builder.publish.bundle.members import BundleMember, text_member
from builder.publish.bundle.own_wheel import installed_jbuild, own_wheel
from builder.remote.registry.upload import FileBlob
from builder.remote.wheelhouse import fetch

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from builder.host.session import Session
    from builder.model.platforms import Platform
    from builder.model.wheels import LockedWheel

FOLDER = "jbuild"
PYTHONS = ("3.10", "3.11", "3.12", "3.13", "3.14")
# Older than the C library of every JetPack since 5, and of every distribution with such a Python.
_GLIBC = "2.28"
_LAUNCHER, _UNPACKER = "launch_jbuild.sh", "unpack_jbuild.py"


@dataclass(frozen=True, kw_only=True, slots=True)
class _PythonWheels:
    """The wheels that jbuild needs with a Python."""

    python: str
    wheels: tuple[LockedWheel, ...]


def jbuild_members(platform: Platform, session: Session, pythons: Sequence[str] = PYTHONS) -> Iterator[BundleMember]:
    """Yield jbuild's wheel, the wheels of its requirements for each Python, and the script that starts it.

    Raises:
        NoWheelsError: the index has no wheels of a requirement.
        NetworkError, LockError: the index does not answer.
        UsageError: the running jbuild is not installed.
    """
    locks = [_locked(replace(platform, python=python, glibc=_GLIBC), session) for python in pythons]
    wheels = {wheel.sha256: wheel for lock in locks for wheel in lock.wheels}
    fetch(tuple(wheels.values()), session)
    name, content = own_wheel()
    own = text_member(f"{FOLDER}/wheels/{name}", content)
    table = {
        lock.python: {own.path.rpartition("/")[2]: own.entry.sha256, **{w.filename: w.sha256 for w in lock.wheels}}
        for lock in locks
    }
    here = Path(__file__).parent
    yield text_member(f"{FOLDER}/jbuild", (here / _LAUNCHER).read_bytes(), executable=True)
    yield text_member(f"{FOLDER}/unpack.py", (here / _UNPACKER).read_bytes())
    yield text_member(f"{FOLDER}/wheels.json", as_bytes(table))
    yield own
    for wheel in sorted(wheels.values(), key=lambda wheel: wheel.filename):
        path = session.workspace.wheel(wheel.sha256, wheel.filename)
        yield BundleMember(path=f"{FOLDER}/wheels/{wheel.filename}", blob=FileBlob(path, f"sha256:{wheel.sha256}"))


def _locked(platform: Platform, session: Session) -> _PythonWheels:
    requires = tuple(installed_jbuild().requires or ())
    with session.console.task(f"locking jbuild for Python {platform.python}", unit="steps"):
        try:
            # What this jbuild was tested with, and the same in every run.
            text = _solved(Spec(requires=requires, constraints=_installed(requires)), platform, session)
        except NoWheelsError:
            text = _solved(Spec(requires=requires), platform, session)
    where = f"jbuild, Python {platform.python}"
    return _PythonWheels(python=platform.python, wheels=lockfile.wheels_of(text, platform, where))


def _solved(spec: Spec, platform: Platform, session: Session) -> str:
    return solve(SolveRequest(spec=spec, platform=platform), session.config, session.workspace)


def _installed(requires: tuple[str, ...]) -> tuple[str, ...]:
    """Return constraints to the installed versions of requirements and of what these require."""
    versions: dict[str, str] = {}
    waiting = list(requires)
    while waiting:
        name = canonicalize_name(Requirement(waiting.pop()).name)
        # Requirements of other platforms and of extras may be missing here.
        with suppress(PackageNotFoundError):
            if name not in versions:
                found = distribution(name)
                versions[name] = found.version
                waiting += found.requires or ()
    return tuple(f"{name}=={version}" for name, version in sorted(versions.items()))
