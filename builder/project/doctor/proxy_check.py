"""Checks proxies and certificate authorities."""

from __future__ import annotations

import os
import socket
import ssl
import time
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from builder.errors import EngineError
from builder.host.config import build_ca_bundle
from builder.host.engine.docker import proxies_of
from builder.project.doctor.check_table import ok, problem, skipped
from builder.remote.addresses import scrub

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from pathlib import Path

    from builder.project.doctor.check_table import Check, DoctorContext

_ANSWER_S = 4.0
_VARIABLES = ("HTTPS_PROXY", "https_proxy", "HTTP_PROXY", "http_proxy", "ALL_PROXY", "all_proxy")
_PORTS = {"http": 80, "https": 443, "socks5": 1080, "socks5h": 1080}
_MOST_NAMED = 3
_FEW = 10


def check(case: DoctorContext) -> Iterator[Check]:
    """Compare the environment's proxies with the engine's, then check every trusted file of authorities."""
    yield _proxy(case)
    yield from _certificates(case)


def _proxy(case: DoctorContext) -> Check:
    ours = {name: os.environ[name] for name in _VARIABLES if os.environ.get(name)}
    for variable, address in ours.items():
        failure = _unreachable(address)
        if failure:
            return problem("proxy", "unreachable", f"{variable}={_bare(address)}: {failure}", variable=variable)
    try:
        theirs = proxies_of(case.engine) if case.engine else {}
    except EngineError as error:
        return skipped("proxy", f"the engine's proxy is unknown: {error.message}")
    our_proxy, engine_proxy = next(iter(ours.values()), None), next(iter(theirs.values()), None)
    if our_proxy and case.engine and not engine_proxy:
        return problem(
            "proxy", "engine-without", f"{_bare(our_proxy)} here, none in the engine", proxy=_bare(our_proxy)
        )
    if engine_proxy and not our_proxy:
        return problem(
            "proxy", "engine-only", f"{_bare(engine_proxy)} in the engine, none here", proxy=_bare(engine_proxy)
        )
    if our_proxy is None:
        return skipped("proxy", "neither the environment nor the engine names one")
    return ok("proxy", ", ".join(dict.fromkeys(f"{_bare(address)} answers" for address in ours.values())))


def _bare(address: str) -> str:
    return scrub(address if "://" in address else f"http://{address}")


def _unreachable(address: str) -> str | None:
    try:
        url = urlsplit(address if "://" in address else f"http://{address}")
        address_pair = (url.hostname or "", url.port or _PORTS.get(url.scheme, 80))
        with socket.create_connection(address_pair, timeout=_ANSWER_S):
            return None
    except ValueError:
        return "it is not a valid address"
    except OSError as error:
        return error.strerror or "no answer within the time limit"


def _certificates(case: DoctorContext) -> Iterator[Check]:
    config = case.session.config
    bundle = build_ca_bundle(config)
    if bundle is None:
        yield problem("certificates", "none", "this machine has no file of authorities")
    registry_bundles = [settings.ca_bundle for settings in config.registry_settings if settings.ca_bundle]
    for path in dict.fromkeys(([bundle] if bundle else []) + registry_bundles):
        yield _bundle(path)


def _bundle(path: Path) -> Check:
    """Check a file of authorities. A system's hundred may have expired ones; a company's few should not."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    try:
        context.load_verify_locations(cafile=path)
    except (OSError, ValueError) as error:
        cause = error.reason if isinstance(error, ssl.SSLError) else getattr(error, "strerror", None)
        return problem("certificates", "unreadable", f"{path}: {cause or error}", file=str(path))
    authorities = context.get_ca_certs()
    count = context.cert_store_stats()["x509"]
    expired = [
        _subject(certificate)
        for certificate in authorities
        if ssl.cert_time_to_seconds(str(certificate["notAfter"])) < time.time()
    ]
    if expired and (len(expired) == len(authorities) or count <= _FEW):
        more = f" and {len(expired) - _MOST_NAMED} more" if len(expired) > _MOST_NAMED else ""
        text = f"{path}: expired: {', '.join(expired[:_MOST_NAMED])}{more}"
        return problem("certificates", "expired", text, file=str(path))
    return ok("certificates", f"{path}: {count} authorities" + (f", {len(expired)} of them expired" if expired else ""))


def _subject(certificate: Mapping[str, Any]) -> str:
    names = {key: value for attributes in certificate["subject"] for key, value in attributes}
    return str(names.get("commonName") or names.get("organizationName") or "one without a name")
