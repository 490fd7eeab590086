"""Measures a server at several concurrencies, with the client that fits it."""

from __future__ import annotations

from contextlib import contextmanager
from dataclasses import dataclass, replace
from datetime import datetime, timezone
from typing import TYPE_CHECKING, Literal

from builder.device.bench.load_client import measure, served_model
from builder.device.bench.measurement import Bench, LoadStep
from builder.device.bench.vllm_bench import BenchmarkMissingError, measure_inside
from builder.device.serve import service_container as containers
from builder.device.serve.service_records import Published
from builder.errors import EngineError, SmokeError
from builder.remote.openai import OpenAIServer

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from docker import DockerClient

    from builder.device.bench.measurement import Client, Load
    from builder.device.serve.service_records import Service
    from builder.host.console import Console
    from builder.host.engine.container import RunningContainer
    from builder.host.engine.docker import Engine

Choice = Literal["auto", "vllm", "jbuild"]
# A server that runs already keeps its own port.
ANY_PORT = Published(address="127.0.0.1", port=None)


@dataclass(frozen=True, kw_only=True, slots=True)
class BenchTarget:
    """A server that answers: where, what it is, and its container if we have it. `level` as a verdict's."""

    server: OpenAIServer
    subject: str
    level: str | None = None
    container: RunningContainer | None = None
    port: int | None = None
    ready_s: float | None = None


@contextmanager
def started(
    client: DockerClient, service: Service, engine: Engine, console: Console, *, hint: str
) -> Iterator[BenchTarget]:
    """Give a service's server once it answers, in a container beside any other of it.

    Raises:
        EngineError: the engine cannot run it, or is another machine's.
        SmokeError: the server does not get ready.
    """
    if not engine.is_local:
        raise EngineError(
            "the engine is on another machine, whose loopback cannot be reached",
            where=engine.endpoint,
            hint="start the server there with `jbuild run --detach`, and measure it with --url",
        )
    containers.check_engine(service, engine)
    service = replace(service, name=f"{service.name}-bench", published=ANY_PORT)
    containers.provide(client, service.image, service.platform, console, hint=hint)
    with containers.started(client, service) as container:
        url, ready_s = containers.await_ready(container, service, console)
        yield BenchTarget(
            server=OpenAIServer(url=url, key=dict(service.environment).get("VLLM_API_KEY")),
            subject=service.image,
            level=_level(service, engine),
            container=container,
            port=service.port,
            ready_s=ready_s,
        )


def _level(service: Service, engine: Engine) -> str:
    if not service.platform.endswith(f"/{engine.architecture}"):
        return "emulated"
    return "gpu" if service.nvidia else "cpu"


def bench(target: BenchTarget, load: Load, concurrencies: Sequence[int], choice: Choice, console: Console) -> Bench:
    """Return what was measured.

    With `auto` vLLM's own benchmark is used where it runs beside the server without emulation and works.

    Raises:
        SmokeError: the server does not answer, or `vllm` was chosen and its benchmark does not work.
    """
    served = served_model(target.server)
    model, root = served.name, served.root
    client, why = _client(target, choice, root)
    if target.level == "emulated":
        requests = load.prompts * len(concurrencies)
        console.warn(
            f"{target.subject} is emulated: {requests} answers may take hours; --prompts 2 --concurrency 1 tries it"
        )
    steps: list[LoadStep] = []
    for concurrency in concurrencies:
        with console.task(f"{concurrency} at once", load.prompts, unit="answers") as task:
            if client == "vllm bench serve":
                try:
                    steps.append(_inside(target, (model, root or model), load, concurrency))
                    continue
                except BenchmarkMissingError as error:
                    if choice == "vllm" or steps:
                        raise
                    client, why = "jbuild", f"jbuild's client: {error.message}"
            steps.append(measure(target.server, model, load, concurrency, task.advance))
        console.say(f"{concurrency} at once: {steps[-1].tokens_per_s:g} tokens/s")
    return Bench(
        subject=target.subject,
        model=model,
        client=client,
        level=target.level,
        when=datetime.now(timezone.utc).isoformat(timespec="seconds"),
        load=load,
        steps=tuple(steps),
        ready_s=target.ready_s,
        remarks=(why,) if why else (),
    )


def _client(target: BenchTarget, choice: Choice, root: str | None) -> tuple[Client, str | None]:
    if choice == "jbuild":
        return "jbuild", None
    if target.container is None:
        if choice == "vllm":
            raise SmokeError(
                "vLLM's benchmark runs in the server's container, and an address has none",
                where=target.subject,
                hint="leave --client out",
            )
        return "jbuild", "jbuild's client: the server's container is not ours"
    if choice == "vllm":
        return "vllm bench serve", None
    if target.level == "emulated":
        return "jbuild", "jbuild's client: vLLM's would be emulated too, and measure itself"
    if root is None:
        return "jbuild", "jbuild's client: the server does not say where its tokenizer is"
    return "vllm bench serve", None


def _inside(target: BenchTarget, names: tuple[str, str], load: Load, concurrency: int) -> LoadStep:
    if target.container is None or target.port is None:
        raise AssertionError("vLLM's benchmark is chosen for containers only")
    return measure_inside(target.container, target.port, names, load, concurrency, target.server.key)
