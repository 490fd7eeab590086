"""Recognises adapters, such as LoRA's, which are not models: they change a base model that the server loads."""

from __future__ import annotations

import json
import re
from typing import TYPE_CHECKING, Any

from builder.errors import ModelError
from builder.host.wording import printable
from builder.model.model_files import suffix_of
from builder.models.config_json import CONFIG

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from builder.model.recipes import Model

ADAPTER = "adapter_config.json"
_HUB_NAME = r"[\w.-]+/[\w.-]+"


def refuse_adapter(model: Model, paths: Iterable[str], read: Callable[[str], bytes]) -> None:
    """Refuse an adapter without a model; `read` returns the bytes of one of the paths.

    Raises:
        ModelError: the paths are an adapter's.
    """
    names = set(paths)
    if ADAPTER not in names or (CONFIG in names and any(map(_is_models, names))):
        return
    config = _object(read(ADAPTER))
    base, kind = config.get("base_model_name_or_path"), str(config.get("peft_type") or "LORA")
    base = printable(base) if isinstance(base, str) and base else None
    kind = "LoRA" if kind.upper() == "LORA" else printable(kind)
    article = "an" if kind[:1].upper() in "AEIO" else "a"
    raise ModelError(
        f"model {model.name}: this is {article} {kind} adapter for {base or 'a base model that it does not name'}",
        where=model.source,
        hint=_hint(base, kind),
    )


def _is_models(path: str) -> bool:
    """Return whether a file has weights of a model; trainers leave other files in pickle formats beside adapters."""
    is_weights = suffix_of(path) in ("safetensors", "gguf", "onnx") or path.startswith("pytorch_model")
    return "/" not in path and is_weights and not path.startswith("adapter_model")


def _hint(base: str | None, kind: str) -> str:
    source = f'source = "hf://{base}@main"' if base and re.fullmatch(_HUB_NAME, base) else "`source`"
    named = f"name the base model as the recipe's model ({source})" if base else "name its base model in `source`"
    if kind != "LoRA":
        return f"{named}, and merge the adapter into it: vLLM loads only LoRA adapters"
    return f"{named}, and load the adapter with --enable-lora --lora-modules NAME=FOLDER in the server's `arguments`"


def _object(data: bytes) -> dict[str, Any]:
    try:
        value = json.loads(data)
    except (ValueError, RecursionError):
        return {}
    return value if isinstance(value, dict) else {}
