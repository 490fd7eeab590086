"""The facts of many wheels: from the cache, else read on all processors.

The cache has one file for each wheel or base image: a JSON head, and the bytes that it points to.
"""

from __future__ import annotations

import json
import struct
from dataclasses import fields
from typing import TYPE_CHECKING, Any, TypeVar

from builder.audit.byte_source import MalformedError
from builder.audit.runnable_code import remaining
from builder.audit.slim_choice import choose, slim_rules
from builder.audit.slim_tables import cubin_glob
from builder.audit.wheel_facts import READER, assemble, portions_of, read_members
from builder.audit.wheel_reader import listing
from builder.errors import IntegrityError
from builder.host.concurrency import workers
from builder.host.files import atomic_file, disk_errors, mark_used, sha256_of
from builder.model.audits import BaseFacts, Binary, GpuCode, GpuTarget, Header, VersionNeed, WheelFacts
from builder.remote.wheelhouse import fetch

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence
    from pathlib import Path

    from builder.audit.wheel_reader import WheelMembers
    from builder.host.session import Session
    from builder.model.locks import Job
    from builder.model.slimming import SlimRules
    from builder.model.wheels import LockedWheel

    _Read = tuple[list[Binary], list[tuple[str, str]]]

_Facts = TypeVar("_Facts", WheelFacts, BaseFacts)
_Record = TypeVar("_Record", WheelFacts, BaseFacts, Binary)

_MAGIC = b"jbuild-facts\n"
_LENGTH = struct.Struct("<I")
_BLOBS = frozenset({"defines", "wants", "wanted", "files", "file_keys", "contents"})


def gather(wheels: Sequence[LockedWheel], session: Session) -> dict[str, WheelFacts]:
    """Return the facts of each wheel by its sha256; wheels that are not in the wheelhouse are fetched.

    Raises:
        NetworkError, IntegrityError, DiskError: a wheel cannot be fetched or is damaged, or its facts cannot be stored.
    """
    facts = _cached([wheel.sha256 for wheel in wheels], session)
    missing = {wheel.sha256: wheel for wheel in wheels if wheel.sha256 not in facts}
    if missing:
        fetch(list(missing.values()), session)
        paths = {sha256: session.workspace.wheel(wheel.sha256, wheel.filename) for sha256, wheel in missing.items()}
        read = read_wheels(paths, session)
        for sha256, path in paths.items():
            if read[sha256].flaws:
                require_undamaged(path, sha256)
        _store(read, session)
        facts |= read
    return facts


def to_slim(job: Job, wheels: Sequence[LockedWheel], session: Session) -> tuple[str, ...]:
    """Return the sha256 of the wheels that lose GPU code: those that are chosen and may have code for other GPUs.

    Raises:
        NetworkError, IntegrityError, DiskError: as of `gather`.
    """
    chosen = [wheel for wheel in wheels if choose(job, wheel.name).slim]
    rules, facts = slim_rules(job.platform), gather(chosen, session)
    return tuple(wheel.sha256 for wheel in chosen if _is_removable(wheel.name, facts[wheel.sha256], rules))


def _is_removable(package: str, facts: WheelFacts, rules: SlimRules) -> bool:
    """Return whether a wheel has code that may go: code for other GPUs, PTX that SASS may replace, or loose cubins."""
    codes = [code for binary in facts.binaries for code in binary.gpu]
    if any(cubin_glob(package, path) for path in facts.paths):
        return True
    return len(remaining(codes, rules)) < len(codes) or any(code.target.kind == "ptx" for code in codes)


def require_undamaged(path: Path, sha256: str) -> None:
    """Tell a flaw of the wheel from damage on this disk.

    Raises:
        IntegrityError: the file is another one than was fetched; it is removed.
    """
    if sha256_of(path) == sha256:
        return
    path.unlink(missing_ok=True)
    hint = "run the same command again: it is fetched anew"
    raise IntegrityError(f"{path.name} was damaged on this disk", where=str(path), hint=hint)


def gather_files(paths: dict[str, Path], session: Session) -> dict[str, WheelFacts]:
    """Return the facts of wheel files by their sha256.

    Raises:
        DiskError: the facts cannot be stored.
    """
    facts = _cached(paths, session)
    missing = {sha256: path for sha256, path in paths.items() if sha256 not in facts}
    if missing:
        read = read_wheels(missing, session)
        _store(read, session)
        facts |= read
    return facts


def _cached(digests: Iterable[str], session: Session) -> dict[str, WheelFacts]:
    paths = ((sha256, _path(sha256, session)) for sha256 in digests)
    return {sha256: facts for sha256, path in paths if mark_used(path) and (facts := read_facts(path, WheelFacts))}


def _store(facts: dict[str, WheelFacts], session: Session) -> None:
    for sha256, of_wheel in facts.items():
        write_facts(_path(sha256, session), of_wheel)


def _path(sha256: str, session: Session) -> Path:
    return session.workspace.facts / sha256[:2] / f"{sha256}-{READER}"


def read_wheels(paths: dict[str, Path], session: Session) -> dict[str, WheelFacts]:
    """Read wheels on all processors; a file that is not a zip has that as its only fact."""
    listings: dict[str, WheelMembers] = {}
    facts: dict[str, WheelFacts] = {}
    for sha256, path in paths.items():
        try:
            listings[sha256] = listing(path)
        except MalformedError as error:
            facts[sha256] = WheelFacts(flaws=((path.name, error.message),))
    read = _read_all({sha256: (paths[sha256], members) for sha256, members in listings.items()}, session)
    for sha256, members in listings.items():
        binaries = [binary for portion in read[sha256] for binary in portion[0]]
        flaws = [flaw for portion in read[sha256] for flaw in portion[1]]
        facts[sha256] = assemble(paths[sha256], members, binaries, flaws)
    return facts


def _read_all(wheels: dict[str, tuple[Path, WheelMembers]], session: Session) -> dict[str, list[_Read]]:
    portions = [
        (sum(member.size for member in members), sha256, path, members)
        for sha256, (path, contents) in wheels.items()
        for members in portions_of(contents)
    ]
    # The largest first: a small one should end last.
    portions.sort(key=lambda portion: -portion[0])
    total = sum(portion[0] for portion in portions)
    read: dict[str, list[_Read]] = {sha256: [] for sha256 in wheels}
    title = f"reading {len(wheels)} wheels"
    with session.console.task(title, total) as task, workers() as pool:
        futures = [pool.submit(read_members, path, members) for _, _, path, members in portions]
        for (size, sha256, *_), future in zip(portions, futures, strict=True):
            read[sha256].append(future.result())
            task.advance(size)
    return read


def write_facts(path: Path, facts: WheelFacts | BaseFacts) -> None:
    """Store the facts of a wheel or a base image.

    Raises:
        DiskError: the file cannot be written.
    """
    blobs = bytearray()
    head = _plain(facts, blobs) | {"binaries": [_plain(binary, blobs) for binary in facts.binaries]}
    text = json.dumps(head, separators=(",", ":")).encode()
    with disk_errors(path), atomic_file(path) as temporary:
        temporary.write_bytes(b"".join([_MAGIC, _LENGTH.pack(len(text)), text, blobs]))


def _plain(record: WheelFacts | BaseFacts | Binary, blobs: bytearray) -> dict[str, Any]:
    """Return a record's fields for JSON; bytes move to the blobs, and leave their offset and size."""
    plain = {field.name: getattr(record, field.name) for field in fields(record)}
    for name, value in plain.items():
        if isinstance(value, bytes):
            plain[name] = (len(blobs), len(value))
            blobs += value
    return plain


def read_facts(path: Path, kind: type[_Facts]) -> _Facts | None:
    """Return the facts of a wheel or a base image, or None if the file is missing or damaged."""
    try:
        data = path.read_bytes()
        start = len(_MAGIC) + _LENGTH.size
        (length,) = _LENGTH.unpack_from(data, len(_MAGIC))
        return _record(kind, json.loads(data[start : start + length]), data[start + length :])
    except (OSError, ValueError, KeyError, TypeError, struct.error):
        return None


def _record(kind: type[_Record], plain: dict[str, Any], blobs: bytes) -> _Record:
    return kind(**{field.name: _value(field.name, plain[field.name], blobs) for field in fields(kind)})


def _value(name: str, value: Any, blobs: bytes) -> Any:
    if name in _BLOBS:
        offset, size = value
        if offset + size > len(blobs):
            raise ValueError("cut off")
        return blobs[offset : offset + size]
    if name == "binaries":
        return tuple(_record(Binary, row, blobs) for row in value)
    if name == "header":
        return Header(*value)
    if name == "version_needs":
        value = [VersionNeed(*need) for need in value]
    elif name == "gpu":
        value = [GpuCode(GpuTarget(*target), tuple(isa), times) for target, isa, times in value]
    if isinstance(value, list):
        return tuple(tuple(entry) if isinstance(entry, list) else entry for entry in value)
    return value
