"""A failed stage and a running stage of a cell, as the history and lists show them."""

from __future__ import annotations

from dataclasses import dataclass, field

from builder.host import records


@dataclass(frozen=True, kw_only=True, slots=True)
class Failure:
    """The stage at which a run failed, and the error; `log` is the tail of a program's log.

    `when` is the end of the run (UTC, ISO 8601), `lock` identifies its lock; in the history the run itself has both.
    `outdated` is true if the cell has another lock now.
    """

    stage: str
    message: str
    where: str | None = None
    hint: str | None = None
    log: str | None = None
    when: str | None = field(default=None, metadata=records.OPTIONAL)
    lock: str | None = field(default=None, metadata=records.OPTIONAL)
    outdated: bool | None = field(default=None, metadata=records.OPTIONAL)


@dataclass(frozen=True, kw_only=True, slots=True)
class RunningStage:
    """The stage that a process works on now, since when (UTC, ISO 8601), and the stages that the run has finished."""

    stage: str
    since: str
    finished: tuple[str, ...]
