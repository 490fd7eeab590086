"""The files of the model that a server loads, as far as a start depends on them."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from pathlib import PurePosixPath
from typing import TYPE_CHECKING, Any

from builder.models.adapters import ADAPTER
from builder.models.config_json import architectures_of
from builder.models.fit.model_shape import read_shape

if TYPE_CHECKING:
    from builder.models.fit.memory_estimate import Shape
    from builder.models.fit.weights import ModelFiles

# vLLM takes the tokenizer of mistral-common, which has its own template, if one of these is there.
_MISTRAL_TOKENIZERS = ("tekken.json",)
_HEADS = ("num_attention_heads", "n_head", "n_heads")
_PROCESSORS = ("preprocessor_config.json", "processor_config.json", "video_preprocessor_config.json")


@dataclass(frozen=True, kw_only=True, slots=True)
class ModelFacts:
    """A model's configuration and tokenizer settings, the paths of its files, and its shape.

    `quantization` is the model's own quantisation section, with the method that vLLM takes it for; `adapters` are the
    configurations of LoRA adapters by their folders in the model's.
    """

    name: str
    config: dict[str, Any]
    shape: Shape
    paths: frozenset[str]
    tokenizer: dict[str, Any] = field(default_factory=dict)
    quantization: dict[str, Any] = field(default_factory=dict)
    adapters: dict[str, dict[str, Any]] = field(default_factory=dict)
    source: str = ""

    @property
    def architectures(self) -> tuple[str, ...]:
        """The architectures that config.json names."""
        return architectures_of(self.config)

    @property
    def heads(self) -> int | None:
        """The number of attention heads of the language model."""
        sections = (self.config.get("text_config"), self.config.get("llm_config"), self.config)
        counts = (section.get(key) for section in sections if isinstance(section, dict) for key in _HEADS)
        return next((count for count in counts if isinstance(count, int) and count > 0), None)

    @property
    def model_type(self) -> str:
        """The type that transformers chooses the configuration class by."""
        return str(self.config.get("model_type") or "")

    @property
    def has_template(self) -> bool:
        """Whether a chat template comes with the model."""
        files = any(PurePosixPath(path).name.startswith("chat_template.") for path in self.paths)
        return bool(self.tokenizer.get("chat_template")) or files or self.is_mistral

    @property
    def is_mistral(self) -> bool:
        """Whether the tokenizer is one of mistral-common."""
        return bool(self.paths.intersection(_MISTRAL_TOKENIZERS))

    @property
    def has_processor(self) -> bool:
        """Whether the settings of an image or audio processor are there."""
        return bool(self.paths.intersection(_PROCESSORS))

    def code_for(self, automatic: str) -> bool:
        """Return whether the model names its own code for one of transformers' `Auto` classes."""
        maps = (self.config.get("auto_map"), self.tokenizer.get("auto_map"))
        return any(isinstance(table, dict) and table.get(automatic) for table in maps)


def read_model(files: ModelFiles) -> ModelFacts:
    """Read a model's files.

    Raises:
        ModelError: config.json is missing or damaged.
    """
    location, text = files.config()
    config = json.loads(text)
    shape = read_shape(files.name, location, text)
    return ModelFacts(
        name=files.name,
        config=config,
        shape=shape,
        paths=frozenset(files.sizes),
        tokenizer=_object(files, "tokenizer_config.json"),
        quantization=_quantization(config, _object(files, "hf_quant_config.json")),
        adapters={_parent(path): _object(files, path) for path in files.sizes if PurePosixPath(path).name == ADAPTER},
        source=files.source,
    )


def _parent(path: str) -> str:
    return path.rpartition("/")[0]


def _object(files: ModelFiles, path: str) -> dict[str, Any]:
    """Return a small JSON file; one that is missing or damaged has nothing: the lock checks the files."""
    local = files.find(path)
    try:
        value = json.loads(local.read_bytes()) if local else {}
    except (OSError, ValueError, RecursionError):
        return {}
    return value if isinstance(value, dict) else {}


def _quantization(config: dict[str, Any], beside: dict[str, Any]) -> dict[str, Any]:
    """Return the quantisation section with vLLM's name of the method, as `_normalize_quantization_config` finds it.

    Source: vLLM 0.15.1 and 0.20.2, `model_arch_config_convertor.py` and `config.py` in `transformers_utils`
    (ModelOpt's older checkpoints have `hf_quant_config.json` beside config.json).
    """
    sections = (config.get("quantization_config"), config.get("compression_config"), beside)
    section = next((section for section in sections if isinstance(section, dict) and section), None)
    if section is None:
        return {}
    inner = section.get("quantization")
    algorithm = str(section.get("quant_algo") or (inner.get("quant_algo") if isinstance(inner, dict) else "") or "")
    method = str(section.get("quant_method") or "").lower().replace("compressed_tensors", "compressed-tensors")
    producer = section.get("producer")
    is_modelopt = method == "modelopt" or (isinstance(producer, dict) and producer.get("name") == "modelopt")
    if is_modelopt:
        method = "modelopt_fp4" if "FP4" in algorithm.upper() else "modelopt"
    return {**section, "quant_method": method}
