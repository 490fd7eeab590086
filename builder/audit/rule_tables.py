"""The data of this room: rules, packages, injected and preloaded libraries, GPU policies, exceptions."""

from __future__ import annotations

from dataclasses import dataclass
from fnmatch import fnmatchcase
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

from builder.host import records
from builder.host.files import sha256_of
from builder.host.toml import documents
from builder.model.audits import Severity  # noqa: TC001  # results are described by their types

if TYPE_CHECKING:
    from builder.host.toml.documents import Table

_FOLDER = Path(__file__).parent
_ID = r"[a-z][a-z-]*[a-z]"
_VERSION = r"[0-9]+\.[0-9]+"
_SEVERITIES = ("error", "warning", "info")


@dataclass(frozen=True, kw_only=True, slots=True)
class Rule:
    """A row of `rules.toml`: `severity` is the gravest that its findings have, `says` what it finds, in Markdown."""

    id: str
    severity: Severity
    title: str
    says: str


@dataclass(frozen=True, kw_only=True, slots=True)
class KnownExports:
    """Libraries whose names are known while their content is not; `symbols` are globs on what they define.

    `package` is None for what the base image or the NVIDIA runtime brings by itself.
    """

    libraries: tuple[str, ...]
    symbols: tuple[str, ...]
    on: tuple[str, ...] = ("*",)
    package: str | None = None

    def is_on(self, distribution: str) -> bool:
        """Return whether the row is about a distribution."""
        return any(fnmatchcase(distribution, pattern) for pattern in self.on)

    def has(self, library: str) -> bool:
        """Return whether the row has a library."""
        return any(fnmatchcase(library, pattern) for pattern in self.libraries)


@dataclass(frozen=True, kw_only=True, slots=True)
class Preload:
    """A row of `preloads.toml`."""

    package: str
    load: tuple[str, ...]
    everywhere: tuple[str, ...]
    only_with: str | None


@dataclass(frozen=True, kw_only=True, slots=True)
class GpuPolicy:
    """How code for one GPU runs on others, on some L4T releases."""

    l4t: str
    same_major: bool
    source: str


@dataclass(frozen=True, kw_only=True, slots=True)
class Exempt:
    """A row of `exceptions.toml`: files whose failing means less; `sms` where they are made for some GPUs only."""

    wheel: str
    file: str
    why: str
    sms: tuple[str, ...] = ()

    def fits(self, wheel: str, file: str) -> bool:
        """Return whether a wheel's file is meant."""
        return fnmatchcase(wheel, self.wheel) and fnmatchcase(file, self.file)


@dataclass(frozen=True, kw_only=True, slots=True)
class Tables:
    """All of it. `ptx` maps versions of PTX to the first CUDA that compiles them, `promises` tags to GLIBCXX."""

    rules: tuple[Rule, ...]
    essential: tuple[KnownExports, ...]
    packages: tuple[KnownExports, ...]
    injected: tuple[KnownExports, ...]
    preloads: tuple[Preload, ...]
    policies: tuple[GpuPolicy, ...]
    ptx: tuple[tuple[tuple[int, int], tuple[int, int]], ...]
    promises: tuple[tuple[str, str], ...]
    optional: tuple[Exempt, ...]
    other_gpus: tuple[Exempt, ...]
    hidden_code: tuple[Exempt, ...]

    @property
    def ids(self) -> tuple[str, ...]:
        """The ids of all rules."""
        return tuple(rule.id for rule in self.rules)

    def policy(self, l4t: str | None) -> GpuPolicy:
        """Return the GPU policy of an L4T release, or of platforms without one."""
        return next(policy for policy in self.policies if fnmatchcase(l4t or "none", policy.l4t))


def table_digest() -> str:
    """Return the fingerprint of all rows: other rows, other findings."""
    return records.fingerprint([sha256_of(path) for path in sorted(_FOLDER.glob("*.toml"))])


@cache
def rules() -> tuple[Rule, ...]:
    """Return the rules, in the order that reports show them.

    Raises:
        DocumentError: the file has mistakes.
    """
    return documents.load(_FOLDER / "rules.toml", "the audit's rules have mistakes", _rules)


@cache
def tables() -> Tables:
    """Return all rows.

    Raises:
        DocumentError: a file has mistakes.
    """
    essential, packages = documents.load(_FOLDER / "packages.toml", "the packages have mistakes", _packages)
    policies, ptx = documents.load(_FOLDER / "gpu.toml", "the GPU policies have mistakes", _gpu)
    exceptions = documents.load(_FOLDER / "exceptions.toml", "the exceptions have mistakes", _exceptions)
    return Tables(
        rules=rules(),
        essential=essential,
        packages=packages,
        injected=documents.load(_FOLDER / "injected.toml", "the injected libraries have mistakes", _injected),
        preloads=documents.load(_FOLDER / "preloads.toml", "the preloads have mistakes", _preloads),
        policies=policies,
        ptx=ptx,
        promises=documents.load(_FOLDER / "tags.toml", "the tags have mistakes", _promises),
        optional=exceptions[0],
        other_gpus=exceptions[1],
        hidden_code=exceptions[2],
    )


def _rules(root: Table) -> tuple[Rule, ...]:
    found: list[Rule] = []
    for table in root.tables("rules"):
        severity = table.string("severity")
        if severity not in _SEVERITIES:
            table.problem("severity", f"unknown severity `{severity}`")
        name = table.string("id", pattern=_ID, noun="an id of words")
        title, says = table.string("title"), table.string("says").strip()
        found.append(Rule(id=name, severity=severity, title=title, says=says))  # type: ignore[arg-type]
        if [rule.id for rule in found].count(name) > 1:
            table.problem("id", f"`{name}` is there twice")
        table.done()
    return tuple(found)


def _brought(table: Table, package: str | None = None) -> KnownExports:
    row = KnownExports(
        libraries=table.strings("libraries"),
        symbols=table.strings("symbols"),
        on=table.strings("on") or ("*",),
        package=package,
    )
    if not row.libraries:
        table.problem("libraries", "must name at least one library")
    table.string("source", pattern=".+", noun="a source")
    table.done()
    return row


def _packages(root: Table) -> tuple[tuple[KnownExports, ...], tuple[KnownExports, ...]]:
    essential = tuple(_brought(table) for table in root.tables("essential"))
    named = tuple(
        _brought(table, table.string("name", pattern=r"[a-z0-9][a-z0-9.+-]*")) for table in root.tables("packages")
    )
    return essential, named


def _injected(root: Table) -> tuple[KnownExports, ...]:
    return tuple(_brought(table) for table in root.tables("injected"))


def _preloads(root: Table) -> tuple[Preload, ...]:
    found = []
    for table in root.tables("preloads"):
        table.string("source", pattern=".+", noun="a source")
        row = Preload(
            package=table.string("package"),
            load=table.strings("load"),
            everywhere=table.strings("everywhere"),
            only_with=table.optional_string("only-with"),
        )
        table.done()
        found.append(row)
    return tuple(found)


def _gpu(
    root: Table,
) -> tuple[tuple[GpuPolicy, ...], tuple[tuple[tuple[int, int], tuple[int, int]], ...]]:
    policies, versions = [], []
    for table in root.tables("policies"):
        policy = GpuPolicy(
            l4t=table.string("l4t"),
            same_major=table.boolean("same-major", default=False),
            source=table.string("source", pattern=".+", noun="a source"),
        )
        table.done()
        policies.append(policy)
    for table in root.tables("ptx"):
        versions.append(
            (numbers(table.string("isa", pattern=_VERSION)), numbers(table.string("cuda", pattern=_VERSION)))
        )
        table.done()
    if not policies or policies[-1].l4t != "*":
        root.problem("policies", "the last policy must be for `*`")
    return tuple(policies), tuple(sorted(versions))


def _promises(root: Table) -> tuple[tuple[str, str], ...]:
    root.string("source", pattern=".+", noun="a source")
    found = []
    for table in root.tables("promises"):
        found.append((table.string("tag", pattern="manylinux_2_[0-9]+"), table.string("glibcxx")))
        table.done()
    return tuple(found)


def _exceptions(root: Table) -> tuple[tuple[Exempt, ...], ...]:
    return tuple(_exempt(root, key) for key in ("optional", "other-gpus", "hidden-code"))


def _exempt(root: Table, key: str) -> tuple[Exempt, ...]:
    found = []
    for table in root.tables(key):
        table.string("source", pattern=".+", noun="a source")
        sms = table.strings("sms", pattern=_VERSION, noun="a compute capability such as 9.0")
        row = Exempt(wheel=table.string("wheel"), file=table.string("file"), why=table.string("why"), sms=sms)
        if key == "other-gpus" and not sms:
            table.problem("sms", "must name the GPUs that it is made for")
        table.done()
        found.append(row)
    return tuple(found)


def numbers(version: str) -> tuple[int, int]:
    """Return major and minor of a version such as 12.6; (0, 0) for what is none."""
    major, _, minor = version.partition(".")
    return (int(major), int(minor.partition(".")[0] or 0)) if major.isdigit() else (0, 0)
