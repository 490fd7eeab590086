"""Takes the code for other GPUs out of one library."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from builder.audit.byte_source import ByteSource
    from builder.model.slimming import SlimmedLibrary, SlimRules


class SlimLibrary(NamedTuple):
    """A library without the code for other GPUs: its report, and its bytes in blocks."""

    report: SlimmedLibrary
    size: int

    def blocks(self) -> Iterator[bytes]:
        """Yield the bytes of the library."""
        raise NotImplementedError


def slim_library(source: ByteSource, path: str, rules: SlimRules, sections: Sequence[str] = ()) -> SlimLibrary:
    """Return a library without the code for other GPUs; `sections` are further ones with code, slimmed in place.

    Raises:
        MalformedError: it is not a library, or its GPU code is malformed.
    """
    raise NotImplementedError
