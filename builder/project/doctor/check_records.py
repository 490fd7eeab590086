"""The records of an examination."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from builder.host.engine.docker import Engine
    from builder.host.session import Session
    from builder.model.locks import Job
    from builder.model.recipes import Recipe

# An error stops something that this machine is set up for; a warning makes it slower, or something less.
State = Literal["ok", "warning", "error", "not applicable"]


@dataclass(frozen=True, kw_only=True, slots=True)
class Check:
    """One thing that was looked at: its state, what was found, why it matters, and what mends it.

    `fix` is a command that mends it and may be run unasked; `mend` is what a person does.
    """

    name: str
    state: State
    found: str
    why: str
    mend: str | None = None
    fix: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True, slots=True)
class DoctorContext:
    """What is examined: a machine, and the recipe at hand, if there is one.

    `engine` is None where none answers, `refusal` then says why and `mend` what helps. `root` holds the machine's
    `proc`, `sys` and `etc`.
    """

    session: Session
    engine: Engine | None
    refusal: str = ""
    mend: str = ""
    recipe: Recipe | None = None
    jobs: tuple[Job, ...] = ()
    root: Path = Path("/")
