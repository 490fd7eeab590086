"""Failures of a smoke run's steps, with the usual remedies from a table."""

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
    """A kind of failure, and its usual remedies."""

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
    """A step of the smoke run failed; `fault` is the kind of failure."""

    def __init__(self, step: Step, fault: str, message: str) -> None:
        super().__init__(message)
        self.step = step
        self.fault = faults()[fault]
        self.message = message

    @property
    def hint(self) -> str:
        """The usual remedies."""
        return "; or ".join(self.fault.helps)


def ended(step: Step, fault: str, event: str, state: ContainerState) -> StepFailedError:
    """Return the failure of a container that has ended, as `out-of-memory` if the kernel killed it."""
    if state.out_of_memory:
        message = f"{event}: out of memory, the kernel killed it (exit code {state.code})"
        return StepFailedError(step, "out-of-memory", message)
    more = f" ({state.error})" if state.error else ""
    return StepFailedError(step, fault, f"{event}: {exit_meaning(state.code)}{more}")


def exit_meaning(code: int) -> str:
    """Return an exit code with the name of its signal."""
    try:
        return f"exit code {code} ({signal.Signals(code - 128).name})" if code > 128 else f"exit code {code}"  # noqa: PLR2004
    except ValueError:
        return f"exit code {code}"
