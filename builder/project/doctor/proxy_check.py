"""Proxies and certificate authorities: what lies between this machine and everybody else."""

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
from builder.project.doctor.check_table import fine, idle, trouble
from builder.remote.http import scrub

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from pathlib import Path

    from builder.project.doctor.check_records import Check, DoctorContext

_ANSWER_S = 4.0
_VARIABLES = ("HTTPS_PROXY", "https_proxy", "HTTP_PROXY", "http_proxy", "ALL_PROXY", "all_proxy")
_PORTS = {"http": 80, "https": 443, "socks5": 1080, "socks5h": 1080}
_SHOWN = 3
_FEW = 10


def check(case: DoctorContext) -> Iterator[Check]:
    """Look at the environment's proxies beside the engine's, then at every file of authorities that is trusted."""
    yield _proxy(case)
    yield from _certificates(case)


def _proxy(case: DoctorContext) -> Check:
    ours = {name: os.environ[name] for name in _VARIABLES if os.environ.get(name)}
    for variable, address in ours.items():
        failure = _unreachable(address)
        if failure:
            return trouble("proxy", "unreachable", f"{variable}={_bare(address)}: {failure}", variable=variable)
    try:
        theirs = proxies_of(case.engine) if case.engine else {}
    except EngineError as error:
        return idle("proxy", f"the engine does not tell its own: {error.message}")
    own, others = next(iter(ours.values()), None), next(iter(theirs.values()), None)
    if own and case.engine and not others:
        return trouble("proxy", "engine-without", f"{_bare(own)} here, none in the engine", proxy=_bare(own))
    if others and not own:
        return trouble("proxy", "engine-only", f"{_bare(others)} in the engine, none here", proxy=_bare(others))
    if own is None:
        return idle("proxy", "neither the environment nor the engine names one")
    return fine("proxy", ", ".join(dict.fromkeys(f"{_bare(each)} answers" for each in ours.values())))


def _bare(address: str) -> str:
    return scrub(address if "://" in address else f"http://{address}")


def _unreachable(address: str) -> str | None:
    try:
        parts = urlsplit(address if "://" in address else f"http://{address}")
        place = (parts.hostname or "", parts.port or _PORTS.get(parts.scheme, 80))
        with socket.create_connection(place, timeout=_ANSWER_S):
            return None
    except ValueError:
        return "it is no address"
    except OSError as error:
        return error.strerror or "no answer within the time limit"


def _certificates(case: DoctorContext) -> Iterator[Check]:
    config = case.session.config
    bundle = build_ca_bundle(config)
    if bundle is None:
        yield trouble("certificates", "none", "no file of authorities on this machine")
    own = [each.ca_bundle for each in config.registry_settings if each.ca_bundle]
    for path in dict.fromkeys(([bundle] if bundle else []) + own):
        yield _bundle(path)


def _bundle(path: Path) -> Check:
    """Read a file of authorities. Among the hundred of a system some have expired; among one's own none should."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    try:
        context.load_verify_locations(cafile=path)
    except (OSError, ValueError) as error:
        said = error.reason if isinstance(error, ssl.SSLError) else getattr(error, "strerror", None)
        return trouble("certificates", "unreadable", f"{path}: {said or error}", file=str(path))
    authorities = context.get_ca_certs()
    count = context.cert_store_stats()["x509"]
    gone = [_subject(each) for each in authorities if ssl.cert_time_to_seconds(str(each["notAfter"])) < time.time()]
    if gone and (len(gone) == len(authorities) or count <= _FEW):
        more = f" and {len(gone) - _SHOWN} more" if len(gone) > _SHOWN else ""
        found = f"{path}: expired: {', '.join(gone[:_SHOWN])}{more}"
        return trouble("certificates", "expired", found, file=str(path))
    return fine("certificates", f"{path}: {count} authorities" + (f", {len(gone)} of them expired" if gone else ""))


def _subject(certificate: Mapping[str, Any]) -> str:
    names = {key: value for part in certificate["subject"] for key, value in part}
    return str(names.get("commonName") or names.get("organizationName") or "one without a name")
