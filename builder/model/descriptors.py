"""The record of a blob, as registries and OCI layouts name it."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True, slots=True)
class Descriptor:
    """A blob of an image: OCI media type, digest (`sha256:…`), size in bytes."""

    media_type: str
    digest: str
    size: int
