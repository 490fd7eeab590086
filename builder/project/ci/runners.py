"""GitHub's runners and limits, which are data."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

from builder.host.toml import documents
from builder.model import patterns

if TYPE_CHECKING:
    from builder.host.toml.documents import Table

DATA = Path(__file__).with_name("runners.toml")


@dataclass(frozen=True, kw_only=True, slots=True)
class Runner:
    """A runner of GitHub's own, and the architecture of its processor."""

    label: str
    architecture: str


@dataclass(frozen=True, kw_only=True, slots=True)
class GitHub:
    """What GitHub offers: `most_jobs` is how many jobs a matrix may have."""

    most_jobs: int
    runners: tuple[Runner, ...]


@cache
def github(path: Path = DATA) -> GitHub:
    """Return GitHub's runners and limits.

    Raises:
        DocumentError: the table has mistakes.
    """
    return documents.load(path, "the table of runners has mistakes", _parse)


def _parse(root: Table) -> GitHub:
    most = root.integer("most-jobs", low=1)
    root.string("source")
    runners = []
    for table in root.tables("runners"):
        label = table.string("label", pattern=patterns.RUNNER, noun="a runner's label")
        runners.append(Runner(label=label, architecture=table.string("architecture", pattern="amd64|arm64")))
        table.string("source")
        table.done()
    if not runners:
        root.problem("runners", "there is no runner", "add a [[runners]] table")
    return GitHub(most_jobs=most, runners=tuple(runners))
