from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from functools import partial

import pytest

from builder.publish.parallel import Stop, StoppedError, run_all, run_or_raise


def test_results_come_in_the_order_of_the_jobs() -> None:
    def job(number: int) -> int:
        time.sleep(0.01 * (3 - number))
        return number

    assert run_or_raise([partial(job, number) for number in range(4)], 4, Stop()) == [0, 1, 2, 3]


def test_no_jobs() -> None:
    assert run_all([], 4, Stop()) == []


def test_no_more_threads_than_workers() -> None:
    running, most, mutex = 0, 0, threading.Lock()

    def job() -> None:
        nonlocal running, most
        with mutex:
            running, most = running + 1, max(most, running + 1)
        time.sleep(0.01)
        with mutex:
            running -= 1

    run_or_raise([job] * 12, 3, Stop())
    assert most <= 3


def test_the_first_failure_stops_the_rest_and_is_raised() -> None:
    stop, done = Stop(), []

    def fails() -> None:
        raise ValueError("no")

    def long() -> None:
        stop.sleep(30)

    started = time.monotonic()
    with pytest.raises(ValueError, match="no"):
        run_or_raise([long, fails, *[lambda: done.append(1)] * 9], 2, stop)
    assert time.monotonic() - started < 5
    assert done == []


def test_failures_are_collected() -> None:
    def fails() -> int:
        raise ValueError("no")

    first, second = run_all([fails, lambda: 2], 1, Stop())
    assert isinstance(first, ValueError)
    assert second == 2


def test_a_parent_stops_its_children_only() -> None:
    parent = Stop()
    one, two = parent.child(), parent.child()
    one.throw()
    parent.check()
    two.check()
    parent.throw()
    for each in (one, two, parent.child()):
        with pytest.raises(StoppedError):
            each.check()


def test_ctrl_c_does_not_wait_for_a_slow_job() -> None:
    stop, seen = Stop(), threading.Event()

    def looks() -> None:
        try:
            stop.sleep(60)
        except StoppedError:
            seen.set()
            raise

    def deaf() -> None:
        time.sleep(60)

    threading.Timer(0.3, os.kill, (os.getpid(), signal.SIGINT)).start()
    started = time.monotonic()
    with pytest.raises(KeyboardInterrupt):
        run_all([looks, deaf], 2, stop)
    assert time.monotonic() - started < 10
    assert seen.is_set()


SLOW = "import time; from builder.publish.parallel import Stop, run_all; print(flush=True); "


def test_a_process_does_not_outlive_ctrl_c() -> None:
    script = SLOW + "run_all([lambda: time.sleep(60)], 1, Stop())"
    with subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL) as child:
        assert child.stdout
        child.stdout.readline()
        time.sleep(0.3)
        child.send_signal(signal.SIGINT)
        try:
            assert child.wait(20) != 0
        finally:
            child.kill()
