"""The kernels of many wheels: from the cache, else read on all processors.

The cache has one file for each wheel with GPU code: a checksum, a JSON head, and the bytes that it points to. Payloads
are decompressed one at a time, so memory does not depend on the size of a library.
"""

from __future__ import annotations

import json
import struct
import zlib
from array import array
from typing import TYPE_CHECKING, Any

import zstandard

from builder.audit import elf, kernel_names, wheel_reader
from builder.audit.byte_source import File, MalformedError
from builder.audit.gather_facts import require_undamaged
from builder.host.concurrency import workers
from builder.host.files import atomic_file, disk_errors, mark_used
from builder.model.audits import GpuTarget
from builder.model.kernels import KernelModule, LibraryKernels
from builder.remote.wheelhouse import fetch

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Mapping, Sequence
    from pathlib import Path

    from builder.audit.byte_source import ByteSource
    from builder.audit.kernel_names import CodeEntry
    from builder.audit.wheel_reader import Member
    from builder.host.session import Session
    from builder.model.audits import WheelFacts
    from builder.model.wheels import LockedWheel

# Part of the cached files' names: raise it when the same wheel gives other kernels.
READER = 2
_MAGIC = b"jbuild-kernels\n"
# The checksum of all that follows it, and the length of the JSON head.
_PREFIX = struct.Struct("<II")
_CUBIN = ".cubin"
_LARGEST_CUBIN = 1 << 30
# Loose cubins are small and many: each processor gets this many bytes of them at a time.
_PORTION = 64 << 20


def gather_kernels(
    wheels: Sequence[LockedWheel], facts: Mapping[str, WheelFacts], session: Session
) -> dict[str, tuple[LibraryKernels, ...]]:
    """Return the libraries with GPU code of each wheel by its sha256; `facts` name them.

    Raises:
        NetworkError, IntegrityError, DiskError: a wheel cannot be fetched, or the kernels cannot be stored.
    """
    libraries = {wheel.sha256: libraries_with_code(facts[wheel.sha256]) for wheel in wheels}
    with_code = [wheel for wheel in wheels if libraries[wheel.sha256]]
    stored = {wheel.sha256: _cached(wheel.sha256, session) for wheel in with_code}
    gathered = {sha256: kernels for sha256, kernels in stored.items() if kernels is not None}
    missing = [wheel for wheel in with_code if wheel.sha256 not in gathered]
    if missing:
        fetch(missing, session)
        paths = {wheel.sha256: session.workspace.wheel(wheel.sha256, wheel.filename) for wheel in missing}
        read = read_kernels({sha256: (path, libraries[sha256]) for sha256, path in paths.items()}, session)
        for sha256, kernels in read.items():
            if any(library.flaw for library in kernels):
                require_undamaged(paths[sha256], sha256)
            _store(_path(sha256, session), kernels)
        gathered |= read
    return gathered


def stored_kernels(wheels: Sequence[LockedWheel], session: Session) -> tuple[LibraryKernels, ...]:
    """Return the libraries whose kernels an earlier audit has stored; nothing is fetched."""
    stored = (_cached(wheel.sha256, session) for wheel in wheels)
    return tuple(library for libraries in stored for library in libraries or ())


def libraries_with_code(facts: WheelFacts) -> frozenset[str]:
    """Return the paths of a wheel's libraries with GPU code, and of its loose cubins."""
    cubins = (path for path in facts.paths if path.endswith(_CUBIN))
    return frozenset(binary.path for binary in facts.binaries if binary.gpu).union(cubins)


def read_kernels(
    wheels: Mapping[str, tuple[Path, Collection[str]]], session: Session
) -> dict[str, tuple[LibraryKernels, ...]]:
    """Read the kernels of some libraries and cubins of wheel files, by their sha256, on all processors.

    Raises:
        IntegrityError: a wheel was damaged on this disk.
        MalformedError: a wheel cannot be opened.
    """
    jobs = [
        (sum(member.size for member in members), sha256, path, members)
        for sha256, (path, libraries) in wheels.items()
        for members in _portions(member for member in _members(path, sha256) if member.path in libraries)
    ]
    # The largest first: a small one should end last.
    jobs.sort(key=lambda job: -job[0])
    read: dict[str, list[LibraryKernels]] = {sha256: [] for sha256 in wheels}
    title = f"reading the kernels of {len(wheels)} wheels"
    with session.console.task(title, sum(job[0] for job in jobs)) as task, workers() as pool:
        futures = [pool.submit(read_members, path, members) for _, _, path, members in jobs]
        for (size, sha256, *_), future in zip(jobs, futures, strict=True):
            read[sha256] += future.result()
            task.advance(size)
    return {sha256: tuple(sorted(libraries, key=lambda library: library.path)) for sha256, libraries in read.items()}


def _members(wheel: Path, sha256: str) -> tuple[Member, ...]:
    try:
        return wheel_reader.listing(wheel).members
    except MalformedError:
        require_undamaged(wheel, sha256)
        raise


def _portions(members: Iterable[Member]) -> list[tuple[Member, ...]]:
    """Return libraries alone, and cubins together."""
    portions: list[tuple[Member, ...]] = []
    cubins: list[Member] = []
    size = 0
    for member in members:
        if not member.path.endswith(_CUBIN):
            portions.append((member,))
            continue
        cubins.append(member)
        size += member.size
        if size >= _PORTION:
            portions.append(tuple(cubins))
            cubins, size = [], 0
    return [*portions, tuple(cubins)] if cubins else portions


def read_members(wheel: Path, members: Sequence[Member]) -> list[LibraryKernels]:
    """Read the kernels of some libraries and cubins in a wheel."""
    data = File(wheel)
    return [_read_member(data, member) for member in members]


def _read_member(data: ByteSource, member: Member) -> LibraryKernels:
    try:
        source = wheel_reader.source(data, member)
        return (read_cubin if member.path.endswith(_CUBIN) else read_library)(source, member.path)
    except MalformedError as error:
        return LibraryKernels(path=member.path, flaw=error.message)


def read_library(source: ByteSource, path: str) -> LibraryKernels:
    """Read the kernels of one library.

    Raises:
        MalformedError: its GPU code cannot be read.
    """
    return _compact(path, kernel_names.kernels(source, elf.read_source(source)))


def read_cubin(source: ByteSource, path: str) -> LibraryKernels:
    """Read the kernels of a cubin that is a file.

    Raises:
        MalformedError: it cannot be read.
    """
    if source.size > _LARGEST_CUBIN:
        raise MalformedError(f"claims {source.size} bytes, more than any cubin has")
    return _compact(path, [(0, *kernel_names.loose_cubin(source.read(0, source.size)))])


def _compact(path: str, entries: Iterable[tuple[int, CodeEntry, list[bytes]]]) -> LibraryKernels:
    numbers: dict[bytes, int] = {}
    modules = []
    for container, entry, names in entries:
        indices = array("I", sorted({numbers.setdefault(name, len(numbers)) for name in names}))
        modules.append(
            KernelModule(
                container=container,
                target=entry.code.target,
                isa=entry.code.isa,
                unpacked=entry.unpacked,
                indices=indices.tobytes(),
            )
        )
    lines = b"\n".join(numbers)
    if numbers and lines.count(b"\n") != len(numbers) - 1:
        raise MalformedError("a kernel of its GPU code has a name of more than one line")
    packed = zstandard.ZstdCompressor(level=3).compress(lines)
    return LibraryKernels(path=path, modules=tuple(modules), packed_names=packed)


def _path(sha256: str, session: Session) -> Path:
    return session.workspace.facts / sha256[:2] / f"{sha256}-kernels-{READER}"


def _store(path: Path, libraries: Sequence[LibraryKernels]) -> None:
    blobs = bytearray()

    def place(data: bytes) -> tuple[int, int]:
        blobs.extend(data)
        return len(blobs) - len(data), len(data)

    head = [
        {
            "path": library.path,
            "names": place(library.packed_names),
            "flaw": library.flaw,
            "modules": [
                (module.container, module.target, module.isa, module.unpacked, place(module.indices))
                for module in library.modules
            ],
        }
        for library in libraries
    ]
    text = json.dumps(head, separators=(",", ":")).encode()
    with disk_errors(path), atomic_file(path) as temporary:
        temporary.write_bytes(b"".join([_MAGIC, _PREFIX.pack(_checksum(text, blobs), len(text)), text, blobs]))


def _cached(sha256: str, session: Session) -> tuple[LibraryKernels, ...] | None:
    """Return the stored kernels of a wheel, or None if there are none or the file is damaged."""
    path = _path(sha256, session)
    if not mark_used(path):
        return None
    try:
        data = path.read_bytes()
        checksum, length = _PREFIX.unpack_from(data, len(_MAGIC))
        start = len(_MAGIC) + _PREFIX.size
        text, blobs = data[start : start + length], memoryview(data)[start + length :]
        # Names are decompressed when they are asked for, too late to read the wheel again.
        if not data.startswith(_MAGIC) or _checksum(text, blobs) != checksum:
            return None
        return tuple(_library(row, blobs) for row in json.loads(text))
    except (OSError, ValueError, KeyError, TypeError, struct.error):
        return None


def _library(row: dict[str, Any], blobs: memoryview) -> LibraryKernels:
    modules = tuple(
        KernelModule(
            container=container,
            target=GpuTarget(*target),
            isa=(isa[0], isa[1]),
            unpacked=unpacked,
            indices=_bytes(extent, blobs),
        )
        for container, target, isa, unpacked, extent in row["modules"]
    )
    return LibraryKernels(path=row["path"], modules=modules, packed_names=_bytes(row["names"], blobs), flaw=row["flaw"])


def _checksum(text: bytes, blobs: bytearray | memoryview) -> int:
    return zlib.crc32(blobs, zlib.crc32(text))


def _bytes(extent: tuple[int, int], blobs: memoryview) -> bytes:
    offset, size = extent
    if offset + size > len(blobs):
        raise ValueError("cut off")
    return bytes(blobs[offset : offset + size])
