"""Turns blobs into recipes: only bytes that the receiver cannot make travel."""

from __future__ import annotations

import hashlib
import json
import tempfile
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Literal, TypeAlias

import zstandard

from builder.audit import wheel_reader
from builder.audit.byte_source import File, MalformedError
from builder.audit.slim_tables import code_sections
from builder.host import records
from builder.host.config import LayerCompression
from builder.image.oci import layout, pack
from builder.image.slim.byte_plan import Copy, Zeros
from builder.image.slim.slim_library import slim_library
from builder.model.slimming import TreeReport
from gpu_proof.literals import LiteralSpool, Place
from gpu_proof.recipe_file import LITERALS, BlobRecipe, Recipes, Source, Step, write_recipes
from gpu_proof.tar_parts import FileBegin, FileEnd, tar_parts

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence

    from builder.audit.byte_source import ByteSource
    from builder.host.paths import Workspace
    from builder.image.slim.byte_plan import Chunk
    from builder.model.images import Descriptor, Image
    from builder.model.slimming import SlimmedLibrary

# Smaller files travel with the headers around them: a reference would be as long.
_SMALLEST = 512
_REPORT = "jbuild-slim.json"
# The levels of layers and of weights: see `builder.image.oci.pack`.
_LEVELS = (LayerCompression().level, 1)
# The bytes of a zstd frame's header.
_LONGEST_HEADER = 18
_BLOCK = 1 << 20

# A step before the end: literals have a place in the spool, and sources are named by their sha256.
_Step: TypeAlias = tuple[Literal["literal", "source", "copy", "zeros"], "Place | str | int", int]


@dataclass(frozen=True, kw_only=True, slots=True)
class SlimmedFile:
    """A library that jbuild slimmed: the sha256 and the size of its original, and its bytes as parts of that."""

    original: str
    original_size: int
    size: int
    chunks: tuple[Chunk, ...]


@dataclass(kw_only=True)
class Survey:
    """The files of a blob, in order, and the reports of its slimmed wheels; `level` is the compressor's."""

    blob: Descriptor
    level: int | None
    files: list[str] = field(default_factory=list)
    reports: list[TreeReport] = field(default_factory=list)


@dataclass(kw_only=True)
class _Entry:
    """A source before the end."""

    size: int
    original: str | None = None
    steps: list[_Step] = field(default_factory=list)


def survey(blob: Descriptor, folder: Path, scratch: Path | None) -> Survey:
    """Read a blob of a layout, and try in a folder `scratch` whether this jbuild packs it to the same bytes.

    Raises:
        OSError: the blob cannot be read.
    """
    level = _level(blob, folder, scratch)
    found = Survey(blob=blob, level=level)
    if level is None:
        return found
    with layout.open_blob(folder, blob.digest) as raw, layout.unpacked(raw, blob.media_type) as stream:
        begin, digest, report = FileBegin("", 0), hashlib.sha256(), bytearray()
        for part in tar_parts(stream):
            if isinstance(part, FileBegin):
                begin, digest, report = part, hashlib.sha256(), bytearray()
            elif isinstance(part, FileEnd):
                found.files.append(digest.hexdigest())
                if begin.name.endswith(f".dist-info/{_REPORT}"):
                    found.reports.append(_report(bytes(report)))
                begin = FileBegin("", 0)
            elif begin.size:
                digest.update(part)
                if begin.name.endswith(_REPORT):
                    report += part
    return found


def _report(content: bytes) -> TreeReport:
    body = json.loads(content)
    body.pop("format")
    report: TreeReport = records.from_json(body, TreeReport)
    return report


def _level(blob: Descriptor, folder: Path, scratch: Path | None) -> int | None:
    """Return the level at which a layer packs to the same blob; None: at none, or it is not a layer.

    Without `scratch`, the frame's window decides: levels differ in it.
    """
    if not blob.media_type.endswith(("tar", "zstd")):
        return None
    for level in _levels(blob, folder):
        if scratch is None:
            return level
        content = layout.layer_content(blob, folder)
        packed = pack.pack(content, LayerCompression(level=level), scratch, lambda _: None)
        layout.blob(scratch, packed.blob.digest).unlink()
        if packed.blob == blob:
            return level
    return None


def _levels(blob: Descriptor, folder: Path) -> tuple[int, ...]:
    if not blob.media_type.endswith("zstd"):
        return _LEVELS[:1]
    with layout.open_blob(folder, blob.digest) as file:
        window = zstandard.get_frame_parameters(file.read(_LONGEST_HEADER)).window_size
    return tuple(level for level in _LEVELS if _window(level) == window)


def _window(level: int) -> int:
    compressor = zstandard.ZstdCompressor(level=level, threads=1).compressobj()
    return zstandard.get_frame_parameters(compressor.compress(b"x") + compressor.flush()).window_size


def slimmed_files(reports: Iterable[TreeReport], workspace: Workspace) -> dict[str, SlimmedFile]:
    """Return the slimmed libraries of reports whose wheels are in the wheelhouse, by their sha256."""
    slimmed: dict[str, SlimmedFile] = {}
    for report in reports:
        for wheel in workspace.wheel(report.sha256, "*").parent.glob("*.whl"):
            data = File(wheel)
            members = {member.path: member for member in wheel_reader.listing(wheel)[0]}
            for library in report.libraries:
                if library.method not in ("unchanged", "files") and library.path in members:
                    with suppress(MalformedError):
                        source = wheel_reader.source(data, members[library.path])
                        slimmed |= _slimmed_file(source, report, library)
    return slimmed


def _slimmed_file(source: ByteSource, report: TreeReport, library: SlimmedLibrary) -> dict[str, SlimmedFile]:
    result = slim_library(source, library.path, report.rules, code_sections(report.package, library.path))
    digest, original = hashlib.sha256(), hashlib.sha256()
    for block in result.blocks(source):
        digest.update(block)
    for start in range(0, source.size, _BLOCK):
        original.update(source.read(start, min(_BLOCK, source.size - start)))
    file = SlimmedFile(
        original=original.hexdigest(), original_size=source.size, size=result.report.after, chunks=result.chunks
    )
    return {digest.hexdigest(): file}


def encode(
    images: Sequence[Image],
    folder: Path,
    inventory: Collection[str],
    target: Path,
    workspace: Workspace,
    *,
    level: int,
    check: bool,
    present: Collection[str] = (),
    say: Callable[[str], object],
) -> None:
    """Write the recipes of the blobs of images, and the literals that they need, to a folder.

    `inventory` are the sha256 of the files that the receiver has, `present` the digests of its blobs. With `check`,
    blobs that this jbuild packs to other bytes travel as they are; without, the receiver notices.

    Raises:
        OSError: a blob cannot be read, or the result cannot be written.
    """
    blobs = {blob.digest: blob for image in images for blob in layout.image_blobs(image)}
    blobs = {digest: blob for digest, blob in blobs.items() if digest not in present}
    target.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=target) as scratch:
        surveys = []
        for blob in blobs.values():
            surveys.append(survey(blob, folder, Path(scratch) if check else None))
            say(f"read {blob.digest[:19]} {blob.size / 1e6:.1f} MB, level {surveys[-1].level}")
        slimmed = slimmed_files((report for found in surveys for report in found.reports), workspace)
        say(f"{len(slimmed)} slimmed libraries made again")
        available = {sha256 for found in surveys for sha256 in found.files} | set(inventory)
        usable = {sha256: file for sha256, file in slimmed.items() if file.original in available}
        spool = LiteralSpool(Path(scratch))
        encoder = _Encoder(spool, inventory, usable)
        blobs_steps = []
        for found in surveys:
            blobs_steps.append((found, encoder.blob(found, folder)))
            say(f"split {found.blob.digest[:19]}: {encoder.literal_bytes / 1e6:.1f} MB of literals so far")
        write_recipes(target, encoder.recipes(images, blobs_steps))
        spool.compress(target / LITERALS, level)


class _Encoder:
    """Adds literals to a spool, and each file once to the sources."""

    def __init__(self, spool: LiteralSpool, inventory: Collection[str], slimmed: Mapping[str, SlimmedFile]) -> None:
        self._spool, self._inventory, self._slimmed = spool, inventory, slimmed
        self._entries: dict[str, _Entry] = {}
        self.literal_bytes = 0

    def blob(self, found: Survey, folder: Path) -> list[_Step]:
        """Return the steps of a blob; its new files become sources."""
        with layout.open_blob(folder, found.blob.digest) as raw:
            if found.level is None:
                return [self._literal("blob", iter(lambda: raw.read(_BLOCK), b""), found.blob.size)]
            with layout.unpacked(raw, found.blob.media_type) as stream:
                return list(self._steps(tar_parts(stream), iter(found.files)))

    def recipes(self, images: Sequence[Image], blobs: Iterable[tuple[Survey, Sequence[_Step]]]) -> Recipes:
        """Return the recipes, with the final positions of all literals."""
        offsets = self._spool.offsets()
        numbers = {sha256: number for number, sha256 in enumerate(self._entries)}

        def final(steps: Iterable[_Step]) -> tuple[Step, ...]:
            return tuple(_final(step, offsets, numbers) for step in steps)

        return Recipes(
            images=tuple(image.manifest for image in images),
            sources=tuple(
                Source(
                    sha256=sha256,
                    size=entry.size,
                    original=None if entry.original is None else numbers[entry.original],
                    steps=final(entry.steps),
                )
                for sha256, entry in self._entries.items()
            ),
            blobs=tuple(BlobRecipe(blob=found.blob, level=found.level, steps=final(steps)) for found, steps in blobs),
        )

    def _steps(self, parts: Iterator[bytes | FileBegin | FileEnd], files: Iterator[str]) -> Iterator[_Step]:
        waiting = bytearray()
        for part in parts:
            if isinstance(part, bytes):
                waiting += part
            elif isinstance(part, FileBegin):
                sha256 = next(files)
                if part.size < _SMALLEST:
                    waiting += b"".join(_content(parts))
                    continue
                if waiting:
                    yield self._literal("other", [bytes(waiting)], len(waiting))
                    waiting.clear()
                self._add(sha256, part, _content(parts))
                yield ("source", sha256, part.size)
        if waiting:
            yield self._literal("other", [bytes(waiting)], len(waiting))

    def _add(self, sha256: str, file: FileBegin, content: Iterator[bytes]) -> None:
        """Make a file a source unless it is one, with the literals that it needs."""
        entry = self._entries.get(sha256)
        if entry is not None and (entry.steps or sha256 in self._inventory):
            _skip(content)
            return
        # An entry without steps may be the original of a slimmed library that came first.
        entry = self._entries.setdefault(sha256, _Entry(size=file.size))
        if sha256 in self._inventory:
            _skip(content)
        elif sha256 in self._slimmed:
            _skip(content)
            self._add_slimmed(entry, self._slimmed[sha256])
        else:
            place = self._spool.add_file(file.name, content)
            entry.steps.append(("literal", place, file.size))
            self.literal_bytes += file.size

    def _add_slimmed(self, entry: _Entry, file: SlimmedFile) -> None:
        self._entries.setdefault(file.original, _Entry(size=file.original_size))
        entry.original = file.original
        for chunk in file.chunks:
            if isinstance(chunk, Copy):
                entry.steps.append(("copy", chunk.offset, chunk.size))
            elif isinstance(chunk, Zeros):
                entry.steps.append(("zeros", 0, chunk.size))
            else:
                entry.steps.append(self._literal("other", [chunk], len(chunk)))

    def _literal(self, kind: str, blocks: Iterable[bytes], size: int) -> _Step:
        self.literal_bytes += size
        return ("literal", self._spool.add(kind, blocks), size)


def _final(step: _Step, offsets: Mapping[str, int], numbers: Mapping[str, int]) -> Step:
    kind, at, size = step
    if isinstance(at, Place):
        return kind, offsets[at.kind] + at.offset, size
    return kind, numbers[at] if isinstance(at, str) else at, size


def _content(parts: Iterator[bytes | FileBegin | FileEnd]) -> Iterator[bytes]:
    """Yield the blocks of a file that has begun, until its end."""
    for part in parts:
        if not isinstance(part, bytes):
            return
        yield part


def _skip(content: Iterator[bytes]) -> None:
    for _ in content:
        pass
