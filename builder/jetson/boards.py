"""Jetson modules and other machines with a GPU: chip, GPU and memory, and those that a platform's images run on."""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from builder.errors import UsageError
from builder.host.toml.declarations import Source, declaration_of, integer, load_rows, string, strings
from builder.host.wording import printable, suggest

if TYPE_CHECKING:
    from collections.abc import Iterable

    from builder.host.toml.tables import Table
    from builder.model.locks import Job
    from builder.model.platforms import Platform

_BOARDS = Path(__file__).with_name("boards.toml")
_MACHINES = Path(__file__).with_name("machines.toml")
PART_NUMBER = r"p[0-9]{4}-[0-9]{4}"
# The smallest known ratio of `MemTotal` to a module's memory (an Orin Nano 8 GB).
_USABLE_RATIO = 0.93
_MIB = 1 << 20
_GIB = 1 << 30


@dataclass(frozen=True, kw_only=True, slots=True)
class Board:
    """One Jetson module, or another machine with a GPU.

    `memory_gb` is its memory as sold, `usable_mib` as Linux or, with a GPU's own memory, the driver sees it (None if
    unknown). `l4t` are the major releases of a Jetson, empty for other machines.
    """

    name: Annotated[str, string(r"[a-z0-9]+(-[a-z0-9]+)*", "a board's name such as orin-nx-16")]
    module: Annotated[str, string(".+", "a module's name")]
    chip: Annotated[str, string(r"tegra[0-9]{3}|[a-z]{2}[0-9]{3}", "a chip such as tegra234")]
    sm: Annotated[str, string(r"[0-9]+\.[0-9]+", "a compute capability such as 8.7")]
    memory_gb: Annotated[int, integer(1, 4096, required=True)]
    cpus: Annotated[int | None, integer(1, 1024)] = None
    usable_mib: Annotated[int | None, integer(1, 4096 * 1024)] = None
    l4t: Annotated[tuple[str, ...], strings(r"[0-9]{2}", "a major release such as 36")] = ()
    power_modes: Annotated[tuple[str, ...], strings(r"[A-Z0-9_]+", "a mode of nvpmodel")] = ()
    source: Source

    @property
    def usable(self) -> int:
        """The bytes that system and GPU share, else those of the GPU; an estimate unless `is_measured`."""
        return self.usable_mib * _MIB if self.usable_mib else int(self.memory_gb * _GIB * _USABLE_RATIO)

    @property
    def is_jetson(self) -> bool:
        """Whether it is a Jetson, on which system and GPU share the memory."""
        return bool(self.l4t)

    @property
    def is_measured(self) -> bool:
        """Whether `usable` was measured on such a board."""
        return self.usable_mib is not None

    @property
    def part_numbers(self) -> tuple[str, ...]:
        """Its part numbers, as in device trees (`p3767-0000`)."""
        return tuple(re.findall(PART_NUMBER, self.module))

    def suits(self, platform: Platform) -> bool:
        """Return whether a platform's images run on this board, by L4T release and SM."""
        releases = (platform.l4t.split(".")[0],) if platform.l4t else ()
        return self.is_jetson == bool(releases) and set(releases) <= set(self.l4t) and self.sm in platform.sms

    def mismatch(self, platform: Platform) -> str | None:
        """Return why a platform's images do not run on this board's GPU; images for the CPU need none."""
        if not platform.has_gpu or self.suits(platform):
            return None
        releases = f", L4T {', '.join(self.l4t)}" if self.is_jetson else ""
        images = f"images for {platform.name} (SM {', '.join(platform.sms)})"
        return f"{images} do not run on {self.name} (SM {self.sm}{releases})"


def _check_board(table: Table, row: Board, _: None) -> None:
    if row.chip.startswith("tegra"):
        _check_jetson(table)
    largest = row.memory_gb * 1024
    if row.usable_mib and row.usable_mib > largest:
        table.problem("usable-mib", f"{row.usable_mib} is out of bounds", f"a whole number from 1 to {largest}")


def _check_jetson(table: Table) -> None:
    if "l4t" not in table or table.raw("l4t") == []:
        table.problem("l4t", "`l4t` must not be empty")
    if "cpus" not in table:
        table.problem(None, "`cpus` is missing")


_BOARD = declaration_of(Board, check=_check_board)


@cache
def boards(path: Path = _BOARDS) -> tuple[Board, ...]:
    """Return all Jetsons, in the order of their file.

    Raises:
        DocumentError: the file has mistakes.
    """
    return load_rows(path, "the boards have mistakes", "boards", _BOARD, once="name")


@cache
def machines(path: Path = _MACHINES) -> tuple[Board, ...]:
    """Return all machines whose GPU has its own memory, in the order of their file.

    Raises:
        DocumentError: the file has mistakes.
    """
    return load_rows(path, "the machines have mistakes", "machines", _BOARD, once="name")


def board(name: str, proposed: Iterable[str] = ()) -> Board:
    """Return the board of a name.

    Raises:
        UsageError: the name is unknown; the hint has the nearest ones of `proposed`, by default of all.
    """
    rows = {row.name: row for row in (*boards(), *machines())}
    if name not in rows:
        raise UsageError(
            f"there is no board `{printable(name)}`", hint=suggest(name, tuple(proposed) or rows, noun="boards known")
        )
    return rows[name]


def sm_number(sm: str) -> int:
    """Return a compute capability as in CUDA's file names: 87 for 8.7, 110 for 11.0."""
    major, _, minor = sm.partition(".")
    return int(major) * 10 + int(minor or 0)


def dotted_sm(sm: int) -> str:
    """Return a compute capability as people write it: 8.7 for 87."""
    return f"{sm // 10}.{sm % 10}"


def boards_for(platform: Platform, names: Iterable[str] = ()) -> tuple[Board, ...]:
    """Return the boards of these names, else every board that a platform's images run on.

    Raises:
        UsageError: a name is unknown.
    """
    named = tuple(board(name) for name in names)
    return named or tuple(row for row in (*boards(), *machines()) if row.suits(platform))


def boards_of(job: Job, names: Iterable[str] = ()) -> tuple[Board, ...]:
    """Return the boards of these names, else the recipe's, else every board that a cell's images run on.

    Raises:
        UsageError: a name is unknown.
    """
    return boards_for(job.platform, tuple(names) or tuple(row.name for row in recipe_boards(job)))


def recipe_boards(job: Job) -> tuple[Board, ...]:
    """Return the boards that a recipe names, without those whose GPUs the cell leaves out."""
    named = tuple(board(name) for name in job.recipe.boards)
    return tuple(row for row in named if row.sm in job.platform.sms) if job.cell.names_sms else named
