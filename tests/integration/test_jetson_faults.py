"""Every fault of the stand-in for the Jetson AI Lab index, as a plain client sees it."""

from __future__ import annotations

import http.client
import time
from typing import TYPE_CHECKING, Any

import pytest
from jetson_client import CU126, TORCH, TORCH_FILE, TORCH_PAGE, ask
from jetson_faults import GARBAGE, KINDS
from jetson_index import JetsonIndex, running_jetson_index

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path


def test_a_status_is_answered_as_often_as_said(jetson_index: JetsonIndex) -> None:
    jetson_index.fails(r"GET /jp6/cu126/\+simple/torch/", "503", times=2)
    jetson_index.fails(r"/\+simple/vllm/", "429", times=None, headers={"Retry-After": "7"})
    assert [ask(jetson_index, TORCH_PAGE)[0] for _ in range(3)] == [503, 503, 200]
    assert ask(jetson_index, "/jp6/cu128/+simple/torch/")[0] == 200
    for _ in range(3):
        status, headers, _ = ask(jetson_index, f"/{CU126}/+simple/vllm/")
        assert (status, headers["Retry-After"]) == (429, "7")
    jetson_index.fails(r"\+f/", "404", times=1)
    assert (ask(jetson_index, TORCH_FILE)[0], ask(jetson_index, TORCH_FILE)[0]) == (404, 200)


def empty(jetson_index: JetsonIndex) -> None:
    assert ask(jetson_index, TORCH_PAGE)[::2] == (200, b"")


def garbage(jetson_index: JetsonIndex) -> None:
    status, headers, body = ask(jetson_index, TORCH_PAGE)
    assert (status, headers["Content-Type"], body) == (200, "text/html; charset=UTF-8", GARBAGE)


def wrong_type(jetson_index: JetsonIndex) -> None:
    status, headers, body = ask(jetson_index, TORCH_PAGE)
    assert (status, headers["Content-Type"], TORCH.encode() in body) == (200, "application/pdf", True)


def reset(jetson_index: JetsonIndex) -> None:
    with pytest.raises(ConnectionResetError):
        ask(jetson_index, TORCH_FILE)


def cut(jetson_index: JetsonIndex) -> None:
    with pytest.raises(http.client.IncompleteRead):
        ask(jetson_index, TORCH_FILE)


def half(jetson_index: JetsonIndex) -> None:
    status, headers, body = ask(jetson_index, TORCH_FILE)
    assert (status, headers["Content-Length"]) == (200, str(len(body)))
    assert ask(jetson_index, TORCH_FILE)[2][: len(body)] == body, "the fault is spent, and what came was the beginning"
    assert 0 < len(body) < len(ask(jetson_index, TORCH_FILE)[2])


def corrupt(jetson_index: JetsonIndex) -> None:
    wrong, right = ask(jetson_index, TORCH_FILE)[2], ask(jetson_index, TORCH_FILE)[2]
    assert sum(a != b for a, b in zip(wrong, right, strict=True)) == 1


def slow(jetson_index: JetsonIndex) -> None:
    begun = time.monotonic()
    assert ask(jetson_index, TORCH_PAGE)[0] == 200
    assert time.monotonic() - begun > 0.3


def drip(jetson_index: JetsonIndex) -> None:
    connection = http.client.HTTPConnection(jetson_index.host, timeout=10)
    connection.request("GET", TORCH_PAGE)
    begun = time.monotonic()
    answer = connection.getresponse()
    body = answer.read()
    connection.close()
    assert body.endswith(b"</body></html>")
    assert time.monotonic() - begun > 0.25


def huge(jetson_index: JetsonIndex) -> None:
    connection = http.client.HTTPConnection(jetson_index.host, timeout=10)
    connection.request("GET", TORCH_PAGE)
    answer = connection.getresponse()
    begin, count = answer.read(200), 200
    while block := answer.read(1 << 20):
        count += len(block)
    connection.close()
    assert (count, answer.headers["Content-Length"]) == (100_000_000, "100000000")
    assert b'<a href="../../+f/000/0000000000000/torch-0.0.0-py3-none-any.whl">' in begin


OBSERVED: dict[str, Callable[[JetsonIndex], None]] = {
    "empty": empty,
    "garbage": garbage,
    "wrong-type": wrong_type,
    "reset": reset,
    "cut": cut,
    "half": half,
    "corrupt": corrupt,
    "slow": slow,
    "drip": drip,
    "huge": huge,
}


def test_every_fault_is_observed() -> None:
    assert set(OBSERVED) == set(KINDS)


@pytest.mark.parametrize("kind", OBSERVED)
def test_faults_are_seen_by_a_plain_client(jetson_index: JetsonIndex, kind: str) -> None:
    details: dict[str, Any] = {"seconds": 0.4} if kind in ("slow", "drip") else {}
    jetson_index.fails("torch", kind, **details)
    OBSERVED[kind](jetson_index)
    assert ask(jetson_index, TORCH_PAGE)[0] == 200


def test_a_fault_that_is_none_is_refused(jetson_index: JetsonIndex) -> None:
    with pytest.raises(ValueError, match="fire is no fault"):
        jetson_index.fails("torch", "fire")


def test_the_server_ends_while_a_client_waits(jetson_sets: Path) -> None:
    with running_jetson_index(jetson_sets) as index:
        index.fails("torch", "slow", seconds=600)
        connection = http.client.HTTPConnection(index.host, timeout=10)
        connection.request("GET", TORCH_PAGE)
    connection.close()
