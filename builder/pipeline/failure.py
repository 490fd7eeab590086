"""A failed stage of a cell, as the history and lists show it."""

from __future__ import annotations

from dataclasses import dataclass, field

from builder.host import records


@dataclass(frozen=True, kw_only=True, slots=True)
class Failure:
    """The stage at which a run failed, and the error; `log` is the tail of a program's log.

    `when` is the end of the run (UTC, ISO 8601), `lock` identifies its lock; in the history the run itself has both.
    """

    stage: str
    message: str
    where: str | None = None
    hint: str | None = None
    log: str | None = None
    when: str | None = field(default=None, metadata=records.OPTIONAL)
    lock: str | None = field(default=None, metadata=records.OPTIONAL)
