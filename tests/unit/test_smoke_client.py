"""The client against a server on loopback that says what a test tells it to."""

from __future__ import annotations

import http.server
import json
import threading
import time
from typing import TYPE_CHECKING, ClassVar

import pytest

from builder.model.recipes import Message, Question
from builder.remote.openai import ServedModel, ServerError
from builder.smoke.openai_client import ServerUnderTest

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
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., ServerUnderTest]]:
    http_server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=http_server.serve_forever, daemon=True).start()
    monkeypatch.setattr(Handler, "seen", [])
    address = f"http://127.0.0.1:{http_server.server_address[1]}"

    def saying(*parts: bytes | float, status: int = 200, key: str | None = None) -> ServerUnderTest:
        monkeypatch.setattr(Handler, "reply", (status, list(parts)))
        return ServerUnderTest(url=address, key=key)

    yield saying
    http_server.shutdown()
    http_server.server_close()


def event(**data: object) -> bytes:
    return b"data: " + json.dumps(data).encode() + b"\n\n"


def words(text: str) -> bytes:
    return event(choices=[{"delta": {"content": text}}])


DONE = b"data: [DONE]\n\n"


def test_an_answer_is_put_together_and_measured(server: Callable[..., ServerUnderTest]) -> None:
    usage = event(choices=[], usage={"completion_tokens": 5})
    answer = server(words(""), 0.1, words("Par"), 0.2, words("is."), usage, DONE).ask("tiny", QUESTION, 5).answer
    assert answer.text == "Paris."
    assert answer.question == QUESTION.ask
    assert answer.tokens == 5
    # The server's pauses are the least that the client can measure; a busy machine adds to them.
    assert answer.first_token_s is not None
    assert 0.08 < answer.first_token_s < answer.seconds
    assert answer.seconds >= 0.28
    assert answer.tokens_per_s is not None
    assert answer.tokens_per_s > 0.99 * 4 / (answer.seconds - answer.first_token_s)


def test_the_question_is_asked_as_the_record_says(server: Callable[..., ServerUnderTest]) -> None:
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


def test_without_usage_the_pieces_are_counted(server: Callable[..., ServerUnderTest]) -> None:
    answer = server(words("a"), words("b"), DONE).ask("tiny", QUESTION, 5).answer
    assert answer.tokens == 2


def test_an_empty_answer_has_no_pace(server: Callable[..., ServerUnderTest]) -> None:
    answer = server(DONE).ask("tiny", QUESTION, 5).answer
    assert (answer.text, answer.tokens, answer.first_token_s, answer.tokens_per_s) == ("", 0, None, None)


@pytest.mark.parametrize(
    ("status", "parts", "message"),
    [
        (500, [b'{"error": "dead"}'], "status 500.*dead"),
        (404, [b"no such model"], "status 404.*no such model"),
        (200, [], "ended before it was complete"),
        (200, [words("Par")], "ended before it was complete"),
        (200, [b"data: {not json\n\n"], "something other than JSON"),
        (200, [b"data: [1]\n\n"], "something other than objects"),
        (200, [event(error={"message": "engine dead"}), DONE], "engine dead"),
        (200, [words("a"), 0.7, words("b"), 0.7, words("c"), DONE], "no complete answer within 1 s"),
    ],
)
def test_what_is_no_answer_is_told(
    server: Callable[..., ServerUnderTest], status: int, parts: list[bytes | float], message: str
) -> None:
    with pytest.raises(ServerError, match=message):
        server(*parts, status=status).ask("tiny", QUESTION, 1)


def test_a_server_that_hangs(server: Callable[..., ServerUnderTest]) -> None:
    with pytest.raises(ServerError, match=r"incomplete after 0 s") as caught:
        server(words("a"), 3.0).ask("tiny", QUESTION, 0.3)
    assert caught.value.timed_out


def test_nobody_there() -> None:
    nobody = ServerUnderTest(url="http://127.0.0.1:1")
    assert not nobody.is_healthy()
    with pytest.raises(ServerError, match="does not answer"):
        nobody.models()
    with pytest.raises(ServerError, match="connection failed"):
        nobody.ask("tiny", QUESTION, 1)


def test_models(server: Callable[..., ServerUnderTest]) -> None:
    assert server(b'{"data": [{"id": "a"}, {"id": "b"}]}').models() == (ServedModel(name="a"), ServedModel(name="b"))


@pytest.mark.parametrize("body", [b"", b"[]", b'{"data": 1}', b'{"data": [{}]}', b"<html>"])
def test_something_else_than_models(server: Callable[..., ServerUnderTest], body: bytes) -> None:
    with pytest.raises(ServerError, match="something other"):
        server(body).models()


@pytest.mark.parametrize(("status", "healthy"), [(200, True), (503, False), (404, False)])
def test_health(server: Callable[..., ServerUnderTest], status: int, healthy: bool) -> None:
    assert server(status=status).is_healthy() is healthy


PLAIN = Question(prompt="The capital of France is", text=" Paris", max_tokens=2)
SCHEMA = Question(ask="Where?", schema='{"type": "object"}')


def sent(server: Callable[..., ServerUnderTest], question: Question, **how: bool) -> tuple[str, dict[str, object]]:
    body = b'{"choices": []}'
    server(*([DONE] if how.get("stream", True) else [body])).ask("tiny", question, 5, **how)
    path, asked, _ = Handler.seen[-1]
    assert isinstance(asked, dict)
    return path, asked


def test_text_to_be_continued_goes_to_completions(server: Callable[..., ServerUnderTest]) -> None:
    path, asked = sent(server, PLAIN, logprobs=True)
    assert path == "/v1/completions"
    assert (asked["prompt"], asked["logprobs"], asked["temperature"]) == ("The capital of France is", 5, 0)
    assert "messages" not in asked


def test_a_chat_is_sent_whole(server: Callable[..., ServerUnderTest]) -> None:
    chat = (Message(role="system", content="Be brief."), Message(role="user", content="Capital of France?"))
    path, asked = sent(server, Question(chat=chat, expect="Paris"), logprobs=True)
    assert path == "/v1/chat/completions"
    assert asked["messages"] == [
        {"role": "system", "content": "Be brief."},
        {"role": "user", "content": "Capital of France?"},
    ]
    assert (asked["logprobs"], asked["top_logprobs"]) == (True, 5)


def test_a_schema_goes_into_the_field_that_all_versions_take(server: Callable[..., ServerUnderTest]) -> None:
    _, asked = sent(server, SCHEMA)
    wanted = {"name": "answer", "schema": {"type": "object"}, "strict": True}
    assert asked["response_format"] == {"type": "json_schema", "json_schema": wanted}


def test_without_streaming_no_stream_options(server: Callable[..., ServerUnderTest]) -> None:
    _, asked = sent(server, QUESTION, stream=False)
    assert asked["stream"] is False
    assert "stream_options" not in asked


def test_a_whole_answer(server: Callable[..., ServerUnderTest]) -> None:
    body = b'{"choices": [{"message": {"content": "Paris."}}], "usage": {"completion_tokens": 2}}'
    answer = server(body).ask("tiny", QUESTION, 5, stream=False).answer
    assert (answer.text, answer.tokens) == ("Paris.", 2)


@pytest.mark.parametrize("body", [b"", b"<html>", b"[]", b'{"choices": 7}', b'{"choices": ["x"]}', b'{"error": "no"}'])
def test_something_else_than_a_whole_answer(server: Callable[..., ServerUnderTest], body: bytes) -> None:
    with pytest.raises(ServerError):
        server(body).ask("tiny", QUESTION, 5, stream=False)


def test_tokens_and_their_log_probabilities(server: Callable[..., ServerUnderTest]) -> None:
    top = [{"token": "Par", "logprob": -0.1}, {"token": "Lon", "logprob": -2.5}]
    logprobs = {"content": [{"token": "Par", "logprob": -0.1, "top_logprobs": top}]}
    one = event(choices=[{"delta": {"content": "Par"}, "logprobs": logprobs}])
    reply = server(one, words("is"), DONE).ask("tiny", QUESTION, 5, logprobs=True)
    (token,) = reply.tokens
    assert (token.text, token.logprob, token.top) == ("Par", -0.1, (("Par", -0.1), ("Lon", -2.5)))
    assert reply.chunks == 2
    plain = {"tokens": [" Par", "is"], "token_logprobs": [-0.1, -0.2], "top_logprobs": [{" Par": -0.1}, None]}
    reply = server(event(choices=[{"text": " Paris", "logprobs": plain}]), DONE).ask("tiny", PLAIN, 5, logprobs=True)
    assert [(token.text, token.logprob, token.top) for token in reply.tokens] == [
        (" Par", -0.1, ((" Par", -0.1),)),
        ("is", -0.2, ()),
    ]
    assert reply.answer.text == " Paris"


@pytest.mark.parametrize("logprobs", [{"content": [{"token": "a"}]}, {"tokens": ["a"], "token_logprobs": []}])
def test_log_probabilities_that_are_none(server: Callable[..., ServerUnderTest], logprobs: object) -> None:
    with pytest.raises(ServerError, match="do not follow the protocol"):
        server(event(choices=[{"delta": {}, "logprobs": logprobs}]), DONE).ask("tiny", QUESTION, 5)


METRICS = b"""# HELP vllm:tokens_total Tokens.
# TYPE vllm:tokens_total counter
vllm:tokens_total{engine="0",model_name="tiny {x}"} 12.0
process_start_time_seconds 1.7e+09

go_gc 1 1395066363000
"""


def test_metrics(server: Callable[..., ServerUnderTest]) -> None:
    assert server(METRICS).metrics() == 3


@pytest.mark.parametrize("body", [b"", b"# HELP only\n", b"<html>oops</html>", b'{"detail": "Not Found"}'])
def test_something_else_than_metrics(server: Callable[..., ServerUnderTest], body: bytes) -> None:
    with pytest.raises(ServerError, match="no Prometheus samples"):
        server(body).metrics()


def test_no_metrics(server: Callable[..., ServerUnderTest]) -> None:
    with pytest.raises(ServerError, match="/metrics answers with status 404"):
        server(b"x", status=404).metrics()


def test_strangers_are_refused_and_have_no_key_of_ours(server: Callable[..., ServerUnderTest]) -> None:
    server(status=401, key="k3y").check_refusal()
    assert [key for _, _, key in Handler.seen] == [None, "Bearer wrong"]


@pytest.mark.parametrize("status", [200, 403, 500])
def test_strangers_who_get_in(server: Callable[..., ServerUnderTest], status: int) -> None:
    with pytest.raises(ServerError, match=f"without a key, /v1/models answers with status {status}, not 401"):
        server(b'{"data": []}', status=status, key="k3y").check_refusal()
