"""Rules about LoRA modules in the server's arguments: their form, their folder, the adapter's rank and base model."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import TYPE_CHECKING

from builder.host.wording import printable, suggest
from builder.models.preflight.server_context import server_finding

if TYPE_CHECKING:
    from collections.abc import Iterator

    from builder.model.audits import Finding
    from builder.models.preflight.model_facts import ModelFacts
    from builder.models.preflight.server_context import ServerContext

_RULE, _OPTION = "lora-modules", "--lora-modules"
# vLLM 0.9.2 to 0.33.0: the fields of LoRAModulePath, and LoRAConfig's default of max_lora_rank.
_KEYS = ("name", "path", "base_model_name")
_RANK = 16
# The folder of the recipe's models in an image.
MODELS = PurePosixPath("/models")
_FORM = 'write NAME=PATH, or {"name": "NAME", "path": "PATH"}'
_HUB = "hf://"


@dataclass(frozen=True, kw_only=True, slots=True)
class LoraModule:
    """An adapter that the server loads: its name, and its folder in the image or on the hub."""

    name: str
    path: str


def lora_modules(context: ServerContext) -> Iterator[Finding]:
    """Yield LoRA modules that the server does not load at its start, which ends it."""
    items = _items(context)
    if items and context.option("--enable-lora") is None:
        detail = "needs --enable-lora: without it, the server ends when it loads the adapters"
        yield server_finding(_RULE, "error", _OPTION, detail, "add `--enable-lora` to `arguments` under [server]")
    for item in items:
        module = _module(item)
        if module is None:
            detail = f"has `{printable(item)}`, which is neither NAME=PATH nor a JSON object of these keys"
            yield server_finding(_RULE, "error", _OPTION, detail, _FORM)
        else:
            yield from _folder(context, module)


def _items(context: ServerContext) -> tuple[str, ...]:
    """Return the values of the last `--lora-modules`."""
    given = [argument.values for argument in context.arguments if argument.option and argument.option.name == _OPTION]
    return tuple(item for item in given[-1] if item) if given else ()


def _module(item: str) -> LoraModule | None:
    """Read a value as `LoRAParserAction` of vLLM does."""
    if "=" in item and "," not in item:
        name, _, path = item.partition("=")
        return LoraModule(name=name, path=path) if "=" not in path else None
    try:
        document = json.loads(item)
    except (ValueError, RecursionError):
        return None
    is_module = isinstance(document, dict) and {"name", "path"} <= set(document) <= set(_KEYS)
    return LoraModule(name=str(document["name"]), path=str(document["path"])) if is_module else None


def _folder(context: ServerContext, module: LoraModule) -> Iterator[Finding]:
    """Check an adapter in a model's folder of the image; others come from the hub, or are mounted at run time."""
    path = PurePosixPath(module.path)
    if not path.is_relative_to(MODELS) or path == MODELS:
        return
    name, *rest = path.relative_to(MODELS).parts
    if context.models and name not in context.models:
        detail = f"names {module.path}, and the recipe has no model {name}"
        yield server_finding(_RULE, "error", _OPTION, detail, suggest(name, context.models, noun="models"))
        return
    model = context.model
    if model is None or model.name != name:
        return
    adapter = model.adapters.get("/".join(rest))
    if adapter is None:
        detail = f"names {module.path}, where the model has no adapter_config.json"
        others = ", ".join(sorted(filter(None, model.adapters)))
        fix = "add the adapter's folder to the model's `files`, or mount it elsewhere"
        fix = f"the model's adapters are in {others}" if others else fix
        yield server_finding(_RULE, "error", _OPTION, detail, fix)
        return
    yield from _rank(context, module, adapter.get("r"))
    yield from _base(model, module, adapter.get("base_model_name_or_path"))


def _rank(context: ServerContext, module: LoraModule, rank: object) -> Iterator[Finding]:
    given = context.option("--max-lora-rank") or str(_RANK)
    if isinstance(rank, int) and given.isdecimal() and rank > int(given):
        detail = f"names {module.path}, an adapter of rank {rank}, and the server takes {given} at most"
        yield server_finding(_RULE, "error", _OPTION, detail, f"set `--max-lora-rank` to {rank} or more")


def _base(model: ModelFacts, module: LoraModule, base: object) -> Iterator[Finding]:
    """Compare the adapter's base model with the model's source, if both are on the hub."""
    source = model.source.removeprefix(_HUB).partition("@")[0]
    if not model.source.startswith(_HUB) or not isinstance(base, str) or base.count("/") != 1 or base.startswith("."):
        return
    if base.lower() != source.lower():
        detail = f"names {module.path}, an adapter for {printable(base)}, and the server's model is {source}"
        yield server_finding(_RULE, "warning", _OPTION, detail, "make sure that the adapter is for this model")
