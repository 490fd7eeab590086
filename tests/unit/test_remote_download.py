"""Downloads: what is resumed, what is trusted, and how transfers end together."""

from __future__ import annotations

import hashlib
import io
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import pytest
import requests

from builder.errors import IntegrityError, NetworkError
from builder.host.concurrency import CancelToken, Progress, StoppedError, map_with_progress
from builder.host.file_locks import file_lock
from builder.remote import download as remote_download
from builder.remote.download import (
    Expected,
    PartialBlob,
    PartialFile,
    download,
    download_once,
    local_path,
    receive,
)
from builder.remote.http import Retry

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

CONTENT = bytes(range(256)) * 40
SHA256 = hashlib.sha256(CONTENT).hexdigest()
GIT_ID = hashlib.sha1(b"blob %d\0" % len(CONTENT) + CONTENT).hexdigest()
WHOLE = Expected(sha256=SHA256, size=len(CONTENT))
IMPATIENT = Retry(tries=2, sleep=lambda _: None)


def answer(status: int, body: bytes = b"", **headers: str) -> requests.Response:
    response = requests.Response()
    response.status_code, response.raw = status, io.BytesIO(body)
    response.headers.update({name.replace("_", "-"): value for name, value in headers.items()})
    return response


@dataclass
class Source:
    """Serves CONTENT; `answers` come before the usual ones."""

    answers: list[requests.Response] = field(default_factory=list)
    content: bytes = CONTENT
    starts: list[str | None] = field(default_factory=list)

    def request(self, headers: dict[str, str]) -> requests.Response:
        assert headers["Accept-Encoding"] == "identity"
        self.starts.append(headers.get("Range"))
        if self.answers:
            return self.answers.pop(0)
        start = int((self.starts[-1] or "bytes=0-")[len("bytes=") : -1])
        if start >= len(self.content):
            return answer(416)
        if start:
            return answer(206, self.content[start:], Content_Range=f"bytes {start}-")
        return answer(200, self.content)

    def fetch(self, content: PartialFile) -> None:
        try:
            receive(self.request, content, IMPATIENT)
        except requests.RequestException as error:
            raise NetworkError(str(error)) from error

    def mismatch(self, content: PartialFile) -> IntegrityError:
        return IntegrityError(content.flaw() or "")


def counter() -> tuple[list[float], Progress]:
    counted: list[float] = []
    return counted, Progress(on_bytes=counted.append)


@pytest.mark.parametrize("expected", [WHOLE, Expected(sha256=SHA256), Expected(size=len(CONTENT), git_id=GIT_ID)])
@pytest.mark.parametrize("left", [b"", CONTENT[:1000], CONTENT, CONTENT + b"more", b"x" * 1000, b"x" * len(CONTENT)])
def test_whatever_is_left_the_file_becomes_whole(tmp_path: Path, left: bytes, expected: Expected) -> None:
    path, source, (counted, progress) = tmp_path / "file", Source(), counter()
    path.write_bytes(left)
    assert download(source.fetch, source.mismatch, path, expected, progress) == SHA256
    assert path.read_bytes() == CONTENT
    assert sum(counted) == len(CONTENT)
    if left == CONTENT:
        assert source.starts == []
    if left == CONTENT[:1000]:
        assert source.starts == ["bytes=1000-"]


@pytest.mark.parametrize(
    "odd",
    [
        answer(200, CONTENT),
        answer(206, CONTENT[5:], Content_Range="bytes 5-"),
        answer(206, CONTENT[1000:]),
        answer(416),
    ],
)
def test_servers_that_resume_badly(tmp_path: Path, odd: requests.Response) -> None:
    path, (counted, progress) = tmp_path / "file", counter()
    path.write_bytes(CONTENT[:1000])
    source = Source(answers=[odd])
    assert download(source.fetch, source.mismatch, path, WHOLE, progress) == SHA256
    assert path.read_bytes() == CONTENT
    assert sum(counted) == len(CONTENT)


@pytest.mark.parametrize(
    ("content", "flaw"),
    [
        (b"x" * len(CONTENT), f"sha256 .*, expected {SHA256}"),
        (CONTENT + b"more", f"{len(CONTENT) + 4} bytes or more, expected {len(CONTENT)}"),
    ],
)
def test_other_bytes_are_refused_and_not_kept(tmp_path: Path, content: bytes, flaw: str) -> None:
    path, source = tmp_path / "file", Source(content=content)
    with pytest.raises(IntegrityError, match=flaw):
        download(source.fetch, source.mismatch, path, WHOLE, Progress())
    assert not path.exists()


def test_what_has_arrived_stays_after_a_failure_but_does_not_count(tmp_path: Path) -> None:
    path, (counted, progress) = tmp_path / "file", counter()
    source = Source(answers=[answer(200, CONTENT[:1000]), answer(206, CONTENT[1000:1100]), *[answer(503)] * 3])
    with pytest.raises(NetworkError, match="503"):
        download(source.fetch, source.mismatch, path, WHOLE, progress)
    assert path.read_bytes() == CONTENT[:1100]
    assert sum(counted) == 0
    assert len(source.starts) == 3, "progress renews the tries"


def test_a_sink_that_cannot_restart() -> None:
    blocks: list[bytes] = []
    blob = PartialBlob(blocks.append)
    blob.add(CONTENT[:1000])
    with pytest.raises(requests.ConnectionError, match="cannot resume"):
        receive(Source(answers=[answer(206, b"", Content_Range="bytes 5-")] * 2).request, blob, IMPATIENT)
    receive(Source(answers=[answer(200, CONTENT)]).request, blob, IMPATIENT)
    assert (b"".join(blocks), blob.sha256, blob.size) == (CONTENT, SHA256, len(CONTENT))


def test_a_cancelled_download_ends_and_keeps_what_has_arrived(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path, source, token = tmp_path / "file", Source(), CancelToken()
    progress = Progress(token=token, on_bytes=lambda _: token.cancel())
    monkeypatch.setattr(remote_download, "BLOCK", 1000)
    with pytest.raises(StoppedError):
        download(source.fetch, source.mismatch, path, WHOLE, progress)
    assert 0 < path.stat().st_size < len(CONTENT)


def test_a_file_is_brought_once(tmp_path: Path) -> None:
    target = tmp_path / "sub" / "file"
    assert download_once(target, lambda partial: partial.write_bytes(CONTENT), lambda: None)
    assert not download_once(target, lambda _: pytest.fail("brought again"), lambda: None)
    assert target.read_bytes() == CONTENT


def test_waiting_for_a_lock_ends_with_the_token(tmp_path: Path) -> None:
    token = CancelToken()

    def check() -> None:
        token.check()
        token.cancel()

    with file_lock(tmp_path / "lock", lambda: None), pytest.raises(StoppedError), file_lock(tmp_path / "lock", check):
        pytest.fail("held twice")


def test_addresses_of_local_files() -> None:
    assert [str(local_path(url)) for url in ("/a/b c", "file:///a/b%20c")] == ["/a/b c"] * 2
    assert local_path("https://host/a") is None


def _count(key: str, progress: Progress) -> str:
    progress.advance(1)
    return key.upper()


def test_transfers_together() -> None:
    counted: list[float] = []
    assert map_with_progress(_count, ["b", "a"], counted.append) == ["B", "A"]
    assert sum(counted) == 2
    assert map_with_progress(_count, [], counted.append) == []


def test_one_failed_transfer_ends_the_others() -> None:
    ended: list[str] = []

    def work(key: str, progress: Progress) -> None:
        if key == "bad":
            raise ValueError(key)
        try:
            while True:
                progress.token.sleep(0.01)
        except StoppedError:
            ended.append(key)
            raise

    with pytest.raises(ValueError, match="bad"):
        map_with_progress(work, ["x", "y", "bad", "z", "never"], lambda _: None)
    assert set(ended) >= {"x", "y"}
    assert "never" not in ended


def test_progress_that_raises_ends_all() -> None:
    def cancelled(_: float) -> None:
        raise KeyboardInterrupt

    work: Callable[[str, Progress], str] = _count
    with pytest.raises(KeyboardInterrupt):
        map_with_progress(work, ["a", "b"], cancelled)
