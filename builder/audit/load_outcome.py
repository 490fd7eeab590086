"""The loader's verdict on a file, and its reasons."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from builder.audit.environment import Node, UnreadLibrary
    from builder.model.audits import VersionNeed


@dataclass(frozen=True, kw_only=True, slots=True)
class MissingLibrary:
    """A needed library that the loader does not find."""

    node: Node
    library: str


@dataclass(frozen=True, kw_only=True, slots=True)
class Outdated:
    """A symbol version that the library does not have; `assumed` if the library itself could not be read."""

    node: Node
    need: VersionNeed
    provider: Node | UnreadLibrary
    assumed: bool


@dataclass(frozen=True, kw_only=True, slots=True)
class UnresolvedSymbol:
    """Symbols that nothing in scope defines; `definers` are files that define all of them, were they loaded first.

    `blamed` is the expected definer: C++'s library for symbols of C++ itself, else the first needed file of another
    wheel.
    """

    node: Node
    names: tuple[str, ...]
    definers: tuple[Node, ...] = ()
    blamed: Node | None = None


@dataclass(frozen=True, kw_only=True, slots=True)
class ExecutableStack:
    """A file that asks for an executable stack, which this C library refuses."""

    node: Node


@dataclass(frozen=True, kw_only=True, slots=True)
class Dependent:
    """A library that an import should have loaded, but that does not load itself, for these causes."""

    node: Node
    library: str
    causes: tuple[Cause, ...]


Cause = MissingLibrary | Outdated | UnresolvedSymbol | ExecutableStack
Failure = Cause | Dependent


@dataclass(frozen=True, kw_only=True, slots=True)
class LoadOutcome:
    """The loader's verdict on one file. `injected` are libraries from the NVIDIA runtime alone."""

    node: Node
    failures: tuple[Failure, ...]
    injected: tuple[str, ...] = ()
    by_import: tuple[str, ...] = ()

    @property
    def text(self) -> str:
        """`loads`, or `fails: ` and the loader's message."""
        return f"fails: {loader_message(self.failures[0])}" if self.failures else "loads"


def loader_message(failure: Failure) -> str:
    """Return the loader's message for a failure."""
    if isinstance(failure, (MissingLibrary, Dependent)):
        return f"{failure.library}: cannot open shared object file: No such file or directory"
    if isinstance(failure, ExecutableStack):
        return f"{failure.node.file}: cannot enable executable stack as shared object requires: Invalid argument"
    if isinstance(failure, Outdated):
        return f"version `{failure.need.version}' not found ({failure.need.file}, required by {failure.node.file})"
    return f"undefined symbol: {failure.names[0]} ({failure.node.file})"
