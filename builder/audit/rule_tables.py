"""The data of this room: rules, packages, injected and preloaded libraries, GPU policies, exceptions."""

from __future__ import annotations

import re
from dataclasses import dataclass
from fnmatch import fnmatchcase
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

from builder.host import records
from builder.host.files import sha256_of
from builder.host.toml import documents
from builder.jetson.boards import sm_number
from builder.model.audits import SEVERITIES, Severity
from builder.model.kernel_verdicts import EVIDENCE, Evidence

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from builder.host.toml.tables import Table

_Rows = TypeVar("_Rows")

_FOLDER = Path(__file__).parent
_ID = r"[a-z][a-z-]*[a-z]"
_VERSION = r"[0-9]+\.[0-9]+"
_PACKAGE = r"[a-z0-9][a-z0-9.+-]*"
# A version of PTX, and the first CUDA release that compiles it.
_PtxVersion = tuple[tuple[int, int], tuple[int, int]]


@dataclass(frozen=True, kw_only=True, slots=True)
class Rule:
    """A row of `rules.toml`: `severity` is the gravest of its findings, `says` the explanation in Markdown."""

    id: str
    severity: Severity
    title: str
    says: str


@dataclass(frozen=True, kw_only=True, slots=True)
class KnownExports:
    """Libraries known by their names only; `symbols` are globs on their symbols.

    `package` is None for libraries of the base image or the NVIDIA runtime.
    """

    libraries: tuple[str, ...]
    symbols: tuple[str, ...]
    on: tuple[str, ...] = ("*",)
    package: str | None = None

    def is_on(self, distribution: str) -> bool:
        """Return whether the row applies to a distribution."""
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
class Exempt:
    """A row of `exceptions.toml`: files whose failing means less; `sms` where they are made for some GPUs only.

    With `one_of`, one of them must be sound; `on_gpu` and `chosen` are globs on the candidates.
    """

    wheel: str
    file: str
    why: str
    sms: tuple[str, ...] = ()
    one_of: bool = False
    on_gpu: str | None = None
    chosen: str | None = None

    def fits(self, wheel: str, file: str) -> bool:
        """Return whether the row applies to a wheel's file."""
        return fnmatchcase(wheel, self.wheel) and fnmatchcase(file, self.file)


@dataclass(frozen=True, kw_only=True, slots=True)
class GpuPolicy:
    """A row of `gpu.toml`: whether code for one GPU runs on others of the same major, and how that is known."""

    same_major: bool
    evidence: Evidence


@dataclass(frozen=True, kw_only=True, slots=True)
class Tables:
    """All rows but the rules.

    `policies` maps L4T releases (globs) to rules, `ptx` versions of PTX to the first CUDA that compiles them,
    `families` GPUs to those that run their code with the suffix `f`, `promises` tags to GLIBCXX. `compile_s_per_mb` are
    the seconds that a board takes to compile a megabyte of PTX, by estimate.
    """

    essential: tuple[KnownExports, ...]
    packages: tuple[KnownExports, ...]
    injected: tuple[KnownExports, ...]
    preloads: tuple[Preload, ...]
    policies: dict[str, GpuPolicy]
    compile_s_per_mb: float
    ptx: tuple[_PtxVersion, ...]
    families: dict[int, tuple[int, ...]]
    promises: tuple[tuple[str, str], ...]
    optional: tuple[Exempt, ...]
    other_gpus: tuple[Exempt, ...]
    hidden_code: tuple[Exempt, ...]

    def same_major(self, l4t: str | None) -> bool:
        """Return whether GPUs run code for others of the same major, on an L4T release or a platform without one."""
        return self.policy(l4t).same_major

    def policy(self, l4t: str | None) -> GpuPolicy:
        """Return the rule of an L4T release or of a platform without one."""
        return next(row for pattern, row in self.policies.items() if fnmatchcase(l4t or "none", pattern))


def table_digest() -> str:
    """Return the fingerprint of all rows: other rows, other findings."""
    return records.fingerprint([sha256_of(path) for path in sorted(_FOLDER.rglob("*.toml"))])


@cache
def rules() -> tuple[Rule, ...]:
    """Return the rules, in the order that reports show them.

    Raises:
        DocumentError: the file has mistakes.
    """
    return _load("rules", "audit's rules", _rules)


@cache
def tables() -> Tables:
    """Return all rows.

    Raises:
        DocumentError: a file has mistakes.
    """
    essential, packages = _load("packages", "packages", _packages)
    policies, families, ptx, compile_s_per_mb = _load("gpu", "GPU policies", _gpu)
    return Tables(
        essential=essential,
        packages=packages,
        injected=_load("injected", "injected libraries", lambda root: _exports(root, "injected")),
        preloads=_load("preloads", "preloads", _preloads),
        policies=policies,
        ptx=ptx,
        families=families,
        compile_s_per_mb=compile_s_per_mb,
        promises=_load("tags", "tags", _promises),
        **_load("exceptions", "exceptions", _exceptions),
    )


def _load(name: str, noun: str, parse: Callable[[Table], _Rows]) -> _Rows:
    return documents.load(_FOLDER / f"{name}.toml", f"the {noun} have mistakes", parse)


def _rules(root: Table) -> tuple[Rule, ...]:
    rows: list[Rule] = []
    for table in root.rows("rules"):
        severity = table.string("severity")
        if severity not in SEVERITIES:
            table.problem("severity", f"unknown severity `{severity}`")
        name = table.string("id", pattern=_ID, noun="an id of words")
        title, says = table.string("title"), table.string("says").strip()
        rows.append(Rule(id=name, severity=severity, title=title, says=says))  # type: ignore[arg-type]
        if [rule.id for rule in rows].count(name) > 1:
            table.problem("id", f"`{name}` occurs twice")
    return tuple(rows)


def _sourced(root: Table, key: str) -> Iterator[Table]:
    """Yield the rows of a table; each must have a source."""
    for table in root.rows(key):
        yield table
        table.string("source", pattern=".+", noun="a source")


def _packages(root: Table) -> tuple[tuple[KnownExports, ...], tuple[KnownExports, ...]]:
    return _exports(root, "essential"), _exports(root, "packages")


def _exports(root: Table, key: str) -> tuple[KnownExports, ...]:
    rows = []
    for table in _sourced(root, key):
        row = KnownExports(
            libraries=table.strings("libraries"),
            symbols=table.strings("symbols"),
            on=table.strings("on") or ("*",),
            package=table.string("name", pattern=_PACKAGE) if key == "packages" else None,
        )
        if not row.libraries:
            table.problem("libraries", "must name at least one library")
        rows.append(row)
    return tuple(rows)


def _preloads(root: Table) -> tuple[Preload, ...]:
    return tuple(
        Preload(
            package=table.string("package"),
            load=table.strings("load"),
            everywhere=table.strings("everywhere"),
            only_with=table.optional_string("only-with"),
        )
        for table in _sourced(root, "preloads")
    )


def _gpu(
    root: Table,
) -> tuple[dict[str, GpuPolicy], dict[int, tuple[int, ...]], tuple[_PtxVersion, ...], float]:
    policies = {table.string("l4t"): _policy(table) for table in _sourced(root, "policies")}
    if [*policies][-1:] != ["*"]:
        root.problem("policies", "the last policy must be for `*`")
    families = {
        sm_number(table.string("capability", pattern=_VERSION, noun="a compute capability such as 10.0")): tuple(
            map(sm_number, table.strings("runs-on", pattern=_VERSION, noun="a compute capability such as 10.3"))
        )
        for table in _sourced(root, "families")
    }
    ptx = root.string_map("ptx", (_VERSION, "a version"), (_VERSION, "a version"))
    compiling = root.table("compile")
    seconds = compiling.number("seconds-per-mb", high=1000) * compiling.number("board-factor", high=100)
    compiling.string("source", pattern=".+", noun="a source")
    return policies, families, tuple(sorted((major_minor(isa), major_minor(cuda)) for isa, cuda in ptx)), seconds


def _policy(table: Table) -> GpuPolicy:
    evidence = table.string("evidence")
    if evidence not in EVIDENCE:
        table.problem("evidence", f"`{evidence}` is not one of {', '.join(EVIDENCE)}")
    return GpuPolicy(same_major=table.boolean("same-major", default=False), evidence=evidence)  # type: ignore[arg-type]


def _promises(root: Table) -> tuple[tuple[str, str], ...]:
    root.string("source", pattern=".+", noun="a source")
    return root.string_map("promises", ("manylinux_2_[0-9]+", "a tag such as manylinux_2_28"))


def _exceptions(root: Table) -> dict[str, tuple[Exempt, ...]]:
    return {key.replace("-", "_"): _exempt(root, key) for key in ("optional", "other-gpus", "hidden-code")}


def _exempt(root: Table, key: str) -> tuple[Exempt, ...]:
    rows = []
    for table in _sourced(root, key):
        sms = table.strings("sms", pattern=_VERSION, noun="a compute capability such as 9.0")
        row = Exempt(
            wheel=table.string("wheel"),
            file=table.string("file"),
            why=table.string("why"),
            sms=sms,
            one_of=table.boolean("one-of", default=False),
            on_gpu=table.optional_string("on-gpu"),
            chosen=table.optional_string("chosen"),
        )
        rows.append(row)
        if key == "other-gpus" and not sms:
            table.problem("sms", "must name the GPUs of the file's code")
    return tuple(rows)


def version_numbers(version: str) -> tuple[int, ...]:
    """Return all numbers of a version such as GLIBC_2.38."""
    return tuple(int(number) for number in re.findall(r"[0-9]+", version))


def major_minor(version: str) -> tuple[int, int]:
    """Return major and minor of a version such as 12.6; (0, 0) if it does not start with a number."""
    major, _, minor = version.partition(".")
    return (int(major), int(minor.partition(".")[0] or 0)) if major.isdigit() else (0, 0)
