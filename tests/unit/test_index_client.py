"""Asking package indexes: what is tried again, who is asked next, and what is remembered."""

from __future__ import annotations

import os
import socket
import ssl
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any

import pytest
import requests
from factories import make_wheel
from tiny_index import HTML, JSON, Answer, TinyIndex, json_page, tiny_index

from builder.host.config import Config
from builder.remote.answer_bodies import read_body
from builder.remote.http import Retry
from builder.remote.index import index_client as module
from builder.remote.index.index_client import IndexClient, IndexUnreachableError, client_of, failing_since
from builder.remote.index.listing import Address, Index

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from builder.errors import NetworkError

UNAVAILABLE = Answer(status=503)
PORTAL = Answer(content=b"<html><title>Log in</title></html>")


@pytest.fixture
def server(tmp_path: Path) -> Iterator[TinyIndex]:
    """An index with one wheel."""
    with tiny_index() as index:
        index.add(make_wheel(tmp_path / "wheels", "torch", "2.8.0"))
        yield index


@pytest.fixture
def mirror(tmp_path: Path) -> Iterator[TinyIndex]:
    """Another index with another wheel."""
    with tiny_index() as index:
        index.add(make_wheel(tmp_path / "mirrored", "torch", "2.7.0"))
        yield index


class Naps(list[float]):
    """Stands in for sleep, and for the clock that it moves on."""

    def sleep(self, seconds: float) -> None:
        self.append(seconds)

    def clock(self) -> float:
        return sum(self)


def client(folder: Path, naps: Naps | None = None, **settings: Any) -> IndexClient:
    naps = naps if naps is not None else Naps()
    retry = Retry(tries=4, within_s=60.0, sleep=naps.sleep, clock=naps.clock, jitter=lambda: 1.0)
    return IndexClient(config=Config(**settings), states=folder / "states", retry=retry, now=naps.clock)


def index(*urls: str, name: str = "jet") -> Index:
    return Index(name=name, addresses=tuple(Address(url=url) for url in urls))


def names(client: IndexClient, index: Index, project: str = "torch") -> list[str]:
    page = client.page(index, project)
    return [] if page is None else [file.filename for file in page.files]


def failure(client: IndexClient, index: Index, project: str = "torch") -> NetworkError:
    with pytest.raises(IndexUnreachableError) as caught:
        client.page(index, project)
    assert caught.value.exit_code == 5
    return caught.value


TORCH = ["torch-2.8.0-py3-none-any.whl"]
MIRRORED = ["torch-2.7.0-py3-none-any.whl"]


def test_a_page_says_where_it_is_from(server: TinyIndex, tmp_path: Path) -> None:
    page = client(tmp_path).page(index(server.url.rstrip("/")), "torch")
    assert page
    assert (page.index, page.project, page.url) == ("jet", "torch", f"{server.url}torch/")
    assert page.files[0].url == f"http://{server.host}/files/{TORCH[0]}"


@pytest.mark.parametrize("html", [True, False])
def test_both_kinds_of_pages_are_understood(server: TinyIndex, tmp_path: Path, html: bool) -> None:
    server.html = html
    assert names(client(tmp_path), index(server.url)) == TORCH


@pytest.mark.parametrize("status", [404, 410])
def test_what_an_index_does_not_know_is_no_failure(
    server: TinyIndex, mirror: TinyIndex, tmp_path: Path, status: int
) -> None:
    server.faults["/simple/torch/"] = [Answer(status=status)]
    assert client(tmp_path).page(index(server.url, mirror.url), "torch") is None
    assert mirror.asked == []


@pytest.mark.parametrize(
    "fault",
    [
        Answer(status=503),
        Answer(status=500),
        Answer(status=429),
        Answer(cut=True),
        PORTAL,
        Answer(content=b"{}", kind=JSON),
        Answer(content=b"busy", kind="text/plain"),
        Answer(kind=HTML),
    ],
)
def test_what_can_change_is_tried_again(server: TinyIndex, tmp_path: Path, fault: Answer) -> None:
    naps = Naps()
    server.faults["/simple/torch/"] = [fault, fault, fault]
    assert names(client(tmp_path, naps), index(server.url)) == TORCH
    assert naps == [0.5, 1.0, 2.0]
    assert server.count("torch") == 4


@pytest.mark.parametrize("status", [400, 401, 403, 501])
def test_what_cannot_change_is_not_tried_again(server: TinyIndex, tmp_path: Path, status: int) -> None:
    server.faults["*"] = [Answer(status=status)]
    error = failure(client(tmp_path), index(server.url))
    assert server.count("torch") == 1
    assert str(status) in (error.log or "")


def test_a_reset_connection_is_tried_again(tmp_path: Path) -> None:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen()
        url = f"http://127.0.0.1:{listener.getsockname()[1]}/simple/"

        def reset() -> None:
            for _ in range(4):
                listener.accept()[0].close()

        thread = threading.Thread(target=reset, daemon=True)
        thread.start()
        naps = Naps()
        assert "the connection was cut" in (failure(client(tmp_path, naps), index(url)).log or "")
        thread.join(100)
    assert naps == [0.5, 1.0, 2.0]


def test_an_index_that_is_slow_to_fail_is_not_tried_four_times(server: TinyIndex, tmp_path: Path) -> None:
    naps = Naps()
    server.faults["*"] = [Answer(status=504, after=lambda: naps.sleep(35.0))]
    failure(client(tmp_path, naps), index(server.url))
    assert server.count("torch") == 2


def test_an_index_that_asks_for_a_later_try_gets_it(server: TinyIndex, tmp_path: Path) -> None:
    naps = Naps()
    server.faults["/simple/torch/"] = [Answer(status=429, headers=(("Retry-After", "7"),))]
    assert names(client(tmp_path, naps), index(server.url)) == TORCH
    assert naps == [7.0]


@pytest.mark.parametrize("fault", [UNAVAILABLE, PORTAL, Answer(status=403)])
def test_mirrors_are_asked_in_order(server: TinyIndex, mirror: TinyIndex, tmp_path: Path, fault: Answer) -> None:
    server.faults["*"] = [fault]
    with tiny_index() as down:
        down.faults["*"] = [fault]
        asked = Index(
            name="jet",
            addresses=(Address(url=server.url), Address(url=down.url), Address(url=mirror.url, stand_in="a copy")),
        )
        page = client(tmp_path).page(asked, "torch")
        assert down.asked
    assert page
    assert (page.stand_in, page.url) == ("a copy", f"{mirror.url}torch/")
    assert [file.filename for file in page.files] == MIRRORED


def test_an_index_that_is_down_says_so_once_for_all(server: TinyIndex, tmp_path: Path) -> None:
    server.faults["*"] = [UNAVAILABLE]
    asking = client(tmp_path)
    for project in ("torch", "vllm", "triton"):
        error = failure(asking, index(server.url), project)
        assert f"does not answer for {project}" in error.message
        assert "503" in (error.log or "")
    assert len(server.asked) == 4


def test_what_fails_for_one_project_only_stays_with_it(server: TinyIndex, tmp_path: Path) -> None:
    server.faults["/simple/vllm/"] = [Answer(status=400)]
    asking = client(tmp_path)
    failure(asking, index(server.url), "vllm")
    assert names(asking, index(server.url)) == TORCH


def test_an_index_that_is_down_is_asked_again_after_a_while(server: TinyIndex, tmp_path: Path) -> None:
    naps = Naps()
    asking = client(tmp_path, naps)
    server.faults["*"] = [UNAVAILABLE]
    failure(asking, index(server.url))
    del server.faults["*"]
    failure(asking, index(server.url))
    naps.sleep(61.0)
    assert names(asking, index(server.url)) == TORCH


def test_an_answer_counts_for_ten_minutes(server: TinyIndex, tmp_path: Path) -> None:
    naps = Naps()
    asking = client(tmp_path, naps)
    for wait in (0.0, 300.0, 299.0):
        naps.sleep(wait)
        assert names(asking, index(server.url)) == TORCH
    assert server.count("torch") == 1
    naps.sleep(10.0)
    assert names(asking, index(server.url)) == TORCH
    assert server.count("torch") == 2


def test_errors_are_each_askers_own(server: TinyIndex, tmp_path: Path) -> None:
    server.faults["*"] = [Answer(status=400)]
    asking = client(tmp_path)
    first, second = failure(asking, index(server.url)), failure(asking, index(server.url))
    assert first is not second
    assert first.as_json() == second.as_json()
    assert server.count("torch") == 1


def test_many_who_ask_at_once_are_one_request(server: TinyIndex, tmp_path: Path) -> None:
    entered = threading.Event()
    server.faults["/simple/torch/"] = [Answer(status=503, after=lambda: entered.wait(0.2))]
    asking = client(tmp_path)
    with ThreadPoolExecutor(8) as pool:
        found = list(pool.map(lambda _: names(asking, index(server.url)), range(8)))
    assert found == [TORCH] * 8
    assert server.count("torch") == 2


def test_projects_do_not_wait_for_each_other(server: TinyIndex, tmp_path: Path) -> None:
    gate = threading.Event()
    server.faults["/simple/slow/"] = [Answer(status=404, after=lambda: gate.wait(100))]
    asking = client(tmp_path)
    with ThreadPoolExecutor(1) as pool:
        slow = pool.submit(names, asking, index(server.url), "slow")
        assert names(asking, index(server.url)) == TORCH
        gate.set()
        assert slow.result(100) == []


def test_cells_of_a_run_share_a_client(tmp_path: Path) -> None:
    assert client_of(Config(), tmp_path) is client_of(Config(), tmp_path)
    assert client_of(Config(), tmp_path) is not client_of(Config(), tmp_path / "other")


@pytest.mark.parametrize("announced", [True, False])
def test_a_page_without_end_is_given_up(
    server: TinyIndex, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, announced: bool
) -> None:
    monkeypatch.setattr(module, "_LONGEST_PAGE", 1 << 20)
    kind = (("Content-Length", str(2 << 20)),) if announced else (("Content-Length", ""), ("Connection", "close"))
    endless = Answer(content=b"" if announced else b"x" * (2 << 20), headers=kind)
    server.faults["*"] = [endless]
    assert "its page is longer than 1 MiB" in (failure(client(tmp_path), index(server.url)).log or "")


def test_a_length_that_is_no_number_is_not_trusted(server: TinyIndex, tmp_path: Path) -> None:
    good = json_page(server.pages["torch"])
    odd = Answer(content=good.content, kind=good.kind, headers=(("Content-Length", "many"), ("Connection", "close")))
    server.faults["/simple/torch/"] = [odd]
    assert names(client(tmp_path), index(server.url)) == TORCH


def test_a_page_that_drips_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    answer = requests.Response()

    def drip() -> bytes:
        time.sleep(0.02)
        return b"x"

    blocks = iter(drip, b"")
    monkeypatch.setattr(answer, "iter_content", lambda _: blocks)
    with pytest.raises(requests.exceptions.ReadTimeout):
        read_body(answer, 1 << 20, 0.05)


def test_a_web_page_instead_of_an_index(server: TinyIndex, tmp_path: Path) -> None:
    page = Answer(content=b"<!doctype html><title>Sign in</title>", kind="text/html")
    server.faults["*"] = [page] * 9
    error = failure(client(tmp_path), index(server.url))
    assert "a web page answers titled “Sign in”" in (error.log or "")
    assert "in a browser" in (error.hint or "")


def test_a_redirect_is_followed(server: TinyIndex, mirror: TinyIndex, tmp_path: Path) -> None:
    server.faults["/simple/torch/"] = [Answer(status=302, headers=(("Location", f"{mirror.url}torch/"),))]
    page = client(tmp_path).page(index(server.url), "torch")
    assert page
    assert page.url == f"{mirror.url}torch/"
    assert page.files[0].url.startswith(f"http://{mirror.host}/files/")


def test_a_circle_of_redirects_is_an_error(server: TinyIndex, tmp_path: Path) -> None:
    server.faults["*"] = [Answer(status=302, headers=(("Location", "/simple/torch/"),))]
    assert "redirects go in a circle" in (failure(client(tmp_path), index(server.url)).log or "")


def test_since_when_an_index_fails_is_known_to_the_next_run(server: TinyIndex, tmp_path: Path) -> None:
    server.faults["*"] = [UNAVAILABLE]
    assert "since" not in failure(client(tmp_path), index(server.url)).message
    since = failing_since(tmp_path / "states", "jet")
    assert since
    assert failure(client(tmp_path), index(server.url)).message.endswith(f"; it has been failing since {since}")
    del server.faults["*"]
    assert names(client(tmp_path), index(server.url)) == TORCH
    assert failing_since(tmp_path / "states", "jet") is None
    server.faults["*"] = [UNAVAILABLE]
    assert "since" not in failure(client(tmp_path), index(server.url)).message


@pytest.mark.parametrize("content", ["", "[]", "{}", "\x00", '{"failing_since": null}'])
def test_a_spoilt_memory_is_no_memory(server: TinyIndex, tmp_path: Path, content: str) -> None:
    (tmp_path / "states").mkdir()
    (tmp_path / "states" / "jet.json").write_text(content)
    server.faults["*"] = [UNAVAILABLE]
    failure(client(tmp_path), index(server.url))
    assert failing_since(tmp_path / "states", "jet")


def test_the_error_names_mirrors_and_the_way_out(server: TinyIndex, tmp_path: Path) -> None:
    server.faults["*"] = [UNAVAILABLE]
    one = failure(client(tmp_path), index(server.url, server.url))
    assert one.message == "the index jet does not answer for torch, nor its mirror"
    assert one.where == f"{server.url}torch/"
    assert "[[index-mirrors]]" in (one.hint or "")
    assert "locked already still build from the wheelhouse" in (one.hint or "")
    more = failure(client(tmp_path / "2"), index(server.url, server.url, server.url))
    assert more.message.endswith("nor any of its 2 mirrors")
    assert len((more.log or "").splitlines()) == 3


def test_an_index_without_an_address_does_not_answer(tmp_path: Path) -> None:
    error = failure(client(tmp_path), index(name="default"))
    assert (error.message, error.where) == ("the index default does not answer for torch", None)


def test_nobody_listens(tmp_path: Path) -> None:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    error = failure(client(tmp_path), index(f"http://127.0.0.1:{port}/simple/"))
    assert "connection refused" in (error.log or "")


def test_an_untrusted_certificate_names_the_setting(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, server: TinyIndex
) -> None:
    cause = ssl.SSLCertVerificationError("self-signed")
    cause.verify_message = "self-signed certificate"
    untrusted = requests.exceptions.SSLError(cause)

    def refuse(*_: Any, **__: Any) -> Any:
        raise untrusted

    asking = client(tmp_path)
    monkeypatch.setattr(asking._logins.session, "get", refuse)
    error = failure(asking, index(server.url))
    assert "ca-bundle" in (error.hint or "")
    assert "certificate is not trusted" in (error.log or "")


def test_loopback_is_not_asked_through_a_proxy(
    server: TinyIndex, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(os.environ, "HTTP_PROXY", "http://127.0.0.1:9")
    assert names(client(tmp_path), index(server.url)) == TORCH
