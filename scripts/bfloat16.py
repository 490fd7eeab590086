"""Converts between float32 arrays and the bytes of bfloat16 tensors: numpy has no bfloat16."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    import numpy.typing as npt


def to_bf16(values: npt.NDArray[np.float32]) -> bytes:
    """Round to the nearest bfloat16, ties to even, as little-endian bytes."""
    bits = np.ascontiguousarray(values, dtype="<f4").view("<u4")
    rounded = bits + np.uint32(0x7FFF) + ((bits >> np.uint32(16)) & np.uint32(1))
    halves: npt.NDArray[np.uint16] = (rounded >> np.uint32(16)).astype("<u2")
    return halves.tobytes()


def from_bf16(data: bytes) -> npt.NDArray[np.float32]:
    """Return the values of little-endian bfloat16 bytes, exactly."""
    # A bfloat16 is the upper half of a 32-bit float.
    values: npt.NDArray[np.float32] = (np.frombuffer(data, "<u2").astype("<u4") << np.uint32(16)).view("<f4")
    return values
