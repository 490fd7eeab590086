"""What every stage works with: where files live, the user's settings, and the console."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from builder.config import Config
    from builder.console import Console
    from builder.workspace import Workspace


@dataclass(frozen=True, kw_only=True, slots=True)
class Session:
    """One run of jbuild."""

    workspace: Workspace
    config: Config
    console: Console
