"""Which files of a model are taken: by default what a server needs, in the weight formats that the recipe allows."""

from __future__ import annotations

from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import PurePosixPath
from typing import TYPE_CHECKING

from builder.errors import ModelError
from builder.host.toml.documents import suggest
from builder.model.model_files import suffix_of

if TYPE_CHECKING:
    from collections.abc import Iterable

    from builder.model.recipes import Model

CONFIG = "config.json"
INDEX_ENDING = ".index.json"
_PICKLES = ("bin", "ckpt", "pickle", "pkl", "pt", "pth")
# What a recipe may name in `formats`, and the endings of each.
FORMATS: dict[str, tuple[str, ...]] = {
    "safetensors": ("safetensors",),
    "gguf": ("gguf",),
    "onnx": ("onnx", "onnx_data"),
    "pickle": _PICKLES,
    **{ending: (ending,) for ending in _PICKLES if ending != "pickle"},
}
# Weights that no server of ours loads: never taken, but named when there is nothing else.
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
    """The paths that are taken, sorted, and the weight files that are left out because of their format."""

    paths: tuple[str, ...]
    left_out: tuple[str, ...]

    @property
    def indexes(self) -> tuple[str, ...]:
        """The files that say which shard holds which tensor."""
        return tuple(path for path in self.paths if path.endswith(INDEX_ENDING))

    @property
    def has_tokenizer(self) -> bool:
        """Whether there is a file that a tokenizer can be made from."""
        return any(PurePosixPath(p).name in _TOKENIZERS or suffix_of(p) in _TOKENIZER_ENDINGS for p in self.paths)


def select(paths: Iterable[str], model: Model) -> Selection:
    """Choose from all paths of a source.

    Raises:
        ModelError: no config.json, no weights in an allowed format, or a glob that matches nothing.
    """
    every = sorted(paths)
    if CONFIG not in every:
        raise ModelError(
            f"model {model.name} has no {CONFIG}",
            where=model.source,
            hint="name the folder that holds config.json, tokenizer and *.safetensors, as `save_pretrained` writes it",
        )
    allowed = _endings(model)
    candidates = _asked_for(every, model) if model.files else [p for p in every if _is_needed(p, model.formats)]
    left_out = [path for path in candidates if is_weight(path) and suffix_of(path) not in allowed]
    chosen = set(candidates) - set(left_out) | {CONFIG}
    if not model.files:
        chosen -= _second_copies(chosen)
    if not any(is_weight(path) for path in chosen):
        raise _no_weights(model, left_out)
    selected = sorted(path for path in chosen if not _is_index_of_other(path, allowed))
    return Selection(paths=tuple(selected), left_out=tuple(left_out))


def is_weight(path: str) -> bool:
    """Tell whether a file holds weights, by its ending."""
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


def _asked_for(every: list[str], model: Model) -> list[str]:
    """`*` goes across folders, as in the hub's own allow patterns."""
    chosen: set[str] = set()
    for pattern in model.files:
        matches = {path for path in every if fnmatchcase(path, pattern)}
        if not matches:
            raise ModelError(
                f"model {model.name}: `{pattern}` of `files` matches nothing",
                where=model.source,
                hint=suggest(pattern, every, noun="files there"),
            )
        chosen |= matches
    return sorted(chosen)


def _is_needed(path: str, formats: Iterable[str]) -> bool:
    *folders, name = PurePosixPath(path).parts
    if any(folder.startswith(".") for folder in (*folders, name)) or (_OTHER_COPIES - set(formats)) & set(folders):
        return False
    is_licence = name.upper().startswith(_LICENCES)
    return is_licence or suffix_of(name) in _NEEDED or suffix_of(name) in _WEIGHTS


def _second_copies(chosen: set[str]) -> set[str]:
    """Mistral's releases hold all weights twice: `model-*` and, for another loader, `consolidated*`."""
    usual = {"model.safetensors", "model.safetensors.index.json"}
    if not usual & chosen:
        return set()
    return {path for path in chosen if path.startswith("consolidated") and ".safetensors" in path}


def _is_index_of_other(path: str, allowed: frozenset[str]) -> bool:
    if not path.endswith(INDEX_ENDING):
        return False
    ending = suffix_of(path.removesuffix(INDEX_ENDING))
    return ending in _WEIGHTS and ending not in allowed


def _no_weights(model: Model, files: list[str]) -> ModelError:
    allowed = ", ".join(model.formats)
    if not files:
        return ModelError(
            f"model {model.name} has no weights ({allowed})",
            where=model.source,
            hint="name the folder that holds the weights, or widen `files` in the recipe",
        )
    ending = suffix_of(files[0])
    danger = "; files in that format can run code when they are loaded" if ending in _PICKLES else ""
    usable = f', or, if you trust them, set formats = ["{ending}"]{danger}' if ending in FORMATS else ""
    return ModelError(
        f"model {model.name} has weights only in formats that the recipe does not allow: {_some(files)} "
        f"(allowed: {allowed})",
        where=model.source,
        hint=f"convert them to safetensors (`save_pretrained` does){usable}",
    )


def _some(paths: list[str]) -> str:
    first = ", ".join(paths[:3])
    return f"{first} and {len(paths) - 3} more" if len(paths) > 3 else first  # noqa: PLR2004
