"""The tensors of a 4-bit linear layer in the checkpoint formats of GPTQ and AWQ, and their sections of config.json."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from hf_folder import Tensor

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    import numpy.typing as npt

    from four_bits import FourBitWeight, Integers

PER_WORD = 8
"""4-bit integers in a 32-bit word."""

# AWQ's GEMM kernel reads columns in this order: bits 4 to 7 of a word are of column 2.
_AWQ_ORDER = (0, 2, 4, 6, 1, 3, 5, 7)
_MAKER = "jbuild's scripts/quantised_model.py"


@dataclass(frozen=True, kw_only=True, slots=True)
class PackedFormat:
    """A checkpoint format; `zero_points` says whether groups have zero points of their own."""

    title: str
    zero_points: bool
    tensors: Callable[[str, FourBitWeight], Iterator[Tensor]]
    section: Callable[[int], dict[str, Any]]


def _gptq(stem: str, weight: FourBitWeight) -> Iterator[Tensor]:
    """Yield a layer as GPTQModel writes it (`checkpoint_format` "gptq"); `stem` is the layer's name."""
    inputs, groups = weight.values.shape[1], weight.scales.shape[1]
    yield _words(f"{stem}.qweight", packed(weight.values).T)
    # This format stores zero points less one; "gptq_v2" stores them unchanged.
    yield _words(f"{stem}.qzeros", packed((weight.zeros - 1).T))
    yield _scales(stem, weight)
    group_of_input = np.arange(inputs, dtype="<i4") // np.int32(inputs // groups)
    yield Tensor(name=f"{stem}.g_idx", shape=(inputs,), data=group_of_input.tobytes(), dtype="I32")


def _awq(stem: str, weight: FourBitWeight) -> Iterator[Tensor]:
    """Yield a layer as AutoAWQ writes it (version "gemm"); `stem` is the layer's name."""
    yield _words(f"{stem}.qweight", packed(_interleaved(weight.values.T)))
    yield _words(f"{stem}.qzeros", packed(_interleaved(weight.zeros.T)))
    yield _scales(stem, weight)


def packed(values: Integers) -> npt.NDArray[np.uint32]:
    """Pack each eight neighbours of a row into a word, the first into the lowest bits."""
    words = values.reshape(values.shape[0], -1, PER_WORD).astype("<u4")
    shifts = np.arange(PER_WORD, dtype="<u4") * 4
    packed_words: npt.NDArray[np.uint32] = np.bitwise_or.reduce(words << shifts, axis=2)
    return packed_words


def _interleaved(values: Integers) -> Integers:
    return values.reshape(values.shape[0], -1, PER_WORD)[:, :, _AWQ_ORDER].reshape(values.shape)


def _words(name: str, words: npt.NDArray[np.uint32]) -> Tensor:
    return Tensor(name=name, shape=words.shape, data=np.ascontiguousarray(words, "<u4").tobytes(), dtype="I32")


def _scales(stem: str, weight: FourBitWeight) -> Tensor:
    scales = np.ascontiguousarray(weight.scales.T, "<f2")
    return Tensor(name=f"{stem}.scales", shape=scales.shape, data=scales.tobytes(), dtype="F16")


def _gptq_section(group: int) -> dict[str, Any]:
    return {
        "bits": 4,
        "checkpoint_format": "gptq",
        "desc_act": False,
        "group_size": group,
        "lm_head": False,
        "meta": {"quantizer": [_MAKER]},
        "pack_dtype": "int32",
        "quant_method": "gptq",
        "sym": True,
    }


def _awq_section(group: int) -> dict[str, Any]:
    return {
        "bits": 4,
        "group_size": group,
        "modules_to_not_convert": None,
        "quant_method": "awq",
        "version": "gemm",
        "zero_point": True,
    }


FORMATS = {
    "gptq": PackedFormat(title="GPTQ", zero_points=False, tensors=_gptq, section=_gptq_section),
    "awq": PackedFormat(title="AWQ", zero_points=True, tensors=_awq, section=_awq_section),
}
