from __future__ import annotations

import errno
import socket
import ssl
from datetime import datetime, timedelta, timezone
from email.utils import format_datetime
from typing import TYPE_CHECKING

import pytest
import requests
from hypothesis import given
from hypothesis import strategies as st
from requests import exceptions

from builder import __version__
from builder.errors import NetworkError
from builder.host.config import Config
from builder.remote.addresses import is_loopback, scrub
from builder.remote.http import Retry, is_transient, network_error, reason, session

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path


def answer(status: int, **headers: str) -> requests.HTTPError:
    response = requests.Response()
    response.status_code = status
    response.headers.update({name.replace("_", "-"): value for name, value in headers.items()})
    return requests.HTTPError(response=response)


class Sleeper:
    def __init__(self) -> None:
        self.naps: list[float] = []

    def policy(self, **options: float) -> Retry:
        return Retry(sleep=self.naps.append, jitter=lambda: 1.0, **options)  # type: ignore[arg-type]


def failing(*errors: Exception) -> Callable[[], str]:
    left = list(errors)

    def attempt() -> str:
        if left:
            raise left.pop(0)
        return "done"

    return attempt


@pytest.mark.parametrize(
    "error",
    [
        exceptions.ConnectionError("reset"),
        exceptions.ReadTimeout(),
        exceptions.ConnectTimeout(),
        exceptions.ChunkedEncodingError(),
        exceptions.ContentDecodingError(),
        answer(429),
        answer(500),
        answer(502),
        answer(503),
        answer(504),
    ],
)
def test_what_can_change_is_tried_again(error: Exception) -> None:
    sleeper = Sleeper()
    assert sleeper.policy().run(failing(error, error)) == "done"
    assert sleeper.naps == [0.5, 1.0]


@pytest.mark.parametrize(
    "error",
    [
        *(answer(status) for status in (400, 401, 403, 404, 405, 409, 413, 416, 501, 505, 507)),
        exceptions.InvalidURL(),
        exceptions.TooManyRedirects(),
        exceptions.SSLError(ssl.SSLCertVerificationError("unknown")),
        KeyError(),
    ],
)
def test_what_cannot_change_is_not(error: Exception) -> None:
    sleeper = Sleeper()
    with pytest.raises(type(error)):
        sleeper.policy().run(failing(error))
    assert sleeper.naps == []


def test_a_connection_cut_inside_tls_is_tried_again() -> None:
    assert is_transient(exceptions.SSLError(ssl.SSLEOFError(8, "EOF occurred in violation of protocol")))


@pytest.mark.parametrize(("code", "tries"), [(socket.EAI_NONAME, 0), (socket.EAI_NODATA, 0), (socket.EAI_AGAIN, 1)])
def test_only_a_name_server_without_an_answer_is_asked_again(code: int, tries: int) -> None:
    sleeper, error = Sleeper(), chained(exceptions.ConnectionError(), socket.gaierror(code, "x"))
    with pytest.raises(exceptions.ConnectionError):
        sleeper.policy(tries=2).run(failing(*[error] * 3))
    assert len(sleeper.naps) == tries


def test_tries_are_bounded() -> None:
    sleeper, error = Sleeper(), answer(503)
    with pytest.raises(requests.HTTPError):
        sleeper.policy().run(failing(*[error] * 9))
    assert sleeper.naps == [0.5, 1.0, 2.0, 4.0]


def test_progress_counts_tries_anew() -> None:
    sleeper, done = Sleeper(), iter([0, 10, 10, 20, 20, 30, 30, 40, 40, 50, 50, 60, 60])
    policy = sleeper.policy(tries=2)
    assert policy.run(failing(*[exceptions.ConnectionError()] * 6), progress=lambda: next(done)) == "done"
    assert sleeper.naps == [0.5] * 6


@given(st.floats(0, 1, exclude_max=True), st.integers(1, 9))
def test_waits_stay_within_bounds(jitter: float, failures: int) -> None:
    naps: list[float] = []
    policy = Retry(tries=20, sleep=naps.append, jitter=lambda: jitter, longest_wait_s=30)
    policy.run(failing(*[answer(500)] * failures))
    for number, nap in enumerate(naps):
        assert min(30, 0.25 * 2**number) <= nap <= min(30, 0.5 * 2**number)


def test_retry_after_in_seconds_and_as_a_date() -> None:
    sleeper = Sleeper()
    moment = format_datetime(datetime.now(timezone.utc) + timedelta(seconds=20), usegmt=True)
    sleeper.policy().run(failing(answer(429, Retry_After="7"), answer(503, Retry_After=moment)))
    assert sleeper.naps[0] == 7.0
    assert 15 < sleeper.naps[1] <= 20


@pytest.mark.parametrize("value", ["soon", "", "-1", "Wed, 99 Foo 2020", "Wed, 21 Oct 2015 07:28:00 GMT"])
def test_retry_after_that_says_nothing(value: str) -> None:
    sleeper = Sleeper()
    sleeper.policy().run(failing(answer(429, Retry_After=value)))
    assert sleeper.naps == [0.5]


def test_a_server_that_wants_us_back_tomorrow_is_not_waited_for() -> None:
    sleeper = Sleeper()
    with pytest.raises(requests.HTTPError):
        sleeper.policy().run(failing(answer(429, Retry_After="86400")))
    assert sleeper.naps == []


def test_somebody_is_told_why() -> None:
    told: list[str] = []
    Retry(sleep=lambda _: None, jitter=lambda: 1.0, on_retry=told.append).run(failing(answer(503)))
    assert told == ["the server answers 503; trying again in 0.5 s (2 of 5)"]


def test_one_fact_is_told_once_and_a_long_wait_each_time() -> None:
    told: list[str] = []
    policy = Retry(sleep=lambda _: None, jitter=lambda: 1.0, on_retry=told.append)
    policy.run(failing(answer(503), answer(503), answer(502), answer(503)))
    assert [text.partition(";")[0] for text in told] == ["the server answers 503", "the server answers 502"]
    told.clear()
    policy.run(failing(answer(429, Retry_After="30"), answer(429, Retry_After="30")))
    assert [text[-8:] for text in told] == ["(2 of 5)", "(3 of 5)"]


def test_after_progress_a_cut_is_news() -> None:
    told: list[str] = []
    amounts = iter([0, 10, 10, 20, 20, 20, 20])
    policy = Retry(sleep=lambda _: None, jitter=lambda: 1.0, on_retry=told.append)
    policy.run(failing(answer(503), answer(503)), progress=lambda: next(amounts))
    assert len(told) == 2


def chained(outer: Exception, inner: BaseException) -> requests.RequestException:
    outer.__cause__ = inner
    return outer  # type: ignore[return-value]


@pytest.mark.parametrize(
    ("error", "words"),
    [
        (answer(404), "the server answers 404"),
        (chained(exceptions.ConnectionError(), ConnectionRefusedError(errno.ECONNREFUSED, "no")), "connection refused"),
        (chained(exceptions.ConnectionError(), socket.gaierror(-2, "unknown")), "the host name is unknown"),
        (
            chained(exceptions.ConnectionError(), socket.gaierror(socket.EAI_AGAIN, "again")),
            "the name server gives no answer",
        ),
        (exceptions.ProxyError(), "the proxy does not connect"),
        (exceptions.ReadTimeout(), "no answer within the time limit"),
        (exceptions.ConnectTimeout(), "no connection within the time limit"),
        (exceptions.ConnectionError(ConnectionResetError(errno.ECONNRESET, "x")), "the connection was cut"),
        (exceptions.SSLError(), "the TLS handshake failed"),
        (exceptions.InvalidURL(), "InvalidURL"),
    ],
)
def test_reasons(error: requests.RequestException, words: str) -> None:
    assert reason(error) == words


def test_network_errors_hold_no_credentials() -> None:
    url = "https://me:hush@r.io/x?token=quiet"
    error = network_error(exceptions.ConnectionError(f"Max retries exceeded with url: {url}"), url)
    assert isinstance(error, NetworkError)
    assert error.where == "https://r.io/x"
    assert "hush" not in str(error.as_json())
    assert "quiet" not in str(error.as_json())


@pytest.mark.parametrize(
    ("text", "clean"),
    [
        ("https://u:p@h/x", "https://h/x"),
        ("see HTTPS://u@h:1/x?sig=1 and http://a/b.", "see HTTPS://h:1/x and http://a/b."),
        ("https://u:p@ss@h/x", "https://h/x"),
        ('"http://u:p@h"', '"http://h"'),
        ("mail me@h", "mail me@h"),
        ("https://h/a@b", "https://h/a@b"),
    ],
)
def test_scrub(text: str, clean: str) -> None:
    assert scrub(text) == clean


@pytest.mark.parametrize(
    ("host", "expected"),
    [
        ("localhost", True),
        ("127.8.0.1", True),
        ("::1", True),
        ("[::1]", True),
        ("a.localhost", True),
        ("10.0.0.1", False),
    ],
)
def test_is_loopback(host: str, expected: bool) -> None:
    assert is_loopback(host) is expected


def test_a_session_says_who_asks() -> None:
    assert session(Config()).headers["User-Agent"] == f"jbuild/{__version__}"


def test_the_configured_bundle_wins_over_the_environment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("REQUESTS_CA_BUNDLE", "/somewhere/else.pem")
    monkeypatch.setenv("CURL_CA_BUNDLE", "/somewhere/else.pem")
    made = session(Config(ca_bundle=tmp_path / "ca.pem"))
    settings = made.merge_environment_settings("https://r.io/", {}, None, None, None)
    assert settings["verify"] == str(tmp_path / "ca.pem")


def test_loopback_is_not_asked_through_a_proxy(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HTTP_PROXY", "http://proxy:3128")
    monkeypatch.setenv("http_proxy", "http://proxy:3128")
    made = session(Config())
    assert made.merge_environment_settings("http://r.io/", {}, None, None, None)["proxies"]["http"]
    assert not made.merge_environment_settings("http://127.0.0.1:5000/", {}, None, None, None)["proxies"]


def test_no_try_begins_after_the_time_for_all() -> None:
    sleeper = Sleeper()
    moments = iter([0.0, 20.0, 61.0])
    policy = Retry(tries=9, within_s=60.0, sleep=sleeper.naps.append, jitter=lambda: 1.0, clock=lambda: next(moments))
    with pytest.raises(exceptions.ReadTimeout):
        policy.run(failing(*[exceptions.ReadTimeout() for _ in range(5)]))
    assert sleeper.naps == [0.5]
