"""HTTP for every room: sessions that know certificates, proxies and time-outs, and the one retry policy."""

from __future__ import annotations

import errno
import ipaddress
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
from urllib.parse import urlsplit

import requests
from requests import exceptions
from requests.adapters import HTTPAdapter

from builder import __version__
from builder.errors import NetworkError
from builder.host.config import build_ca_bundle

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from builder.host.config import Config

_T = TypeVar("_T")

_BLOCK = 1 << 20
_CONNECTIONS = 32
_TOO_MANY_REQUESTS = 429
_SERVER_FAULT = 500
# Answers of the 5xx family that the same request will get again: not implemented, version, full, loop.
_LASTING_FAULTS = frozenset({501, 505, 507, 508})
_TRANSIENT = (
    exceptions.ConnectionError,
    exceptions.Timeout,
    exceptions.ChunkedEncodingError,
    exceptions.ContentDecodingError,
)
_ERRNO_REASONS = {
    errno.ECONNREFUSED: "connection refused",
    errno.ENETUNREACH: "the network is unreachable",
    errno.EHOSTUNREACH: "the host is unreachable",
}
_REASONS: tuple[tuple[type[Exception], str], ...] = (
    (exceptions.SSLError, "it does not speak TLS as it should"),
    (exceptions.ConnectTimeout, "no connection within the time limit"),
    (exceptions.Timeout, "no answer within the time limit"),
    *((kind, "the connection was cut") for kind in _TRANSIENT),
)
CA_HINT = "set network.ca-bundle in jbuild.toml, or SSL_CERT_FILE, to a PEM file with the server's authority"


@dataclass(frozen=True, kw_only=True, slots=True)
class Patience:
    """How long to wait for a connection (and for room to write), and for the next bytes of an answer, in seconds."""

    connect_s: float = 20.0
    read_s: float = 60.0


def session(config: Config, patience: Patience | None = None) -> requests.Session:
    """Return a session that trusts the configured certificates, else the system's.

    Proxies and netrc come from the environment; loopback is never asked through a proxy. Threads may share it.
    """
    made = _Session()
    bundle = build_ca_bundle(config)
    made.verify = str(bundle) if bundle else True
    made.headers["User-Agent"] = f"jbuild/{__version__}"
    adapter = _Adapter(patience or Patience())
    made.mount("http://", adapter)
    made.mount("https://", adapter)
    return made


class _Session(requests.Session):
    def merge_environment_settings(self, url: Any, *args: Any, **kwargs: Any) -> Any:
        # requests lets REQUESTS_CA_BUNDLE win over the session's own bundle; the configuration has decided already.
        settings = super().merge_environment_settings(url, *args, **kwargs)
        settings["verify"] = self.verify
        if is_loopback(urlsplit(url).hostname or ""):
            settings["proxies"] = {}
        return settings


class _Adapter(HTTPAdapter):
    def __init__(self, patience: Patience) -> None:
        self._patience = patience
        super().__init__(pool_maxsize=_CONNECTIONS)

    def init_poolmanager(self, *args: Any, **kwargs: Any) -> None:
        # The default of 16 KiB a write holds uploads to a fraction of what a local network carries.
        super().init_poolmanager(*args, blocksize=_BLOCK, **kwargs)

    def send(self, request: requests.PreparedRequest, *args: Any, **kwargs: Any) -> requests.Response:
        if kwargs.get("timeout") is None:
            kwargs["timeout"] = (self._patience.connect_s, self._patience.read_s)
        return super().send(request, *args, **kwargs)


def is_loopback(host: str) -> bool:
    """Tell whether a host name or address is this machine."""
    name = host.strip("[]").lower()
    if name == "localhost" or name.endswith(".localhost"):
        return True
    try:
        return ipaddress.ip_address(name).is_loopback
    except ValueError:
        return False


@dataclass(frozen=True, kw_only=True, slots=True)
class Retry:
    """Tries again what can change: lost connections, time-outs, cut bodies, 429 and 5xx. Never another 4xx.

    Waits double from `first_wait_s` (seconds), with jitter. A `Retry-After` beyond `longest_wait_s` ends the tries,
    because a sooner one would be refused. No try begins later than `within_s` after the first. `on_retry` is told why
    and how long.
    """

    tries: int = 5
    first_wait_s: float = 0.5
    longest_wait_s: float = 60.0
    within_s: float = math.inf
    sleep: Callable[[float], object] = time.sleep
    jitter: Callable[[], float] = random.random
    clock: Callable[[], float] = time.monotonic
    on_retry: Callable[[str], object] | None = None

    def run(self, attempt: Callable[[], _T], *, progress: Callable[[], int] | None = None) -> _T:
        """Return what `attempt` returns; it reports failure by requests' exceptions (`raise_for_status`).

        Tries are counted anew whenever `progress` has grown, so that a large transfer that resumes may break often.

        Raises:
            requests.RequestException: the last failure.
        """
        failures, reached = 0, progress() if progress else 0
        begun = self.clock()
        while True:
            try:
                return attempt()
            except requests.RequestException as error:
                if progress and progress() > reached:
                    failures, reached = 0, progress()
                failures += 1
                wait = self._wait_s(error, failures)
                if wait is None or self.clock() + wait > begun + self.within_s:
                    raise
                if self.on_retry:
                    self.on_retry(f"{reason(error)}; trying again in {wait:.1f} s ({failures + 1} of {self.tries})")
            self.sleep(wait)

    def _wait_s(self, error: requests.RequestException, failures: int) -> float | None:
        if failures >= self.tries or not is_transient(error):
            return None
        own: float = self.first_wait_s * 2 ** (failures - 1) * (0.5 + self.jitter() / 2)
        asked = _retry_after_s(error.response)
        if asked > self.longest_wait_s:
            return None
        return max(asked, min(own, self.longest_wait_s))


def is_transient(error: requests.RequestException) -> bool:
    """Tell whether the same request may succeed a little later."""
    if isinstance(error, exceptions.HTTPError) and error.response is not None:
        status = error.response.status_code
        return status == _TOO_MANY_REQUESTS or (status >= _SERVER_FAULT and status not in _LASTING_FAULTS)
    if isinstance(error, exceptions.SSLError):
        # A connection that is cut inside TLS shows as an SSL error too; a certificate does not get better.
        return any(isinstance(cause, (ssl.SSLEOFError, ssl.SSLZeroReturnError)) for cause in causes(error))
    return isinstance(error, _TRANSIENT)


def _retry_after_s(response: requests.Response | None) -> float:
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
    """Yield an exception and everything that it was made from, as requests and urllib3 nest them."""
    queue, seen = [error], set[int]()
    while queue:
        each = queue.pop(0)
        if id(each) in seen:
            continue
        seen.add(id(each))
        yield each
        inner = (each.__cause__, each.__context__, getattr(each, "reason", None), *each.args)
        queue.extend(i for i in inner if isinstance(i, BaseException))


def reason(error: requests.RequestException) -> str:
    """Say in a few words why a request failed. Holds no address, so no credentials either."""
    if isinstance(error, exceptions.HTTPError) and error.response is not None:
        return f"the server answers {error.response.status_code} {error.response.reason or ''}".rstrip()
    if isinstance(error, exceptions.ProxyError):
        return "the proxy does not connect"
    inner = next(filter(None, map(_cause_reason, causes(error))), None)
    if inner:
        return inner
    for kind, text in _REASONS:
        if isinstance(error, kind):
            return text
    return type(error).__name__


def _cause_reason(cause: BaseException) -> str | None:
    if isinstance(cause, ssl.SSLCertVerificationError):
        return f"its TLS certificate is not trusted ({cause.verify_message})"
    if isinstance(cause, socket.gaierror):
        return "the host name is not known"
    if isinstance(cause, TimeoutError):
        return "no answer within the time limit"
    return _ERRNO_REASONS.get(cause.errno or 0) if isinstance(cause, OSError) else None


def is_untrusted(error: requests.RequestException) -> bool:
    """Tell whether a request failed because the server's certificate authority is not known."""
    return any(isinstance(cause, ssl.SSLCertVerificationError) for cause in causes(error))


def network_error(error: requests.RequestException, url: str) -> NetworkError:
    """Turn a failed request into an error that says where and what to do."""
    other = "check the address and the network (HTTPS_PROXY, NO_PROXY), then run it again"
    return NetworkError(reason(error), where=scrub(url), hint=CA_HINT if is_untrusted(error) else other)


def scrub(text: str) -> str:
    """Take user names, passwords and query strings (which may hold signatures) out of the addresses in a text."""
    bare = re.sub(r"(?i)\b(https?://)[^/\s?#\"']*@", r"\1", text)
    return re.sub(r"(?i)\b(https?://[^\s?#\"']*)\?[^\s\"']*", r"\1", bare)
