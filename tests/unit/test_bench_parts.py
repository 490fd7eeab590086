"""What single answers tell together, what vLLM's benchmark writes, and what people read."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner
from hypothesis import given
from hypothesis import strategies as st

from builder.cli.verbs.bench import command, text
from builder.device.load_client import Load, LoadStep, Percentiles, percentiles, step_of
from builder.device.measure import Bench, parse
from builder.device.measure import command as bench_command
from builder.remote.openai import ServerError, StreamedAnswer

LOAD = Load(prompts=2, input_length=16, output_tokens=8)
# The file that `vllm bench serve` of vLLM 0.15.1 wrote, of an emulated server.
WRITTEN = json.loads(Path(__file__).with_name("vllm_bench.json").read_text())


def make_step(concurrency: int = 1, **changes: Any) -> LoadStep:
    step = LoadStep(
        concurrency=concurrency,
        answered=32,
        failed=0,
        seconds=10.0,
        input_tokens=4096,
        output_tokens=4096,
        requests_per_s=3.2,
        tokens_per_s=409.6 * concurrency,
        first_token_ms=Percentiles(p50=50, p95=80, p99=90),
        between_tokens_ms=Percentiles(p50=10, p95=12, p99=30),
    )
    return replace(step, **changes)


def make_bench(*steps: LoadStep, **changes: Any) -> Bench:
    found = Bench(
        subject="registry.example.com/vllm:1",
        model="tiny",
        client="jbuild",
        level="cpu",
        when="2026-01-02T03:04:05+00:00",
        load=LOAD,
        steps=steps or (make_step(1), make_step(4)),
        ready_s=12.3,
    )
    return replace(found, **changes)


@given(st.lists(st.floats(0, 1000), min_size=2, max_size=200))
def test_percentiles_are_those_of_others(values: list[float]) -> None:
    found, ordered = percentiles(values), sorted(values)
    assert found
    for percent, ours in ((50, found.p50), (95, found.p95), (99, found.p99)):
        lower, hundredths = divmod((len(ordered) - 1) * percent, 100)
        below, above = ordered[lower], ordered[min(lower + 1, len(ordered) - 1)]
        assert ours == pytest.approx(1000 * (below + (above - below) * hundredths / 100), abs=0.01)


def test_percentiles_of_one_and_of_none() -> None:
    assert percentiles([]) is None
    assert percentiles([0.25]) == Percentiles(p50=250, p95=250, p99=250)


def test_a_step_is_made_of_what_was_answered() -> None:
    samples: list[StreamedAnswer | ServerError] = [
        StreamedAnswer(times_s=[0.5, 0.7, 1.0], input_tokens=10, output_tokens=3),
        ServerError("cut"),
        StreamedAnswer(times_s=[1.5], input_tokens=10, output_tokens=1),
        ServerError("cut"),
    ]
    step = step_of(samples, 2, 2.0)
    assert (step.answered, step.failed, step.failures) == (2, 2, ("cut",))
    assert (step.input_tokens, step.output_tokens, step.tokens_per_s, step.requests_per_s) == (20, 4, 2.0, 1.0)
    assert step.first_token_ms == Percentiles(p50=1000, p95=1450, p99=1490)
    assert step.between_tokens_ms == Percentiles(p50=250, p95=295, p99=299)


def test_vllms_own_file_is_understood() -> None:
    step = parse(WRITTEN, LOAD, 1)
    assert (step.answered, step.failed, step.seconds, step.output_tokens) == (2, 0, 59.524, 16)
    assert (step.tokens_per_s, step.requests_per_s) == (0.269, 0.0336)
    assert step.first_token_ms == Percentiles(p50=14255.682, p95=16196.714, p99=16369.251)
    assert step.between_tokens_ms == Percentiles(p50=1906.091, p95=4101.962, p99=5366.798)


def test_older_files_do_not_count_what_failed() -> None:
    older = {key: value for key, value in WRITTEN.items() if key != "failed"}
    assert parse(older | {"completed": 1}, LOAD, 1).failed == 1
    nothing = parse({**older, "completed": 0}, LOAD, 1)
    assert (nothing.failed, nothing.first_token_ms) == (2, None)


@pytest.mark.parametrize("wrong", [{}, [], {**WRITTEN, "p95_itl_ms": "x"}, {**WRITTEN, "duration": None}])
def test_what_is_no_file_of_its(wrong: object) -> None:
    with pytest.raises((ValueError, KeyError, TypeError)):
        parse(wrong, LOAD, 1)  # type: ignore[arg-type]


def test_vllms_benchmark_is_told_everything() -> None:
    argv = bench_command(8001, ("tiny", "/models/tiny"), LOAD, 4)
    assert argv[:3] == ["/opt/venv/bin/vllm", "bench", "serve"]
    given = {"--base-url=http://127.0.0.1:8001", "--tokenizer=/models/tiny", "--model=tiny", "--max-concurrency=4"}
    assert given | {"--num-prompts=2", "--random-input-len=16", "--random-output-len=8"} <= set(argv)
    assert len(set(argv)) == len(argv)


def test_what_people_read() -> None:
    shown = text(make_bench(make_step(1), make_step(8, answered=30, failed=2, failures=("cut\x1b[31m",))))
    assert "tiny, level cpu, ready after 12 s: registry.example.com/vllm:1" in shown
    assert "8        30, 2 failed  3276.8    3.20        50 / 80 / 90    10 / 12 / 30" in shown
    assert "failed at 8: cut\\x1b[31m" in shown
    assert "note: why" in text(make_bench(remarks=("why",), level=None))


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ((), "name a recipe or an image, or a server with --url"),
        (("x", "--url", "http://x"), "name a recipe or an image, or a server with --url"),
        (("x", "--concurrency", "1,,2"), "not a list of numbers"),
        (("x", "--concurrency", "0"), "not a list of numbers"),
        (("x", "--concurrency", "9999"), "not a list of numbers"),
        (("x", "--prompts", "0"), "not in the range"),
    ],
)
def test_wrong_words(arguments: tuple[str, ...], said: str) -> None:
    done = CliRunner().invoke(command, arguments)
    assert done.exit_code == 2
    assert said in done.output
