"""Rules about quantisation: the recipe's against the model's, the types that a method computes in, packages, GPUs."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

from builder.host.toml import documents
from builder.host.wording import suggest
from builder.jetson.boards import dotted_sm
from builder.models.config_json import CONFIG
from builder.models.preflight.server_context import joined, model_finding, server_finding

if TYPE_CHECKING:
    from collections.abc import Iterator

    from builder.host.toml.tables import Table
    from builder.model.audits import Finding
    from builder.models.preflight.model_facts import ModelFacts
    from builder.models.preflight.server_context import ServerContext
    from builder.models.preflight.wheel_sources import Release

_METHOD, _TYPE, _PACKAGE, _GPU, _CACHE = (
    *("quantization-method", "quantization-type", "quantization-package"),
    *("quantization-gpu", "cache-type"),
)
_TABLE = Path(__file__).with_name("quantization.toml")
# "marlin" is no method of its own: it asks for the Marlin variant of the checkpoint's.
_MARLIN = "marlin"
# Triton has no conversion from fp8e4nv below this SM, and FlashAttention 2 no FP8 cache.
_FP8_CACHE_SM = 89


@dataclass(frozen=True, kw_only=True, slots=True)
class Method:
    """A row of `quantization.toml`."""

    name: str
    accepts: tuple[str, ...]
    marlin: str | None
    always: str | None
    cpu: str | None
    package: str | None


@cache
def methods() -> dict[str, Method]:
    """Return the rows of `quantization.toml` by name.

    Raises:
        DocumentError: the file has mistakes.
    """
    return documents.load(_TABLE, "the quantisation methods have mistakes", _methods)


def _methods(root: Table) -> dict[str, Method]:
    rows = {}
    for table in root.tables("methods"):
        row = Method(
            name=table.string("name"),
            accepts=table.strings("accepts"),
            marlin=table.optional_string("marlin"),
            always=table.optional_string("always-marlin-with"),
            cpu=table.optional_string("cpu"),
            package=table.optional_string("package"),
        )
        table.string("source", pattern=".+", noun="a source")
        if row.package:
            table.string("package-source", pattern=".+", noun="a source")
        table.done()
        rows[row.name] = row
    return rows


def quantization(context: ServerContext) -> Iterator[Finding]:
    """Yield the reasons why the server refuses the model's quantisation, or the recipe's."""
    release, model = context.sources.vllm, context.model
    if release is None or not release.facts.quantizations:
        return
    own, set_to = _own(model), context.option("--quantization", "-q")
    if model and own and set_to and _differs(own, set_to):
        detail = f"says {own}, and the server is set to quantization {set_to}: vLLM refuses to start"
        yield model_finding(model, _METHOD, "error", CONFIG, detail, "leave `quantization` out of [server]")
        return
    wanted = own if set_to in (None, _MARLIN) else set_to
    if not wanted:
        return
    yield from _unknown(context, release, wanted, set_to)
    method = _chosen(context, release, own, set_to)
    facts = release.facts.quantizations.get(method or "")
    if method and facts:
        yield from _types(context, release, method, facts.dtypes, set_to)
        yield from _gpus(context, release, method, facts.min_sm)
    yield from _packages(context, wanted)


def chosen_method(context: ServerContext) -> str | None:
    """Return the quantisation method that vLLM computes with on the context's boards, None without quantisation."""
    release, own = context.sources.vllm, _own(context.model)
    set_to = context.option("--quantization", "-q")
    if not (own or set_to):
        return None
    return _chosen(context, release, own, set_to) if release else set_to or own


def _own(model: ModelFacts | None) -> str | None:
    return (model.quantization.get("quant_method") or None) if model else None


def _differs(own: str, set_to: str) -> bool:
    row = methods().get(own)
    return own != set_to and row is not None and set_to not in row.accepts


def _unknown(context: ServerContext, release: Release, wanted: str, set_to: str | None) -> Iterator[Finding]:
    """Yield a method that the release does not have, or refuses unless it is allowed explicitly."""
    known = release.facts.quantizations
    if wanted not in known:
        fix = suggest(wanted, known, noun="methods")
        if set_to is None and context.model:
            detail = f"says {wanted}, which is not a quantisation method of {release}"
            yield model_finding(context.model, _METHOD, "error", CONFIG, detail, fix)
        else:
            detail = f"{wanted} is not a quantisation method of {release}"
            yield server_finding(_METHOD, "error", "quantization", detail, fix)
    elif known[wanted].deprecated and context.option("--allow-deprecated-quantization") is None:
        detail = f"{wanted} is deprecated in {release}, which refuses it"
        fix = "add `--allow-deprecated-quantization` to `arguments` under [server]"
        yield server_finding(_METHOD, "error", "quantization", detail, fix)


def _chosen(context: ServerContext, release: Release, own: str | None, set_to: str | None) -> str | None:
    """Return the method that vLLM computes with: it converts some checkpoints by itself."""
    row = methods().get(own or "")
    if row is None:
        return own if set_to in (None, _MARLIN) else set_to
    if not context.gpu:
        return row.cpu if row.cpu in release.facts.quantizations else set_to or own
    marlin = release.facts.quantizations.get(row.marlin or "")
    converted = {None, _MARLIN, row.marlin}
    if row.always in release.facts.quantizations:
        converted |= {own, row.always}
    if set_to in converted and marlin and _suits(context, marlin.min_sm) and _converts(context):
        return row.marlin
    return set_to or own


def _suits(context: ServerContext, min_sm: int | None) -> bool:
    return all(sm >= (min_sm or 0) for sm in context.boards.values())


def _converts(context: ServerContext) -> bool:
    """Return whether Marlin's kernels take the checkpoint: 4 or 8 bits, symmetric for GPTQ."""
    section = context.model.quantization if context.model else {}
    bits = section.get("bits", section.get("w_bit"))
    return bits in (4, 8) and not (section.get("quant_method") == "gptq" and section.get("sym") is False)


def _types(
    context: ServerContext, release: Release, method: str, types: tuple[str, ...], set_to: str | None
) -> Iterator[Finding]:
    dtype = context.settings.dtype if context.settings else context.option("--dtype")
    if not types or dtype in (None, "auto", *types):
        return
    detail = f"{dtype} does not work with the quantisation {method} of {release}, which computes in {joined(types)}"
    fixes = [f'set dtype = "{types[0]}" under [server]']
    if set_to:
        fixes.append("or leave `quantization` out: vLLM then chooses the faster method by itself")
    yield server_finding(_TYPE, "error", "dtype", detail, ", ".join(fixes))


def _gpus(context: ServerContext, release: Release, method: str, min_sm: int | None) -> Iterator[Finding]:
    lacking = {board: sm for board, sm in context.boards.items() if sm < (min_sm or 0)}
    if not context.gpu or not lacking or min_sm is None:
        return
    everywhere = len(lacking) == len(context.boards)
    lower = " and ".join(sorted({f"SM {dotted_sm(sm)}" for sm in lacking.values()}))
    owners = f"{joined(sorted(lacking))} have" if len(context.boards) > 1 else "the board has"
    detail = f"{method} of {release} needs SM {dotted_sm(min_sm)}, and {owners} {lower}"
    fix = "choose a checkpoint with another quantisation, such as AWQ or GPTQ with 4 bits"
    yield server_finding(_GPU, "error" if everywhere else "warning", "quantization", detail, fix)


def _packages(context: ServerContext, wanted: str) -> Iterator[Finding]:
    row = methods().get(wanted)
    if row and row.package and context.lacks(row.package):
        detail = f"{wanted} needs the package {row.package}, which is not among the wheels"
        yield server_finding(_PACKAGE, "error", "quantization", detail, f'add "{row.package}" to `requires`')


def cache_type(context: ServerContext) -> Iterator[Finding]:
    """Yield a KV cache in FP8 on boards whose attention kernels may not have it."""
    settings = context.settings
    if settings is None or not context.gpu or not settings.kv_dtype.startswith("fp8"):
        return
    lacking = sorted(board for board, sm in context.boards.items() if sm < _FP8_CACHE_SM)
    if lacking:
        by = "--kv-cache-dtype" if context.option("--kv-cache-dtype") not in (None, "auto") else "the checkpoint"
        detail = f"{by} asks for a KV cache in {settings.kv_dtype}, and {joined(lacking)} has an SM below 8.9"
        fix = "some attention backends refuse it there (fp8e4nv): test it on the board, or set `--kv-cache-dtype auto`"
        yield server_finding(_CACHE, "warning", "--kv-cache-dtype", detail, fix)
