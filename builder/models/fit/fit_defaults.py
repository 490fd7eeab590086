"""Reads the tables of this room: transformers' defaults for config.json, encoders, and a server's memory overheads."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from builder.host.toml import documents
from builder.host.wording import suggest

if TYPE_CHECKING:
    from builder.host.toml.tables import Table

_DEFAULTS = Path(__file__).with_name("defaults.toml")
_OVERHEADS = Path(__file__).with_name("overheads.toml")
_ENCODERS = Path(__file__).with_name("encoders.toml")
_MEMORY_KINDS = ("cpu", "gpu", "system", "device")


@dataclass(frozen=True, kw_only=True, slots=True)
class Defaults:
    """The default values of one model type; every `sliding_every`-th layer has full attention."""

    model_type: str
    values: dict[str, Any]
    sliding_every: int | None
    source: str


@dataclass(frozen=True, kw_only=True, slots=True)
class Overhead:
    """One overhead in MiB; the server option `unless` removes it."""

    name: str
    mib: int
    of: str
    unless: str | None
    source: str


@dataclass(frozen=True, kw_only=True, slots=True)
class Encoder:
    """A model type or an architecture without a KV cache."""

    model_type: str | None
    architecture: str | None
    source: str


@cache
def defaults(path: Path = _DEFAULTS) -> dict[str, Defaults]:
    """Return the rows of a file of defaults by model type.

    Raises:
        DocumentError: a row is not well-formed.
    """
    rows = documents.load(path, "the defaults have mistakes", lambda root: [*map(_defaults, root.tables("defaults"))])
    return {row.model_type: row for row in rows}


@cache
def overheads(path: Path = _OVERHEADS) -> tuple[Overhead, ...]:
    """Return the rows of a file of overheads.

    Raises:
        DocumentError: a row is not well-formed.
    """
    return documents.load(
        path, "the overheads have mistakes", lambda root: tuple(map(_overhead, root.tables("overheads")))
    )


@cache
def encoders(path: Path = _ENCODERS) -> frozenset[str]:
    """Return the model types and architectures without a KV cache.

    Raises:
        DocumentError: a row is not well-formed.
    """
    rows = documents.load(path, "the encoders have mistakes", lambda root: [*map(_encoder, root.tables("encoders"))])
    return frozenset(name for row in rows if (name := row.model_type or row.architecture))


def _encoder(table: Table) -> Encoder:
    row = Encoder(
        model_type=table.optional_string("model-type", pattern=r"[a-z0-9_-]+", noun="a model type"),
        architecture=table.optional_string("architecture", pattern=r"[A-Z]\w+", noun="an architecture"),
        source=table.string("source", pattern=".+", noun="a source"),
    )
    if (row.model_type is None) == (row.architecture is None):
        table.problem(None, "needs `model-type` or `architecture`, not both")
    table.done()
    return row


def _defaults(table: Table) -> Defaults:
    values = table.table("values")
    row = Defaults(
        model_type=table.string("model-type", pattern=r"[a-z0-9_]+", noun="a model type as config.json writes it"),
        values={key: _plain(values, key) for key in values},
        sliding_every=table.integer("sliding-every", low=2, high=64) if "sliding-every" in table else None,
        source=table.string("source", pattern=".+", noun="a source"),
    )
    table.done()
    return row


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
        table.problem(
            "of", f"unknown kind of memory `{row.of}`", suggest(row.of, _MEMORY_KINDS, noun="kinds of memory")
        )
    table.done()
    return row
