"""What every stage works with: where files live, the user's settings, and the console."""

from __future__ import annotations

import threading
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, TypeVar, cast

if TYPE_CHECKING:
    from collections.abc import Callable

    from builder.config import Config
    from builder.console import Console
    from builder.workspace import Workspace


_T = TypeVar("_T")


@dataclass(frozen=True, kw_only=True, slots=True)
class Session:
    """One run of jbuild."""

    workspace: Workspace
    config: Config
    console: Console
    _shared: dict[type, Any] = field(default_factory=dict, init=False, repr=False, compare=False)
    _mutex: threading.Lock = field(default_factory=threading.Lock, init=False, repr=False, compare=False)

    def share(self, kind: type[_T], make: Callable[[], _T]) -> _T:
        """Return the run's one object of a kind, made at first use: what all cells of a run share."""
        with self._mutex:
            if kind not in self._shared:
                self._shared[kind] = make()
            return cast("_T", self._shared[kind])
