"""How the server is started: the recipe (`server.json`), then the environment, then the container's arguments.

Runs inside images on Python 3.8 and later, with nothing but the standard library.

The variables are ours, `JBUILD_*`, because vLLM gives meanings of its own to names like `VLLM_PORT` (the port of its
workers) and warns of `VLLM_*` names that it does not know.
"""

from __future__ import annotations

import json
import os
import shlex
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

HERE = Path(__file__).resolve().parent
MODELS = Path("/models")
LOOPBACK = ("127.0.0.1", "localhost", "::1")
EVERYWHERE = ("", "0.0.0.0", "::")  # noqa: S104  # addresses to compare with
_HIGHEST_PORT = 65535

# variable, key of server.json, option of `vllm serve`
_OPTIONS = (
    ("JBUILD_MAX_MODEL_LEN", "max_model_len", "--max-model-len"),
    ("JBUILD_DTYPE", "dtype", "--dtype"),
    ("JBUILD_QUANTIZATION", "quantization", "--quantization"),
    ("JBUILD_GPU_MEMORY_UTILIZATION", "gpu_memory_utilization", "--gpu-memory-utilization"),
    ("JBUILD_TENSOR_PARALLEL_SIZE", "tensor_parallel_size", "--tensor-parallel-size"),
)


class SettingsError(Exception):
    """A setting makes no sense; the message is for the user who gave it."""


@dataclass(frozen=True)
class Settings:
    """What `vllm serve` is given; `arguments` come after the model."""

    model: str | None
    arguments: tuple[str, ...]

    @property
    def host(self) -> str:
        """The address that the server listens at."""
        return option(self.arguments, "--host") or EVERYWHERE[0]

    @property
    def port(self) -> int:
        """The port that the server listens at.

        Raises:
            SettingsError: it is no port.
        """
        return port_number(option(self.arguments, "--port") or "8000", "--port")


def read_server(path: Path = HERE / "server.json") -> dict[str, Any]:
    """Return the recipe's settings; an image without them has none."""
    if not path.is_file():
        return {}
    return dict(json.loads(path.read_text(encoding="utf-8")))


def settle(server: Mapping[str, Any], environment: Mapping[str, str], given: Sequence[str]) -> Settings:
    """Put together what the server is started with; of two sayings, the one nearer to the user holds.

    Raises:
        SettingsError: a setting makes no sense.
    """
    given = list(given)
    own_model = _taken_model(given) or _named_model(environment.get("JBUILD_MODEL"))
    name = environment.get("JBUILD_SERVED_NAME") or (None if own_model else server.get("served_name"))
    port = environment.get("JBUILD_PORT") or str(server.get("port") or 8000)
    listen = [
        f"--host={environment.get('JBUILD_HOST') or '0.0.0.0'}",  # noqa: S104  # a container's port is published by its user
        f"--port={port_number(port, 'JBUILD_PORT')}",
        *([f"--served-model-name={name}"] if name else []),
    ]
    baked = [f"{opt}={server[key]}" for var, key, opt in _OPTIONS if server.get(key) and not environment.get(var)]
    wanted = [f"{opt}={environment[var]}" for var, _, opt in _OPTIONS if environment.get(var)]
    recipe = [str(argument) for argument in server.get("arguments") or ()]
    more = _words(environment.get("JBUILD_EXTRA_ARGS") or "")
    return Settings(
        model=own_model or server.get("model"),
        arguments=(*listen, *baked, *recipe, *wanted, *more, *given),
    )


def option(arguments: Sequence[str], name: str) -> str | None:
    """Return the value of an option, given as `--name value` or `--name=value`; the last one holds."""
    value = None
    for index, argument in enumerate(arguments):
        if argument == name and index + 1 < len(arguments):
            value = arguments[index + 1]
        elif argument.startswith(name + "="):
            value = argument[len(name) + 1 :]
    return value


def port_number(text: str, where: str) -> int:
    """Return a port.

    Raises:
        SettingsError: it is none.
    """
    if not (text.isascii() and text.isdigit() and 0 < int(text) <= _HIGHEST_PORT):
        raise SettingsError(f"{where} must be a port from 1 to {_HIGHEST_PORT}, not {text!r}")
    return int(text)


def running_arguments(process: Path = Path("/proc/1/cmdline")) -> list[str]:
    """Return the arguments that the server runs with, if it can be seen: they know of `docker run IMAGE --port …`."""
    try:
        words = process.read_bytes().split(b"\0")
    except OSError:
        return []
    return [os.fsdecode(word) for word in words]


def _taken_model(given: list[str]) -> str | None:
    """Take the model out of the container's arguments: the first one, or `--model` as vLLM's own images have it."""
    if given and not given[0].startswith("-"):
        return _named_model(given.pop(0))
    for index, argument in enumerate(given):
        if argument == "--model" and index + 1 < len(given):
            model = given[index + 1]
            del given[index : index + 2]
            return _named_model(model)
        if argument.startswith("--model="):
            return _named_model(given.pop(index)[len("--model=") :])
    return None


def _named_model(name: str | None) -> str | None:
    """Return a model's folder where the name is that of a baked model, else the name."""
    if not name:
        return None
    if name.startswith("-"):
        raise SettingsError(f"a model's name cannot begin with a dash: {name!r}")
    baked = MODELS / name
    return str(baked) if "/" not in name and baked.is_dir() else name


def _words(text: str) -> list[str]:
    """Return arguments, given as a JSON list of strings or as a shell's words."""
    try:
        if not text.lstrip().startswith("["):
            return shlex.split(text)
        words = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise SettingsError(f"JBUILD_EXTRA_ARGS cannot be split into arguments: {error}") from error
    if not all(isinstance(word, str) for word in words):
        raise SettingsError("JBUILD_EXTRA_ARGS: a JSON list must hold strings only")
    return list(words)
