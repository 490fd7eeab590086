"""The platform tag of a wheel, measured from the libraries and symbol versions that its binaries need (PEP 600)."""

from __future__ import annotations

import re
from dataclasses import dataclass
from fnmatch import fnmatchcase
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

from builder.audit.rule_tables import tables, version_numbers
from builder.host.toml import documents
from builder.lock.uv_target import MACHINES

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence

    from builder.host.toml.tables import Table
    from builder.model.audits import Binary
    from builder.model.builds import BuildTarget

# PEP 600: the oldest glibc that wheels of a machine are tagged for.
_OLDEST = {"arm64": 17, "amd64": 5}
_TAG = re.compile(r"manylinux_2_([0-9]+)")
# The version by which a file asks for packed relocations, which this glibc introduced.
_RELR, _RELR_MINOR = "GLIBC_ABI_DT_RELR", 36


@dataclass(frozen=True, kw_only=True, slots=True)
class SuppliedLibraries:
    """Libraries (globs) that wheels which require one of `packages` may load."""

    libraries: tuple[str, ...]
    packages: tuple[str, ...]

    def fits(self, library: str, required: Collection[str]) -> bool:
        """Return whether a library comes with one of the required packages."""
        return any(fnmatchcase(library, row) for row in self.libraries) and not set(self.packages).isdisjoint(required)


@dataclass(frozen=True, kw_only=True, slots=True)
class ManylinuxPolicy:
    """The file `manylinux.toml`.

    `families` has, by architecture and family of symbols, the newest version from a minor version of glibc on.
    """

    libraries: frozenset[str]
    families: Mapping[str, Mapping[str, tuple[tuple[int, tuple[int, ...]], ...]]]
    supplied: tuple[SuppliedLibraries, ...]
    driver: tuple[str, ...]


@dataclass(frozen=True, kw_only=True, slots=True)
class PlatformMeasure:
    """What the binaries of a wheel need of a machine.

    `glibc` and the other families are the newest versions needed (`GLIBC` → `2.32`). `external` are libraries that the
    wheel's requirements or the driver bring. `obstacles` are the reasons against a manylinux tag.
    """

    tag: str
    families: tuple[tuple[str, str], ...] = ()
    external: tuple[str, ...] = ()
    obstacles: tuple[str, ...] = ()

    @property
    def glibc(self) -> str | None:
        """The newest version of glibc that a symbol needs, None without any."""
        return dict(self.families).get("GLIBC")


def measure_platform(binaries: Sequence[Binary], required: Collection[str], target: BuildTarget) -> PlatformMeasure:
    """Return the platform tag of a wheel with these binaries; `required` are the packages that its METADATA requires.

    A wheel gets the oldest `manylinux` tag that allows all its symbol versions. It gets a `linux` tag, which promises
    nothing, if it loads a library that neither the policy allows nor the wheel, its requirements or the driver bring.
    """
    policy, machine = manylinux_policy(), MACHINES[target.architecture]
    if not binaries:
        return PlatformMeasure(tag="any")
    outside = sorted(_outside(binaries, policy))
    external = [name for name in outside if _is_supplied(name, required, target, policy)]
    newest = dict(_newest(binaries))
    minors, obstacles = _minors(newest, target.architecture, policy)
    if alone := [name for name in outside if name not in external]:
        obstacles.append(f"no requirement of the wheel brings {', '.join(alone)}")
    tag = f"manylinux_2_{max(minors)}_{machine}" if not obstacles else f"linux_{machine}"
    families = tuple((family, _dotted(version)) for family, version in sorted(newest.items()))
    return PlatformMeasure(tag=tag, families=families, external=tuple(external), obstacles=tuple(obstacles))


def _outside(binaries: Iterable[Binary], policy: ManylinuxPolicy) -> set[str]:
    """Return the libraries that neither the wheel has nor the policy allows."""
    own = {name for binary in binaries for name in (binary.path.rpartition("/")[2], binary.soname) if name}
    needed = {name for binary in binaries for name in binary.needed}
    return needed - own - policy.libraries


def _is_supplied(library: str, required: Collection[str], target: BuildTarget, policy: ManylinuxPolicy) -> bool:
    by_driver = target.cuda is not None and library in policy.driver
    return by_driver or any(row.fits(library, required) for row in policy.supplied)


def _newest(binaries: Iterable[Binary]) -> Iterator[tuple[str, tuple[int, ...]]]:
    """Yield the newest version of each family of symbols of the system's libraries."""
    allowed = manylinux_policy().libraries
    needs = {
        need.version for binary in binaries for need in binary.version_needs if need.file in allowed and not need.weak
    }
    versions: dict[str, list[tuple[int, ...]]] = {}
    for version in needs:
        family, _, number = version.partition("_")
        if version == _RELR:
            versions.setdefault(family, []).append((2, _RELR_MINOR))
        elif re.fullmatch(r"[0-9]+(\.[0-9]+)*", number):
            versions.setdefault(family, []).append(version_numbers(number))
        elif number == "PRIVATE":
            versions.setdefault(version, []).append(())
    for family, numbers in versions.items():
        yield family, max(numbers)


def _minors(
    newest: Mapping[str, tuple[int, ...]], architecture: str, policy: ManylinuxPolicy
) -> tuple[list[int], list[str]]:
    """Return the minor versions of glibc that the families imply, and the versions that no tag allows."""
    minors, obstacles = [_OLDEST[architecture]], []
    families = policy.families[architecture]
    for family, version in sorted(newest.items()):
        if family == "GLIBC":
            minors.append(version[1] if len(version) > 1 else 0)
            continue
        minor = next((minor for minor, most in families.get(family, ()) if version <= most), None)
        if minor is None:
            number = f"_{_dotted(version)}" if version else ""
            obstacles.append(f"no manylinux tag allows {family}{number}")
        else:
            minors.append(minor)
    return minors, obstacles


def _dotted(version: tuple[int, ...]) -> str:
    return ".".join(map(str, version))


@cache
def manylinux_policy() -> ManylinuxPolicy:
    """Return the rows of `manylinux.toml`, with those of the audit for GLIBCXX.

    Raises:
        DocumentError: the file has mistakes.
    """
    return documents.load(Path(__file__).with_name("manylinux.toml"), "the manylinux policy has mistakes", _parse)


def _parse(root: Table) -> ManylinuxPolicy:
    root.string("source", pattern=".+", noun="a source")
    libraries = frozenset(root.strings("libraries"))
    tables_of = root.table("families")
    families = {name: _families(tables_of.table(name)) for name in MACHINES}
    tables_of.done()
    supplied = []
    for table in root.rows("supplied"):
        table.string("source", pattern=".+", noun="a source")
        supplied.append(SuppliedLibraries(libraries=table.strings("libraries"), packages=table.strings("packages")))
    driver = root.table("driver")
    driver.string("source", pattern=".+", noun="a source")
    driven = driver.strings("libraries")
    driver.done()
    return ManylinuxPolicy(libraries=libraries, families=families, supplied=tuple(supplied), driver=driven)


def _families(table: Table) -> dict[str, tuple[tuple[int, tuple[int, ...]], ...]]:
    rows = {name: table.string_map(name, ("manylinux_2_[0-9]+", "a tag such as manylinux_2_28")) for name in table}
    return {name: _ordered(promises) for name, promises in (*rows.items(), ("GLIBCXX", tables().promises))}


def _ordered(promises: Iterable[tuple[str, str]]) -> tuple[tuple[int, tuple[int, ...]], ...]:
    matches = ((_TAG.fullmatch(tag), version) for tag, version in promises)
    return tuple(sorted((int(match[1]), version_numbers(version)) for match, version in matches if match))
