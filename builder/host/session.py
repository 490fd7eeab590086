"""A run of jbuild: its files, settings and console."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from builder.host.config import Config
    from builder.host.console import Console
    from builder.host.paths import Workspace


@dataclass(frozen=True, kw_only=True, slots=True)
class Session:
    """A run of jbuild."""

    workspace: Workspace
    config: Config
    console: Console
