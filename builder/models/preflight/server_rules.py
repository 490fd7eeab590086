"""Rules about the server's options: their names and values, parsers, lengths and parallel sizes."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from builder.host.wording import suggest
from builder.models.config_json import CONFIG
from builder.models.preflight.server_context import joined, model_finding, server_finding

if TYPE_CHECKING:
    from collections.abc import Iterator

    from builder.model.audits import Finding
    from builder.models.preflight.server_context import ServerContext

_OPTION, _PARSER, _LENGTH, _PARALLEL = "server-option", "server-parser", "context-length", "parallel-size"
_ALLOW_LONG = "VLLM_ALLOW_LONG_MAX_MODEL_LEN"
_TENSOR_PARALLEL = ("--tensor-parallel-size", "-tp")
_PIPELINE_PARALLEL = ("--pipeline-parallel-size", "-pp")
_SUFFIXES = {"k": 1000, "m": 1000**2, "g": 1000**3, "K": 1 << 10, "M": 1 << 20, "G": 1 << 30}


def server_options(context: ServerContext) -> Iterator[Finding]:
    """Yield the arguments that the release's parser refuses."""
    release = context.sources.vllm
    if release is None or not release.facts.options:
        return
    names = [option.name for option in release.facts.options]
    for argument in context.arguments:
        name = argument.text.partition("=")[0]
        if argument.flaw:
            choices = argument.option.choices if argument.option else ()
            fix = f"choose one of {joined(choices, 12)}" if choices else "correct `arguments` under [server]"
            yield server_finding(_OPTION, "error", name, f"{argument.flaw} in {release}", fix)
        elif argument.option is None:
            fix = suggest(name, names, noun="options")
            yield server_finding(_OPTION, "error", name, f"is not an option of {release}", fix)


def parsers(context: ServerContext) -> Iterator[Finding]:
    """Yield tool-call and reasoning parsers that the release does not have."""
    release = context.sources.vllm
    if release is None:
        return
    tool = context.option("--tool-call-parser")
    if context.option("--enable-auto-tool-choice") is not None and not tool:
        fix = f"add `--tool-call-parser` with one of {joined(release.facts.tool_parsers, 12)}"
        yield server_finding(_PARSER, "error", "--enable-auto-tool-choice", "needs a tool-call parser", fix)
    for kind, option, plugin, known in (
        ("tool-call", "--tool-call-parser", "--tool-parser-plugin", release.facts.tool_parsers),
        ("reasoning", "--reasoning-parser", "--reasoning-parser-plugin", release.facts.reasoning_parsers),
    ):
        name = context.option(option)
        if name and known and name not in known and not context.option(plugin):
            fix = suggest(name, known, noun="parsers")
            yield server_finding(_PARSER, "error", option, f"{name} is not a {kind} parser of {release}", fix)


def context_length(context: ServerContext) -> Iterator[Finding]:
    """Yield a max-model-len beyond the model's own length, which vLLM refuses."""
    model, length = context.model, _tokens(context.option("--max-model-len"))
    longest = model.shape.longest if model else None
    if model is None or length is None or longest is None or length <= longest:
        return
    if context.environment.get(_ALLOW_LONG) == "1":
        return
    own = model.config.get("model_max_length")
    if isinstance(own, int) and length <= own:
        return
    scaled = " with its rope scaling" if model.config.get("rope_scaling") or model.config.get("rope_parameters") else ""
    yield model_finding(
        model,
        _LENGTH,
        "error",
        CONFIG,
        f"allows {longest} tokens{scaled}, and the server is set to max-model-len {length}",
        f'set max-model-len to {longest} or less; `{_ALLOW_LONG} = "1"` under [server.environment] overrides the check',
    )


def parallel_sizes(context: ServerContext) -> Iterator[Finding]:
    """Yield tensor parallel sizes that do not divide the model's heads, and more GPUs than boards have."""
    tensor = _tokens(context.option(*_TENSOR_PARALLEL)) or 1
    pipeline = _tokens(context.option(*_PIPELINE_PARALLEL)) or 1
    model = context.model
    heads = model.heads if model else None
    if model and heads and heads % tensor:
        detail = f"has {heads} attention heads, which --tensor-parallel-size {tensor} does not divide"
        fix = "choose a size that divides the heads, or leave the option out"
        yield model_finding(model, _PARALLEL, "error", CONFIG, detail, fix)
    if context.gpu and tensor * pipeline > 1:
        needed, boards = tensor * pipeline, joined(sorted(context.boards)) or "a Jetson"
        detail = f"the server needs {needed} GPUs, and {boards} has one"
        option = _TENSOR_PARALLEL[0] if tensor > 1 else _PIPELINE_PARALLEL[0]
        yield server_finding(_PARALLEL, "error", option, detail, "leave the option out")


def _tokens(text: str | None) -> int | None:
    """Return a whole number, also one with a suffix such as `8k`, which vLLM reads as 8000 (`8K` as 8192)."""
    match = re.fullmatch(r"([0-9]+(?:\.[0-9]+)?)([kmgKMG]?)", text or "")
    return int(float(match[1]) * _SUFFIXES.get(match[2], 1)) if match else None
