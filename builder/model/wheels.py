"""Wheels by their exact content."""

from __future__ import annotations

import re
from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True, slots=True)
class LockedWheel:
    """A wheel. `size` is in bytes, if the index states it.

    `index` is the index that the package is pinned to, None for uv's own.
    """

    name: str
    version: str
    filename: str
    url: str
    sha256: str
    size: int | None = None
    index: str | None = None

    def __post_init__(self) -> None:
        # Both are parts of paths in the cache, and anybody may edit a lock.
        if not re.fullmatch(r"[0-9a-f]{64}", self.sha256):
            raise ValueError(f"{self.filename} has no valid sha256")
        if not re.fullmatch(r"[^/\\\x00-\x1f]+\.whl", self.filename):
            raise ValueError(f"{self.filename!r} is not a wheel's file name")
