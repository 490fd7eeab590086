"""jbuild's own client against servers on loopback that stream, stutter, refuse and break off."""

from __future__ import annotations

import re
import time
from typing import TYPE_CHECKING, Any

import pytest
from openai_server import LOAD, Handler, at, running, stream

from builder.device.load_client import Load, check_url, measure, served_model
from builder.device.measure import BenchTarget, bench
from builder.errors import SmokeError, UsageError
from builder.host.console import Console
from builder.remote.openai import OpenAIServer, ServedModel

if TYPE_CHECKING:
    from collections.abc import Callable


def test_what_is_measured() -> None:
    with running() as server:
        step = measure(at(server), "tiny", LOAD, 2)
    assert (step.concurrency, step.answered, step.failed) == (2, 4, 0)
    assert (step.input_tokens, step.output_tokens) == (28, 12)
    assert step.first_token_ms
    assert step.between_tokens_ms
    # The server's pauses are the least that the client can measure; a busy machine adds to them.
    assert 20 <= step.first_token_ms.p50 <= step.first_token_ms.p95 <= step.first_token_ms.p99
    assert 0 < step.between_tokens_ms.p50 <= step.between_tokens_ms.p99
    # Twice two answers of three tokens, 20 ms each.
    assert step.seconds >= 0.12
    assert step.tokens_per_s == pytest.approx(12 / step.seconds, rel=0.01)


def test_so_many_at_once_and_one_that_does_not_count() -> None:
    open_together = []

    def answer(handler: Handler, body: dict[str, Any]) -> None:
        # The first question does not count. The others wait for each other, and a moment for one too many.
        server = handler.server
        deadline = time.monotonic() + 100
        while len(server.bodies) > 1 and server.most_open < 3 and time.monotonic() < deadline:
            time.sleep(0.01)
        time.sleep(0.2)
        open_together.append(server.open)
        stream(handler, body)

    with running(answer) as server:
        measure(at(server), "tiny", LOAD, 3)
        assert max(open_together) == 3
        assert len(server.bodies) == LOAD.prompts + 1
        asked = [body["messages"][0]["content"] for body in server.bodies]
        assert len({text.split()[0] for text in asked}) == len(asked)
        first = server.bodies[0]
    assert (first["model"], first["max_tokens"], first["temperature"], first["ignore_eos"]) == ("tiny", 3, 0, True)


def test_every_run_asks_the_same() -> None:
    asked = []
    for _ in range(2):
        with running() as server:
            measure(at(server), "tiny", LOAD, 1)
            asked.append([body["messages"][0]["content"] for body in server.bodies])
    assert asked[0] == asked[1]


def test_a_server_that_does_not_know_vllms_field() -> None:
    def answer(handler: Handler, body: dict[str, Any]) -> None:
        if "ignore_eos" in body:
            handler.reply(400, {"error": "unknown field"})
        else:
            stream(handler, body)

    with running(answer) as server:
        assert measure(at(server), "tiny", LOAD, 1).answered == 4


def test_a_server_that_does_not_tell_its_tokens() -> None:
    def answer(handler: Handler, body: dict[str, Any]) -> None:
        handler.begin()
        for _ in range(2):
            handler.event({"choices": [{"delta": {"reasoning_content": "x"}}]})
        handler.send("data: [DONE]\n\n")
        handler.send("")

    with running(answer) as server:
        step = measure(at(server), "tiny", LOAD, 1)
    assert (step.answered, step.output_tokens, step.input_tokens) == (4, 8, 0)


def cut(handler: Handler, _: dict[str, Any]) -> None:
    handler.begin()
    handler.event({"choices": [{"delta": {"content": "x"}}]})
    handler.close_connection = True


def end_early(handler: Handler, _: dict[str, Any]) -> None:
    handler.begin()
    handler.event({"choices": [{"delta": {"content": "x"}}]})
    handler.send("")


def garble(handler: Handler, _: dict[str, Any]) -> None:
    handler.begin()
    handler.send("data: {no JSON\n\n")
    handler.send("")


def report(handler: Handler, _: dict[str, Any]) -> None:
    handler.begin()
    handler.event({"error": {"message": "EngineCore is dead"}})
    handler.send("")


FAULTS = [
    (cut, "IncompleteRead|ended before it was complete"),
    (end_early, "ended before it was complete"),
    (garble, "something other than JSON"),
    (report, "reports an error: .*EngineCore is dead"),
    (lambda handler, _: (handler.begin(), handler.event([1]), handler.send("")), "something other than objects"),
    (lambda handler, _: handler.reply(500, {"error": "boom"}), "status 500: .*boom"),
]


@pytest.mark.parametrize(("fault", "said"), FAULTS)
def test_what_fails_is_counted_with_its_reason(fault: Callable[[Any, dict[str, Any]], None], said: str) -> None:
    def answer(handler: Handler, body: dict[str, Any]) -> None:
        number = int(body["messages"][0]["content"].split()[0])
        (fault if number % 2 else stream)(handler, body)

    with running(answer) as server:
        step = measure(at(server), "tiny", LOAD, 2)
    assert (step.answered, step.failed, len(step.failures)) == (2, 2, 1)
    assert step.output_tokens == 6
    assert re.search(said, step.failures[0]), step.failures


def test_an_answer_that_never_ends_is_given_up() -> None:
    def answer(handler: Handler, body: dict[str, Any]) -> None:
        if body["messages"][0]["content"].startswith("0 "):
            stream(handler, body)
            return
        handler.begin()
        for _ in range(1000):
            handler.event({"choices": [{"delta": {"content": "x"}}]})
            time.sleep(0.02)

    with running(answer) as server:
        step = measure(at(server), "tiny", Load(prompts=1, input_length=3, output_tokens=3, within_s=2), 1)
    assert step.failures == ("no complete answer within 2 s",)
    assert (step.first_token_ms, step.between_tokens_ms, step.tokens_per_s) == (None, None, 0)


def test_the_first_question_tells_what_is_wrong() -> None:
    with running(lambda handler, _: handler.reply(401, {"error": "Unauthorized"})) as server:
        with pytest.raises(SmokeError, match="status 401") as caught:
            measure(at(server), "tiny", LOAD, 1)
        assert "API key" in str(caught.value.hint)


def test_the_served_model() -> None:
    with running(key="s3cret") as server:
        assert served_model(at(server, key="s3cret")) == ServedModel(name="tiny", root="/models/tiny")
        with pytest.raises(SmokeError, match="status 401") as caught:
            served_model(at(server))
        assert "API key" in str(caught.value.hint)
        several: tuple[Any, ...] = ({}, [], {"data": []}, {"data": [{}]}, {"data": 1})
        for wrong in several:
            server.models = wrong
            with pytest.raises(SmokeError, match="list of models"):
                served_model(at(server, key="s3cret"))
        gone = at(server)
    with pytest.raises(SmokeError, match="does not answer"):
        served_model(gone)


def test_a_whole_measurement() -> None:
    with running() as server:
        found = bench(BenchTarget(server=at(server), subject="x"), LOAD, (1, 2), "auto", Console(quiet=True))
        assert [step.concurrency for step in found.steps] == [1, 2]
        assert (found.client, found.model, found.level) == ("jbuild", "tiny", None)
        assert found.remarks == ("jbuild's client: jbuild did not start the server's container",)
        with pytest.raises(SmokeError, match=r"runs in the server's container"):
            bench(BenchTarget(server=at(server), subject="x"), LOAD, (1,), "vllm", Console(quiet=True))


@pytest.mark.parametrize("url", ["http://127.0.0.1:8000", "http://127.0.0.1:8000/", "http://127.0.0.1:8000/v1/"])
def test_an_address_with_or_without_its_version(url: str) -> None:
    assert check_url(url) == "http://127.0.0.1:8000"


def test_a_path_before_the_version_is_kept() -> None:
    with running() as server:
        proxied = at(server).url + "/llm/v1"
        assert served_model(OpenAIServer(url=check_url(proxied))).name == "tiny"
        assert server.paths == ["/llm/v1/models"]


@pytest.mark.parametrize(
    "url", ["", "127.0.0.1:8000", "ftp://x", "http://", "http://x:99999", "http://u:p@x", "http://[x"]
)
def test_what_is_no_address(url: str) -> None:
    with pytest.raises(UsageError, match="is not the address of a server"):
        check_url(url)
