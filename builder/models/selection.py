"""Selects the files of a model: by default those that a server needs, in the recipe's weight formats."""

from __future__ import annotations

from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import PurePosixPath
from typing import TYPE_CHECKING

from builder.errors import ModelError
from builder.host.wording import suggest
from builder.model.model_files import suffix_of
from builder.models.config_json import CONFIG
from builder.models.mistral_format import PARAMS, is_consolidated, is_mistral_tokenizer, is_native, one_format
from builder.models.shards import INDEX_ENDING

if TYPE_CHECKING:
    from collections.abc import Iterable

    from builder.model.recipes import Model

_PICKLES = ("bin", "ckpt", "pickle", "pkl", "pt", "pth")
# The values of a recipe's `formats`, and the endings of each.
FORMATS: dict[str, tuple[str, ...]] = {
    "safetensors": ("safetensors",),
    "gguf": ("gguf",),
    "onnx": ("onnx", "onnx_data"),
    "pickle": _PICKLES,
    **{ending: (ending,) for ending in _PICKLES if ending != "pickle"},
}
# Weights that no supported server loads: never selected, but named if there are no others.
_OTHER_WEIGHTS = frozenset({"h5", "joblib", "keras", "mlmodel", "msgpack", "nemo", "npy", "npz", "ot", "tflite"})
_WEIGHTS = _OTHER_WEIGHTS.union(*FORMATS.values())
# `model` is SentencePiece's, `tiktoken` and `bpe` are vocabularies, `jinja` is a chat template.
_NEEDED = frozenset({"bpe", "jinja", "json", "model", "tiktoken", "txt"})
_LICENCES = ("LICENSE", "LICENCE", "NOTICE", "COPYING")
# Copies of the same weights for other programs.
_OTHER_COPIES = frozenset({"coreml", "onnx", "openvino", "original"})
_TOKENIZERS = frozenset({"tekken.json", "tokenizer.json", "vocab.json", "vocab.txt"})
_TOKENIZER_ENDINGS = frozenset({"model", "tiktoken"})


@dataclass(frozen=True, kw_only=True, slots=True)
class Selection:
    """The selected paths, sorted, and the weight files in other formats."""

    paths: tuple[str, ...]
    left_out: tuple[str, ...]

    @property
    def indexes(self) -> tuple[str, ...]:
        """The files that map tensors to shards."""
        return tuple(path for path in self.paths if path.endswith(INDEX_ENDING))

    @property
    def has_tokenizer(self) -> bool:
        """Whether a tokenizer's files are among them."""
        return any(
            PurePosixPath(path).name in _TOKENIZERS
            or suffix_of(path) in _TOKENIZER_ENDINGS
            or is_mistral_tokenizer(path)
            for path in self.paths
        )

    @property
    def config(self) -> str:
        """The model's configuration: config.json, else Mistral's params.json."""
        return CONFIG if CONFIG in self.paths else PARAMS

    @property
    def is_mistral(self) -> bool:
        """Whether the paths are of Mistral's own format."""
        return PARAMS in self.paths and any(is_weight(path) and is_consolidated(path) for path in self.paths)


def select(paths: Iterable[str], model: Model) -> Selection:
    """Select from all paths of a source.

    Raises:
        ModelError: no config.json, no weights in an allowed format, or a glob that matches nothing.
    """
    every = sorted(paths)
    allowed = _endings(model)
    if CONFIG not in every and PARAMS not in every:
        raise no_config(model.name, model.source)
    needed = _matches(every, model) if model.files else [p for p in every if _is_needed(p, model.formats)]
    left_out = [path for path in needed if is_weight(path) and suffix_of(path) not in allowed]
    selected = set(needed) - set(left_out) | {CONFIG if CONFIG in every else PARAMS}
    selected = one_format(selected, set(filter(is_weight, selected)), listed=bool(model.files))
    own = {path for path in selected if is_weight(path) and is_consolidated(path)}
    if is_native(selected, own) and not model.files:
        selected |= set(filter(is_mistral_tokenizer, every))
    if CONFIG not in selected and not own:
        raise _no_mistral_weights(model)
    if not any(is_weight(path) for path in selected):
        raise _no_weights(model, left_out)
    indexed = (path for path in selected if not _is_index_of_other(path, allowed))
    return Selection(paths=tuple(sorted(indexed)), left_out=tuple(left_out))


def no_config(name: str, where: str) -> ModelError:
    """Return the error for a source without the configuration of a model."""
    return ModelError(
        f"model {name} has no {CONFIG}",
        where=where,
        hint="name the folder with config.json, tokenizer and *.safetensors, as `save_pretrained` writes it",
    )


def is_weight(path: str) -> bool:
    """Return whether a file has weights, by its ending."""
    return suffix_of(path) in _WEIGHTS


def _endings(model: Model) -> frozenset[str]:
    for name in model.formats:
        if name not in FORMATS:
            raise ModelError(
                f"model {model.name}: `{name}` is not a weight format",
                where=model.source,
                hint=suggest(name, FORMATS, noun="formats"),
            )
    return frozenset(ending for name in model.formats for ending in FORMATS[name])


def _matches(every: list[str], model: Model) -> list[str]:
    """Return the matches of `files`; `*` also matches `/`, as in the hub's allow patterns."""
    selected: set[str] = set()
    for pattern in model.files:
        matches = {path for path in every if fnmatchcase(path, pattern)}
        if not matches:
            raise ModelError(
                f"model {model.name}: `{pattern}` of `files` matches nothing",
                where=model.source,
                hint=suggest(pattern, every, noun="files there"),
            )
        selected |= matches
    return sorted(selected)


def _is_needed(path: str, formats: Iterable[str]) -> bool:
    *folders, name = components = PurePosixPath(path).parts
    if any(component.startswith(".") for component in components) or (_OTHER_COPIES - set(formats)) & set(folders):
        return False
    is_licence = name.upper().startswith(_LICENCES)
    return is_licence or suffix_of(name) in _NEEDED or suffix_of(name) in _WEIGHTS


def _is_index_of_other(path: str, allowed: frozenset[str]) -> bool:
    if not path.endswith(INDEX_ENDING):
        return False
    ending = suffix_of(path.removesuffix(INDEX_ENDING))
    return ending in _WEIGHTS and ending not in allowed


def _no_mistral_weights(model: Model) -> ModelError:
    return ModelError(
        f"model {model.name} has no {CONFIG}, and its {PARAMS} is of Mistral's own format, "
        "whose weights (consolidated*.safetensors) are missing or not selected",
        where=model.source,
        hint=f"name a folder with both, or the model in Hugging Face's format ({CONFIG}, tokenizer, *.safetensors)",
    )


def _no_weights(model: Model, left_out: list[str]) -> ModelError:
    allowed = ", ".join(model.formats)
    if not left_out:
        return ModelError(
            f"model {model.name} has no weights ({allowed})",
            where=model.source,
            hint="name the folder with the weights, or extend `files` in the recipe",
        )
    ending = suffix_of(left_out[0])
    danger = "; files in that format can run code when they are loaded" if ending in _PICKLES else ""
    usable = f', or, if you trust them, set formats = ["{ending}"]{danger}' if ending in FORMATS else ""
    return ModelError(
        f"model {model.name} has weights only in formats that the recipe does not allow: {_some(left_out)} "
        f"(allowed: {allowed})",
        where=model.source,
        hint=f"convert them to safetensors (`save_pretrained` does){usable}",
    )


def _some(paths: list[str]) -> str:
    first = ", ".join(paths[:3])
    return f"{first} and {len(paths) - 3} more" if len(paths) > 3 else first  # noqa: PLR2004
