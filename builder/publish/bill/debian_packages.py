"""Packages of dpkg's databases: names, versions, sources, dependencies and licences."""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

from builder.host.toml import documents
from builder.publish.bill.layer_texts import COMMON

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from builder.host.toml.tables import Table

_LICENCES = Path(__file__).with_name("debian_licences.toml")
# States in which a package's files are in the image; status.d of distroless images has no state.
_PRESENT = ("installed", "triggers-pending", "triggers-awaited", "half-configured", "unpacked")
_SOURCE = re.compile(r"(\S+)(?:\s+\(([^)]*)\))?")


@dataclass(frozen=True, kw_only=True, slots=True)
class DebianPackage:
    """An installed package. `depends` are alternatives, one of which is installed; `provides` are virtual packages."""

    name: str
    version: str
    architecture: str = ""
    source: str = ""
    source_version: str = ""
    depends: tuple[tuple[str, ...], ...] = ()
    provides: tuple[str, ...] = ()

    @property
    def key(self) -> tuple[str, str, str]:
        """What identifies the package: the same name can be installed for two architectures."""
        return self.name, self.version, self.architecture


def installed(database: str) -> Iterator[DebianPackage]:
    """Yield the installed packages of a database; paragraphs without a name or a version are not packages."""
    for paragraph in re.split(r"\n\s*\n", database):
        fields = {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in _lines(paragraph))}
        state = fields.get("status", "install ok installed").split()
        if fields.get("package") and fields.get("version") and state and state[-1] in _PRESENT:
            yield _package(fields)


def _lines(paragraph: str) -> list[str]:
    return [line for line in paragraph.splitlines() if ":" in line]


def _package(fields: dict[str, str]) -> DebianPackage:
    name, version = fields["package"], fields["version"]
    source = _SOURCE.match(fields.get("source", ""))
    return DebianPackage(
        name=name,
        version=version,
        architecture=fields.get("architecture", ""),
        source=source[1] if source else name,
        source_version=(source[2] if source else None) or version,
        depends=(*_relations(fields.get("pre-depends", "")), *_relations(fields.get("depends", ""))),
        provides=tuple(names[0] for names in _relations(fields.get("provides", ""))),
    )


def _relations(text: str) -> tuple[tuple[str, ...], ...]:
    """Return the names of a relationship field (`a (>= 1) | b:any, c`), as alternatives."""
    groups = (tuple(_names(group.split("|"))) for group in text.split(","))
    return tuple(group for group in groups if group)


def _names(alternatives: Iterable[str]) -> Iterator[str]:
    for alternative in alternatives:
        name = re.match(r"\s*([A-Za-z0-9][A-Za-z0-9+.-]*)", alternative)
        if name:
            yield name[1]


def dependencies(packages: Iterable[DebianPackage]) -> dict[DebianPackage, tuple[DebianPackage, ...]]:
    """Return the installed packages that each package depends on: of alternatives, the first installed one."""
    packages = tuple(packages)
    providers: dict[str, list[DebianPackage]] = {}
    for package in packages:
        providers.setdefault(package.name, []).append(package)
    for package in packages:
        for name in package.provides:
            providers.setdefault(name, []).append(package)
    return {package: tuple(_needed(package, providers)) for package in packages}


def _needed(package: DebianPackage, providers: dict[str, list[DebianPackage]]) -> Iterator[DebianPackage]:
    for alternatives in package.depends:
        candidates = next((providers[name] for name in alternatives if name in providers), [])
        same = (found for found in candidates if found.architecture in (package.architecture, "all"))
        needed = next(same, next(iter(candidates), None))
        if needed and needed != package:
            yield needed


def spdx_names(licences: Iterable[str]) -> Iterator[tuple[str, str]]:
    """Yield the names in licences of a copyright file (`GPL-2+ or Artistic`), each with its SPDX identifier or ""."""
    for text in licences:
        if text.startswith(COMMON):
            yield text.removeprefix(COMMON), ""
            continue
        for name in re.split(r"\s*(?:,|\bor\b|\band\b|\band/or\b|\|)\s*", text):
            if name:
                yield name, spdx_table().get(name.lower(), "")


@cache
def spdx_table() -> dict[str, str]:
    """Return the SPDX identifiers of the names in copyright files, by the name in lower case.

    Raises:
        DocumentError: the table has mistakes.
    """
    return dict(documents.load(_LICENCES, "the names of Debian's licences have mistakes", _rows))


def _rows(root: Table) -> list[tuple[str, str]]:
    rows = []
    for table in root.tables("licences"):
        spdx = table.string("spdx", pattern=r"[A-Za-z0-9.-]+", noun="an SPDX identifier")
        rows += [(name.lower(), spdx) for name in table.strings("names")]
        table.string("source", pattern=".+", noun="a source")
        table.done()
    return rows
