"""What is found out about registries before the first stage of a run."""

from __future__ import annotations

import socket
from dataclasses import replace
from typing import TYPE_CHECKING

import pytest
from tiny_index import HTML, Answer, TinyIndex, tiny_index

from builder.errors import RegistryError
from builder.host.console import Console
from builder.publish import registry_check
from builder.publish.registry_check import check_registries
from builder.remote.http import Patience

if TYPE_CHECKING:
    from collections.abc import Iterator

    from builder.host.session import Session
    from builder.model.recipes import OnFailure

NO_BYTES = "sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"


@pytest.fixture(autouse=True)
def _short_limits(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(registry_check, "_RETRY_WITHIN_S", 0.0)
    monkeypatch.setattr(registry_check, "_PATIENCE", Patience(read_s=0.3))


@pytest.fixture
def registry() -> Iterator[TinyIndex]:
    """A server that has no blobs, as an empty registry."""
    with tiny_index() as server:
        yield server


@pytest.fixture
def closed() -> str:
    """An address that nobody listens on."""
    with socket.create_server(("127.0.0.1", 0)) as gone:
        return f"127.0.0.1:{gone.getsockname()[1]}"


def check(session: Session, *hosts: str, on_failure: OnFailure = "none") -> None:
    check_registries([(tuple(f"{host}/edge/vllm" for host in hosts), on_failure)], session)


def test_a_registry_gets_one_request_for_all_images(session: Session, registry: TinyIndex) -> None:
    image = (f"{registry.host}/edge/vllm",)
    check_registries([(image, "none"), (image, "complete-others")], session)
    assert registry.asked == [f"/v2/edge/vllm/blobs/{NO_BYTES}"]


@pytest.mark.parametrize(
    ("answer", "said", "hint"),
    [
        (Answer(status=403, kind="text/plain"), "the push would fail: the registry answers 403", "may not push"),
        (Answer(status=503, kind="text/plain"), "the push would fail: the registry answers 503", "is down or starting"),
        (Answer(status=404, kind=HTML), "the push would fail: a web page answers", "in a browser"),
        (Answer(status=200, kind=HTML), "the push would fail: a web page answers", "in a browser"),
    ],
)
def test_a_registry_that_refuses(session: Session, registry: TinyIndex, answer: Answer, said: str, hint: str) -> None:
    registry.faults["*"] = [answer]
    with pytest.raises(RegistryError, match=said) as caught:
        check(session, registry.host)
    assert hint in (caught.value.hint or "")
    assert caught.value.where == f"{registry.host}/edge/vllm"


def test_a_registry_that_is_down_and_one_that_wants_a_log_in(
    session: Session, registry: TinyIndex, closed: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    registry.login = "me:secret"
    with pytest.raises(RegistryError) as caught:
        check(session, registry.host, closed)
    assert f"{registry.host}/edge/vllm: the push would fail: the registry answers 401" in caught.value.message
    assert f"{closed}/edge/vllm: the push would fail: connection refused" in caught.value.message
    assert f"docker login {registry.host}" in (caught.value.hint or "")
    monkeypatch.setenv("JBUILD_REGISTRY_USER", "me")
    monkeypatch.setenv("JBUILD_REGISTRY_PASSWORD", "secret")
    check(session, registry.host)


def test_a_registry_that_is_slow_or_busy_is_left_to_the_push(session: Session, registry: TinyIndex) -> None:
    registry.faults["*"] = [Answer(status=429)]
    with socket.create_server(("127.0.0.1", 0)) as silent:
        check(session, registry.host, f"127.0.0.1:{silent.getsockname()[1]}")
    assert len(registry.asked) == 1


def test_others_are_completed_while_one_answers(
    session: Session, registry: TinyIndex, closed: str, capsys: pytest.CaptureFixture[str]
) -> None:
    loud = replace(session, console=Console())
    check(loud, registry.host, closed, on_failure="complete-others")
    assert capsys.readouterr().err == f"warning: {closed}/edge/vllm: the push would fail: connection refused\n"
    with pytest.raises(RegistryError, match="connection refused"):
        check(loud, closed, on_failure="complete-others")
