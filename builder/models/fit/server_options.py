"""The options of a recipe's [server] that memory depends on, with vLLM's defaults."""

from __future__ import annotations

import json
import re
import shlex
from typing import TYPE_CHECKING

from builder.models.fit.memory_estimate import ServingSettings

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from builder.model.recipes import ServerSpec
    from builder.models.fit.memory_estimate import Shape

_GIB = 1 << 30
# vLLM's defaults, read in 0.15.1 and 0.20.2: `config/cache.py` and `get_batch_defaults` in `engine/arg_utils.py`.
_UTILIZATION, _UTILIZATION_LATER = 0.9, 0.92
_LATER = (0, 20)
# 0.10.2 ignores the type that a checkpoint asks for; the versions between are not read, so the larger cache is assumed.
_KV_DTYPE_SINCE, _KV_NVFP4_SINCE = (0, 15), (0, 20)
_BATCH, _SEQUENCES = 2048, 256
_BATCH_LARGE, _SEQUENCES_LARGE, _LARGE = 8192, 1024, 70 * _GIB
_SEQUENCES_CPU = 128
_BLOCK, _BLOCK_CPU = 16, 128
# vLLM's default if a model's configuration has no length.
_NO_LENGTH = 2048
_VERSION = re.compile(r"vllm(?:-cpu)? *== *([0-9]+)\.([0-9]+)")
# A compressed-tensors checkpoint overrides --kv-cache-dtype in 0.15.1 and 0.20.2 (`Attention`), but not in 0.33.0.
_OVERRIDE_UNTIL = (0, 33)


def settings_of(
    server: ServerSpec, shape: Shape, *, gpu: bool, vllm: str | None, memory: int | None = None
) -> ServingSettings:
    """Return the settings of a server of version `vllm` on a machine with `memory` bytes; None if unknown."""
    environment = dict(server.environment)
    arguments = [*server.arguments, *extra_arguments(environment)]
    dtype = _dtype(environment.get("JBUILD_DTYPE") or server.dtype, shape)
    own_kv_dtype = _own_kv_dtype(shape, vllm, gpu=gpu)
    is_override = shape.quantised == "compressed-tensors" and own_kv_dtype and not reaches(vllm, _OVERRIDE_UNTIL)
    kv_dtype = "auto" if is_override else option(arguments, "--kv-cache-dtype") or "auto"
    length = _integer(environment.get("JBUILD_MAX_MODEL_LEN")) or server.max_model_len or shape.longest or _NO_LENGTH
    large = gpu and memory is not None and memory >= _LARGE
    sequences = _integer(option(arguments, "--max-num-seqs"))
    usual = (_SEQUENCES_LARGE if large else _SEQUENCES) if gpu else _SEQUENCES_CPU
    most = sequences or usual
    batch = _integer(option(arguments, "--max-num-batched-tokens"))
    utilization = environment.get("JBUILD_GPU_MEMORY_UTILIZATION") or option(arguments, "--gpu-memory-utilization")
    space = _integer(environment.get("VLLM_CPU_KVCACHE_SPACE"))
    return ServingSettings(
        dtype=dtype,
        kv_dtype=(own_kv_dtype or dtype) if kv_dtype == "auto" else kv_dtype,
        length=length,
        sequences=sequences or 1,
        batched_tokens=batch or min(_BATCH_LARGE if large else _BATCH, most * length),
        most_sequences=most,
        block=_integer(option(arguments, "--block-size")) or (_BLOCK if gpu else _BLOCK_CPU),
        utilization=_share(utilization) or (_UTILIZATION_LATER if reaches(vllm, _LATER) else _UTILIZATION),
        hybrid="--disable-hybrid-kv-cache-manager" not in arguments,
        eager="--enforce-eager" in arguments,
        kv_space=space * _GIB if space and not gpu else None,
        remarks=(
            *_remarks(server, shape, utilization, vllm, gpu=gpu),
            *(_kv_remarks(shape, vllm, gpu=gpu) if kv_dtype == "auto" else ()),
        ),
    )


def option(arguments: Sequence[str], name: str) -> str | None:
    """Return the last value of an option, `--name value` or `--name=value`, or None."""
    value = None
    for index, argument in enumerate(arguments):
        head, _, tail = argument.partition("=")
        if head.replace("_", "-") == name:
            value = tail or next(iter(arguments[index + 1 : index + 2]), None)
    return value


def pinned_version(requires: Sequence[str]) -> str | None:
    """Return the version of vLLM that requirements pin, or None."""
    matches = (_VERSION.match(text.strip().lower()) for text in requires)
    return next((f"{match[1]}.{match[2]}" for match in matches if match), None)


def _remarks(
    server: ServerSpec, shape: Shape, utilization: str | None, vllm: str | None, *, gpu: bool
) -> Iterator[str]:
    if gpu and not utilization:
        used = _UTILIZATION_LATER if reaches(vllm, _LATER) else _UTILIZATION
        source = f"vLLM {vllm}'s" if vllm else "an unknown version's"
        yield f"--gpu-memory-utilization is not set: the estimate assumes {used}, {source} default"
    if server.quantization and not shape.quantised:
        yield f"quantization {server.quantization} at load time is not counted, so the weights are an upper bound"


def _own_kv_dtype(shape: Shape, vllm: str | None, *, gpu: bool) -> str | None:
    """Return the type of the KV cache that the model asks for, None if this server ignores that."""
    if not gpu or not reaches(vllm, _KV_DTYPE_SINCE, otherwise=True):
        return None
    return None if shape.kv_dtype == "nvfp4" and not reaches(vllm, _KV_NVFP4_SINCE, otherwise=True) else shape.kv_dtype


def _kv_remarks(shape: Shape, vllm: str | None, *, gpu: bool) -> Iterator[str]:
    if not shape.kv_dtype:
        return
    if _own_kv_dtype(shape, vllm, gpu=gpu):
        yield f"the model itself asks for a KV cache in {shape.kv_dtype}, and so the server uses it"
    else:
        server = f"vLLM {vllm}" if gpu else "vLLM on a CPU"
        yield f"the model asks for a KV cache in {shape.kv_dtype}; {server} is assumed to ignore that"


def _dtype(setting: str | None, shape: Shape) -> str:
    """Return the server's type; `auto` is the configuration's, or bfloat16 for 32 bits and more."""
    if setting in (None, "auto"):
        return "bfloat16" if shape.dtype in ("float32", "float64") else shape.dtype
    return {"half": "float16", "float": "float32"}.get(str(setting), str(setting))


def reaches(vllm: str | None, since: tuple[int, int], *, otherwise: bool = False) -> bool:
    """Return whether a version is `since` or later; `otherwise` if it is unknown."""
    numbers = tuple(int(digits) for digits in re.findall(r"[0-9]+", vllm or "")[:2])
    return numbers >= since if len(numbers) == len(since) else otherwise


def extra_arguments(environment: Mapping[str, str]) -> list[str]:
    """Split JBUILD_EXTRA_ARGS as the image's entrypoint does; none if it would refuse them."""
    text = environment.get("JBUILD_EXTRA_ARGS", "")
    try:
        words = json.loads(text) if text.lstrip().startswith("[") else shlex.split(text)
    except ValueError:
        return []
    return [word for word in words if isinstance(word, str)]


def _integer(text: str | None) -> int | None:
    return int(text) if text and re.fullmatch(r"[1-9][0-9]{0,9}", text) else None


def _share(text: str | None) -> float | None:
    share = float(text) if text and re.fullmatch(r"[01]?\.[0-9]{1,6}|1", text) else None
    return share if share and share <= 1 else None
