"""`jbuild bench`."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import closing, contextmanager, nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from builder.cli.cell_selection import select_cells, session_verb
from builder.cli.results import show, table, write
from builder.cli.verb_options import (
    board_option,
    cell_option,
    complete_recipes,
    image_option,
    lookup_registry_option,
    output_option,
    refuse_options,
)
from builder.device import service_container as containers
from builder.device.image_choice import choose
from builder.device.load_client import Load, LoadStep, Percentiles, check_url
from builder.device.local_server import service_here
from builder.device.measure import ANY_PORT, Bench, BenchTarget, bench, started
from builder.device.service import read_key, service_of_image, show_gpu, with_engine
from builder.errors import SmokeError
from builder.host.engine.docker import find_engine
from builder.host.session import Session
from builder.host.wording import printable
from builder.remote.openai import OpenAIServer

if TYPE_CHECKING:
    from builder.device.measure import Choice

_MOST_AT_ONCE = 1024
_STARTING = ("selectors", "board", "image", "registries")
_HEADINGS = ("at once", "answered", "tokens/s", "requests/s", "first token ms", "between tokens ms")


def _concurrencies(context: click.Context, parameter: click.Parameter, value: str) -> tuple[int, ...]:
    numbers = [int(text) if text.isascii() and text.isdigit() else 0 for text in value.split(",")]
    if not all(0 < number <= _MOST_AT_ONCE for number in numbers):
        raise click.BadParameter(f"{value!r} is not a list of numbers such as 1,4,8", context, parameter)
    return tuple(dict.fromkeys(numbers))


@session_verb(
    "bench",
    click.argument("name", metavar="RECIPE|IMAGE", required=False, shell_complete=complete_recipes),
    cell_option,
    click.option("--url", metavar="http://HOST:PORT", help="Measure this running server instead of starting one."),
    click.option(
        "--concurrency",
        "concurrencies",
        default="1,4,8",
        show_default=True,
        callback=_concurrencies,
        help="Requests in flight: one measurement for each number.",
    ),
    click.option(
        "--prompts", type=click.IntRange(1, 100_000), default=32, show_default=True, help="Requests of a measurement."
    ),
    click.option(
        "--input-length", type=click.IntRange(1, 1_000_000), default=128, show_default=True, help="Tokens of a prompt."
    ),
    click.option(
        "--output-tokens", type=click.IntRange(1, 100_000), default=128, show_default=True, help="Tokens of an answer."
    ),
    click.option(
        "--client",
        "choice",
        type=click.Choice(["auto", "vllm", "jbuild"]),
        default="auto",
        show_default=True,
        help="Measure with vLLM's own benchmark in the container, or with jbuild's client.",
    ),
    click.option(
        "--key-file", metavar="FILE", help="File with the API key of the server at --url. Default: VLLM_API_KEY."
    ),
    output_option("Write the figures to this file, as JSON."),
    board_option,
    image_option,
    lookup_registry_option,
)
def command(
    session: Session,
    name: str | None,
    url: str | None,
    concurrencies: tuple[int, ...],
    prompts: int,
    input_length: int,
    output_tokens: int,
    choice: Choice,
    output: Path | None,
    **options: Any,
) -> int:
    """Measure throughput and latency of the image of RECIPE, of IMAGE, or of a running server.

    Prints throughput, time to the first token and time between tokens (p50, p95, p99) for each concurrency. Ends with
    exit code 10 if requests were not answered.
    """
    if (name is None) == (url is None):
        raise click.UsageError("name a recipe or an image, or a server with --url")
    if url:
        refuse_options(_STARTING, "has no effect with --url")
    else:
        refuse_options(("key_file",), "needs --url")
    load = Load(prompts=prompts, input_length=input_length, output_tokens=output_tokens)
    running = nullcontext(_running(url, options["key_file"], session)) if url else None
    with running or _started(str(name), options, session) as target:
        result = bench(target, load, concurrencies, choice, session.console)
    if output:
        write(output, result)
    show(result, text(result), session.console)
    return SmokeError.exit_code if any(step.failed for step in result.steps) else 0


def _running(url: str, key_file: str | None, session: Session) -> BenchTarget:
    key = read_key(key_file) if key_file else os.environ.get("VLLM_API_KEY")
    server = OpenAIServer(url=check_url(url), key=key, ca=session.config.ca_bundle)
    return BenchTarget(server=server, subject=server.url)


@contextmanager
def _started(name: str, options: dict[str, Any], session: Session) -> Iterator[BenchTarget]:
    is_recipe = name.endswith(".toml") or not set(name) & set("/:@")
    if not is_recipe:
        refuse_options(_STARTING, "needs a recipe")
    elif options["image"]:
        refuse_options(("registries",), "has no effect with --image")
    engine = find_engine(session.workspace, session.config.gpu)
    with closing(engine.client()) as client:
        if is_recipe:
            selection = select_cells(name, options["selectors"], session)
            board, image = options["board"], options["image"]
            job, chosen = choose(selection.jobs(), session, board=board, given=image, registries=options["registries"])
            service = service_here(job, chosen, session, engine, board=board)
            hint = f"`jbuild recipe {selection.recipe.name} --from smoke` loads it again"
        else:
            hint = "check its name: `docker images` lists the images of the engine"
            containers.provide(client, name, None, session.console, hint=hint)
            facts = client.images.get(name).attrs
            service = service_of_image(name, facts, ANY_PORT, engine.architecture)
        service = with_engine(service, engine)
        show_gpu(service, session.console)
        with started(client, service, engine, session.console, hint=hint) as target:
            yield target


def text(result: Bench) -> str:
    """Return a measurement as text; latencies are p50 / p95 / p99."""
    origin = f"level {result.level}" if result.level else "at an address"
    ready = f", ready after {result.ready_s:.0f} s" if result.ready_s is not None else ""
    load = result.load
    lines = [
        f"{result.model}, {origin}{ready}: {result.subject}",
        f"{load.prompts} prompts of {load.input_length}, {load.output_tokens} tokens each, by {result.client}",
        "",
        table(_HEADINGS, [_row(step) for step in result.steps]),
    ]
    lines += [f"failed at {step.concurrency}: {printable(reason)}" for step in result.steps for reason in step.failures]
    return "\n".join([*lines, *(f"note: {remark}" for remark in result.remarks)])


def _row(step: LoadStep) -> tuple[str, ...]:
    answered = str(step.answered) if not step.failed else f"{step.answered}, {step.failed} failed"
    rates = (f"{step.tokens_per_s:.1f}", f"{step.requests_per_s:.2f}")
    return (str(step.concurrency), answered, *rates, _ms(step.first_token_ms), _ms(step.between_tokens_ms))


def _ms(times: Percentiles | None) -> str:
    return f"{times.p50:.0f} / {times.p95:.0f} / {times.p99:.0f}" if times else "-"
