"""Server arguments are split as vLLM's parser splits them."""

from __future__ import annotations

import pytest
from preflight_parts import OPTIONS

from builder.model.recipes import ServerSpec
from builder.models.preflight.arguments import parse, server_arguments, value_of


def flaws(*arguments: str) -> list[tuple[str, str | None]]:
    return [(found.text, found.flaw) for found in parse(arguments, OPTIONS) if found.flaw or found.option is None]


@pytest.mark.parametrize(
    "arguments",
    [
        ("--max-model-len", "4096"),
        ("--max-model-len=4096",),
        ("--max_model_len", "4096"),
        ("--max-model-len", "-1"),
        ("--max-model", "4096"),
        ("--max-model-len", "8k"),
        ("--max-model-len", "auto"),
        ("--enforce-eager",),
        ("--no-enforce-eager",),
        ("--no_enforce_eager",),
        ("-tp", "2"),
        ("-O3",),
        ("-O", "3"),
        ("-O=3",),
        ("--compilation-config.cudagraph_mode", "NONE"),
        ("--compilation-config.pass_config.fuse=true",),
        ("--kv-cache-dtype", "fp8"),
        ("--served-model-name", "a", "b", "--enforce-eager"),
        ("--hf-token", "--enforce-eager"),
        ("--hf-token", "secret"),
    ],
    ids=" ".join,
)
def test_arguments_that_the_parser_takes(arguments: tuple[str, ...]) -> None:
    assert flaws(*arguments) == []


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (("--warmup",), [("--warmup", None)]),
        (("--metrics-port", "9000", "--enforce-eager"), [("--metrics-port", None)]),
        (("--tensor-parallel-size",), [("--tensor-parallel-size", "needs a value")]),
        (("--dtype", "--enforce-eager"), [("--dtype", "needs a value")]),
        (("--max-model-len", "long"), [("--max-model-len", "does not take `long`")]),
        (("--enforce-eager=true",), [("--enforce-eager=true", "takes no value, and has `true`")]),
        (("--enforce-eager", "true"), [("true", "follows no option that takes it")]),
        (("--kv-cache-dtype", "int3"), [("--kv-cache-dtype", "does not take `int3`")]),
        (("--no-dtype",), [("--no-dtype", None)]),
        # `--t` and `--to` begin several options.
        (("--to", "x"), [("--to", None)]),
        (("-x",), [("-x", None)]),
    ],
    ids=lambda value: " ".join(map(str, value)) if isinstance(value, tuple) else "",
)
def test_arguments_that_the_parser_refuses(arguments: tuple[str, ...], expected: list[tuple[str, str | None]]) -> None:
    assert flaws(*arguments) == expected


def test_the_last_value_counts() -> None:
    parsed = parse(("--dtype", "half", "--dtype=bfloat16", "--enforce-eager", "--no-enforce-eager"), OPTIONS)
    assert value_of(parsed, "--dtype") == "bfloat16"
    assert value_of(parsed, "--enforce-eager") is None
    assert value_of(parsed, "--quantization", "-q") is None
    assert value_of(parse(("--enforce-eager",), OPTIONS), "--enforce-eager") == ""


def test_the_environment_takes_precedence_over_the_settings() -> None:
    server = ServerSpec(
        max_model_len=2048,
        dtype="half",
        arguments=("--enforce-eager",),
        environment=(("JBUILD_DTYPE", "bfloat16"), ("JBUILD_EXTRA_ARGS", "-tp 2"), ("JBUILD_QUANTIZATION", "awq")),
    )
    assert server_arguments(server) == (
        *("--max-model-len=2048", "--dtype=bfloat16", "--quantization=awq"),
        *("--enforce-eager", "-tp", "2"),
    )
