"""Takes the code for other GPUs out of a wheel.

The new wheel is a pure function of the old one's bytes, the rules, the label and `ALGORITHM`: members stay in their
order with their times, and only those that change are compressed again.
"""

from __future__ import annotations

import os
import zipfile
from contextlib import ExitStack
from typing import TYPE_CHECKING, NamedTuple

from builder.audit import wheel_reader
from builder.audit.byte_source import File, MalformedError
from builder.audit.slim_tables import code_sections
from builder.foundry.wheel_names import (
    SIGNATURES,
    labelled_metadata,
    renaming,
    updated_record,
    wheel_name,
)
from builder.foundry.wheel_zip import WheelWriter, crc32_of, deflate, file_blocks, member_of, source_blocks
from builder.host.concurrency import Progress, map_with_progress
from builder.host.files import atomic_file, disk_errors, sha256_of, temp_file
from builder.image.slim import elf_layout
from builder.image.slim.loose_cubins import LooseCubin, cubin_reports, judge_cubin
from builder.image.slim.package_rules import refusal
from builder.image.slim.slim_library import SlimLibrary, has_code, slim_library, unchanged
from builder.model.slimming import SlimReport

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
    from pathlib import Path
    from typing import BinaryIO

    from builder.audit.byte_source import ByteSource
    from builder.audit.wheel_reader import Member
    from builder.foundry.wheel_names import Renaming, WheelName
    from builder.foundry.wheel_zip import Deflation
    from builder.image.slim.entry_choice import AddedEntry
    from builder.model.slimming import SlimmedLibrary, SlimRules

# Another version of the writer gives other bytes.
ALGORITHM = 2
_ELF = b"\x7fELF"
_LONGEST_METADATA = 64 << 20


class CompiledLibraries(NamedTuple):
    """Modules to add to libraries: the compiler's version, and a function of a library's bytes and its path."""

    ptxas: str
    entries: Callable[[ByteSource, str], Mapping[int, Sequence[AddedEntry]]]


class _Rewritten(NamedTuple):
    """A member with new content, compressed in a file of its own."""

    deflation: Deflation
    path: Path


def slim_wheel(
    wheel: Path,
    target: Path,
    rules: SlimRules,
    *,
    label: str | None = None,
    on_bytes: Callable[[float], object] = lambda _: None,
    compiled: CompiledLibraries | None = None,
) -> SlimReport:
    """Write a wheel without the code for other GPUs to `target`, and return what went and what stayed.

    Nothing is written if nothing can go; `skipped` of the report says why. `label` is appended to the version as its
    local label; `labelled_name` gives the file's name for it. `on_bytes` counts the bytes of libraries. `compiled` has
    the modules to add.

    Raises:
        UsageError: the file's name is not a wheel's.
        MalformedError: the wheel cannot be read.
        DiskError: the result cannot be written.
    """
    name = wheel_name(wheel.name)
    digest = sha256_of(wheel)
    reason = refusal(name, rules)
    reports: tuple[SlimmedLibrary, ...] = ()
    if reason is None:
        members = _members(wheel)
        libraries, cubins = _slimmed_members(wheel, members, name, rules, on_bytes, compiled)
        reports = (*(library.report for library in libraries.values()), *cubin_reports(cubins.values()))
        if all(report.method == "unchanged" for report in reports):
            reason = "it has no code for other GPUs" if reports else "it has no GPU code"
    if reason is None:
        gone = frozenset(path for path, cubin in cubins.items() if not cubin.stays)
        with disk_errors(target):
            _write(wheel, target, members, libraries, gone, label, on_bytes)
    written = target if reason is None else wheel
    return SlimReport(
        package=name.package,
        version=name.version,
        wheel=wheel.name,
        sha256=digest,
        size=wheel.stat().st_size,
        slimmed_wheel=written.name,
        slimmed_sha256=sha256_of(target) if reason is None else digest,
        slimmed_size=written.stat().st_size,
        algorithm=ALGORITHM,
        libraries=reports,
        skipped=reason,
        ptxas=compiled.ptxas if compiled else None,
    )


def labelled_name(wheel: Path, label: str | None) -> str:
    """Return the file's name of a wheel whose version has a local label.

    Raises:
        UsageError: the file's name is not a wheel's.
    """
    return wheel_name(wheel.name).labelled(label)


def _members(wheel: Path) -> tuple[Member, ...]:
    members, flaws = wheel_reader.listing(wheel)
    if flaws:
        name, reason = flaws[0]
        raise MalformedError(f"{name} {reason}", where=wheel.name)
    return members


def _slimmed_members(
    wheel: Path,
    members: Iterable[Member],
    name: WheelName,
    rules: SlimRules,
    on_bytes: Callable[[float], object],
    compiled: CompiledLibraries | None,
) -> tuple[dict[str, SlimLibrary], dict[str, LooseCubin]]:
    """Return the libraries with GPU code, and the cubins that are files, by their names in the zip."""
    data = File(wheel)
    elves = [member for member in members if wheel_reader.head(data, member, len(_ELF)) == _ELF]

    def slimmed(member: Member, progress: Progress) -> LooseCubin | SlimLibrary | None:
        cubin = judge_cubin(wheel_reader.source(data, member), name.package, member.path, rules)
        result = cubin or _library(data, member, name.package, rules, compiled)
        progress.advance(member.size)
        return result

    results = dict(zip(elves, map_with_progress(slimmed, elves, on_bytes, _threads()), strict=True))
    libraries = {member.name: row for member, row in results.items() if isinstance(row, SlimLibrary)}
    return libraries, {member.name: row for member, row in results.items() if isinstance(row, LooseCubin)}


def _library(
    data: File, member: Member, package: str, rules: SlimRules, compiled: CompiledLibraries | None
) -> SlimLibrary | None:
    """Return a library with GPU code; one whose code cannot be read stays as it is."""
    source = wheel_reader.source(data, member)
    sections = code_sections(package, member.path)
    try:
        if not has_code(elf_layout.read_layout(source), sections):
            return None
    except MalformedError:
        return None
    # Without this check the new wheel would have a correct checksum of damaged bytes.
    if crc32_of(source) != member.crc:
        raise MalformedError(f"{member.name} is damaged: its checksum is wrong")
    try:
        added = compiled.entries(source, member.path) if compiled else {}
        return slim_library(source, member.path, rules, sections, added)
    except MalformedError as error:
        return unchanged(source, member.path, error.message)


def _threads() -> int:
    return os.cpu_count() or 2


def _write(
    wheel: Path,
    target: Path,
    members: tuple[Member, ...],
    libraries: Mapping[str, SlimLibrary],
    gone: Collection[str],
    label: str | None,
    on_bytes: Callable[[float], object],
) -> None:
    record = next((m for m in members if m.name.endswith(".dist-info/RECORD") and m.name.count("/") == 1), None)
    if record is None:
        raise MalformedError("it has no RECORD", where=wheel.name)
    rename = renaming(record.name.partition("/")[0], label)
    by_name = {member.name: member for member in members if member.name not in gone}
    data = File(wheel)
    with ExitStack() as stack, atomic_file(target) as temporary:

        def rewrite(content: tuple[str, Iterable[bytes]], progress: Progress) -> _Rewritten:
            path = stack.enter_context(temp_file(target.parent, target.name))
            with path.open("wb") as file:
                return _Rewritten(deflate(_counted(content[1], progress), file), path)

        contents = list(_contents(data, by_name, libraries, rename, label))
        results = map_with_progress(rewrite, contents, on_bytes, _threads())
        rewritten = {name: result for (name, _), result in zip(contents, results, strict=True)}
        changed = {name: (row.deflation.sha256, row.deflation.size) for name, row in rewritten.items()}
        text = updated_record(_content(data, record), rename, changed, gone)
        rewritten[record.name] = rewrite((record.name, [text]), Progress())
        with temporary.open("wb") as file:
            _assemble(wheel, data, by_name, rewritten, rename, file)


def _contents(
    data: File,
    by_name: Mapping[str, Member],
    libraries: Mapping[str, SlimLibrary],
    rename: Renaming,
    label: str | None,
) -> Iterator[tuple[str, Iterable[bytes]]]:
    """Yield the members that change, but for RECORD, with their new contents."""
    for name, library in libraries.items():
        if library.report.method != "unchanged":
            yield name, library.blocks(wheel_reader.source(data, by_name[name]))
    metadata = f"{rename.folder}/METADATA"
    if label:
        if metadata not in by_name:
            raise MalformedError("it has no METADATA")
        yield metadata, [labelled_metadata(_content(data, by_name[metadata]), label)]


def _counted(blocks: Iterable[bytes], progress: Progress) -> Iterator[bytes]:
    for block in blocks:
        progress.advance(len(block))
        yield block


def _content(data: File, member: Member) -> bytes:
    if member.size > _LONGEST_METADATA:
        raise MalformedError(f"its {member.name} claims {member.size} bytes")
    return wheel_reader.source(data, member).read(0, member.size)


def _assemble(
    wheel: Path,
    data: File,
    by_name: Mapping[str, Member],
    rewritten: Mapping[str, _Rewritten],
    rename: Renaming,
    file: BinaryIO,
) -> None:
    writer = WheelWriter(file)
    with zipfile.ZipFile(wheel) as archive:
        entries = [entry for entry in archive.infolist() if entry.filename in by_name]
    for entry in entries:
        name = entry.filename
        if name.removeprefix(f"{rename.folder}/") in SIGNATURES:
            continue
        if name in rewritten:
            row = rewritten[name]
            writer.add(member_of(entry, rename(name), row.deflation), file_blocks(row.path))
        else:
            stored = wheel_reader.stored_source(data, by_name[name])
            writer.add(member_of(entry, rename(name)), source_blocks(stored))
    writer.close()
