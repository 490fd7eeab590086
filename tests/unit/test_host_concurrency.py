"""Threads that wait for servers, and how they end."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time

import pytest

from builder.host.concurrency import CancelToken, StoppedError, TaskGroup

# Longer than a test may take.
_FOREVER_S = 600.0


def test_results_come_in_the_order_of_the_jobs() -> None:
    def job(number: int) -> int:
        time.sleep(0.01 * (3 - number))
        return number

    with TaskGroup(4) as group:
        assert group.map(job, range(4)) == [0, 1, 2, 3]
        assert group.submit(job, 2).result() == 2


def test_no_jobs() -> None:
    with TaskGroup(4) as group:
        assert group.gather(str, []) == []
        assert group.map(str, []) == []


def test_no_more_threads_than_the_limit() -> None:
    running, most, mutex = 0, 0, threading.Lock()

    def job(_: int) -> None:
        nonlocal running, most
        with mutex:
            running, most = running + 1, max(most, running + 1)
        time.sleep(0.01)
        with mutex:
            running -= 1

    with TaskGroup(3) as group:
        group.map(job, range(12))
    assert most <= 3


def test_the_first_failure_stops_the_rest_and_is_raised() -> None:
    done: list[int] = []
    stopped: list[int] = []
    started = threading.Event()

    def job(number: int) -> None:
        if number == 0:
            started.set()
            try:
                group.token.sleep(_FOREVER_S)
            except StoppedError:
                stopped.append(number)
                raise
        if number == 1:
            started.wait()
            raise ValueError("no")
        done.append(number)

    with pytest.raises(ValueError, match="no"), TaskGroup(2) as group:
        group.map(job, range(11))
    assert (stopped, done) == ([0], [])


def test_the_failure_that_came_first_is_raised_not_that_of_the_first_job() -> None:
    def job(number: int) -> None:
        if number == 0:
            time.sleep(0.2)
        raise ValueError(number)

    with pytest.raises(ValueError, match="1"), TaskGroup(2) as group:
        group.map(job, range(2))


def test_an_interrupt_in_a_thread_reaches_the_caller() -> None:
    def job(_: int) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt), TaskGroup(2) as group:
        group.map(job, range(2))
    with pytest.raises(KeyboardInterrupt), TaskGroup(2) as group:
        group.gather(job, range(2))


def test_failures_are_gathered() -> None:
    def job(number: int) -> int:
        if number == 1:
            raise ValueError("no")
        return number

    with TaskGroup(1) as group:
        first, second = group.gather(job, [1, 2])
    assert isinstance(first, ValueError)
    assert second == 2


def test_nothing_starts_after_the_token_is_cancelled() -> None:
    token = CancelToken()
    done: list[int] = []
    token.cancel()
    with TaskGroup(2, token=token) as group:
        assert [type(outcome) for outcome in group.gather(done.append, range(3))] == [StoppedError] * 3
    with pytest.raises(StoppedError), TaskGroup(2, token=token) as group:
        group.map(done.append, range(3))
    assert done == []


def test_a_parent_stops_its_children_only() -> None:
    parent = CancelToken()
    one, two = parent.child(), parent.child()
    one.cancel()
    parent.check()
    two.check()
    parent.cancel()
    for token in (one, two, parent.child()):
        with pytest.raises(StoppedError):
            token.check()


def test_an_exception_drops_what_has_not_started_and_calls_back() -> None:
    done: list[int] = []
    called: list[int] = []
    release = threading.Event()

    def stop() -> None:
        called.append(1)
        release.set()

    group = TaskGroup(1, on_cancel=stop, grace_s=None)

    def fail() -> None:
        group.submit(release.wait, 30)
        group.submit(done.append, 1)
        time.sleep(0.05)
        raise ValueError("no")

    with pytest.raises(ValueError, match="no"), group:
        fail()
    assert (called, done) == ([1], [])
    assert not any(thread.is_alive() for thread in group._threads)


def test_no_thread_is_left_behind() -> None:
    before = threading.active_count()
    with TaskGroup(4) as group:
        group.submit(time.sleep, 0.05)
        group.map(time.sleep, [0.01] * 8)
    assert threading.active_count() == before


def test_ctrl_c_does_not_wait_for_a_slow_job() -> None:
    seen, asked = threading.Event(), threading.Event()

    def checks() -> None:
        try:
            group.token.sleep(_FOREVER_S)
        except StoppedError:
            seen.set()
            raise

    def deaf() -> None:
        asked.wait()

    threading.Timer(0.3, os.kill, (os.getpid(), signal.SIGINT)).start()
    with pytest.raises(KeyboardInterrupt), TaskGroup(2) as group:
        group.gather(lambda job: job(), [checks, deaf])
    assert not asked.is_set()
    asked.set()
    assert seen.wait()


SLOW = "import time; from builder.host.concurrency import TaskGroup; print(flush=True)\n"


def test_a_process_does_not_outlive_ctrl_c() -> None:
    script = SLOW + "with TaskGroup(1) as group: group.gather(time.sleep, [600])"
    with subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL) as child:
        assert child.stdout
        child.stdout.readline()
        time.sleep(0.3)
        child.send_signal(signal.SIGINT)
        try:
            assert child.wait() != 0
        finally:
            child.kill()


_CODE = """
import sysconfig
from builder.host.concurrency import TaskGroup
sysconfig._CONFIG_VARS = None
TaskGroup(1)
print("EXE" in (sysconfig._CONFIG_VARS or ()))
"""


def test_no_thread_sees_half_of_pythons_configuration() -> None:
    """Before Python 3.13 `sysconfig` fills what it knows while others read it; `uv` finds itself by that."""
    done = subprocess.run([sys.executable, "-c", _CODE], capture_output=True, text=True, check=True)
    assert done.stdout == "True\n"
