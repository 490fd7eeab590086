"""Quantises weights to 4 bits, group by group: round to nearest, with the scale of the least squared error.

The scales have few significant bits, so that scale times integer is exact in bfloat16 and in float16. A server that
computes in either type then has exactly the weights of the dequantised model.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Iterator

    import numpy.typing as npt

    Floats = npt.NDArray[np.float32]
    Integers = npt.NDArray[np.uint8]

HIGHEST = 15
"""The largest 4-bit integer."""

MIDDLE = 8
"""The zero point of symmetric quantisation."""

# Significant bits of a scale, with the leading one: the product's are at most bfloat16's 8. Without zero points, the
# integers are -8 to 7 (3 bits, or a power of two); with them, -15 to 15 (4 bits).
_SYMMETRIC_BITS = 5
_ASYMMETRIC_BITS = 4
# Groups of zeros, or almost, get the scale of this range: far from the smallest float16.
_LEAST_RANGE = 2.0**-8


@dataclass(frozen=True, kw_only=True, slots=True)
class FourBitWeight:
    """A quantised matrix: `values` by output and input, `scales` and `zeros` by output and group of inputs."""

    values: Integers
    scales: Floats
    zeros: Integers

    def dequantised(self) -> Floats:
        """Return scale * (value - zero), which is exact."""
        group = self.values.shape[1] // self.scales.shape[1]
        centred = self.values.astype(np.float32) - np.repeat(self.zeros, group, axis=1)
        product: Floats = centred * np.repeat(self.scales, group, axis=1)
        return product


def quantise(weight: Floats, group: int, *, zero_points: bool) -> FourBitWeight:
    """Quantise a matrix of outputs and inputs, in groups of `group` inputs, which must divide its width."""
    outputs, inputs = weight.shape
    # Each column is a group: sums over it then add in the same order on every processor.
    columns = np.ascontiguousarray(weight.reshape(-1, group).T)
    values, scales, zeros = _best(columns, _candidates(columns, zero_points=zero_points))
    groups = (outputs, inputs // group)
    return FourBitWeight(
        values=np.ascontiguousarray(values.T).reshape(outputs, inputs),
        scales=scales.reshape(groups),
        zeros=zeros.reshape(groups),
    )


def _candidates(columns: Floats, *, zero_points: bool) -> Iterator[tuple[Floats, Floats]]:
    """Yield scales with their zero points, from those that clip no weight down to half as large."""
    if not zero_points:
        largest = np.maximum(np.abs(columns).max(axis=0), np.float32(_LEAST_RANGE))
        middle = np.full(columns.shape[1], MIDDLE, np.float32)
        yield from ((scale, middle) for scale in _scales(largest / np.float32(MIDDLE - 1), _SYMMETRIC_BITS))
        return
    low, high = np.minimum(columns.min(axis=0), 0), np.maximum(columns.max(axis=0), 0)
    width = np.maximum(high - low, np.float32(_LEAST_RANGE))
    for scale in _scales(width / np.float32(HIGHEST), _ASYMMETRIC_BITS):
        yield scale, np.clip(np.rint(-low / scale), 0, HIGHEST)


def _scales(upper: Floats, bits: int) -> Iterator[Floats]:
    """Yield the numbers of `bits` significant bits from the next above `upper` down to its half."""
    steps = 1 << (bits - 1)
    fraction, exponent = np.frexp(upper)
    # Position of a number among all numbers with so many bits, in order of size.
    position = exponent * steps + np.ceil(fraction * (2 * steps)).astype(np.int64) - steps
    for step in range(steps + 1):
        power, rest = np.divmod(position - step, steps)
        yield np.ldexp((steps + rest).astype(np.float32), power - bits).astype(np.float32)


def _best(columns: Floats, candidates: Iterator[tuple[Floats, Floats]]) -> tuple[Integers, Floats, Integers]:
    """Return the integers, scales and zero points with the least squared error in each column."""
    least = np.full(columns.shape[1], np.inf, np.float32)
    best_scale, best_zero = np.zeros_like(least), np.zeros_like(least)
    for scale, zero in candidates:
        error = np.square(columns - scale * (_rounded(columns, scale, zero) - zero)).sum(axis=0, dtype=np.float32)
        better = error < least
        for best, new in ((least, error), (best_scale, scale), (best_zero, zero)):
            np.copyto(best, new, where=better)
    return _rounded(columns, best_scale, best_zero).astype(np.uint8), best_scale, best_zero.astype(np.uint8)


def _rounded(columns: Floats, scale: Floats, zero: Floats) -> Floats:
    rounded: Floats = np.clip(np.rint(columns / scale) + zero, 0, HIGHEST)
    return rounded
