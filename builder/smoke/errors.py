"""Why a step of a smoke run fails, and what usually helps, which is data."""

from __future__ import annotations

import signal
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

from builder.host.toml import documents

if TYPE_CHECKING:
    from builder.host.engine.container import ContainerState
    from builder.host.toml.documents import Table
    from builder.model.verdicts import Step

DATA = Path(__file__).with_name("faults.toml")


@dataclass(frozen=True, kw_only=True, slots=True)
class Fault:
    """A way in which an image fails, and what usually helps."""

    id: str
    helps: tuple[str, ...]
    source: str


@cache
def faults(path: Path = DATA) -> dict[str, Fault]:
    """Return all faults by their ids.

    Raises:
        DocumentError: the table has mistakes.
    """
    return {fault.id: fault for fault in documents.load(path, "the table of faults has mistakes", _parse)}


def _parse(root: Table) -> tuple[Fault, ...]:
    return tuple(_fault(table) for table in root.tables("faults"))


def _fault(table: Table) -> Fault:
    name, helps, source = table.string("id"), table.strings("helps"), table.string("source")
    table.done()
    return Fault(id=name, helps=helps, source=source)


class StepFailedError(Exception):
    """A step of the smoke run failed; `fault` is the id of the way in which it did."""

    def __init__(self, step: Step, fault: str, message: str) -> None:
        super().__init__(message)
        self.step = step
        self.fault = faults()[fault]
        self.message = message

    @property
    def hint(self) -> str:
        """What usually helps."""
        return "; or ".join(self.fault.helps)


def ended(step: Step, fault: str, event: str, state: ContainerState) -> StepFailedError:
    """Return the failure of a container that has ended: for want of memory, if that was it."""
    if state.out_of_memory:
        message = f"{event}: out of memory, the kernel killed it (exit code {state.code})"
        return StepFailedError(step, "out-of-memory", message)
    more = f" ({state.error})" if state.error else ""
    return StepFailedError(step, fault, f"{event}: {exit_meaning(state.code)}{more}")


def exit_meaning(code: int) -> str:
    """Return an exit code with the signal that it stands for."""
    try:
        return f"exit code {code} ({signal.Signals(code - 128).name})" if code > 128 else f"exit code {code}"  # noqa: PLR2004
    except ValueError:
        return f"exit code {code}"
