"""Measures a server at several concurrencies: with vLLM's own benchmark in its container, or with jbuild's client."""

from __future__ import annotations

import json
from contextlib import contextmanager
from dataclasses import dataclass, replace
from datetime import datetime, timezone
from typing import TYPE_CHECKING, Any, Literal

from builder.device import service_container as containers
from builder.device.load_client import Load, LoadStep, Percentiles, measure, served_model
from builder.device.service import on_host_network
from builder.device.service_records import Published
from builder.errors import EngineError, SmokeError
from builder.host.engine.container import printable_log
from builder.model.images import ENVIRONMENT
from builder.remote.openai import OpenAIServer
from builder.smoke.launch import free_port

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from docker import DockerClient

    from builder.device.service_records import Service
    from builder.host.console import Console
    from builder.host.engine.container import RunningContainer
    from builder.host.engine.docker import Engine

# vLLM's own benchmark inside the image, or jbuild's client from outside.
Client = Literal["vllm bench serve", "jbuild"]
Choice = Literal["auto", "vllm", "jbuild"]
# Another server may have taken the recipe's port.
ANY_PORT = Published(address="127.0.0.1", port=None)
_PROGRAM = f"{ENVIRONMENT}/bin/vllm"
_FOLDER, _FILE = "/tmp", "jbuild-bench.json"  # noqa: S108  # in the container
_PERCENTILES = "50,95,99"
_TAIL = 2000
_ALTERNATIVE = "`--client jbuild` measures it from outside"


class BenchmarkMissingError(SmokeError):
    """The image lacks a working benchmark of vLLM."""


@dataclass(frozen=True, kw_only=True, slots=True)
class BenchTarget:
    """A server that answers, its image or address, its level (see `Bench`), and its container if jbuild started it."""

    server: OpenAIServer
    subject: str
    level: str | None = None
    container: RunningContainer | None = None
    port: int | None = None
    ready_s: float | None = None


@dataclass(frozen=True, kw_only=True, slots=True)
class Bench:
    """A measurement of one server.

    `subject` is an image or an address, `level` that of a smoke run there (None if unknown), `when` the time (UTC,
    ISO 8601). `remarks` give the reason for the client.
    """

    subject: str
    model: str
    client: Client
    level: str | None
    when: str
    load: Load
    steps: tuple[LoadStep, ...]
    ready_s: float | None = None
    remarks: tuple[str, ...] = ()


@contextmanager
def started(
    client: DockerClient, service: Service, engine: Engine, console: Console, *, hint: str
) -> Iterator[BenchTarget]:
    """Start a service for the block, beside running containers of it; yield its server once it answers.

    Raises:
        EngineError: the engine cannot run it, or is on another machine.
        SmokeError: the server does not get ready.
    """
    if not engine.is_local:
        raise EngineError(
            "the engine is on another machine, and jbuild cannot reach that machine's loopback",
            where=engine.endpoint,
            hint="start the server there with `jbuild run --detach`, and measure it with --url",
        )
    containers.check_engine(service, engine)
    service = replace(service, name=f"{service.name}-bench", published=ANY_PORT)
    if service.host_network:
        service = on_host_network(service, free_port())
    containers.provide(client, service.image, service.platform, console, hint=hint)
    with containers.started(client, service) as container:
        url, ready_s = containers.await_ready(container, service, console)
        yield BenchTarget(
            server=OpenAIServer(url=url, key=service.api_key),
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
    """Measure a server. `auto` chooses vLLM's own benchmark if it works beside the server without emulation.

    Raises:
        SmokeError: the server does not answer, or `vllm` is chosen and its benchmark fails.
    """
    served = served_model(target.server)
    client, why = _client(target, choice, served.root)
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
                    steps.append(measure_inside(target, (served.name, served.root or served.name), load, concurrency))
                    continue
                except BenchmarkMissingError as error:
                    if choice == "vllm" or steps:
                        raise
                    client, why = "jbuild", f"jbuild's client: {error.message}"
            steps.append(measure(target.server, served.name, load, concurrency, task.advance))
        console.say(f"{concurrency} at once: {steps[-1].tokens_per_s:g} tokens/s")
    return Bench(
        subject=target.subject,
        model=served.name,
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
                "vLLM's benchmark runs in the server's container, but jbuild knows only the address",
                where=target.subject,
                hint="leave --client out",
            )
        return "jbuild", "jbuild's client: jbuild did not start the server's container"
    if choice == "vllm":
        return "vllm bench serve", None
    if target.level == "emulated":
        return "jbuild", "jbuild's client: vLLM's client would be emulated too, and would measure itself"
    if root is None:
        return "jbuild", "jbuild's client: the server does not name the folder of its tokenizer"
    return "vllm bench serve", None


def measure_inside(target: BenchTarget, names: tuple[str, str], load: Load, concurrency: int) -> LoadStep:
    """Return the figures of vLLM's benchmark; `names` are the model's served name and its folder in the container.

    Raises:
        BenchmarkMissingError: the image lacks the benchmark, or it failed.
    """
    container, key = target.container, target.server.key
    if container is None or target.port is None:
        raise AssertionError("vLLM's benchmark is chosen for containers only")
    # The benchmark reads the key from this variable. Every process could read an argument.
    environment = {"OPENAI_API_KEY": key} if key else {}
    code, stdout, stderr = container.execute(command(target.port, names, load, concurrency), environment)
    if code != 0:
        message = f"`vllm bench serve` ended with exit code {code}"
        log = printable_log((stdout + stderr)[-_TAIL:])
        raise BenchmarkMissingError(message, where=container.name, hint=_ALTERNATIVE, log=log)
    _, text, _ = container.execute(["cat", f"{_FOLDER}/{_FILE}"])
    try:
        return parse(json.loads(text), load, concurrency)
    except (ValueError, KeyError, TypeError) as error:
        message = f"the results of `vllm bench serve` cannot be read: {error!r}"
        raise BenchmarkMissingError(message, where=container.name, hint=_ALTERNATIVE) from error


def command(port: int, names: tuple[str, str], load: Load, concurrency: int) -> list[str]:
    """Return the benchmark's command line, with the options of vLLM 0.10 to 0.20."""
    served, folder = names
    options = {
        "base-url": f"http://127.0.0.1:{port}",
        "model": served,
        "tokenizer": folder,
        "dataset-name": "random",
        "random-input-len": load.input_length,
        "random-output-len": load.output_tokens,
        "num-prompts": load.prompts,
        "max-concurrency": concurrency,
        "percentile-metrics": "ttft,itl",
        "metric-percentiles": _PERCENTILES,
        "seed": concurrency,
        "result-dir": _FOLDER,
        "result-filename": _FILE,
    }
    flags = ("--ignore-eos", "--disable-tqdm", "--save-result")
    return [_PROGRAM, "bench", "serve", *(f"--{name}={value}" for name, value in options.items()), *flags]


def parse(report: dict[str, Any], load: Load, concurrency: int) -> LoadStep:
    """Return the measurement in the benchmark's file.

    Raises:
        ValueError, KeyError, TypeError: the file has another form.
    """
    answered = int(report["completed"])
    return LoadStep(
        concurrency=concurrency,
        answered=answered,
        failed=int(report.get("failed", load.prompts - answered)),
        seconds=round(float(report["duration"]), 3),
        input_tokens=int(report["total_input_tokens"]),
        output_tokens=int(report["total_output_tokens"]),
        requests_per_s=round(float(report["request_throughput"]), 4),
        tokens_per_s=round(float(report["output_throughput"]), 3),
        first_token_ms=_percentiles(report, "ttft") if answered else None,
        between_tokens_ms=_percentiles(report, "itl") if answered else None,
    )


def _percentiles(report: dict[str, Any], metric: str) -> Percentiles:
    p50, p95, p99 = (round(float(report[f"p{percent}_{metric}_ms"]), 3) for percent in _PERCENTILES.split(","))
    return Percentiles(p50=p50, p95=p95, p99=p99)
