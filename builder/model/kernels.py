"""The kernels in a library's GPU code, module by module."""

from __future__ import annotations

from array import array
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING

import zstandard

if TYPE_CHECKING:
    from builder.model.audits import GpuTarget


@dataclass(frozen=True, kw_only=True)
class KernelModule:
    """One entry of GPU code: the runtime loads it as a whole.

    Of all entries of a `container` (its number in the library), the driver takes one. `isa` is the version of PTX,
    (0, 0) for SASS; `unpacked` the bytes of the code without compression; `indices` are those of its kernels in the
    names of the library. `precompiled` is SASS that the build makes of PTX.
    """

    container: int
    target: GpuTarget
    isa: tuple[int, int]
    unpacked: int
    indices: bytes = b""
    precompiled: bool = False

    @cached_property
    def kernels(self) -> frozenset[int]:
        """The indices of its kernels."""
        return frozenset(array("I", self.indices))


@dataclass(frozen=True, kw_only=True)
class LibraryKernels:
    """The GPU code of a library; `path` is relative to site-packages, `packed_names` are zstd-compressed lines.

    `flaw` is the reason why its GPU code cannot be read.
    """

    path: str
    modules: tuple[KernelModule, ...] = ()
    packed_names: bytes = b""
    flaw: str | None = None

    @cached_property
    def names(self) -> tuple[str, ...]:
        """The mangled names of its kernels."""
        text = zstandard.ZstdDecompressor().decompress(self.packed_names) if self.packed_names else b""
        return tuple(text.decode("ascii", "replace").split("\n")) if text else ()
