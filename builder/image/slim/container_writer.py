"""Writes containers of GPU code from entries; `builder.audit.fatbin` reads them."""

from __future__ import annotations

from typing import TYPE_CHECKING

from builder.audit import fatbin

if TYPE_CHECKING:
    from collections.abc import Sequence

    from builder.audit.byte_source import ByteSource
    from builder.audit.fatbin import Container, Entry


def raw_entry(source: ByteSource, entry: Entry) -> bytes:
    """Return the header and the payload of an entry as they are in the file.

    Raises:
        MalformedError: they are cut off.
    """
    return source.read(entry.offset, entry.header + entry.size)


def container_bytes(head: bytes, entries: Sequence[bytes]) -> bytes:
    """Return a container of raw entries; `head` is the header of the container that they replace."""
    return container_head(head, sum(map(len, entries))) + b"".join(entries)


def container_head(head: bytes, size: int) -> bytes:
    """Return the header of a container with another size of its entries."""
    magic, version, header, _ = fatbin.CONTAINER.unpack_from(head)
    return fatbin.CONTAINER.pack(magic, version, header, size) + head[fatbin.CONTAINER.size :]


def head_of(source: ByteSource, container: Container) -> bytes:
    """Return the header of a container.

    Raises:
        MalformedError: it is cut off.
    """
    return source.read(container.offset, container.header)
