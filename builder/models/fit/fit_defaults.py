"""The data of this room: what transformers takes where config.json is silent, and what a server needs besides."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from builder.host.toml import documents

if TYPE_CHECKING:
    from builder.host.toml.documents import Table

_DEFAULTS = Path(__file__).with_name("defaults.toml")
_OVERHEADS = Path(__file__).with_name("overheads.toml")
_MEMORY_KINDS = ("cpu", "gpu", "system")


@dataclass(frozen=True, kw_only=True, slots=True)
class Defaults:
    """The values of one model type, and after how many layers one attends to everything."""

    model_type: str
    values: dict[str, Any]
    sliding_every: int | None
    source: str


@dataclass(frozen=True, kw_only=True, slots=True)
class Overhead:
    """One need, in MiB, that an option of the server may take away."""

    name: str
    mib: int
    of: str
    unless: str | None
    source: str


@cache
def defaults() -> dict[str, Defaults]:
    """Return the rows of `defaults.toml` by model type."""
    return {row.model_type: row for row in read_defaults(_DEFAULTS)}


@cache
def overheads() -> tuple[Overhead, ...]:
    """Return the rows of `overheads.toml`."""
    return read_overheads(_OVERHEADS)


def read_defaults(path: Path) -> tuple[Defaults, ...]:
    """Read a file of defaults.

    Raises:
        DocumentError: a row is not well-formed.
    """
    return documents.load(path, "the defaults have mistakes", lambda root: _rows(root, "defaults", _defaults))


def read_overheads(path: Path) -> tuple[Overhead, ...]:
    """Read a file of overheads.

    Raises:
        DocumentError: a row is not well-formed.
    """
    return documents.load(path, "the overheads have mistakes", lambda root: _rows(root, "overheads", _overhead))


def _rows(root: Table, key: str, read: Any) -> tuple[Any, ...]:
    rows = []
    for table in root.tables(key):
        rows.append(read(table))
        table.done()
    return tuple(rows)


def _defaults(table: Table) -> Defaults:
    values = table.table("values")
    defaults = {key: _plain(values, key) for key in values}
    return Defaults(
        model_type=table.string("model-type", pattern=r"[a-z0-9_]+", noun="a model type as config.json writes it"),
        values=defaults,
        sliding_every=table.integer("sliding-every", low=2, high=64) if "sliding-every" in table else None,
        source=table.string("source", pattern=".+", noun="a source"),
    )


def _plain(values: Table, key: str) -> int | bool:
    value = values.raw(key)
    if isinstance(value, int):
        return value
    values.problem(key, "must be a whole number, true or false")
    return 0


def _overhead(table: Table) -> Overhead:
    row = Overhead(
        name=table.string("name", pattern=".+", noun="a name"),
        mib=table.integer("mib", low=0, high=1 << 20),
        of=table.string("of"),
        unless=table.optional_string("unless", pattern=r"--[a-z-]+", noun="an option of the server"),
        source=table.string("source", pattern=".+", noun="a source"),
    )
    if row.of and row.of not in _MEMORY_KINDS:
        table.problem("of", f"unknown place `{row.of}`", documents.suggest(row.of, _MEMORY_KINDS, noun="places"))
    return row
