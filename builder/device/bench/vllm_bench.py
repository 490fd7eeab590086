"""vLLM's own benchmark, run in the container of the server that is measured; it needs no network."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from builder.device.bench.measurement import LoadStep, Percentiles
from builder.errors import SmokeError
from builder.host.engine.container import printable_log
from builder.model.images import ENVIRONMENT

if TYPE_CHECKING:
    from builder.device.bench.measurement import Load
    from builder.host.engine.container import RunningContainer

_PROGRAM = f"{ENVIRONMENT}/bin/vllm"
_FOLDER, _FILE = "/tmp", "jbuild-bench.json"  # noqa: S108  # in the container
_PERCENTILES = "50,95,99"
_TAIL = 2000
_ALTERNATIVE = "`--client jbuild` measures it from outside"


class BenchmarkMissingError(SmokeError):
    """The image's vLLM has no benchmark that works."""


def measure_inside(
    container: RunningContainer, port: int, names: tuple[str, str], load: Load, concurrency: int, key: str | None
) -> LoadStep:
    """Return what vLLM's benchmark measures; `names` are the model's served name and its folder in the container.

    Raises:
        BenchmarkMissingError: there is none in the image, or it failed.
    """
    # The key is where the benchmark looks for it, and no argument: those can be read by every process.
    environment = {"OPENAI_API_KEY": key} if key else {}
    code, stdout, stderr = container.execute(command(port, names, load, concurrency), environment)
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
    """Return the benchmark's command line. Its options are those of vLLM 0.10 to 0.20."""
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
    """Return a step from the benchmark's file.

    Raises:
        ValueError, KeyError, TypeError: another kind of file.
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
