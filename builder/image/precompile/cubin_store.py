"""Compiled modules in the cache: by their PTX, GPU, options and compiler, for ever.

A file has the sha256 of the compressed cubin and the compressed cubin itself, which goes into libraries and registries
with the same bytes.
"""

from __future__ import annotations

import hashlib
import re
from typing import TYPE_CHECKING, cast

import zstandard

from builder.audit.byte_source import MalformedError
from builder.audit.code_targets import target_name
from builder.audit.cubin import read_cubin_headers
from builder.errors import BuildError
from builder.host import records
from builder.host.files import disk_errors, mark_used, write_bytes
from builder.image.precompile.cubin_entry import PackedCubin, pack_cubin
from builder.image.precompile.ptxas import check_kernels
from builder.model.audits import GpuTarget
from builder.model.precompiled import CubinKey

if TYPE_CHECKING:
    from pathlib import Path

    from builder.host.paths import Workspace
    from builder.model.audits import Variant

# Part of every key: raise it when the same inputs give other bytes.
_FORMAT = "cubin-1"
_DIGEST_SIZE = 32
_ARCH = re.compile(r"sm_([0-9]{2,3})([af]?)")
_LARGEST = 1 << 30


def fingerprint_of(key: CubinKey) -> str:
    """Return the name of a module in the cache and in registries."""
    return records.fingerprint(_FORMAT, key)


def key_of(ptx: bytes, target: GpuTarget, ptxas: str, options: tuple[str, ...]) -> CubinKey:
    """Return the key of a module."""
    return CubinKey(ptx=hashlib.sha256(ptx).hexdigest(), arch=target_name(target), ptxas=ptxas, options=options)


def stored_cubin(key: CubinKey, ptx: bytes, workspace: Workspace) -> PackedCubin | None:
    """Return a module of the cache; None without one, or if it is damaged."""
    path = workspace.cubin(fingerprint_of(key))
    frame = stored_frame(path)
    return checked_cubin(frame, key, ptx) if frame and mark_used(path) else None


def stored_frame(path: Path) -> bytes | None:
    """Return the compressed cubin of a file of the cache; None without one, or if it is damaged."""
    try:
        content = path.read_bytes()
    except OSError:
        return None
    digest, frame = content[:_DIGEST_SIZE], content[_DIGEST_SIZE:]
    return frame if frame and hashlib.sha256(frame).digest() == digest else None


def checked_cubin(frame: bytes, key: CubinKey, ptx: bytes) -> PackedCubin | None:
    """Return a compressed cubin if it is one for the target and has the kernels of its PTX."""
    try:
        if not 0 < zstandard.frame_content_size(frame) <= _LARGEST:
            return None
        cubin = zstandard.ZstdDecompressor().decompress(frame)
        target = _target_of(key)
        if read_cubin_headers(cubin).sm != target.sm:
            return None
        check_kernels(cubin, ptx, "the cache")
        return PackedCubin(target, cubin, frame)
    except (zstandard.ZstdError, MalformedError, BuildError):
        return None


def store_cubin(key: CubinKey, cubin: bytes, workspace: Workspace) -> PackedCubin:
    """Write a module into the cache and return it.

    Raises:
        DiskError: it cannot be written.
    """
    packed = pack_cubin(cubin, _target_of(key))
    store_frame(key, packed.frame, workspace)
    return packed


def store_frame(key: CubinKey, frame: bytes, workspace: Workspace) -> None:
    """Write a compressed cubin into the cache.

    Raises:
        DiskError: it cannot be written.
    """
    path = workspace.cubin(fingerprint_of(key))
    with disk_errors(path):
        write_bytes(path, hashlib.sha256(frame).digest() + frame)


def _target_of(key: CubinKey) -> GpuTarget:
    match = _ARCH.fullmatch(key.arch)
    if match is None:
        raise MalformedError(f"{key.arch} is not a GPU's target")
    return GpuTarget("sass", int(match[1]), cast("Variant", match[2]))
