"""Proxies and certificate authorities."""

from __future__ import annotations

import socket
from typing import TYPE_CHECKING

import pytest
from doctor_parts import make_case, named
from engine_factory import make_engine

from builder.host.config import Config, RegistrySettings
from builder.host.session import Session
from builder.project.doctor import proxy_check

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

# Two authorities of nobody's: one of 2020, one until 2120.
EXPIRED = """-----BEGIN CERTIFICATE-----
MIIBMjCB2qADAgECAgEBMAoGCCqGSM49BAMCMBkxFzAVBgNVBAMMDk9sZCBDb21w
YW55IENBMB4XDTIwMDEwMTAwMDAwMFoXDTIxMDEwMTAwMDAwMFowGTEXMBUGA1UE
AwwOT2xkIENvbXBhbnkgQ0EwWTATBgcqhkjOPQIBBggqhkjOPQMBBwNCAAS19ynB
1L1i9iKp/MiPgNRyDEBxa2+FtqVBWYzRHqpvNznRecmieXL7jPAOY1cmIj0Ca3pk
/8NiSLAsZg+VDwqkoxMwETAPBgNVHRMBAf8EBTADAQH/MAoGCCqGSM49BAMCA0cA
MEQCIDCn1FBk4lmqQtihlKrMnEovPgxiGki9aK1+UIlikJ+fAiBv2J9Lc8uh+PMc
JSJwYheVJY1PCuydkaX1jzypHURuRQ==
-----END CERTIFICATE-----
"""
GOOD = """-----BEGIN CERTIFICATE-----
MIIBLTCB1KADAgECAgEBMAoGCCqGSM49BAMCMBUxEzARBgNVBAMMCkNvbXBhbnkg
Q0EwIBcNMjAwMTAxMDAwMDAwWhgPMjEyMDAxMDEwMDAwMDBaMBUxEzARBgNVBAMM
CkNvbXBhbnkgQ0EwWTATBgcqhkjOPQIBBggqhkjOPQMBBwNCAARpYVtux4lybvRU
sEb1llgKk80A35jyHk+QnBAE7H23GEiIahobdPkoNmsxmE47sAuG++spW4YA7p0P
QE79sMczoxMwETAPBgNVHRMBAf8EBTADAQH/MAoGCCqGSM49BAMCA0gAMEUCIEtz
SZ9M2PGkGXFcrkWolSwkJeQZbkqFW/zBDLdVZJa8AiEAghKa3FCiv7cy/35yI7OU
AFI/HGm2YTm2erX8AH4ih44=
-----END CERTIFICATE-----
"""


@pytest.fixture
def proxy() -> Iterator[str]:
    with socket.create_server(("127.0.0.1", 0)) as listening:
        yield f"http://user:secret@127.0.0.1:{listening.getsockname()[1]}"


@pytest.fixture
def engine_proxies(monkeypatch: pytest.MonkeyPatch) -> dict[str, str]:
    found: dict[str, str] = {}
    monkeypatch.setattr(proxy_check, "proxies_of", lambda _: found)
    return found


def look(session: Session, **changes: object) -> list:  # type: ignore[type-arg]
    return list(proxy_check.check(make_case(session, engine=make_engine(), **changes)))


@pytest.mark.usefixtures("engine_proxies")
def test_no_proxy_anywhere(session: Session) -> None:
    assert named(look(session), "proxy").state == "not applicable"


def test_a_proxy_here_and_none_in_the_engine(
    session: Session, engine_proxies: dict[str, str], proxy: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HTTPS_PROXY", proxy)
    found = named(look(session), "proxy")
    assert found.state == "warning"
    assert "none in the engine" in found.found
    assert "docker.service.d" in (found.mend or "")
    assert "secret" not in f"{found.found}{found.mend}"
    engine_proxies["HTTPS_PROXY"] = proxy
    assert named(look(session), "proxy").state == "ok"


def test_a_proxy_in_the_engine_only(session: Session, engine_proxies: dict[str, str]) -> None:
    engine_proxies["HTTP_PROXY"] = "http://proxy.example:3128"
    found = named(look(session), "proxy")
    assert (found.state, found.found) == ("warning", "http://proxy.example:3128 in the engine, none here")


@pytest.mark.usefixtures("engine_proxies")
@pytest.mark.parametrize(("address", "why"), [("127.0.0.1:{port}", "refused"), ("http://a:b:c", "not a valid address")])
def test_a_proxy_that_nobody_answers_at(
    session: Session, monkeypatch: pytest.MonkeyPatch, address: str, why: str
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as gone:
        port = gone.getsockname()[1]
    monkeypatch.setenv("http_proxy", address.format(port=port))
    found = named(look(session), "proxy")
    assert found.state == "error"
    assert why in found.found
    assert found.mend == "correct http_proxy, or unset it"


def bundle(session: Session, path: Path, content: str) -> Session:
    path.write_text(content)
    return Session(workspace=session.workspace, config=Config(ca_bundle=path), console=session.console)


@pytest.mark.usefixtures("engine_proxies")
@pytest.mark.parametrize(
    ("content", "state", "said"),
    [
        (GOOD, "ok", "1 authorities"),
        (EXPIRED, "warning", "expired: Old Company CA"),
        (GOOD + EXPIRED, "warning", "expired: Old Company CA"),
        (GOOD * 12 + EXPIRED, "warning", "expired"),
        ("", "error", "authorities.pem"),
        ("-----BEGIN CERTIFICATE-----\nMIIB\n-----END CERTIFICATE-----\n", "error", "authorities.pem"),
    ],
)
def test_files_of_authorities(session: Session, tmp_path: Path, content: str, state: str, said: str) -> None:
    found = named(look(bundle(session, tmp_path / "authorities.pem", content)), "certificates")
    assert (found.state, said in found.found) == (state, True)


@pytest.mark.usefixtures("engine_proxies")
def test_a_registrys_own_authority_is_looked_at_too(session: Session, tmp_path: Path) -> None:
    good, own = tmp_path / "all.pem", tmp_path / "own.pem"
    own.write_text("nothing of the kind")
    config = Config(ca_bundle=good, registry_settings=(RegistrySettings(host="r.example", ca_bundle=own),))
    good.write_text(GOOD)
    checks = look(Session(workspace=session.workspace, config=config, console=session.console))
    assert [check.state for check in checks if check.name == "certificates"] == ["ok", "error"]


@pytest.mark.usefixtures("engine_proxies")
def test_a_machine_without_any_authority(session: Session, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("builder.host.config._SYSTEM_CA_FILES", ("/nowhere/ca.crt",))
    found = named(look(session), "certificates")
    assert found.state == "warning"
    assert "ca-certificates" in (found.mend or "")
