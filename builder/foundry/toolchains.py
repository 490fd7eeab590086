"""The compilers of wheels that jbuild builds: the rows of `toolchains.toml`."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Literal, cast, get_args

from builder.errors import BuildError
from builder.host.toml import documents
from builder.model.builds import ToolRole
from builder.model.recipes import Architecture

if TYPE_CHECKING:
    from builder.host.toml.tables import Table
    from builder.model.builds import BuildTarget

_ROWS = Path(__file__).with_name("toolchains.toml")
_SHA256 = "[0-9a-f]{64}"
Side = Literal["machine", "target"]
# The row of sources without CUDA.
PLAIN = "cpp"


@dataclass(frozen=True, kw_only=True, slots=True)
class ToolWheel:
    """A wheel of a toolchain; of one with a `record` (the sha256 of its RECORD), only the headers are read."""

    role: ToolRole
    file: str
    sha256: str
    record: str | None


@dataclass(frozen=True, kw_only=True, slots=True)
class CompilerPackage:
    """A distribution's package with the compiler: its version begins with `version`."""

    name: str
    version: str
    distribution: str
    suite: str
    components: tuple[str, ...]


@dataclass(frozen=True, kw_only=True, slots=True)
class Toolchain:
    """A compiler: the CUDA releases and GPUs that it compiles for, and the newest gcc that it accepts.

    `wheels` are its files by side and architecture; `nvcc` is its version, None for sources without CUDA.
    """

    id: str
    releases: tuple[str, ...]
    nvcc: str | None
    newest_gcc: int
    gpus: tuple[str, ...]
    reason: str
    source: str
    package: CompilerPackage | None
    wheels: tuple[tuple[Side, Architecture, ToolWheel], ...]

    def wheels_for(self, machine: Architecture, target: Architecture) -> tuple[ToolWheel, ...]:
        """Return the files for a building machine and a target."""
        wanted = (("machine", machine), ("target", target))
        return tuple(wheel for side, architecture, wheel in self.wheels if (side, architecture) in wanted)


def toolchain_of(target: BuildTarget) -> Toolchain:
    """Return the toolchain of a target.

    Raises:
        BuildError: no row has a compiler for the target's CUDA release or GPUs.
    """
    rows = toolchains()
    if target.cuda is None:
        return rows[PLAIN]
    row = next((row for row in rows.values() if target.cuda in row.releases), None)
    if row is None:
        releases = ", ".join(release for row in rows.values() for release in row.releases)
        raise BuildError(
            f"no toolchain compiles for CUDA {target.cuda}",
            where="builder/foundry/toolchains.toml",
            hint=f"choose a cell with CUDA {releases}, or a version of the package that has a wheel",
        )
    missing = [gpu for gpu in target.gpus if gpu not in row.gpus]
    if missing:
        raise BuildError(
            f"nvcc {row.nvcc} does not compile for compute capability {', '.join(missing)}",
            where=f"toolchain {row.id}",
            hint=f"choose cells whose GPUs are among {', '.join(row.gpus)}",
        )
    return row


@cache
def toolchains(path: Path = _ROWS) -> dict[str, Toolchain]:
    """Return the rows by id.

    Raises:
        DocumentError: a row is not well-formed.
    """
    return documents.load(path, "the toolchains have mistakes", _toolchains)


def _toolchains(root: Table) -> dict[str, Toolchain]:
    wheels = [(table.string("toolchain"), entry) for table in root.tables("wheels") for entry in _wheels(table)]
    rows = [_toolchain(table, wheels) for table in root.tables("toolchains")]
    return {row.id: row for row in rows}


def _toolchain(table: Table, wheels: list[tuple[str, tuple[Side, Architecture, ToolWheel]]]) -> Toolchain:
    name = table.string("id")
    return Toolchain(
        id=name,
        releases=table.strings("releases"),
        nvcc=table.optional_string("nvcc"),
        newest_gcc=table.integer("newest-gcc"),
        gpus=table.strings("gpus"),
        reason=table.string("reason"),
        source=table.string("source"),
        package=_package(table.table("package")) if "package" in table else None,
        wheels=tuple(entry for owner, entry in wheels if owner == name),
    )


def _package(table: Table) -> CompilerPackage:
    return CompilerPackage(
        name=table.string("name"),
        version=table.string("version"),
        distribution=table.string("distribution"),
        suite=table.string("suite"),
        components=table.strings("components"),
    )


def _wheels(table: Table) -> list[tuple[Side, Architecture, ToolWheel]]:
    role = cast("ToolRole", table.string("role", pattern="|".join(get_args(ToolRole))))
    side = cast("Side", table.string("side", pattern="|".join(get_args(Side))))
    return [(side, architecture, _wheel(table, architecture, role)) for architecture in get_args(Architecture)]


def _wheel(table: Table, architecture: str, role: ToolRole) -> ToolWheel:
    file = table.table(architecture)
    return ToolWheel(
        role=role,
        file=file.string("file"),
        sha256=file.string("sha256", pattern=_SHA256),
        record=file.optional_string("record", pattern=_SHA256),
    )
