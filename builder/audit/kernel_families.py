"""The families of kernels that a cell's server and model use, by the rows of `kernels.toml`."""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

from packaging.version import Version

from builder.audit.kernel_use import UNQUANTIZED, server_use, weight_type
from builder.host.toml import documents
from builder.jetson.boards import sm_number

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from builder.audit.kernel_use import ServerUse
    from builder.host.toml.tables import Table
    from builder.models.preflight.server_context import ServerContext

_TABLE = Path(__file__).with_name("kernels.toml")
_ENCODER = "ENCODER"
# FlashAttention-2 rounds head sizes up to these: `HEADDIM_SWITCH` of its static_switch.h.
_HEAD_SIZES = (32, 64, 96, 128, 192, 256)
_TYPES = {"float16": "6half_t", "bfloat16": "10bfloat16_t"}
_ANYTHING = {"head": "[0-9]+", "encoder-head": "[0-9]+", "type": "", "scalar": "n?[0-9]+"}
_ANYTHING |= {"activation": _ANYTHING["scalar"], "weight": _ANYTHING["scalar"]}
_PLACEHOLDER = re.compile(r"\{([a-z-]+)\}")


@dataclass(frozen=True, kw_only=True, slots=True)
class KernelFamily:
    """A row of `kernels.toml`; SMs as numbers (89 for 8.9), None without a bound.

    `group_sizes` are the inputs that share a scale, -1 for all of them; without any, each size suits.
    """

    name: str
    title: str
    files: tuple[str, ...] = ()
    kernels: str = ""
    compiler: str | None = None
    model: bool = False
    methods: tuple[str, ...] = ()
    moe: bool = False
    attention: str | None = None
    majors: tuple[int, ...] = ()
    group_sizes: tuple[int, ...] = ()
    lowest: int | None = None
    below: int | None = None
    packages: tuple[str, ...] = ()
    graphs: bool = False
    since: Version | None = None
    helper: bool = False
    unless: tuple[tuple[str, str], ...] = ()

    def is_for(self, sm: int) -> bool:
        """Return whether vLLM uses the family on a GPU at all."""
        in_bounds = (self.lowest or 0) <= sm < (self.below or 10_000)
        return in_bounds and (not self.majors or sm // 10 in self.majors)

    def takes(self, method: str) -> bool:
        """Return whether the family is for a quantisation method: `fp8` is also for `fp8:block`."""
        return any(f"{method}:".startswith(f"{name}:") for name in self.methods)

    def takes_groups(self, size: int | None) -> bool:
        """Return whether the family is for weights whose scales each belong to `size` inputs."""
        return not self.group_sizes or (-1 if size is None else size) in self.group_sizes


@dataclass(frozen=True, kw_only=True, slots=True)
class NeededFamily:
    """A family that a server uses, what asks for it, and the regular expression on the kernels that it uses."""

    family: KernelFamily
    reason: str
    kernels: str


@dataclass(frozen=True, kw_only=True, slots=True)
class KernelNeeds:
    """The families that a server uses on a GPU; `unknown` are features whose kernels no row describes, with reasons."""

    families: tuple[NeededFamily, ...]
    unknown: tuple[tuple[str, str], ...] = ()


@cache
def kernel_families() -> tuple[KernelFamily, ...]:
    """Return the rows of `kernels.toml`.

    Raises:
        DocumentError: the file has mistakes.
    """
    return _table()[0]


@cache
def _table() -> tuple[tuple[KernelFamily, ...], dict[str, str]]:
    """Return the rows, and the numbers of types in kernels' names."""
    return documents.load(_TABLE, "the families of kernels have mistakes", _read)


def _read(root: Table) -> tuple[tuple[KernelFamily, ...], dict[str, str]]:
    numbers = root.string_map("scalar-types", ("[a-z0-9_]+", "a type"), ("n?[0-9]+", "a number"))
    parts = dict(root.string_map("name-parts", ("[a-z0-9-]+", "a placeholder"), (".+", "a part of a name")))
    return tuple(_family(row, parts) for row in root.rows("families")), dict(numbers)


def _family(table: Table, parts: Mapping[str, str]) -> KernelFamily:
    bounds = {key: table.optional_string(key) for key in ("from", "below")}
    compiler = table.optional_string("compiler")
    since = table.optional_string("since", pattern=r"[0-9]+(\.[0-9]+)*", noun="a release of vLLM")
    written = "" if compiler else table.string("kernels")
    pattern = _PLACEHOLDER.sub(lambda match: parts.get(match[1], match[0]), written)
    files = table.strings("files")
    try:
        re.compile(_filled(pattern, _ANYTHING))
    except (re.error, KeyError) as error:
        table.problem("kernels", f"not a regular expression with known placeholders: {error}")
    if bool(files) == bool(compiler):
        table.problem("files", "a family has either `files` with `kernels`, or a `compiler`")
    table.string("source", pattern=".+", noun="a source")
    return KernelFamily(
        name=table.string("name"),
        title=table.string("title"),
        files=files,
        kernels=pattern,
        compiler=compiler,
        model=table.boolean("model", default=False),
        methods=table.strings("methods"),
        moe=table.boolean("moe", default=False),
        attention=table.optional_string("attention"),
        majors=tuple(map(int, table.strings("majors", pattern="[0-9]{1,2}", noun="a major such as 8"))),
        group_sizes=tuple(map(int, table.strings("group-sizes", pattern="-1|[0-9]{1,5}", noun="a size such as 128"))),
        lowest=sm_number(bounds["from"]) if bounds["from"] else None,
        below=sm_number(bounds["below"]) if bounds["below"] else None,
        packages=table.strings("packages"),
        graphs=table.boolean("graphs", default=False),
        since=Version(since) if since else None,
        helper=table.boolean("helper", default=False),
        unless=table.string_map("unless", ("[A-Z0-9_]+", "a variable")),
    )


def kernel_needs(context: ServerContext, sm: int) -> KernelNeeds:
    """Return what a server asks of a GPU."""
    context = replace(context, boards={name: number for name, number in context.boards.items() if number == sm})
    rows = [row for row in kernel_families() if row.is_for(sm) and not _lacks(context, row)]
    if context.model is None:
        plain = [row for row in rows if not _is_conditional(row)]
        return KernelNeeds(families=tuple(_needed(row, "every server", {}) for row in plain))
    use = server_use(context, context.model, sm)
    reasons = [(row, reason) for row in rows if (reason := _reason(row, use))]
    values = _values(context, use)
    families = tuple(_needed(row, reason, values) for row, reason in reasons)
    return KernelNeeds(families=families, unknown=tuple(_unknown(use, [row for row, _ in reasons])))


def _lacks(context: ServerContext, row: KernelFamily) -> bool:
    """Return whether a server cannot have a family: its release is older, a package is missing, or a variable set."""
    release = context.sources.vllm
    if any(context.environment.get(name) == value for name, value in row.unless):
        return True
    is_older = bool(row.since and release and Version(release.version) < row.since)
    return is_older or (bool(row.packages) and context.lacks(*row.packages))


def _is_conditional(row: KernelFamily) -> bool:
    return bool(row.model or row.methods or row.moe or row.attention)


def _reason(row: KernelFamily, use: ServerUse) -> str | None:
    """Return what asks for a family, None if nothing does."""
    if row.attention:
        return _attention_reason(row, use)
    if (row.moe and not use.experts) or (row.graphs and not use.graphs):
        return None
    if row.methods and not (row.takes(use.method) and row.takes_groups(use.group_size)):
        return None
    if row.methods and use.method != UNQUANTIZED:
        return _words(use.method)
    if row.moe:
        return f"{use.experts} experts"
    return f"model {use.model.name}" if row.model else "every server"


def _words(method: str) -> str:
    return method.replace(":", " ")


def _attention_reason(row: KernelFamily, use: ServerUse) -> str | None:
    if row.attention == _ENCODER:
        sizes = ", ".join(str(size) for size in use.encoder_heads if size)
        return f"encoder with head size {sizes}" if sizes else None
    return f"head size {use.head_size}" if row.attention == use.attention else None


def _needed(row: KernelFamily, reason: str, values: Mapping[str, str]) -> NeededFamily:
    return NeededFamily(family=row, reason=reason, kernels=_filled(row.kernels, _ANYTHING | dict(values)))


def _filled(pattern: str, values: Mapping[str, str]) -> str:
    return _PLACEHOLDER.sub(lambda match: values[match[1]], pattern)


def _values(context: ServerContext, use: ServerUse) -> dict[str, str]:
    """Return the values of the placeholders that are known."""
    dtype = context.settings.dtype if context.settings else ""
    numbers = _table()[1]
    size = use.head_size
    # Activations have the results' type, unless the server quantises them for Marlin.
    asked = context.environment.get("VLLM_MARLIN_INPUT_DTYPE", "").lower()
    activation = {"int8": "int8", "fp8": "float8_e4m3fn"}.get(asked, dtype)
    found = {
        "head": str(_rounded(size)) if size else None,
        "encoder-head": f"({'|'.join(str(_rounded(head)) for head in use.encoder_heads if head)})",
        "type": _TYPES.get(dtype),
        "scalar": numbers.get(dtype),
        "activation": numbers.get(activation),
        "weight": numbers.get(weight_type(use) or ""),
    }
    return {name: text for name, text in found.items() if text is not None}


def _rounded(size: int) -> int:
    return next((head for head in _HEAD_SIZES if head >= size), size)


def _unknown(use: ServerUse, rows: Sequence[KernelFamily]) -> Iterator[tuple[str, str]]:
    """Yield features that no family describes on this GPU."""
    source = f"model {use.model.name}"
    if use.odd:
        yield use.odd
    elif not any(row.attention == use.attention for row in rows):
        yield (
            f"attention backend {use.attention}",
            "the server's settings" if use.named else "vLLM's choice on this GPU",
        )
    if use.encoder_heads and not any(row.attention == _ENCODER for row in rows):
        yield "attention of encoders", source
    if use.method != UNQUANTIZED and not any(row.methods and not row.helper for row in rows):
        yield f"quantisation {_words(use.method)}", source
    if use.experts and not any(row.methods and row.moe for row in rows):
        quantised = "without quantisation" if use.method == UNQUANTIZED else f"with quantisation {_words(use.method)}"
        yield f"experts {quantised}", source
    if any("state" in text or "recurrent" in text for text in use.model.shape.unknown):
        yield "layers with a state instead of attention", source
