"""The foundry's part in a lock: its module is imported by name, as those of stages are, since it comes after them."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from builder.host.session import Session
    from builder.model.builds import BuildSource, BuildSpec, BuildTarget, LockedBuild
    from builder.model.locks import BuildBase

_MODULE = "builder.foundry.prepare_build"


class LockBuild(Protocol):
    """Returns all inputs of the build of a source, on this machine, for a target in a base image."""

    def __call__(
        self, spec: BuildSpec, source: BuildSource, target: BuildTarget, base: BuildBase, session: Session
    ) -> LockedBuild:
        """Return the inputs.

        Raises:
            JbuildError: an input cannot be locked.
        """
        ...


def build_locker() -> LockBuild:
    """Return the foundry's function."""
    function: LockBuild = import_module(_MODULE).lock_build
    return function
