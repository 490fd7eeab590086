"""The records of `jbuild doctor`."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from builder.host.engine.docker import Engine
    from builder.host.session import Session
    from builder.model.locks import Job
    from builder.model.recipes import Recipe

# An error stops something that this machine is set up for; a warning makes it slower or limits it.
State = Literal["ok", "warning", "error", "not applicable"]


@dataclass(frozen=True, kw_only=True, slots=True)
class Check:
    """A check's result: its state, the finding, the reason why it matters, and the fix.

    `fix` is a safe command that `--fix` runs; `mend` is the fix in words.
    """

    name: str
    state: State
    found: str
    why: str
    mend: str | None = None
    fix: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True, slots=True)
class DoctorContext:
    """The machine to check, and the recipe to check it for, if any.

    `engine` is None if none answers; `refusal` is then the reason and `hint` the fix. `root` contains the machine's
    `proc`, `sys` and `etc`.
    """

    session: Session
    engine: Engine | None
    refusal: str = ""
    hint: str = ""
    recipe: Recipe | None = None
    jobs: tuple[Job, ...] = ()
    root: Path = Path("/")
