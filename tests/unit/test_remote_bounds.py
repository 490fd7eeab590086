"""Answers that never end, or drip: every wait has an end."""

from __future__ import annotations

import socket
import threading
import time
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING

import pytest
import requests

from builder.host.config import Config
from builder.remote import answer_bodies, http
from builder.remote.answer_bodies import AnswerError, downloaded
from builder.remote.http import Retry, announced, session

if TYPE_CHECKING:
    from collections.abc import Iterator

HEAD = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: 1000000\r\n\r\n"


@contextmanager
def dripping(head: bytes, drop: bytes, every_s: float) -> Iterator[str]:
    """Serve one answer: a head, then drops of its body until the client goes."""
    ended = threading.Event()
    with socket.create_server(("127.0.0.1", 0)) as listening:

        def serve() -> None:
            with suppress(OSError):
                connection, _ = listening.accept()
                with connection:
                    connection.recv(65536)
                    connection.sendall(head)
                    while not ended.is_set():
                        connection.sendall(drop)
                        time.sleep(every_s)

        thread = threading.Thread(target=serve, daemon=True)
        thread.start()
        try:
            yield f"http://127.0.0.1:{listening.getsockname()[1]}/"
        finally:
            ended.set()
            thread.join()


def test_an_answer_that_drips_ends(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(answer_bodies, "_ANSWER_WITHIN_S", 0.2)
    with dripping(HEAD, b"x", 0.02) as url, pytest.raises(requests.exceptions.ReadTimeout):
        session(Config()).get(url)


def test_the_body_of_a_redirect_ends(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(answer_bodies, "_ANSWER_WITHIN_S", 0.2)
    head = HEAD.replace(b"200 OK", b"302 Found\r\nLocation: /elsewhere")
    with dripping(head, b"x", 0.02) as url, pytest.raises(requests.exceptions.ReadTimeout):
        session(Config()).get(url, stream=True)


def test_a_download_that_drips_ends(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(answer_bodies, "_STALLED_S", 0.2)
    with dripping(HEAD, b"x", 0.02) as url:
        answer = session(Config()).get(url, stream=True)
        with pytest.raises(requests.exceptions.ReadTimeout):
            list(downloaded(answer, 1 << 20))


def test_an_endless_answer_is_not_read_to_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(answer_bodies, "_LONGEST_ANSWER", 1 << 20)
    endless = HEAD.replace(b"Content-Length: 1000000\r\n", b"Connection: close\r\n")
    with dripping(endless, b"x" * 65536, 0.0) as url, pytest.raises(AnswerError, match="longer than 1 MiB"):
        session(Config()).get(url)


def test_a_cut_body_is_noticed_and_tried_again() -> None:
    with dripping(HEAD, b"x", 1.0) as url:
        answer = session(Config(), http.Patience(read_s=0.1)).get(url, stream=True)
        with pytest.raises(requests.exceptions.ReadTimeout) as caught:
            list(downloaded(answer, 1 << 20))
    assert http.is_transient(caught.value)


def test_a_retry_names_the_server() -> None:
    said: list[str] = []
    retry = announced(said.append, "hub.example.com")
    assert isinstance(retry, Retry)
    assert retry.on_retry
    retry.on_retry("the server answers 503")
    assert said == ["hub.example.com: the server answers 503"]
