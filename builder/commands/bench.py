"""`jbuild bench`."""

from __future__ import annotations

import json
import os
from contextlib import closing, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from builder import records
from builder.bench.client import check_url
from builder.bench.model import Load
from builder.commands import complete
from builder.commands.common import as_json, cell_option, open_recipe, open_session
from builder.commands.serving import board_option, image_option, possible_cells
from builder.commands.working import registry_option
from builder.engine import find_engine
from builder.errors import SmokeError
from builder.remote.openai import OpenAIServer
from builder.report.bench import table
from builder.resolve.jobs import job_of
from builder.serve.images import choose
from builder.serve.service import read_key, service_of_image
from builder.workspace import write_text

if TYPE_CHECKING:
    from collections.abc import Iterator

    from builder.bench.measure import BenchTarget, Choice
    from builder.session import Session

_MOST_AT_ONCE = 1024


def _concurrencies(context: click.Context, parameter: click.Parameter, value: str) -> tuple[int, ...]:
    numbers = [int(part) if part.isascii() and part.isdigit() else 0 for part in value.split(",")]
    if not all(0 < number <= _MOST_AT_ONCE for number in numbers):
        raise click.BadParameter(f"{value!r} is no list of numbers such as 1,4,8", context, parameter)
    return tuple(dict.fromkeys(numbers))


@click.command("bench")
@click.argument("what", metavar="RECIPE|IMAGE", required=False, shell_complete=complete.recipes)
@cell_option
@click.option("--url", metavar="http://HOST:PORT", help="Measure a server that runs instead of starting one.")
@click.option(
    "--concurrency",
    "concurrencies",
    default="1,4,8",
    show_default=True,
    callback=_concurrencies,
    help="How many questions are open at once, one measurement each.",
)
@click.option("--prompts", type=click.IntRange(1, 100_000), default=32, show_default=True, help="Questions each.")
@click.option("--input-length", type=click.IntRange(1, 1_000_000), default=128, show_default=True, help="Their length.")
@click.option("--output-tokens", type=click.IntRange(1, 100_000), default=128, show_default=True, help="Tokens each.")
@click.option(
    "--client",
    "choice",
    type=click.Choice(["auto", "vllm", "jbuild"]),
    default="auto",
    show_default=True,
    help="vLLM's own benchmark inside the container, or jbuild's client.",
)
@click.option("--key-file", metavar="FILE", help="The API key of the server at --url; else VLLM_API_KEY.")
@click.option("--output", type=click.Path(path_type=Path, dir_okay=False), help="Write the figures here, as JSON.")
@board_option
@image_option
@registry_option
@as_json
def command(
    what: str | None,
    url: str | None,
    concurrencies: tuple[int, ...],
    prompts: int,
    input_length: int,
    output_tokens: int,
    choice: Choice,
    output: Path | None,
    as_json: bool,
    **options: Any,
) -> int:
    """Measure how fast the image of RECIPE, IMAGE, or a server that runs answers.

    Throughput, time to the first token and time between tokens (p50, p95, p99), at a few concurrencies. Ends with 10
    when questions were not answered.
    """
    if (what is None) == (url is None):
        raise click.UsageError("name a recipe or an image, or a server with --url")
    from builder.bench.measure import bench  # noqa: PLC0415  # the engine's API is slow to import

    session = open_session(as_json=as_json)
    load = Load(prompts=prompts, input_length=input_length, output_tokens=output_tokens)
    with _running(url, options["key_file"], session) if url else _started(str(what), options, session) as target:
        found = bench(target, load, concurrencies, choice, session.console)
    shown = records.plain(found)
    if output:
        write_text(output, json.dumps(shown, indent=2) + "\n")
    session.console.result(shown, table(found, session.console.table))
    return SmokeError.exit_code if any(step.failed for step in found.steps) else 0


@contextmanager
def _running(url: str, key_file: str | None, session: Session) -> Iterator[BenchTarget]:
    from builder.bench.measure import BenchTarget  # noqa: PLC0415

    key = read_key(key_file) if key_file else os.environ.get("VLLM_API_KEY")
    server = OpenAIServer(url=check_url(url), key=key, ca=session.config.ca_bundle)
    yield BenchTarget(server=server, subject=server.url)


@contextmanager
def _started(name: str, options: dict[str, Any], session: Session) -> Iterator[BenchTarget]:
    from builder.bench.measure import ANY_PORT, started  # noqa: PLC0415
    from builder.serve import container as containers  # noqa: PLC0415
    from builder.serve.here import service_here  # noqa: PLC0415

    engine = find_engine(session.workspace)
    with closing(engine.client()) as client:
        if name.endswith(".toml") or not set(name) & set("/:@"):
            recipe, cells = open_recipe(name, options["selectors"], session.workspace)
            jobs = [job_of(recipe, cell) for cell in possible_cells(recipe, cells)]
            board, image = options["board"], options["image"]
            job, chosen = choose(jobs, session, board=board, given=image, registries=options["registries"])
            service = service_here(job, chosen, session, engine, board=board)
            hint = f"`jbuild recipe {recipe.name} --from smoke` makes it anew"
        else:
            hint = "is that its name? `docker images` lists those of the engine"
            containers.provide(client, name, None, session.console, hint=hint)
            facts = client.images.get(name).attrs
            service = service_of_image(name, facts, ANY_PORT, engine.architecture)
        with started(client, service, engine, session.console, hint=hint) as target:
            yield target
