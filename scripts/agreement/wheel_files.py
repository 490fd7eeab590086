"""The files of wheels on the disk: those that an image gets, and the shared objects of the wheelhouse."""

from __future__ import annotations

from typing import TYPE_CHECKING

from builder.audit import wheel_reader
from builder.audit.byte_source import File, MalformedError
from builder.host import tarball
from builder.host.file_locks import scratch
from builder.image.layers.layer import LayerWork, WheelsLayer
from builder.image.layers.standalone import extract
from builder.image.wheels.bytecode import bytecode_pool
from builder.remote.wheelhouse import fetch

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

    from builder.audit.byte_source import ByteSource
    from builder.host.interpreters import Compiler
    from builder.host.paths import Workspace
    from builder.host.session import Session
    from builder.model.wheels import LockedWheel


def write_wheels(
    wheels: Sequence[LockedWheel], python: str, compiler: Compiler | None, session: Session, folder: Path
) -> None:
    """Write the files of wheels below a folder, as in an image's layer."""
    fetch(wheels, session)
    layer = WheelsLayer(name="wheels", wheels=tuple(wheels), python=python, session=session, slim={}, compiled={})
    with scratch(session.workspace.cache) as large, bytecode_pool(compiler) as pool:
        work = LayerWork(pool=pool, scratch=large, advance=lambda _: None)
        extract(tarball.blocks(layer.segments(work)), folder)


def wheel_libraries(workspace: Workspace) -> Iterator[ByteSource]:
    """Yield the shared objects of all wheels in the wheelhouse."""
    for path in sorted(workspace.wheels.glob("*/*/*.whl")):
        try:
            members = wheel_reader.listing(path).members
        except MalformedError:
            continue
        data = File(path)
        for member in members:
            if ".so" in member.name.rpartition("/")[2] and wheel_reader.head(data, member, 4) == b"\x7fELF":
                yield wheel_reader.source(data, member)
