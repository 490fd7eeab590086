"""The index on loopback that uv asks for tied packages."""

from __future__ import annotations

import http.client
import json
import socket
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import pytest
import requests
from factories import make_wheel
from tiny_index import Answer, TinyIndex, tiny_index

from builder.errors import NetworkError
from builder.host.config import Config
from builder.remote.http import Retry
from builder.remote.index import index_proxy as module
from builder.remote.index.index_client import IndexClient
from builder.remote.index.index_proxy import IndexProxy, running_proxy
from builder.remote.index.index_view import IndexView
from builder.remote.index.listing import Address, Index, IndexFile, IndexPin, IndexPins

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from builder.host.paths import Workspace


@pytest.fixture
def server(tmp_path: Path) -> Iterator[TinyIndex]:
    """An index with one wheel."""
    with tiny_index() as index:
        index.add(make_wheel(tmp_path / "wheels", "torch", "2.8.0", requires=("numpy<2",)))
        yield index


@pytest.fixture
def shelf(server: TinyIndex, workspace: Workspace) -> IndexView:
    """A shelf with torch and triton tied to it."""
    jet = Index(name="jet", addresses=(Address(url=server.url.replace("://", "://me:hush@")),))
    pins = IndexPins(
        pins=tuple(IndexPin(packages=name, index="jet", why="told") for name in ("torch", "triton")), indexes=(jet,)
    )
    client = IndexClient(config=Config(), states=workspace.index_states, retry=Retry(tries=1))
    return IndexView(pins=pins, client=client, workspace=workspace)


@pytest.fixture
def front(shelf: IndexView) -> Iterator[IndexProxy]:
    """That shelf, served."""
    with running_proxy(shelf) as front:
        yield front


def get(url: str) -> requests.Response:
    return requests.get(url, timeout=100)


def entries(front: IndexProxy, project: str = "torch") -> list[dict[str, Any]]:
    answer = get(f"{front.url}{project}/")
    assert answer.status_code == 200
    assert answer.headers["Cache-Control"] == "no-store"
    page = answer.json()
    assert page["meta"] == {"api-version": "1.1"}
    assert page["name"] == project
    found: list[dict[str, Any]] = page["files"]
    return found


def test_a_tied_package_is_told_of_as_uv_wants_it(front: IndexProxy, server: TinyIndex) -> None:
    server.pages["torch"][0] |= {"requires-python": ">=3.10", "yanked": "bad", "size": 7}
    server.pages["torch"][0]["upload-time"] = "2026-11-01T10:00:00Z"
    (entry,) = entries(front)
    sha256 = server.pages["torch"][0]["hashes"]["sha256"]
    assert entry == {
        "filename": "torch-2.8.0-py3-none-any.whl",
        "url": f"{front.root}/files/{sha256}/torch-2.8.0-py3-none-any.whl",
        "hashes": {"sha256": sha256},
        "requires-python": ">=3.10",
        "size": 7,
        "upload-time": "2026-11-01T10:00:00Z",
        "yanked": "bad",
        "core-metadata": True,
    }


def test_a_file_without_an_upload_time_is_older_than_any_date(front: IndexProxy) -> None:
    (entry,) = entries(front)
    assert entry["upload-time"] == "1980-01-01T00:00:00Z"
    assert entry["yanked"] is False
    assert "size" not in entry


def test_a_tied_package_that_the_index_lacks_has_no_files(front: IndexProxy) -> None:
    assert entries(front, "triton") == []


def test_metadata_is_served_beside_the_file(front: IndexProxy) -> None:
    (entry,) = entries(front)
    answer = get(f"{entry['url']}.metadata")
    assert answer.status_code == 200
    assert "Requires-Dist: numpy<2" in answer.text
    # Files themselves are fetched where they are.
    assert get(entry["url"]).status_code == 404


@pytest.mark.parametrize(
    "path",
    [
        "/{key}/simple/numpy/",
        "/{key}/simple/",
        "/{key}/simple/torch",
        "/{key}/simple/torch/../numpy/",
        "/{key}/",
        "/",
        "/simple/torch/",
        "/0000000000000000/simple/torch/",
        "/{key}/files/{sha}/torch-2.8.0-py3-none-any.whl.metadata",
        "/{key}/files/../../etc/passwd.metadata",
    ],
)
def test_everything_else_is_not_found(front: IndexProxy, server: TinyIndex, path: str) -> None:
    connection = http.client.HTTPConnection("127.0.0.1", front.server_address[1], timeout=100)
    connection.request("GET", path.format(key=front.key, sha="a" * 64))
    assert connection.getresponse().status == 404
    connection.close()
    assert server.asked == []


def test_only_loopback_is_listened_on(front: IndexProxy) -> None:
    assert front.server_address[0] == "127.0.0.1"
    assert len(front.key) == 16


def test_what_fails_is_an_answer_that_ends_it_and_is_kept(front: IndexProxy, server: TinyIndex) -> None:
    server.faults["*"] = [Answer(status=503)]
    answer = get(f"{front.url}torch/")
    assert answer.status_code == 400
    assert "does not answer for torch" in answer.text
    (error,) = front.view.errors
    assert isinstance(error, NetworkError)


def test_a_bug_is_kept_too(front: IndexProxy, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(IndexView, "files", lambda *_: 1 / 0)
    assert get(f"{front.url}torch/").status_code == 400
    assert isinstance(front.view.errors[0], ZeroDivisionError)


def test_many_ask_at_once(front: IndexProxy, server: TinyIndex) -> None:
    with ThreadPoolExecutor(40) as pool:
        assert len({json.dumps(found) for found in pool.map(lambda _: entries(front), range(40))}) == 1
    assert server.count("torch") == 1


def test_one_connection_asks_often_and_no_body_waits_for_the_acknowledgement_of_its_head(
    front: IndexProxy, monkeypatch: pytest.MonkeyPatch
) -> None:
    connections: list[socket.socket] = []
    finish = front.finish_request

    def kept(request: socket.socket, address: tuple[str, int]) -> None:
        connections.append(request.dup())
        finish(request, address)

    monkeypatch.setattr(front, "finish_request", kept)
    with requests.Session() as session:
        for _ in range(60):
            session.get(f"{front.url}torch/", timeout=100)
    (connection,) = connections
    with connection:
        assert connection.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)


@contextmanager
def slowly(server: TinyIndex, path: str, status: int) -> Iterator[threading.Event]:
    gate = threading.Event()
    # A redirect to itself is the same path again, of which the fault is then used up.
    server.faults[path] = [Answer(status=status, headers=(("Location", path),), after=lambda: gate.wait(100))]
    timer = threading.Timer(0.15, gate.set)
    timer.start()
    yield gate
    timer.cancel()


@pytest.fixture
def _impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_QUIET_S", 0.02)


@pytest.mark.usefixtures("_impatient")
def test_a_slow_page_comes_with_blanks_before_it(front: IndexProxy, server: TinyIndex) -> None:
    with slowly(server, "/simple/torch/", 307):
        answer = get(f"{front.url}torch/")
    assert answer.content.startswith(b"   ")
    assert json.loads(answer.content)["files"][0]["filename"] == "torch-2.8.0-py3-none-any.whl"


@pytest.mark.usefixtures("_impatient")
def test_slow_metadata_comes_with_headers_before_it(front: IndexProxy, server: TinyIndex) -> None:
    (entry,) = entries(front)
    with slowly(server, f"/files/{entry['filename']}", 307):
        answer = get(f"{entry['url']}.metadata")
    assert answer.text.startswith("X-Patience: please\nX-Patience")
    assert "\nName: torch\nVersion: 2.8.0\n" in answer.text


@pytest.mark.usefixtures("_impatient")
def test_a_slow_failure_is_half_an_answer_and_then_a_quick_one(front: IndexProxy, server: TinyIndex) -> None:
    with slowly(server, "/simple/torch/", 503), pytest.raises(requests.exceptions.ChunkedEncodingError):
        get(f"{front.url}torch/")
    assert get(f"{front.url}torch/").status_code == 400
    assert len(front.view.errors) == 2
    assert server.count("torch") == 1


def test_words_about_it_become_words_about_the_index_behind(front: IndexProxy, server: TinyIndex) -> None:
    (entry,) = entries(front)
    text = (
        f"Failed to fetch: {front.url}torch/\n (400) for url ({front.url}triton/)\n"
        f"found on {front.url}, but\n {entry['url']}.metadata\n {front.root}/files/{'b' * 64}/x.whl\n{front.url}numpy/"
    )
    told = front.upstream(text)
    assert told.splitlines() == [
        f"Failed to fetch: {server.url}torch/",
        f" (400) for url ({server.url}triton/)",
        "found on the index that it is pinned to, but",
        f" http://{server.host}/files/torch-2.8.0-py3-none-any.whl",
        f" {front.root}/files/{'b' * 64}/x.whl",
        "the index that it is pinned to",
    ]
    assert "hush" not in told


def test_files_have_addresses_of_its_own(front: IndexProxy) -> None:
    file = IndexFile(filename="a-1-py3-none-any.whl", url="https://jet.example/a.whl", sha256="c" * 64)
    assert front.file_url(file) == f"{front.root}/files/{'c' * 64}/a-1-py3-none-any.whl"


def test_nothing_listens_afterwards(shelf: IndexView) -> None:
    before = threading.active_count()
    with running_proxy(shelf) as front:
        entries(front)
        url = front.url
    with pytest.raises(requests.ConnectionError):
        get(url)
    for _ in range(100):
        if threading.active_count() <= before + 1:
            break
        time.sleep(0.01)
    # Our own session's kept connection may hold one thread until it is closed.
    assert threading.active_count() <= before + 1
