"""Tests do not depend on the signals that the process which started them ignores or blocks."""

from __future__ import annotations

import signal
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from collections.abc import Iterator

# A shell without job control, nohup and some CI runners start programs with these ignored; children inherit that.
_DISPOSITIONS = {
    signal.SIGINT: signal.default_int_handler,
    signal.SIGTERM: signal.SIG_DFL,
    signal.SIGHUP: signal.SIG_DFL,
    signal.SIGQUIT: signal.SIG_DFL,
}


@pytest.fixture(scope="session", autouse=True)
def _usual_signals() -> Iterator[None]:
    """Handle and unblock the signals that end programs, as in a terminal."""
    mask = signal.pthread_sigmask(signal.SIG_UNBLOCK, _DISPOSITIONS)
    before = {number: signal.signal(number, handler) for number, handler in _DISPOSITIONS.items()}
    yield
    for number, handler in before.items():
        signal.signal(number, handler)
    signal.pthread_sigmask(signal.SIG_SETMASK, mask)
