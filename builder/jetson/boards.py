"""Jetson modules: chip, GPU and memory, and the boards that a platform's images run on."""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

from builder.errors import UsageError
from builder.host.toml import documents

if TYPE_CHECKING:
    from collections.abc import Iterable

    from builder.host.toml.documents import Table
    from builder.model.platforms import Platform

_BOARDS = Path(__file__).with_name("boards.toml")
PART_NUMBER = r"p[0-9]{4}-[0-9]{4}"
_NAME = r"[a-z0-9]+(-[a-z0-9]+)*"
# The smallest known ratio of `MemTotal` to a module's memory (an Orin Nano 8 GB).
_USABLE_RATIO = 0.93
_MIB = 1 << 20
_GIB = 1 << 30


@dataclass(frozen=True, kw_only=True, slots=True)
class Board:
    """One module: `memory_gb` as sold, `usable_mib` as Linux sees it (None if unknown), `l4t` major releases."""

    name: str
    module: str
    chip: str
    sm: str
    memory_gb: int
    cpus: int
    usable_mib: int | None
    l4t: tuple[str, ...]
    power_modes: tuple[str, ...]
    source: str

    @property
    def usable(self) -> int:
        """The bytes that system and GPU share; an estimate unless `is_measured`."""
        return self.usable_mib * _MIB if self.usable_mib else int(self.memory_gb * _GIB * _USABLE_RATIO)

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
        return bool(platform.l4t) and str(platform.l4t).split(".")[0] in self.l4t and self.sm in platform.sms


@cache
def boards() -> tuple[Board, ...]:
    """Return all boards, in the order of their file."""
    return read_boards(_BOARDS)


def board(name: str) -> Board:
    """Return the board of a name.

    Raises:
        UsageError: the name is unknown; the hint is the nearest one.
    """
    rows = {row.name: row for row in boards()}
    if name not in rows:
        raise UsageError(
            f"there is no board `{documents.printable(name)}`", hint=documents.suggest(name, rows, noun="boards known")
        )
    return rows[name]


def sm_number(sm: str) -> int:
    """Return a compute capability as in CUDA's file names: 87 for 8.7, 110 for 11.0."""
    major, _, minor = sm.partition(".")
    return int(major) * 10 + int(minor or 0)


def boards_for(platform: Platform, names: Iterable[str] = ()) -> tuple[Board, ...]:
    """Return the boards of these names, else every board that a platform's images run on.

    Raises:
        UsageError: a name is unknown.
    """
    named = tuple(board(name) for name in names)
    return named or tuple(row for row in boards() if row.suits(platform))


def read_boards(path: Path) -> tuple[Board, ...]:
    """Read a file of boards.

    Raises:
        DocumentError: a row is not well-formed, or a name is there twice.
    """

    def parse(root: Table) -> tuple[Board, ...]:
        rows = tuple(_board(table) for table in root.tables("boards"))
        names = [row.name for row in rows]
        for index, name in enumerate(names):
            if name in names[:index]:
                root.document.problem(("boards", index, "name"), f"`{name}` is there twice")
        return rows

    return documents.load(path, "the boards have mistakes", parse)


def _board(table: Table) -> Board:
    memory_gb = table.integer("memory-gb", low=1, high=4096)
    row = Board(
        name=table.string("name", pattern=_NAME, noun="a board's name such as orin-nx-16"),
        module=table.string("module", pattern=".+", noun="a module's name"),
        chip=table.string("chip", pattern=r"tegra[0-9]{3}", noun="a chip such as tegra234"),
        sm=table.string("sm", pattern=r"[0-9]+\.[0-9]+", noun="a compute capability such as 8.7"),
        memory_gb=memory_gb,
        cpus=table.integer("cpus", low=1, high=1024),
        usable_mib=table.integer("usable-mib", low=1, high=memory_gb * 1024) if "usable-mib" in table else None,
        l4t=table.strings("l4t", pattern=r"[0-9]{2}", noun="a major release such as 36"),
        power_modes=table.strings("power-modes", pattern=r"[A-Z0-9_]+", noun="a mode of nvpmodel"),
        source=table.string("source", pattern=".+", noun="a source"),
    )
    if not table.raw("l4t"):
        table.problem("l4t", "`l4t` must not be empty")
    table.done(("usable-mib",))
    return row
