"""Finishes a built wheel: its label and tags, the documents inside, and bytes that depend on nothing but the inputs."""

from __future__ import annotations

import csv
import io
import re
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from builder.audit.byte_source import MalformedError
from builder.errors import BuildError
from builder.foundry.abi_tag import measure_abi
from builder.foundry.build_environment import stated_settings
from builder.foundry.manylinux import measure_platform
from builder.foundry.raw_wheel import elf_members, read_raw
from builder.foundry.wheel_bill import BILL, STATEMENT_FILE, provenance_statement, wheel_bill
from builder.foundry.wheel_label import label_of
from builder.foundry.wheel_names import labelled_metadata, record_digest, renaming, with_label
from builder.foundry.wheel_zip import WheelWriter, ZipMember, deflate, file_blocks
from builder.host.files import atomic_file, disk_errors, sha256_of, temp_file
from builder.model.builds import BuiltWheel
from builder.model.wheels import LockedWheel

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping
    from pathlib import Path

    from builder.foundry.raw_wheel import RawWheel
    from builder.foundry.wheel_names import Renaming
    from builder.foundry.wheel_zip import Deflation
    from builder.model.builds import LockedBuild

# 1980-01-01, the earliest time of a zip.
_DATE = 1 << 5 | 1
_DEFLATED = 8
_FILE, _PROGRAM = 0o100644 << 16, 0o100755 << 16
_TAG = re.compile(r"(?m)^Tag:.*\n?")
# An address that no server has: the wheelhouse has the file, or the wheel is built again.
_ADDRESS = "urn:jbuild:wheel"


@dataclass(frozen=True, kw_only=True, slots=True)
class WheelTags:
    """The tags of a finished wheel, and what was measured for them, as its documents state it."""

    pythons: tuple[str, ...]
    abi: str
    platform: str
    measures: Mapping[str, str]

    @property
    def compressed(self) -> str:
        """The tags as a wheel's file name has them."""
        return f"{'.'.join(self.pythons)}-{self.abi}-{self.platform}"

    @property
    def lines(self) -> str:
        """The tags as a WHEEL file has them."""
        return "".join(f"Tag: {python}-{self.abi}-{self.platform}\n" for python in self.pythons)


def finish_wheel(raw: Path, build: LockedBuild, output: Path) -> BuiltWheel:
    """Write the finished wheel of a build into a folder.

    Raises:
        BuildError: the built wheel is of another package or version, or damaged.
        DiskError: the result cannot be written.
    """
    wheel = read_raw(raw, build)
    tags = measured_tags(wheel, build)
    label = label_of(build)
    distribution, version, *rest = wheel.name.words
    numbered = rest[:-3]
    filename = "-".join((distribution, with_label(version, label), *numbered, tags.compressed)) + ".whl"
    path = output / filename
    try:
        with disk_errors(path), atomic_file(path) as temporary:
            _WheelFinisher(wheel, build, label, tags).write(temporary)
    except MalformedError as error:
        raise BuildError(f"the built wheel is damaged: {error.message}", where=raw.name) from error
    sha256 = sha256_of(path)
    finished = LockedWheel(
        name=build.name,
        version=with_label(wheel.name.version, label),
        filename=filename,
        url=f"{_ADDRESS}:{build.fingerprint}",
        sha256=sha256,
        size=path.stat().st_size,
    )
    return BuiltWheel(fingerprint=build.fingerprint, wheel=finished, origin="built")


def measured_tags(wheel: RawWheel, build: LockedBuild) -> WheelTags:
    """Return the tags of a wheel that its binaries prove.

    Raises:
        MalformedError: it has no METADATA.
    """
    platform = measure_platform(wheel.binaries, wheel.required(), build.target)
    abi = measure_abi(*wheel.tags, wheel.binaries, build.target.python)
    if not wheel.binaries:
        # Installers know the tag `any` without an ABI only.
        abi = replace(abi, abi="none")
    measures = {
        "needs": ", ".join(f"{family} {version}".strip() for family, version in platform.families),
        "external_libraries": ", ".join(platform.external),
        "no_manylinux_tag": "; ".join(platform.obstacles),
        "abi": abi.note or "",
    }
    return WheelTags(
        pythons=abi.pythons,
        abi=abi.abi,
        platform=platform.tag,
        measures={name: text for name, text in measures.items() if text},
    )


class _WheelFinisher:
    """Writes the members of one wheel, sorted by name, those of `.dist-info` last."""

    def __init__(self, wheel: RawWheel, build: LockedBuild, label: str, tags: WheelTags) -> None:
        self._wheel, self._build, self._label, self._tags = wheel, build, label, tags
        self._rename: Renaming = renaming(wheel.folder, label)
        self._rows: list[tuple[str, str, str]] = []
        self._sha256: dict[str, str] = {}

    def write(self, path: Path) -> None:
        with path.open("wb") as file:
            writer = WheelWriter(file)
            for name in self._sorted():
                self._add(writer, path, name, self._content(name))
            for name, content in self._documents().items():
                self._add(writer, path, f"{self._wheel.folder}/{name}", [content])
            record = self._rename(f"{self._wheel.folder}/RECORD")
            self._rows.append((record, "", ""))
            self._add(writer, path, f"{self._wheel.folder}/RECORD", [_csv(self._rows)])
            writer.close()

    def _sorted(self) -> list[str]:
        """Return the members that the backend wrote, but for RECORD and those that jbuild writes anew."""
        folder = f"{self._wheel.folder}/"
        written = {folder + name for name in ("RECORD", BILL, STATEMENT_FILE)}
        return sorted(set(self._wheel.members) - written, key=lambda name: (name.startswith(folder), name))

    def _content(self, name: str) -> Iterable[bytes]:
        wheel = self._wheel
        if name == f"{wheel.folder}/METADATA":
            return [labelled_metadata(wheel.text("METADATA"), self._label)]
        if name == f"{wheel.folder}/WHEEL":
            head = _TAG.sub("", wheel.text("WHEEL").decode("utf-8", "replace").replace("\r\n", "\n")).rstrip("\n")
            return [f"{head}\n{self._tags.lines}".encode()]
        return wheel.blocks(wheel.members[name])

    def _documents(self) -> dict[str, bytes]:
        """Return the bill and the provenance: the compiled files were written before."""
        build, measures = self._build, {"tag": self._tags.compressed, **self._tags.measures}
        compiled = sorted((self._rename(name), self._sha256[name]) for name in elf_members(self._wheel))
        version = with_label(self._wheel.name.version, self._label)
        return {
            STATEMENT_FILE: provenance_statement(build, compiled, measures, stated_settings(build)),
            BILL: wheel_bill(build, version, measures),
        }

    def _add(self, writer: WheelWriter, path: Path, name: str, blocks: Iterable[bytes]) -> None:
        with temp_file(path.parent, path.name) as temporary:
            with temporary.open("wb") as file:
                deflation = deflate(blocks, file)
            is_program = name in self._wheel.executable
            writer.add(_member(self._rename(name), deflation, is_program=is_program), file_blocks(temporary))
        self._sha256[name] = deflation.sha256.hex()
        if not name.endswith(".dist-info/RECORD"):
            self._rows.append((self._rename(name), record_digest(deflation.sha256), str(deflation.size)))


def _member(name: str, deflation: Deflation, *, is_program: bool) -> ZipMember:
    return ZipMember(
        name=name,
        method=_DEFLATED,
        crc=deflation.crc,
        stored=deflation.stored,
        size=deflation.size,
        time=0,
        date=_DATE,
        attributes=_PROGRAM if is_program else _FILE,
    )


def _csv(rows: Iterable[tuple[str, str, str]]) -> bytes:
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows(rows)
    return text.getvalue().encode("utf-8", "surrogateescape")
