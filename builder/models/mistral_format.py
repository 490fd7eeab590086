"""Mistral's own model format (params.json, consolidated*.safetensors, tekken.json), which is never mixed with another.

vLLM reads a folder in one format only. With --config-format auto, vLLM 0.9.2 to 0.15.1 take Mistral's if params.json
is there, 0.20.2 and 0.33.0 if consolidated*.safetensors is there too (`get_config` in `transformers_utils/config.py`).
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from builder.models.config_json import CONFIG
from builder.models.shards import INDEX_ENDING, absent_numbers

if TYPE_CHECKING:
    from collections.abc import Set as AbstractSet

PARAMS = "params.json"
_CONSOLIDATED = re.compile(r"consolidated[^/]*\.safetensors(?:\.index\.json)?")
# Names under which transformers saves weights. Others beside Mistral's, such as a projector's, are not a whole model.
_OTHER_WEIGHTS = re.compile(r"(?:pytorch_)?model[^/]*")
# The files that vLLM's Mistral tokenizer looks for (`tokenizers/registry.py`).
_TOKENIZER = re.compile(r"tekken[^/]*\.json|tokenizer\.model\.v[^/]*")
_OTHER_TOKENIZER = re.compile(r"tokenizer\.json|vocab\.(?:json|txt)|[^/]+\.(?:model|tiktoken)")


def is_consolidated(path: str) -> bool:
    """Return whether a path is of Mistral's weights or their index."""
    return bool(_CONSOLIDATED.fullmatch(path))


def is_mistral_tokenizer(path: str) -> bool:
    """Return whether a path is of a tokenizer for Mistral's own library."""
    return bool(_TOKENIZER.fullmatch(path))


def one_format(paths: AbstractSet[str], weights: AbstractSet[str], *, listed: bool) -> set[str]:
    """Return the paths without those of the format that is not used; `weights` are the weight files among them.

    Hugging Face's format has precedence if it is whole, with a tokenizer of its own. Paths that the recipe lists stay,
    except a params.json without its weights.
    """
    own = {path for path in weights if is_consolidated(path)}
    others = {path for path in weights - own if _OTHER_WEIGHTS.fullmatch(path)}
    if is_native(paths, own) and not _is_whole(paths, others):
        unused = others | {path for path in paths if path.endswith(INDEX_ENDING) and not is_consolidated(path)}
        return set(paths if listed else paths - {path for path in unused if "/" not in path})
    if listed:
        return set(paths if own else paths - {PARAMS})
    return set(paths - {PARAMS} - ({path for path in paths if is_consolidated(path)} if others else set()))


def is_native(paths: AbstractSet[str], own: AbstractSet[str]) -> bool:
    """Return whether Mistral's format is whole; `own` are the weight files in it."""
    return PARAMS in paths and bool(own) and not absent_numbers(own)


def _is_whole(paths: AbstractSet[str], others: AbstractSet[str]) -> bool:
    """Return whether Hugging Face's format is whole; a tokenizer for Mistral's library alone belongs to Mistral's."""
    has_tokenizer = any(_OTHER_TOKENIZER.fullmatch(path) for path in paths)
    has_tokenizer = has_tokenizer or not any(is_mistral_tokenizer(path) for path in paths)
    return CONFIG in paths and bool(others) and not absent_numbers(others) and has_tokenizer
