"""The wheelhouse against a real HTTP server on loopback, which can break in every way that servers do."""

from __future__ import annotations

import contextlib
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import TYPE_CHECKING

import pytest
from factories import locked, make_wheel

from builder.errors import DiskError, IntegrityError, LockError, NetworkError
from builder.host import files
from builder.host.process import run
from builder.remote import download, http
from builder.remote.wheelhouse import fetch

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from builder.host.session import Session
    from builder.model.wheels import LockedWheel


@dataclass
class Index:
    """Serves files. `cut` bytes of an answer are sent before the connection breaks, `statuses` come before the file."""

    files: dict[str, bytes] = field(default_factory=dict)
    statuses: list[int] = field(default_factory=list)
    cuts: list[int] = field(default_factory=list)
    ranges: bool = True
    delay_s: float = 0.0
    seen: list[tuple[str, str | None]] = field(default_factory=list)
    at_once: int = 0
    most_at_once: int = 0
    mutex: threading.Lock = field(default_factory=threading.Lock)
    url: str = ""

    def add(self, wheel: Path) -> LockedWheel:
        """Serve a wheel and return it as a lock would have it."""
        self.files[f"/{wheel.name}"] = wheel.read_bytes()
        return locked(wheel, f"{self.url}/{wheel.name}")

    def handle(self, request: BaseHTTPRequestHandler) -> None:
        with self.mutex:
            self.seen.append((request.path, request.headers["Range"]))
            status = self.statuses.pop(0) if self.statuses else None
            cut = self.cuts.pop(0) if self.cuts else None
        content = self.files.get(request.path)
        if status or content is None:
            request.send_error(status or 404)
            return
        self._send(request, content, cut)

    def _send(self, request: BaseHTTPRequestHandler, content: bytes, cut: int | None) -> None:
        start = int(request.headers["Range"][len("bytes=") : -1]) if request.headers["Range"] and self.ranges else 0
        if start >= len(content) > 0 and start:
            request.send_error(416)
            return
        request.send_response(206 if start else 200)
        if start:
            request.send_header("Content-Range", f"bytes {start}-{len(content) - 1}/{len(content)}")
        body = content[start:]
        request.send_header("Content-Length", str(len(body)))
        request.end_headers()
        request.wfile.write(body if cut is None else body[:cut])


@pytest.fixture
def index() -> Iterator[Index]:
    """A package index on loopback."""
    found = Index()

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            with found.mutex:
                found.at_once += 1
                found.most_at_once = max(found.most_at_once, found.at_once)
            time.sleep(found.delay_s)
            with contextlib.suppress(ConnectionError):
                found.handle(self)
            with found.mutex:
                found.at_once -= 1

        def log_message(self, *_: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    found.url = f"http://127.0.0.1:{server.server_port}"
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    yield found
    server.shutdown()
    server.server_close()
    thread.join()


@pytest.fixture(autouse=True)
def _no_waiting(monkeypatch: pytest.MonkeyPatch) -> None:
    patient = http.Retry
    monkeypatch.setattr(http, "Retry", lambda tries=3, **_: patient(sleep=lambda _: None, tries=min(tries, 3)))


def kept(session: Session, wheel: LockedWheel) -> Path:
    return session.workspace.wheel(wheel.sha256, wheel.filename)


def leave_partial(session: Session, wheel: LockedWheel, content: bytes) -> None:
    partial = kept(session, wheel).parent / "partial"
    partial.parent.mkdir(parents=True)
    partial.write_bytes(content)


def test_wheels_come_in_parallel_and_are_verified(index: Index, session: Session, tmp_path: Path) -> None:
    wheels = [index.add(make_wheel(tmp_path, f"demo{i}")) for i in range(6)]
    index.delay_s = 0.1
    assert fetch(wheels, session) == sum(wheel.size or 0 for wheel in wheels)
    assert all(files.sha256_of(kept(session, wheel)) == wheel.sha256 for wheel in wheels)
    assert index.most_at_once > 1


def test_what_is_there_is_not_fetched_again(index: Index, session: Session, tmp_path: Path) -> None:
    wheel = index.add(make_wheel(tmp_path))
    fetch([wheel], session)
    index.seen.clear()
    assert fetch([wheel], session) == 0
    assert index.seen == []


def test_every_wheel_is_announced_once_those_that_are_there_first(
    index: Index, session: Session, tmp_path: Path
) -> None:
    wheels = [index.add(make_wheel(tmp_path, f"demo{i}")) for i in range(4)]
    fetch(wheels[3:], session)
    announced: list[str] = []
    fetch(wheels, session, on_fetched=lambda wheel: announced.append(wheel.name))
    assert announced[0] == "demo3"
    assert sorted(announced) == ["demo0", "demo1", "demo2", "demo3"]


def test_a_partial_file_is_gone_on_from(index: Index, session: Session, tmp_path: Path) -> None:
    wheel = index.add(make_wheel(tmp_path))
    content = index.files[f"/{wheel.filename}"]
    leave_partial(session, wheel, content[:100])
    fetch([wheel], session)
    assert kept(session, wheel).read_bytes() == content
    assert index.seen == [(f"/{wheel.filename}", "bytes=100-")]


def test_a_partial_file_that_is_whole(index: Index, session: Session, tmp_path: Path) -> None:
    wheel = index.add(make_wheel(tmp_path))
    leave_partial(session, wheel, index.files[f"/{wheel.filename}"])
    fetch([wheel], session)
    assert kept(session, wheel).is_file()


@pytest.mark.parametrize("left", [b"\0" * 100, b"\0" * 100_000])
def test_a_partial_file_of_something_else_is_begun_anew(
    index: Index, session: Session, tmp_path: Path, left: bytes
) -> None:
    wheel = index.add(make_wheel(tmp_path))
    leave_partial(session, wheel, left)
    fetch([wheel], session)
    assert kept(session, wheel).read_bytes() == index.files[f"/{wheel.filename}"]


def test_a_server_without_ranges_sends_everything_again(index: Index, session: Session, tmp_path: Path) -> None:
    wheel = index.add(make_wheel(tmp_path))
    index.ranges = False
    leave_partial(session, wheel, index.files[f"/{wheel.filename}"][:100])
    fetch([wheel], session)
    assert kept(session, wheel).read_bytes() == index.files[f"/{wheel.filename}"]


def test_a_connection_that_breaks_often_is_resumed(
    index: Index, session: Session, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(download, "BLOCK", 10)  # what came of a block that was cut is lost
    wheel = index.add(make_wheel(tmp_path))
    index.cuts = [50] * 6  # more often than there are tries, but each gets further
    fetch([wheel], session)
    assert kept(session, wheel).read_bytes() == index.files[f"/{wheel.filename}"]
    assert [seen for _, seen in index.seen] == [None, *(f"bytes={n}-" for n in range(50, 301, 50))]


def test_a_connection_that_always_breaks_is_given_up_and_resumed_by_the_next_run(
    index: Index, session: Session, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(download, "BLOCK", 10)
    wheel = index.add(make_wheel(tmp_path))
    index.cuts = [200, 0, 0]
    with pytest.raises(NetworkError) as caught:
        fetch([wheel], session)
    assert caught.value.message == f"{wheel.filename} cannot be downloaded: the connection was cut"
    index.seen.clear()
    fetch([wheel], session)
    assert index.seen == [(f"/{wheel.filename}", "bytes=200-")]


def test_wrong_content_is_refused_and_nothing_is_kept(index: Index, session: Session, tmp_path: Path) -> None:
    wheel = index.add(make_wheel(tmp_path))
    index.files[f"/{wheel.filename}"] = b"something else"
    with pytest.raises(IntegrityError, match="is not the file that was locked") as caught:
        fetch([wheel], session)
    assert wheel.sha256 in caught.value.message
    assert caught.value.where == wheel.url
    assert [path.name for path in kept(session, wheel).parent.iterdir()] in ([], ["lock"])


def test_a_file_that_is_gone_is_not_asked_for_again(index: Index, session: Session, tmp_path: Path) -> None:
    wheel = locked(make_wheel(tmp_path), f"{index.url}/gone.whl")
    with pytest.raises(NetworkError, match="404") as caught:
        fetch([wheel], session)
    assert "jbuild lock" in (caught.value.hint or "")
    assert len(index.seen) == 1


def test_a_server_that_recovers(index: Index, session: Session, tmp_path: Path) -> None:
    wheel = index.add(make_wheel(tmp_path))
    index.statuses = [503, 429]
    fetch([wheel], session)
    assert kept(session, wheel).is_file()


def test_a_server_that_does_not_recover_is_not_said_to_lack_the_file(
    index: Index, session: Session, tmp_path: Path
) -> None:
    wheel = index.add(make_wheel(tmp_path))
    index.statuses = [503] * 10
    with pytest.raises(NetworkError, match="503") as caught:
        fetch([wheel], session)
    assert "no longer" not in (caught.value.hint or "")


def test_no_server_at_all(session: Session, tmp_path: Path) -> None:
    wheel = locked(make_wheel(tmp_path), "http://127.0.0.1:9/demo-1.0-py3-none-any.whl")
    with pytest.raises(NetworkError, match="connection refused"):
        fetch([wheel], session)


def test_credentials_of_an_index_are_not_shown(index: Index, session: Session, tmp_path: Path) -> None:
    wheel = locked(make_wheel(tmp_path), index.url.replace("//", "//user:secret@") + "/gone.whl?token=secret")
    with pytest.raises(NetworkError) as caught:
        fetch([wheel], session)
    assert "secret" not in str(caught.value.as_json())


def test_one_failure_does_not_wait_for_the_other_downloads(index: Index, session: Session, tmp_path: Path) -> None:
    slow = make_wheel(tmp_path, "slow", files={"data": b"\0" * 10})
    wheels = [index.add(slow), locked(make_wheel(tmp_path, "gone"), f"{index.url}/gone.whl")]
    release = threading.Event()
    send = index._send

    def endless(request: BaseHTTPRequestHandler, content: bytes, cut: int | None) -> None:
        if "slow" not in request.path:
            send(request, content, cut)
            return
        request.send_response(200)
        request.send_header("Content-Length", str(1 << 40))
        request.end_headers()
        while not release.wait(0.001):
            request.wfile.write(b"\0" * (1 << 20))

    index._send = endless  # type: ignore[method-assign]
    with pytest.raises(NetworkError, match="404"):
        fetch(wheels, session)
    # Only now can the other download end.
    release.set()


def test_a_wheel_from_a_folder(session: Session, tmp_path: Path) -> None:
    path = make_wheel(tmp_path / "with space é")
    for url in (str(path), path.as_uri()):
        wheel = locked(path, url)
        fetch([wheel], session)
        assert kept(session, wheel).read_bytes() == path.read_bytes()
        kept(session, wheel).unlink()


def test_a_wheel_from_a_folder_that_is_gone(session: Session, tmp_path: Path) -> None:
    wheel = locked(make_wheel(tmp_path), str(tmp_path / "gone.whl"))
    with pytest.raises(LockError, match="is no longer there"):
        fetch([wheel], session)


def test_a_wheel_from_a_folder_that_has_changed(session: Session, tmp_path: Path) -> None:
    wheel = replace(locked(make_wheel(tmp_path)), sha256="0" * 64)
    with pytest.raises(IntegrityError):
        fetch([wheel], session)


def test_a_full_disk(index: Index, session: Session, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    wheel = index.add(make_wheel(tmp_path))

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(download.PartialFile, "add", full)
    with pytest.raises(DiskError, match="the disk is full"):
        fetch([wheel], session)


def test_a_cache_that_cannot_be_written(session: Session, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    wheel = locked(make_wheel(tmp_path))

    def refuse(*_: object, **__: object) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr("pathlib.Path.mkdir", refuse)
    with pytest.raises(DiskError, match="cannot write"):
        fetch([wheel], session)


def test_two_threads_of_two_sessions_want_one_wheel(index: Index, session: Session, tmp_path: Path) -> None:
    wheel = index.add(make_wheel(tmp_path))
    index.delay_s = 0.2
    with ThreadPoolExecutor(2) as pool:
        sizes = list(pool.map(lambda _: fetch([wheel], session), range(2)))
    assert sorted(sizes) == [0, wheel.size]
    assert len(index.seen) == 1


def test_two_processes_want_one_wheel(index: Index, session: Session, tmp_path: Path) -> None:
    import sys  # noqa: PLC0415

    wheel = index.add(make_wheel(tmp_path, files={"big": b"x" * 100_000}))
    index.delay_s = 0.5
    code = f"""
from pathlib import Path
from builder.host.config import Config
from builder.host.console import Console
from builder.model.wheels import LockedWheel
from builder.host.session import Session
from builder.remote.wheelhouse import fetch
from builder.host.paths import Workspace
folder = Path({str(session.workspace.cache)!r})
session = Session(workspace=Workspace(project=folder, cache=folder), config=Config(), console=Console(quiet=True))
fetch([{wheel!r}], session)
"""
    with ThreadPoolExecutor(2) as pool:
        running = [pool.submit(run, [sys.executable, "-c", code], timeout_s=60) for _ in range(2)]
        assert [future.result().code for future in running] == [0, 0]
    assert files.sha256_of(kept(session, wheel)) == wheel.sha256
    assert len(index.seen) == 1
