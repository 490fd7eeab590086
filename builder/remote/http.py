"""HTTP sessions with certificates, proxies and time-outs, the retry policy, and the reasons of failures."""

from __future__ import annotations

import errno
import math
import random
import re
import socket
import ssl
import time
from dataclasses import dataclass
from datetime import datetime, timezone
from email.utils import parsedate_to_datetime
from typing import TYPE_CHECKING, Any, TypeVar
from urllib.parse import urljoin, urlsplit

import requests
from requests import exceptions
from requests.adapters import HTTPAdapter

from builder import __version__
from builder.errors import NetworkError
from builder.host.config import build_ca_bundle
from builder.remote.addresses import is_loopback, scrub
from builder.remote.answer_bodies import AddressError, AnswerError, read_whole
from builder.remote.web_pages import WEB_PAGE_HINT, WebPageError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from builder.host.config import Config

_T = TypeVar("_T")

_BLOCK = 1 << 20
_CONNECTIONS = 32
MOST_REDIRECTS = 10
TOO_MANY_REQUESTS = 429
# Longer waits are shown in minutes.
_LONG_WAIT_S = 300
# Shorter ones are silent after the first.
_WAIT_TO_NOTE_S = 10.0
_SERVER_FAULT = 500
# 5xx answers that a retry does not change: not implemented, version, full, loop.
_LASTING_FAULTS = frozenset({501, 505, 507, 508})
_TRANSIENT = (
    exceptions.ConnectionError,
    exceptions.Timeout,
    exceptions.ChunkedEncodingError,
    exceptions.ContentDecodingError,
)
# The name server's own answer that a name, or an address of it, does not exist; without any answer it is EAI_AGAIN.
_UNKNOWN_NAME = frozenset({socket.EAI_NONAME, getattr(socket, "EAI_NODATA", socket.EAI_NONAME)})
_ERRNO_REASONS = {
    errno.ECONNREFUSED: "connection refused",
    errno.ENETUNREACH: "the network is unreachable",
    errno.EHOSTUNREACH: "the host is unreachable",
}
_REASONS: tuple[tuple[type[Exception], str], ...] = (
    (exceptions.TooManyRedirects, "the redirects go in a circle, or are too many"),
    (exceptions.SSLError, "the TLS handshake failed"),
    (exceptions.ConnectTimeout, "no connection within the time limit"),
    (exceptions.Timeout, "no answer within the time limit"),
    *((kind, "the connection was cut") for kind in _TRANSIENT),
)
CA_HINT = "set network.ca-bundle in jbuild.toml, or SSL_CERT_FILE, to a PEM file with the server's authority"


@dataclass(frozen=True, kw_only=True, slots=True)
class Patience:
    """Time limits in seconds: for a connection (and each write), and for the next bytes of an answer."""

    connect_s: float = 20.0
    read_s: float = 60.0


def session(config: Config, patience: Patience | None = None) -> requests.Session:
    """Return a session that trusts the configured certificates, else the system's.

    Proxies and netrc come from the environment; requests to loopback bypass proxies. Threads may share the session.
    """
    new = _Session()
    bundle = build_ca_bundle(config)
    new.verify = str(bundle) if bundle else True
    new.headers["User-Agent"] = f"jbuild/{__version__}"
    new.max_redirects = MOST_REDIRECTS
    adapter = _Adapter(patience or Patience())
    new.mount("http://", adapter)
    new.mount("https://", adapter)
    return new


class _Session(requests.Session):
    def merge_environment_settings(self, url: Any, *args: Any, **kwargs: Any) -> Any:
        # requests prefers REQUESTS_CA_BUNDLE to the session's bundle, which the configuration has already settled.
        settings = super().merge_environment_settings(url, *args, **kwargs)
        settings["verify"] = self.verify
        if is_loopback(urlsplit(url).hostname or ""):
            settings["proxies"] = {}
        return settings

    def get_redirect_target(self, resp: requests.Response) -> str | None:
        # requests lets the errors of urllib.parse pass.
        try:
            target = super().get_redirect_target(resp)
            sound = target is None or joined(resp.url, target) is not None
        except UnicodeError:
            sound = False
        if not sound:
            raise AddressError("it redirects to a malformed address", request=resp.request, response=resp)
        return target


def joined(base: str, location: str) -> str | None:
    """Return the address that a header or a page gives relative to `base`, or None if it is malformed."""
    try:
        url = urljoin(base, location)
        _ = urlsplit(url).port
    except ValueError:
        return None
    return url


class _Adapter(HTTPAdapter):
    def __init__(self, patience: Patience) -> None:
        self._patience = patience
        super().__init__(pool_maxsize=_CONNECTIONS)

    def init_poolmanager(self, *args: Any, **kwargs: Any) -> None:
        # The default of 16 KiB per write slows uploads in a local network.
        super().init_poolmanager(*args, blocksize=_BLOCK, **kwargs)

    def send(
        self, request: requests.PreparedRequest, stream: bool = False, *args: Any, **kwargs: Any
    ) -> requests.Response:
        if kwargs.get("timeout") is None:
            kwargs["timeout"] = (self._patience.connect_s, self._patience.read_s)
        response = super().send(request, stream, *args, **kwargs)
        if not stream or response.is_redirect:
            # requests would read the body without a limit.
            read_whole(response)
        return response


@dataclass(frozen=True, kw_only=True, slots=True)
class Retry:
    """Retries after transient failures: lost connections, time-outs, cut bodies, 429 and 5xx; never another 4xx.

    Waits double from `first_wait_s` (seconds), with jitter. A `Retry-After` beyond `longest_wait_s` ends the tries,
    because an earlier one would be refused. No try begins later than `within_s` after the first. `on_retry` receives
    a message with the reason and the wait, for a reason that it knows only before a long wait.
    """

    tries: int = 5
    first_wait_s: float = 0.5
    longest_wait_s: float = 60.0
    within_s: float = math.inf
    sleep: Callable[[float], object] = time.sleep
    jitter: Callable[[], float] = random.random
    clock: Callable[[], float] = time.monotonic
    on_retry: Callable[[str], object] | None = None

    def run(
        self,
        attempt: Callable[[], _T],
        *,
        progress: Callable[[], int] | None = None,
        explain: Callable[[requests.RequestException], str] | None = None,
    ) -> _T:
        """Return the result of `attempt`, which reports failures as exceptions of requests (`raise_for_status`).

        The count of tries restarts whenever `progress` grows, so a large transfer that resumes may break often.
        `explain` gives the reason for the message to `on_retry`, by default `reason`.

        Raises:
            requests.RequestException: the last failure.
        """
        failures, reached, known = 0, progress() if progress else 0, set[str]()
        start_s = self.clock()
        while True:
            try:
                return attempt()
            except requests.RequestException as error:
                if progress and progress() > reached:
                    failures, reached, known = 0, progress(), set()
                failures += 1
                wait = self._wait_s(error, failures)
                if wait is None or self.clock() + wait > start_s + self.within_s:
                    raise
                if self.on_retry:
                    self._announce((explain or reason)(error), wait, failures + 1, known)
            self.sleep(wait)

    def _announce(self, why: str, wait_s: float, number: int, known: set[str]) -> None:
        if self.on_retry and (why not in known or wait_s >= _WAIT_TO_NOTE_S):
            known.add(why)
            self.on_retry(f"{why}; trying again in {wait_s:.1f} s ({number} of {self.tries})")

    def _wait_s(self, error: requests.RequestException, failures: int) -> float | None:
        if failures >= self.tries or not is_transient(error):
            return None
        backoff: float = self.first_wait_s * 2 ** (failures - 1) * (0.5 + self.jitter() / 2)
        retry_after = retry_after_s(error.response)
        if retry_after > self.longest_wait_s:
            return None
        return max(retry_after, min(backoff, self.longest_wait_s))


def announced(say: Callable[[str], object], server: str) -> Retry:
    """Return the usual retries, each of which is said with the server's name."""
    return Retry(on_retry=lambda why: say(f"{server}: {why}"))


def is_transient(error: requests.RequestException) -> bool:
    """Return whether the same request may succeed a little later."""
    if isinstance(error, exceptions.HTTPError) and error.response is not None:
        status = error.response.status_code
        return status == TOO_MANY_REQUESTS or (status >= _SERVER_FAULT and status not in _LASTING_FAULTS)
    if isinstance(error, exceptions.SSLError):
        # A connection cut inside TLS is an SSL error too; a bad certificate stays bad.
        return any(isinstance(cause, (ssl.SSLEOFError, ssl.SSLZeroReturnError)) for cause in causes(error))
    return isinstance(error, _TRANSIENT) and not any(map(_is_unknown_name, causes(error)))


def retry_after_s(response: requests.Response | None) -> float:
    """Return the seconds of an answer's `Retry-After`, 0 without one; a date counts from now."""
    value = response.headers.get("Retry-After", "") if response is not None else ""
    if re.fullmatch(r"[0-9]{1,9}", value.strip()):
        return float(value)
    try:
        moment = parsedate_to_datetime(value)
    except (TypeError, ValueError):
        return 0.0
    if moment.tzinfo is None:
        moment = moment.replace(tzinfo=timezone.utc)
    return max(0.0, (moment - datetime.now(timezone.utc)).total_seconds())


def causes(error: BaseException) -> Iterator[BaseException]:
    """Yield an exception and all its causes, as requests and urllib3 nest them."""
    queue, visited = [error], set[int]()
    while queue:
        cause = queue.pop(0)
        if id(cause) in visited:
            continue
        visited.add(id(cause))
        yield cause
        inner = (cause.__cause__, cause.__context__, getattr(cause, "reason", None), *cause.args)
        queue.extend(i for i in inner if isinstance(i, BaseException))


def reason(error: requests.RequestException) -> str:
    """Return in a few words why a request failed, without addresses and therefore without credentials."""
    if isinstance(error, AnswerError):
        return str(error)
    if isinstance(error, exceptions.HTTPError) and error.response is not None:
        answer = f"the server answers {error.response.status_code} {error.response.reason or ''}".rstrip()
        return answer + asked_wait(error.response)
    if isinstance(error, exceptions.ProxyError):
        return "the proxy does not connect"
    inner = next(filter(None, map(_cause_reason, causes(error))), None)
    if inner:
        return inner
    for kind, text in _REASONS:
        if isinstance(error, kind):
            return text
    return type(error).__name__


def asked_wait(response: requests.Response) -> str:
    """Return for a message how long an answer asks to wait, "" if it does not."""
    wait_s = math.ceil(retry_after_s(response))
    if not wait_s:
        return ""
    return f" and asks to wait {wait_s} s" if wait_s < _LONG_WAIT_S else f" and asks to wait {wait_s // 60} minutes"


def _is_unknown_name(cause: BaseException) -> bool:
    return isinstance(cause, socket.gaierror) and cause.errno in _UNKNOWN_NAME


def _cause_reason(cause: BaseException) -> str | None:
    if isinstance(cause, ssl.SSLCertVerificationError):
        return f"its TLS certificate is not trusted ({cause.verify_message})"
    if isinstance(cause, socket.gaierror):
        return "the host name is unknown" if _is_unknown_name(cause) else "the name server gives no answer"
    if isinstance(cause, TimeoutError):
        return "no answer within the time limit"
    return _ERRNO_REASONS.get(cause.errno or 0) if isinstance(cause, OSError) else None


def is_untrusted(error: requests.RequestException) -> bool:
    """Return whether a request failed because the server's certificate is not trusted."""
    return any(isinstance(cause, ssl.SSLCertVerificationError) for cause in causes(error))


def network_error(
    error: requests.RequestException, url: str, failure: str = "", hint: str | None = None
) -> NetworkError:
    """Turn a failed request into an error with its address and a hint; `failure` begins the message."""
    message = f"{failure}: {reason(error)}" if failure else reason(error)
    other = "check the address and the network (HTTPS_PROXY, NO_PROXY), then run it again"
    if isinstance(error, WebPageError):
        other = WEB_PAGE_HINT
    return NetworkError(message, where=scrub(url), hint=hint or (CA_HINT if is_untrusted(error) else other))
