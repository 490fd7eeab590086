"""The client against a server on loopback that says what a test tells it to."""

from __future__ import annotations

import http.server
import json
import threading
import time
from typing import TYPE_CHECKING, ClassVar

import pytest

from builder.recipe.model import Question
from builder.smoke.client import Server, ServerError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

QUESTION = Question(ask="Capital of France?", expect="Paris", max_tokens=7)


class Handler(http.server.BaseHTTPRequestHandler):
    reply: ClassVar[tuple[int, list[bytes | float]]] = (200, [])
    seen: ClassVar[list[tuple[str, object, str | None]]] = []

    def do_GET(self) -> None:
        self.answer(None)

    def do_POST(self) -> None:
        self.answer(json.loads(self.rfile.read(int(self.headers["Content-Length"]))))

    def answer(self, body: object) -> None:
        self.seen.append((self.path, body, self.headers.get("Authorization")))
        status, parts = self.reply
        self.send_response(status)
        self.end_headers()
        for part in parts:
            if isinstance(part, float):
                time.sleep(part)
            else:
                self.wfile.write(part)
                self.wfile.flush()

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., Server]]:
    http_server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=http_server.serve_forever, daemon=True).start()
    monkeypatch.setattr(Handler, "seen", [])
    address = f"http://127.0.0.1:{http_server.server_address[1]}"

    def saying(*parts: bytes | float, status: int = 200, key: str | None = None) -> Server:
        monkeypatch.setattr(Handler, "reply", (status, list(parts)))
        return Server(address, key)

    yield saying
    http_server.shutdown()
    http_server.server_close()


def event(**data: object) -> bytes:
    return b"data: " + json.dumps(data).encode() + b"\n\n"


def words(text: str) -> bytes:
    return event(choices=[{"delta": {"content": text}}])


DONE = b"data: [DONE]\n\n"


def test_an_answer_is_put_together_and_measured(server: Callable[..., Server]) -> None:
    usage = event(choices=[], usage={"completion_tokens": 5})
    answer = server(words(""), 0.1, words("Par"), 0.2, words("is."), usage, DONE).ask("tiny", QUESTION, 5)
    assert answer.text == "Paris."
    assert answer.question == QUESTION.ask
    assert answer.tokens == 5
    assert answer.first_token_s is not None
    assert 0.08 < answer.first_token_s < 0.25
    assert answer.tokens_per_s is not None
    assert 10 < answer.tokens_per_s < 21
    assert answer.seconds >= 0.28


def test_the_question_is_asked_as_the_record_says(server: Callable[..., Server]) -> None:
    server(words("x"), DONE, key="k3y").ask("tiny", QUESTION, 5)
    assert Handler.seen == [
        (
            "/v1/chat/completions",
            {
                "model": "tiny",
                "messages": [{"role": "user", "content": "Capital of France?"}],
                "temperature": 0,
                "max_tokens": 7,
                "stream": True,
                "stream_options": {"include_usage": True},
            },
            "Bearer k3y",
        )
    ]


def test_without_usage_the_pieces_are_counted(server: Callable[..., Server]) -> None:
    answer = server(words("a"), words("b"), DONE).ask("tiny", QUESTION, 5)
    assert answer.tokens == 2


def test_an_empty_answer_has_no_pace(server: Callable[..., Server]) -> None:
    answer = server(DONE).ask("tiny", QUESTION, 5)
    assert (answer.text, answer.tokens, answer.first_token_s, answer.tokens_per_s) == ("", 0, None, None)


@pytest.mark.parametrize(
    ("status", "parts", "message"),
    [
        (500, [b'{"error": "dead"}'], "status 500.*dead"),
        (404, [b"no such model"], "status 404.*no such model"),
        (200, [], "ended before it was complete"),
        (200, [words("Par")], "ended before it was complete"),
        (200, [b"data: {not json\n\n"], "something else than JSON"),
        (200, [b"data: [1]\n\n"], "something else than objects"),
        (200, [event(error={"message": "engine dead"}), DONE], "engine dead"),
        (200, [words("a"), 0.7, words("b"), 0.7, words("c"), DONE], "no complete answer within 1 s"),
    ],
)
def test_what_is_no_answer_is_told(
    server: Callable[..., Server], status: int, parts: list[bytes | float], message: str
) -> None:
    with pytest.raises(ServerError, match=message):
        server(*parts, status=status).ask("tiny", QUESTION, 1)


def test_a_server_that_hangs(server: Callable[..., Server]) -> None:
    with pytest.raises(ServerError, match="the connection failed while"):
        server(words("a"), 3.0).ask("tiny", QUESTION, 0.3)


def test_nobody_there() -> None:
    nobody = Server("http://127.0.0.1:1")
    assert not nobody.is_healthy()
    with pytest.raises(ServerError, match="does not answer"):
        nobody.models()
    with pytest.raises(ServerError, match="connection failed"):
        nobody.ask("tiny", QUESTION, 1)


def test_models(server: Callable[..., Server]) -> None:
    assert server(b'{"data": [{"id": "a"}, {"id": "b"}]}').models() == ("a", "b")


@pytest.mark.parametrize("body", [b"", b"[]", b'{"data": 1}', b'{"data": [{}]}', b"<html>"])
def test_something_else_than_models(server: Callable[..., Server], body: bytes) -> None:
    with pytest.raises(ServerError, match="something else"):
        server(body).models()


@pytest.mark.parametrize(("status", "healthy"), [(200, True), (503, False), (404, False)])
def test_health(server: Callable[..., Server], status: int, healthy: bool) -> None:
    assert server(status=status).is_healthy() is healthy
