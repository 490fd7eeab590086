"""Errors in a server's log that its answers do not show."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from builder.smoke.errors import ScannedLog, log_errors, read_log

if TYPE_CHECKING:
    from pathlib import Path


@pytest.mark.parametrize(
    "line",
    [
        "(EngineCore pid=7) ERROR 11-24 10:00:00 [core.py:12] a block was freed twice",
        "ERROR:    [Errno 98] error while attempting to bind on address",
        "(APIServer pid=1) RuntimeError: Engine core initialization failed.",
        "torch.OutOfMemoryError: CUDA out of memory",
        "Traceback (most recent call last):",
        "Segmentation fault (core dumped)",
        "RuntimeWarning: cuda error: no kernel image",
    ],
)
def test_lines_that_tell_of_an_error(line: str) -> None:
    assert log_errors((line,)) == (line,)


@pytest.mark.parametrize(
    "line",
    [
        "(APIServer pid=1) INFO 11-24 10:00:00 [api_server.py:12] Started server process",
        "WARNING 11-24 [x.py] the error rate is low",
        "INFO: error_handlers=3",
        "",
    ],
)
def test_lines_that_do_not(line: str) -> None:
    assert log_errors((line,)) == ()


def test_the_same_error_is_told_once_and_never_too_many() -> None:
    again = tuple(f"ERROR 11-24 10:00:{second:02d} [core.py:12] full" for second in range(9))
    assert log_errors(again) == again[:1]
    others = tuple(f"ERROR {word}" for word in ["a", "b", "c", "d", "e", "f", "g"])
    assert log_errors(others) == others[:5]
    assert len(log_errors(("ERROR " + "x" * 5000,))[0]) == 200


def test_a_log_is_read_as_terminals_must_not_see_it(tmp_path: Path) -> None:
    path = tmp_path / "smoke.log"
    path.write_bytes(b"\x1b[31mERROR\x1b[0m bad \xff\nfine\n")
    assert read_log(path) == ScannedLog(lines=("ERROR bad \ufffd", "fine"), errors=("ERROR bad \ufffd",))


def test_a_long_log_is_read_from_its_end(tmp_path: Path) -> None:
    path = tmp_path / "smoke.log"
    path.write_bytes(b"ERROR first\n" + b"x" * (5 << 20) + b"\nERROR last\n")
    assert read_log(path).errors == ("ERROR last",)


def test_no_log(tmp_path: Path) -> None:
    assert read_log(tmp_path / "absent.log") == ScannedLog(lines=(), errors=())
