"""vLLM's own benchmark in a container that is not there: what is run, what is read, and what happens where it fails."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import pytest
from engine_factory import SERVICE, Fake, running_container
from openai_server import LOAD, at, running

from builder.device.measure import ANY_PORT, BenchmarkMissingError, BenchTarget, bench, measure_inside
from builder.device.service_container import await_ready
from builder.errors import SmokeError
from builder.host.console import Console
from builder.remote.openai import OpenAIServer

if TYPE_CHECKING:
    from openai_server import Stand

WRITTEN = Path(__file__).with_name("vllm_bench.json").read_bytes()
QUIET = Console(quiet=True)


class Container(Fake):
    """A container in which the benchmark ends with a code, and writes something."""

    name = "fake"

    def __init__(self, code: int = 0, written: bytes = WRITTEN, said: bytes = b"") -> None:
        super().__init__()
        self.ends, self.written, self.said = code, written, said
        self.ran: list[tuple[list[str], dict[str, str]]] = []

    def exec_run(self, argv: list[str], *, demux: bool, environment: dict[str, str]) -> Any:
        self.ran.append((argv, environment))
        if argv[0] == "cat":
            return SimpleNamespace(exit_code=0, output=(self.written, None))
        return SimpleNamespace(exit_code=self.ends, output=(None, self.said))


def target(server: Stand, container: Container | None, level: str = "cpu") -> BenchTarget:
    running = running_container(container) if container else None
    return BenchTarget(server=at(server, key="k"), subject="x", level=level, container=running, port=8000)


def test_it_is_run_once_for_each_concurrency_with_the_key_in_its_environment() -> None:
    container = Container()
    with running() as server:
        found = bench(target(server, container), LOAD, (1, 4), "auto", QUIET)
    assert (found.client, found.remarks) == ("vllm bench serve", ())
    assert [step.concurrency for step in found.steps] == [1, 4]
    argvs = [argv for argv, _ in container.ran if argv[0] != "cat"]
    assert [word for argv in argvs for word in argv if "concurrency" in word] == [
        "--max-concurrency=1",
        "--max-concurrency=4",
    ]
    assert "--tokenizer=/models/tiny" in argvs[0]
    assert container.ran[0][1] == {"OPENAI_API_KEY": "k"}
    assert not any(word.partition("=")[2] == "k" for argv in argvs for word in argv)


def test_where_it_fails_ours_takes_over_and_says_why() -> None:
    container = Container(code=2, said=b"vllm: no such command: bench\n")
    with running() as server:
        found = bench(target(server, container), LOAD, (1, 2), "auto", QUIET)
        assert found.client == "jbuild"
        assert found.remarks == ("jbuild's client: `vllm bench serve` ended with exit code 2",)
        assert [step.answered for step in found.steps] == [4, 4]
        with pytest.raises(BenchmarkMissingError, match="exit code 2") as caught:
            bench(target(server, container), LOAD, (1,), "vllm", QUIET)
    assert caught.value.log == "vllm: no such command: bench"
    assert "--client jbuild" in str(caught.value.hint)


@pytest.mark.parametrize("written", [b"", b"{}", b"[]", b'{"completed": "x"}', json.dumps({"completed": 1}).encode()])
def test_results_that_cannot_be_read(written: bytes) -> None:
    container = Container(written=written)
    server = OpenAIServer(url="http://127.0.0.1:1")
    keyless = BenchTarget(server=server, subject="x", container=running_container(container), port=8000)
    with pytest.raises(BenchmarkMissingError, match="cannot be read"):
        measure_inside(keyless, ("tiny", "/models/tiny"), LOAD, 1)
    assert container.ran[0][1] == {}


def test_under_emulation_it_would_measure_itself() -> None:
    container = Container()
    with running() as server:
        found = bench(target(server, container, "emulated"), LOAD, (1,), "auto", QUIET)
    assert found.client == "jbuild"
    assert "emulated too" in found.remarks[0]
    assert container.ran == []


def test_a_choice_is_kept() -> None:
    container = Container()
    with running() as server:
        assert bench(target(server, container), LOAD, (1,), "jbuild", QUIET).client == "jbuild"
        assert bench(target(server, container, "emulated"), LOAD, (1,), "vllm", QUIET).client == "vllm bench serve"


class Starting(Container):
    """A container whose server is not there yet."""

    def __init__(self, *, running: bool, code: int = 0) -> None:
        super().__init__()
        self.attrs["State"]["Running"] = running
        self.code, self.log = code, (b"loading\n",)


ANYWHERE = replace(SERVICE, published=ANY_PORT)


def test_a_server_is_ready_once_its_port_is_published_and_answers() -> None:
    with running() as server:
        port = server.server_address[1]
        container = Starting(running=True)
        container.ports["8000/tcp"] = [{"HostIp": "127.0.0.1", "HostPort": str(port)}]
        url, _ = await_ready(running_container(container), ANYWHERE, QUIET)
        assert (url, server.paths) == (f"http://127.0.0.1:{port}", ["/health"])
        fixed = replace(SERVICE, published=replace(ANY_PORT, port=port))
        assert await_ready(running_container(Starting(running=True)), fixed, QUIET)[0] == url


def test_a_server_that_ends_before_it_is_ready() -> None:
    failed = running_container(Starting(running=False, code=3))
    with pytest.raises(SmokeError, match="ended with exit code 3") as caught:
        await_ready(failed, ANYWHERE, QUIET)
    assert caught.value.log == "loading"
    done = running_container(Starting(running=False))
    with pytest.raises(SmokeError, match="ended before it was ready"):
        await_ready(done, ANYWHERE, QUIET)


def test_a_server_that_is_never_ready() -> None:
    nowhere = replace(ANYWHERE, published=replace(ANY_PORT, port=9), health=replace(SERVICE.health, start_period_s=1))
    with pytest.raises(SmokeError, match="not ready within 1 s") as caught:
        await_ready(running_container(Starting(running=True)), nowhere, QUIET)
    assert caught.value.log == "loading"
    assert "ready-within-s" in str(caught.value.hint)
