"""Talks to the server under test as its users will: the OpenAI protocol, streamed."""

from __future__ import annotations

import json
import re
import time
from typing import TYPE_CHECKING, Any

import requests

from builder.smoke import protocol
from builder.smoke.protocol import SHOWN, Reply, ServerError, Stream

if TYPE_CHECKING:
    from collections.abc import Iterator

    from builder.recipe.model import Question

_CONNECT_S = 5.0
_OK = 200
_UNAUTHORIZED = 401
# A line of Prometheus's text format: name, labels, value.
_SAMPLE = re.compile(r"[A-Za-z_:][\w:]*(\{.*\})? \S+( \d+)?")


class Server:
    """An OpenAI server at an address."""

    def __init__(self, address: str, key: str | None = None) -> None:
        """Talk to `http://host:port`, with an API key if the server wants one."""
        self.address = address
        self._session = requests.Session()
        # A proxy of this machine cannot reach the container, and .netrc knows nothing about it.
        self._session.trust_env = False
        if key:
            self._session.headers["Authorization"] = f"Bearer {key}"

    def is_healthy(self, timeout_s: float = 5.0) -> bool:
        """Return whether `/health` answers well."""
        try:
            return self._session.get(f"{self.address}/health", timeout=(_CONNECT_S, timeout_s)).status_code == _OK
        except requests.RequestException:
            return False

    def models(self, timeout_s: float = 60.0) -> tuple[str, ...]:
        """Return the names under which models are served.

        Raises:
            ServerError: `/v1/models` does not answer as it should.
        """
        try:
            return tuple(str(model["id"]) for model in self._get("/v1/models", timeout_s).json()["data"])
        except (KeyError, TypeError, ValueError) as error:  # requests' JSON errors are ValueErrors too
            raise ServerError("/v1/models answers something else than a list of models") from error

    def metrics(self, timeout_s: float = 60.0) -> int:
        """Return how many samples `/metrics` has, in the format of Prometheus.

        Raises:
            ServerError: it has none, or something else than samples.
        """
        lines = [line for line in self._get("/metrics", timeout_s).text.splitlines() if line and line[0] != "#"]
        wrong = next((line for line in lines if not _SAMPLE.fullmatch(line)), None)
        if wrong is not None or not lines:
            raise ServerError(f"/metrics answers something else than samples: {(wrong or 'nothing')[:SHOWN]!r}")
        return len(lines)

    def check_refusal(self, timeout_s: float = 60.0) -> None:
        """Make sure that nobody gets in without the key, or with another one.

        Raises:
            ServerError: somebody does.
        """
        for said, headers in (("without a key", {}), ("with a wrong key", {"Authorization": "Bearer wrong"})):
            try:
                # Not the session, which has the key.
                with requests.Session() as stranger:
                    stranger.trust_env = False
                    url = f"{self.address}/v1/models"
                    status = stranger.get(url, headers=headers, timeout=(_CONNECT_S, timeout_s)).status_code
            except requests.RequestException as error:
                raise ServerError(f"/v1/models does not answer: {_reason(error)}") from error
            if status != _UNAUTHORIZED:
                raise ServerError(f"{said}, /v1/models answers with status {status}, not {_UNAUTHORIZED}")

    def ask(
        self, model: str, question: Question, within_s: float, *, stream: bool = True, logprobs: bool = False
    ) -> Reply:
        """Ask one question at temperature 0 and measure the answer; seconds.

        Raises:
            ServerError: no complete answer came within the time.
        """
        began = time.monotonic()
        taken = Stream()
        sent = protocol.body(model, question, stream=stream, logprobs=logprobs)
        try:
            with self._post(protocol.path(question), sent, within_s) as response:
                for event in _events(response) if stream else _whole(response):
                    now_s = time.monotonic() - began
                    if now_s > within_s:
                        raise ServerError(f"no complete answer within {within_s:.0f} s", timed_out=True)
                    if event is None:
                        taken.complete = True
                        break
                    taken.take(event, now_s)
        except requests.RequestException as error:
            if "timed out" in _reason(error):
                raise ServerError(f"the answer stood still for {within_s:.0f} s", timed_out=True) from error
            raise ServerError(f"the connection failed while the model was answering: {_reason(error)}") from error
        if not taken.complete:
            raise ServerError("the answer's stream ended before it was complete")
        return taken.reply(question.title, time.monotonic() - began)

    def _get(self, path: str, timeout_s: float) -> requests.Response:
        try:
            response = self._session.get(f"{self.address}{path}", timeout=(_CONNECT_S, timeout_s))
        except requests.RequestException as error:
            raise ServerError(f"{path} does not answer: {_reason(error)}") from error
        _check(response)
        return response

    def _post(self, path: str, body: dict[str, Any], within_s: float) -> requests.Response:
        try:
            response = self._session.post(
                f"{self.address}{path}", json=body, stream=True, timeout=(_CONNECT_S, within_s)
            )
        except requests.ReadTimeout:
            raise ServerError(f"no answer within {within_s:.0f} s", timed_out=True) from None
        _check(response)
        return response


def _whole(response: requests.Response) -> Iterator[dict[str, Any] | None]:
    """Yield an answer that comes in one piece, and its end."""
    yield _object(response.content, "the answer is")
    yield None


def _events(response: requests.Response) -> Iterator[dict[str, Any] | None]:
    """Yield the stream's events; None is its regular end."""
    for line in response.iter_lines(chunk_size=1):
        if not line.startswith(b"data:"):
            continue
        data = line[len(b"data:") :].strip()
        if data == b"[DONE]":
            yield None
            return
        yield _object(data, "the stream holds")


def _object(data: bytes, what: str) -> dict[str, Any]:
    try:
        found = json.loads(data)
    except ValueError:
        raise ServerError(f"{what} something else than JSON: {data[:SHOWN]!r}") from None
    if not isinstance(found, dict):
        raise ServerError(f"{what} something else than objects: {data[:SHOWN]!r}")
    return found


def _check(response: requests.Response) -> None:
    if response.status_code != _OK:
        path, status = response.request.path_url, response.status_code
        raise ServerError(f"{path} answers with status {status}: {response.text[:SHOWN]}")


def _reason(error: requests.RequestException) -> str:
    """Return the innermost reason: the outer ones repeat the address."""
    inner: BaseException = error
    while inner.__cause__ or inner.__context__:
        inner = inner.__cause__ or inner.__context__ or inner
    return str(inner) or type(inner).__name__
