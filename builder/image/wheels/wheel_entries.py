"""The files of a wheel as entries of a layer's tar, in one pass: inflated, hashed, compiled."""

from __future__ import annotations

import hashlib
import zipfile
import zlib
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from builder.audit.byte_source import File, Plain
from builder.foundry.wheel_names import record_digest
from builder.host.files import temp_file
from builder.host.tarball import LayerEntry, file_of
from builder.image.wheels.wheel_plan import FLAWS, INTERPRETER, record_text, unusable
from builder.image.wheels.zip_content import ZipContent

if TYPE_CHECKING:
    from collections.abc import Callable, Generator, Iterable, Iterator
    from pathlib import Path

    from builder.host.interpreters import Compiler
    from builder.image.wheels.bytecode import CompiledFiles
    from builder.image.wheels.wheel_plan import PlannedFile, WheelPlan
    from builder.image.wheels.wheel_slimmer import WheelSlimmer

# Part of each layer's name: raise it when the same wheel gives other files.
_FORMAT = "6"
# Smaller members are read whole.
_LARGE = 8 << 20
_SHEBANG = b"#!python"


def variant(python: str, compiler: Compiler | None) -> str:
    """Return the other inputs of a wheel's files besides the wheel: format, Python version and compiler."""
    return f"{_FORMAT}-py{python}" + (f"-c{compiler.version}" if compiler else "")


@dataclass(frozen=True, kw_only=True, slots=True)
class WheelPass:
    """What the pass over a wheel needs besides its plan.

    `compiled` takes sources. `owns` tells whether a path of the layer is this wheel's; `advance` counts the wheel's
    bytes. A `slimmer` takes code and files out; large libraries are in `scratch` meanwhile.
    """

    compiled: CompiledFiles
    owns: Callable[[str], bool]
    advance: Callable[[float], object]
    scratch: Path
    slimmer: WheelSlimmer | None = None


def wheel_entries(plan: WheelPlan, work: WheelPass) -> Iterator[LayerEntry]:
    """Yield the files that a wheel adds to a layer, and compiled ones that are ready.

    Raises:
        IntegrityError: the wheel is damaged, or cannot be compiled.
        BuildError: a compiled module is not in the cache.
        OSError: the wheel cannot be read, or a scratch file cannot be written.
    """
    try:
        with ZipContent(plan.wheel) as archive:
            yield from _Pass(plan, work, archive).entries()
    except FLAWS as error:
        raise unusable(plan.locked, plan.wheel, error) from error


@dataclass(slots=True)
class _Pass:
    plan: WheelPlan
    work: WheelPass
    archive: ZipContent
    rows: list[tuple[str, tuple[str, str, str]]] = field(default_factory=list)

    def entries(self) -> Iterator[LayerEntry]:
        compiled, last = self.work.compiled, {file.path: file for file in self.plan.files}
        for file in self.plan.files:
            # Of two files of one name the last is installed; RECORD lists both.
            wanted = last[file.path] is file and self.work.owns(file.path)
            for entry in self._file(file):
                if not wanted:
                    _drain(entry)
                    continue
                source = _bytes_of(entry) if compiled.wants(entry.path) else None
                yield entry if source is None else entry._replace(content=(source,))
                if source is not None:
                    yield from compiled.add(entry.path, source)
            if file.member:
                self.work.advance(file.member.compress_size)
        yield from self._record()

    def _file(self, file: PlannedFile) -> Iterator[LayerEntry]:
        """Yield the entry of a file; none for one that goes."""
        slimmer, member = self.work.slimmer, file.member
        name = f"{file.prefix}{file.name}"
        size = member.file_size if member else len(file.content)
        if slimmer and file.name and slimmer.excludes(name, size):
            return
        if member is None:
            self._row(file, _digest(file.content), len(file.content))
            yield file_of(file.path, file.content, file.mode)
            return
        if size < _LARGE or (file.script and next(self.archive.blocks(member), b"").startswith(_SHEBANG)):
            data, digest = self._small(file, member)
            if slimmer and slimmer.may_change(data):
                yield from self._slimmed(file, name, slimmer, Plain(data))
                return
            self._row(file, digest, len(data))
            yield file_of(file.path, data, file.mode)
        elif slimmer and slimmer.may_change(next(self.archive.blocks(member), b"")):
            with temp_file(self.work.scratch) as temporary:
                self._inflate(member, temporary)
                yield from self._slimmed(file, name, slimmer, File(temporary))
        else:
            yield LayerEntry(file.path, file.mode, size, self._guarded(self._large(file, member)))

    def _small(self, file: PlannedFile, member: zipfile.ZipInfo) -> tuple[bytes, str]:
        """Return a member's bytes in the image, and their hash as in RECORD."""
        data = self.archive.read(member)
        digest = _digest(data)
        # The wheel's own RECORD vouches for a member better than its CRC-32.
        if self.plan.digests.get(member.filename) != digest and zlib.crc32(data) != member.CRC:
            raise zipfile.BadZipFile(f"bad CRC-32 for file {member.filename!r}")
        if file.script and data.startswith(_SHEBANG):
            data = f"#!{INTERPRETER}\n".encode() + data.partition(b"\n")[2]
            digest = _digest(data)
        return data, digest

    def _large(self, file: PlannedFile, member: zipfile.ZipInfo) -> Iterator[bytes]:
        digest = yield from self._checked(member)
        self._row(file, digest, member.file_size)

    def _checked(self, member: zipfile.ZipInfo) -> Generator[bytes, None, str]:
        """Yield a member's blocks, and return their hash as in RECORD."""
        digest = yield from _hashed(self.archive.blocks(member))
        if self.plan.digests.get(member.filename) != digest:
            self.archive.check(member)
        return digest

    def _guarded(self, blocks: Iterator[bytes]) -> Iterator[bytes]:
        """Yield blocks that are read after their entry, with the errors of the wheel."""
        try:
            yield from blocks
        except FLAWS as error:
            raise unusable(self.plan.locked, self.plan.wheel, error) from error

    def _inflate(self, member: zipfile.ZipInfo, path: Path) -> None:
        with path.open("wb") as target:
            target.writelines(self._checked(member))

    def _slimmed(
        self, file: PlannedFile, name: str, slimmer: WheelSlimmer, source: Plain | File
    ) -> Iterator[LayerEntry]:
        slimmed = slimmer.slim(name, source)
        if slimmed is None:
            return

        def noted() -> Iterator[bytes]:
            digest = yield from _hashed(slimmed.blocks)
            self._row(file, digest, slimmed.size)

        yield LayerEntry(file.path, file.mode, slimmed.size, noted())

    def _row(self, file: PlannedFile, digest: str, size: int) -> None:
        if file.name:
            self.rows.append((file.name, (f"{file.prefix}{file.name}", digest, str(size))))

    def _record(self) -> Iterator[LayerEntry]:
        """Yield the report of slimming, if anything was slimmed, and RECORD."""
        folder, slimmer = self.plan.metadata.rpartition("/")[2], self.work.slimmer
        report = slimmer.report() if slimmer else None
        self.rows.append((f"{folder}/RECORD", (f"{folder}/RECORD", "", "")))
        text = record_text(self.rows)
        if report is not None and slimmer:
            row = (f"{folder}/{slimmer.REPORT}", _digest(report), str(len(report)))
            text += record_text([("", row)])
            yield file_of(f"{self.plan.metadata}/{slimmer.REPORT}", report)
        if slimmer:
            slimmer.note_record(text)
        if self.work.owns(self.plan.record):
            yield file_of(self.plan.record, text)


def _digest(data: bytes) -> str:
    return record_digest(hashlib.sha256(data).digest())


def _hashed(blocks: Iterable[bytes]) -> Generator[bytes, None, str]:
    """Yield blocks, and return their hash as in RECORD."""
    digest = hashlib.sha256()
    for block in blocks:
        digest.update(block)
        yield block
    return record_digest(digest.digest())


def _bytes_of(entry: LayerEntry) -> bytes:
    return b"".join(block for block in entry.content if isinstance(block, bytes))


def _drain(entry: LayerEntry) -> None:
    """Read what no layer gets: RECORD has its hash."""
    blocks: Iterable[object] = entry.content
    for _ in blocks:
        pass
