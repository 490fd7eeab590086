"""Owners of temporary things: which of them have certainly ended."""

from __future__ import annotations

import os
import subprocess
import sys
from dataclasses import replace

import pytest

from builder.host import owner
from builder.host.owner import Owner, has_ended, own_word, parse, this_process

PRINT_OWN = "import sys; from builder.host.owner import own_word; print(own_word(), flush=True); sys.stdin.read()"


def own() -> Owner:
    found = this_process()
    assert found is not None
    return found


def started() -> subprocess.Popen[str]:
    return subprocess.Popen([sys.executable, "-c", PRINT_OWN], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)


def test_a_word_names_its_owner_again() -> None:
    assert parse(own_word()) == own()
    assert own_word() == own().word


@pytest.mark.parametrize("word", ["", "jbuild", "vm:12", "1-2-3-4-5-6", "None", "0123abcd-0123abcd-1-0-5", "unknown-7"])
def test_other_words_have_no_owner_and_have_not_ended(word: str) -> None:
    assert parse(word) is None
    assert not has_ended(word)


def test_a_process_has_ended_when_it_was_killed_even_before_its_parent_notices() -> None:
    with started() as child:
        assert child.stdout is not None
        word = child.stdout.readline().strip()
        assert not has_ended(word)
        child.kill()
        # It is a zombie until this process reaps it.
        os.waitid(os.P_PID, child.pid, os.WEXITED | os.WNOWAIT)
        assert has_ended(word)
        assert child.returncode is None
    assert has_ended(word)


def test_another_process_with_the_same_number_does_not_hide_the_end() -> None:
    assert not own().has_ended()
    assert replace(own(), started=own().started - 1).has_ended()


def test_processes_of_an_earlier_boot_of_this_machine_have_ended() -> None:
    assert replace(own(), boot="00000000").has_ended()


@pytest.mark.parametrize(
    "change",
    [
        pytest.param({"boot": "00000000", "machine": "00000000"}, id="another machine"),
        pytest.param({"user": 4_000_000}, id="another user"),
        pytest.param({"user": 4_000_000, "boot": "00000000"}, id="another user, before the boot"),
        pytest.param({"space": 1}, id="another container on this machine"),
    ],
)
def test_what_may_still_run_elsewhere_has_not_ended(change: dict[str, object]) -> None:
    with started() as child:
        assert child.stdout is not None
        dead = parse(child.stdout.readline().strip())
        child.kill()
    assert dead is not None
    assert dead.has_ended()
    assert not replace(dead, **change).has_ended()  # type: ignore[arg-type]


def test_a_machine_that_does_not_show_processes_ends_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    word = replace(own(), started=1).word
    assert has_ended(word)
    monkeypatch.setattr(owner, "this_process", lambda: None)
    assert not has_ended(word)
    assert parse(own_word()) is None
