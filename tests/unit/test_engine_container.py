"""A container's log: in lines, printable, followed to its end; no engine is asked."""

from __future__ import annotations

import tarfile
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any, cast

import pytest
from docker.errors import APIError

from builder.errors import EngineError
from builder.host.engine.container import RunningContainer, WatchedContainer, printable_line, split_lines

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


class Logging:
    """A container that has ended, with a log and two samples of its memory; the stream of the log may break."""

    attrs = {"State": {"Running": False, "ExitCode": 0}}  # noqa: RUF012

    def __init__(self, *chunks: bytes, breaks: bool = False) -> None:
        self.chunks, self.breaks = chunks, breaks

    def reload(self) -> None:
        pass

    def logs(self, **_: Any) -> Iterator[bytes]:
        yield from self.chunks
        if self.breaks:
            raise APIError("gone")

    def stats(self, **_: Any) -> Iterator[dict[str, Any]]:
        yield from ({"memory_stats": {"usage": usage}} for usage in (5, 7, 6))


@pytest.mark.parametrize(
    ("line", "shown"),
    [
        ("\x1b[32mgreen\x1b[0m\n", "green"),
        ("\x1b[0;36m(APIServer pid=1)\x1b[0;0m ok\r\n", "(APIServer pid=1) ok"),
        (" 0%|   |\r 50%|#  |\r100%|###|\n", "100%|###|"),
        ("\x1b]0;title\x07text", "0;titletext"),
        ("\x1b[2J\x1b[1;1Hgone\x00\x9b5m", "gone5m"),
        ("tab\there", "tab\there"),
    ],
)
def test_what_a_terminal_would_obey_is_taken_out(line: str, shown: str) -> None:
    assert printable_line(line) == shown


def test_a_log_comes_in_lines_however_it_is_cut() -> None:
    chunks = (b"on", b"e\ntwo\nth", b"r\xc3", b"\xa9e\n\n", b"rest")
    assert list(split_lines(chunks)) == ["one", "two", "thrée", "", "rest"]


@pytest.mark.parametrize("breaks", [False, True])
def test_a_log_is_kept_whole_in_its_file_and_printable_in_memory(tmp_path: Path, breaks: bool) -> None:
    container: Any = Logging(b"\x1b[31mone\x1b[0m\ntw", b"o\nthree", breaks=breaks)
    watched = WatchedContainer(container, tmp_path / "log")
    watched.settle()
    assert (watched.log.last_line, watched.log.tail(2)) == ("three", "two\nthree")
    assert (tmp_path / "log").read_bytes() == b"\x1b[31mone\x1b[0m\ntwo\nthree"
    assert watched.log.silent_s >= 0


@pytest.mark.parametrize("failure", [APIError("lost"), tarfile.ReadError("cut off")])
def test_files_that_the_engine_does_not_send_are_one_error(failure: Exception) -> None:
    def fail(folder: str) -> Any:
        raise failure

    container = cast("Any", SimpleNamespace(get_archive=fail))
    with pytest.raises(EngineError, match=r"the files of /cache in the container cannot be read: (lost|cut off)"):
        list(RunningContainer(container).files_below("/cache"))
