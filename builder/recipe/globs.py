"""Globs on axis values and ids: `*`, `?` and `[…]`, matched as a whole and by case."""

from __future__ import annotations

import re
from fnmatch import translate
from functools import lru_cache
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from builder.model.recipes import Pairs


@lru_cache(maxsize=1024)
def glob(pattern: str) -> re.Pattern[str]:
    """Return a glob as a compiled pattern; use its `match`."""
    return re.compile(translate(pattern))


def matches(when: Pairs, values: Pairs) -> bool:
    """Return whether all axis globs of `when` match the axis values."""
    axes = dict(values)
    return all(axis in axes and glob(pattern).match(axes[axis]) for axis, pattern in when)
