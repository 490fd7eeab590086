"""What the loader says of a file, and why."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from builder.audit.environment import Node, UnreadLibrary
    from builder.model.audits import VersionNeed


@dataclass(frozen=True, kw_only=True, slots=True)
class MissingLibrary:
    """A needed library that is found nowhere."""

    node: Node
    library: str


@dataclass(frozen=True, kw_only=True, slots=True)
class Outdated:
    """A symbol version that the library found does not have; `assumed` if the library itself could not be read."""

    node: Node
    need: VersionNeed
    provider: Node | UnreadLibrary
    assumed: bool


@dataclass(frozen=True, kw_only=True, slots=True)
class UnresolvedSymbol:
    """Symbols that nothing in scope defines; `elsewhere` are files that define all of them, were they loaded first.

    `blamed` is what the symbols should have come from: for those of C++ itself its library, else the first file of
    another wheel that this one asks for.
    """

    node: Node
    names: tuple[str, ...]
    elsewhere: tuple[Node, ...] = ()
    blamed: Node | None = None


@dataclass(frozen=True, kw_only=True, slots=True)
class ExecutableStack:
    """A file that asks for an executable stack, which this C library no longer gives."""

    node: Node


@dataclass(frozen=True, kw_only=True, slots=True)
class Dependent:
    """A library of a package that an import should have loaded, and that itself does not load, for these causes."""

    node: Node
    library: str
    causes: tuple[Cause, ...]


Cause = MissingLibrary | Outdated | UnresolvedSymbol | ExecutableStack
Failure = Cause | Dependent


@dataclass(frozen=True, kw_only=True, slots=True)
class LoadOutcome:
    """What the loader says of one file. `injected` are libraries that only the NVIDIA runtime brings."""

    node: Node
    failures: tuple[Failure, ...]
    injected: tuple[str, ...] = ()
    by_import: tuple[str, ...] = ()

    @property
    def text(self) -> str:
        """`loads`, or `fails: ` and why, the way the loader says it."""
        return f"fails: {said(self.failures[0])}" if self.failures else "loads"


def said(failure: Failure) -> str:
    """Say a failure as the loader does."""
    if isinstance(failure, (MissingLibrary, Dependent)):
        return f"{failure.library}: cannot open shared object file: No such file or directory"
    if isinstance(failure, ExecutableStack):
        return f"{failure.node.shown}: cannot enable executable stack as shared object requires: Invalid argument"
    if isinstance(failure, Outdated):
        return f"version `{failure.need.version}' not found ({failure.need.file}, required by {failure.node.shown})"
    return f"undefined symbol: {failure.names[0]} ({failure.node.shown})"
