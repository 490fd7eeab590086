"""The facts about a vLLM release and a transformers release that decide whether a server starts."""

from __future__ import annotations

from dataclasses import dataclass, field

# The registry's tables of models that answer with text; those of speculative decoding serve beside another model.
MULTIMODAL = "multimodal"
GENERATING = ("text_generation", MULTIMODAL, "transformers_supported", "transformers_backend", "transformers")


@dataclass(frozen=True, kw_only=True, slots=True)
class ServerOption:
    """A command-line option of the server.

    A `flag` takes no value, one with `many` several, an `optional` one none or one. `choices` are the values, empty
    if they are free; the value of a `number` is one. A JSON value has these `keys` (`pass_config.fuse_norm_quant` is
    within another one), empty if they are free; others are refused with `only_keys`, else ignored.
    """

    name: str
    flag: bool = False
    many: bool = False
    optional: bool = False
    number: bool = False
    choices: tuple[str, ...] = ()
    keys: tuple[str, ...] = ()
    only_keys: bool = False


@dataclass(frozen=True, kw_only=True, slots=True)
class QuantizationFacts:
    """A quantisation method: its lowest SM (75 for 7.5; None if every SM has it) and the types that it computes in.

    A `deprecated` one is refused without `--allow-deprecated-quantization`.
    """

    min_sm: int | None = None
    dtypes: tuple[str, ...] = ()
    deprecated: bool = False


@dataclass(frozen=True, kw_only=True, slots=True)
class ServerFacts:
    """A vLLM release, as its own source files state it; an empty field is unknown.

    `architectures` maps a name in config.json to the table of vLLM's registry that has it (`text_generation`,
    `multimodal`, ...), `removed` to the last release that had it. `model_types` have a configuration class of
    vLLM's own; `template_fallbacks` are those with a chat template of vLLM's own. Marlin takes only layers whose inputs
    and outputs are multiples of `marlin_multiples`; it is empty where Marlin pads the layers.
    """

    options: tuple[ServerOption, ...] = ()
    architectures: dict[str, str] = field(default_factory=dict)
    removed: dict[str, str] = field(default_factory=dict)
    model_types: tuple[str, ...] = ()
    quantizations: dict[str, QuantizationFacts] = field(default_factory=dict)
    tool_parsers: tuple[str, ...] = ()
    reasoning_parsers: tuple[str, ...] = ()
    template_fallbacks: tuple[str, ...] = ()
    marlin_multiples: tuple[int, ...] = ()


@dataclass(frozen=True, kw_only=True, slots=True)
class TransformersFacts:
    """A transformers release: the model types, architectures and tokenizer classes that it has.

    Models of `image_types` have an image processor of transformers.
    """

    model_types: tuple[str, ...] = ()
    architectures: tuple[str, ...] = ()
    tokenizers: tuple[str, ...] = ()
    image_types: tuple[str, ...] = ()
