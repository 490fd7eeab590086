"""The work of a call in calls of functions, Python's and C's: unlike its time, it does not depend on the machine."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable

# Twice the input may need this many times the calls; the square of the input would need four times as many.
LINEAR = 2.5


def calls_in(work: Callable[[], object]) -> int:
    """Return the number of calls of functions in a call."""
    calls = 0

    def count(_frame: Any, event: str, _argument: Any) -> None:
        nonlocal calls
        calls += event in ("call", "c_call")

    before = sys.getprofile()
    sys.setprofile(count)
    try:
        work()
    finally:
        sys.setprofile(before)
    return calls


def assert_linear(half: Callable[[], object], whole: Callable[[], object]) -> None:
    """Check that the whole needs about twice the calls of its half, once caches are filled."""
    half()
    whole()
    assert calls_in(whole) < LINEAR * calls_in(half)
