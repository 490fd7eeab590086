"""What every stage works with: where files live, the user's settings, and the console."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from builder.host.config import Config
    from builder.host.console import Console
    from builder.host.paths import Workspace


@dataclass(frozen=True, kw_only=True, slots=True)
class Session:
    """One run of jbuild."""

    workspace: Workspace
    config: Config
    console: Console
