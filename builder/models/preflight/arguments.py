"""The arguments of a recipe's server, held against the options of a vLLM release as its parser does."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING

from builder.models.fit.server_options import extra_arguments
from builder.models.preflight.server_facts import ServerOption

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from builder.model.recipes import ServerSpec

# argparse takes these for values, not for options.
_NEGATIVE = re.compile(r"-[0-9]*\.?[0-9]+")
# Some options take `8k` or `1.5G`, and max-model-len `auto`.
_NUMBER = re.compile(r"[-+]?[0-9_]*\.?[0-9]+(e[-+]?[0-9]+)?[kmgtKMGT]?|auto|None|")
# `vllm serve -O3`: the level follows the letter.
_LEVEL = re.compile(r"-O(=?)(.+)")
_LEAST_ABBREVIATION = 3


# Options that the rules read, in all releases since 0.9: for a release whose options are unknown.
_FLAGS = (
    *("--enable-auto-tool-choice", "--enable-lora", "--language-model-only", "--skip-tokenizer-init"),
    "--trust-remote-code",
)
_OPTIONS = (
    *("--chat-template", "--convert", "--dtype", "--kv-cache-dtype", "--limit-mm-per-prompt", "--max-model-len"),
    "--max-lora-rank",
    *("--model-impl", "--pipeline-parallel-size", "-pp", "--quantization", "-q", "--reasoning-parser", "--runner"),
    *("--task", "--tensor-parallel-size", "-tp", "--tokenizer", "--tool-call-parser", "--tool-parser-plugin"),
)
COMMON_OPTIONS = (
    *(ServerOption(name=name, flag=True) for name in _FLAGS),
    *(ServerOption(name=name) for name in _OPTIONS),
    ServerOption(name="--lora-modules", many=True),
)


@dataclass(frozen=True, kw_only=True, slots=True)
class Argument:
    """One argument: its text, the option that it names (None: the release has none), its values and a flaw."""

    text: str
    option: ServerOption | None = None
    values: tuple[str, ...] = ()
    flaw: str | None = None


def server_arguments(server: ServerSpec) -> tuple[str, ...]:
    """Return the arguments that the image's entrypoint gives to `vllm serve`, but for model, address and name.

    The recipe's `[server.environment]` takes precedence over its settings, as in the image.
    """
    environment = dict(server.environment)
    settings = {
        "--max-model-len": environment.get("JBUILD_MAX_MODEL_LEN") or server.max_model_len,
        "--dtype": environment.get("JBUILD_DTYPE") or server.dtype,
        "--quantization": environment.get("JBUILD_QUANTIZATION") or server.quantization,
        "--gpu-memory-utilization": environment.get("JBUILD_GPU_MEMORY_UTILIZATION"),
        "--tensor-parallel-size": environment.get("JBUILD_TENSOR_PARALLEL_SIZE"),
    }
    baked = [f"{option}={value}" for option, value in settings.items() if value]
    return (*baked, *server.arguments, *extra_arguments(environment))


def parse(arguments: Sequence[str], options: Sequence[ServerOption]) -> tuple[Argument, ...]:
    """Split arguments into options and values by the rules of argparse and of vLLM's own parser."""
    return tuple(_parsed(arguments, {option.name: option for option in options}))


def value_of(parsed: Sequence[Argument], *names: str) -> str | None:
    """Return the last value of an option, by any of its names; "" for a flag that is given, None if it is not."""
    value = None
    for argument in parsed:
        if argument.option and argument.option.name in names:
            negated = argument.text.startswith("--no-") and not argument.option.name.startswith("--no-")
            value = None if negated else "".join(argument.values[:1])
    return value


def _parsed(arguments: Sequence[str], known: Mapping[str, ServerOption]) -> Iterator[Argument]:
    index = 0
    while index < len(arguments):
        text = arguments[index]
        index += 1
        if not _is_option(text):
            yield Argument(text=text, flaw="follows no option that takes it")
            continue
        name, equals, inline = _normalised(text).partition("=")
        option = _find(name, known)
        if option is None:
            yield Argument(text=text)
            # The values of an unknown option are part of the same mistake.
            index += _count(arguments[index:])
            continue
        if option.flag:
            flaw = f"takes no value, and has `{inline}`" if equals else None
            yield Argument(text=text, option=option, flaw=flaw)
            continue
        taken = 0 if equals else _count(arguments[index:], option)
        values = (inline,) if equals else tuple(arguments[index : index + taken])
        index += taken
        yield Argument(text=text, option=option, values=values, flaw=_flaw(name, option, values))


def _is_option(text: str) -> bool:
    return text.startswith("-") and text != "-" and not _NEGATIVE.fullmatch(text)


def _normalised(text: str) -> str:
    """Return an argument as vLLM's parser rewrites it: `--max_model_len` is `--max-model-len`, `-O3` a level."""
    if level := _LEVEL.fullmatch(text):
        return f"-O={level[2]}"
    name, equals, value = text.partition("=")
    head, dot, key = name.partition(".")
    return f"{head.replace('_', '-') if head.startswith('--') else head}{dot}{key}{equals}{value}"


def _find(name: str, known: Mapping[str, ServerOption]) -> ServerOption | None:
    """Return an option by its name, a unique beginning of it, `--no-` before it, or a key of its value after a dot."""
    plain = name.partition(".")[0] if name.startswith("-") else name
    if plain in known:
        return known[plain]
    negated = known.get(f"--{plain.removeprefix('--no-')}") if plain.startswith("--no-") else None
    if negated and negated.flag:
        return negated
    longer = [option for other, option in known.items() if other.startswith(plain)]
    return longer[0] if plain.startswith("--") and len(plain) > _LEAST_ABBREVIATION and len(longer) == 1 else None


def _count(rest: Sequence[str], option: ServerOption | None = None) -> int:
    """Return the number of values at the beginning of `rest` that an option takes."""
    values = next((index for index, text in enumerate(rest) if _is_option(text)), len(rest))
    return values if option is None or option.many else min(values, 1)


def _flaw(name: str, option: ServerOption, values: tuple[str, ...]) -> str | None:
    if not values and not option.optional:
        return "needs a value"
    if "." in name:
        return None
    wrong = [value for value in values if option.choices and value not in option.choices]
    wrong += [value for value in values if option.number and not _NUMBER.fullmatch(value)]
    return f"does not take `{wrong[0]}`" if wrong else None
