"""Takes GPU code for other GPUs, and files, out of a wheel on its way into a layer; a report tells what was done.

The report is a file of the wheel's metadata in the image, so that the layer alone describes itself.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, ClassVar, NamedTuple

from builder.audit.byte_source import MalformedError
from builder.audit.slim_choice import excluded_by
from builder.audit.slim_tables import code_sections, cubin_glob, slim_tables
from builder.foundry.wheel_zip import source_blocks
from builder.host import records
from builder.image.precompile.module_compiler import CompiledEntries, compiled_entries
from builder.image.slim import elf_layout
from builder.image.slim.excluded_reports import excluded_reports
from builder.image.slim.loose_cubins import cubin_reports, judge_cubin
from builder.image.slim.slim_library import has_code, slim_library
from builder.image.slim.slim_wheel import ALGORITHM
from builder.model.images import SlimmedWheel
from builder.model.slimming import TreeReport

if TYPE_CHECKING:
    from collections.abc import Iterator

    from builder.audit.byte_source import ByteSource
    from builder.host.paths import Workspace
    from builder.image.slim.loose_cubins import LooseCubin
    from builder.model.precompiled import CompiledWheel, CubinKey
    from builder.model.slimming import SlimmedLibrary, SlimRules
    from builder.model.wheels import LockedWheel

_ELF = b"\x7fELF"
_REPORT_FORMAT = "slim-1"


def slim_key(rules: SlimRules, compiled: CompiledWheel | None = None) -> str:
    """Return what identifies the content of a slimmed wheel besides the wheel.

    That is its rules, tables, the version of the method, and the modules that are compiled.
    """
    more, tables = (compiled,) if compiled else (), slim_tables()
    return f"slim{ALGORITHM}-{records.fingerprint(rules, tables.sections, tables.cubins, *more)[:12]}"


class SlimmedFile(NamedTuple):
    """A file's bytes in the image."""

    size: int
    blocks: Iterator[bytes]


@dataclass(kw_only=True, slots=True)
class WheelSlimmer:
    """Slims the files of one wheel in one pass and keeps account of it.

    A library whose code cannot be read stays as it is. `compiled` are modules in the cache to add.
    """

    REPORT: ClassVar[str] = "jbuild-slim.json"

    wheel: LockedWheel
    rules: SlimRules
    compiled: CompiledWheel | None
    workspace: Workspace
    slimmed: SlimmedWheel | None = None
    _excluded: dict[str, tuple[str, int]] = field(default_factory=dict)
    _libraries: dict[str, SlimmedLibrary] = field(default_factory=dict)
    _keys: dict[str, tuple[CubinKey, ...]] = field(default_factory=dict)
    _cubins: dict[str, LooseCubin] = field(default_factory=dict)
    _report: TreeReport | None = None

    def excludes(self, name: str, size: int) -> bool:
        """Return whether the rules exclude a file, by its name in RECORD; metadata stays."""
        globs = self.rules.exclude_files or ()
        folder, _, rest = name.partition("/")
        if not globs or (rest and folder.endswith(".dist-info")):
            return False
        glob = excluded_by(name, globs)
        if glob:
            self._excluded[name] = (glob, size)
        return glob is not None

    def may_change(self, head: bytes) -> bool:
        """Return whether to slim a file, by the beginning of its bytes."""
        return bool(self.rules.sms) and head.startswith(_ELF)

    def slim(self, name: str, source: ByteSource) -> SlimmedFile | None:
        """Return what the image gets of a file; None if it goes.

        Raises:
            BuildError: a compiled module is not in the cache.
        """
        package = self.wheel.name
        if cubin_glob(package, name) and (cubin := judge_cubin(source, package, name, self.rules)):
            self._cubins[name] = cubin
            return _unchanged(source) if cubin.stays else None
        sections = code_sections(package, name)
        try:
            if not has_code(elf_layout.read_layout(source), sections):
                return _unchanged(source)
            more = self._added(source, name)
            library = slim_library(source, name, self.rules, sections, more.entries)
        except MalformedError:
            # The audit reports it; the image gets the file as it is.
            return _unchanged(source)
        self._libraries[name] = library.report
        if library.report.compiled:
            self._keys[name] = more.keys
        if library.report.method == "unchanged":
            return _unchanged(source)
        return SlimmedFile(library.report.after, library.blocks(source))

    def report(self) -> bytes | None:
        """Return the report, once all files have passed; None if the wheel stays as it is."""
        libraries = [*self._libraries.values(), *cubin_reports(self._cubins.values())]
        went = any(not cubin.stays for cubin in self._cubins.values())
        if not self._excluded and not went and all(row.method == "unchanged" for row in libraries):
            return None
        libraries += excluded_reports(self._excluded.values())
        self._report = TreeReport(
            package=self.wheel.name,
            version=self.wheel.version,
            sha256=self.wheel.sha256,
            rules=self.rules,
            algorithm=ALGORITHM,
            libraries=tuple(sorted(libraries, key=lambda library: library.path)),
            cubins=tuple(key for _, keys in sorted(self._keys.items()) for key in keys),
        )
        content = {"format": _REPORT_FORMAT, **records.to_json(self._report)}
        return json.dumps(content, indent=1, sort_keys=True).encode()

    def note_record(self, record: bytes) -> None:
        """Take the wheel's RECORD in the image: the evidence about the slimmed wheel names its sha256."""
        report = self._report
        if report is None:
            return
        changed = [library for library in report.libraries if library.method != "unchanged"]
        self.slimmed = SlimmedWheel(
            name=report.package,
            version=report.version,
            sha256=report.sha256,
            rules=report.rules,
            algorithm=report.algorithm,
            record=hashlib.sha256(record).hexdigest(),
            before=sum(library.before for library in changed),
            after=sum(library.after for library in changed),
            removed=sum(amount.size for library in changed for amount in library.removed),
            cubins=report.cubins,
        )

    def _added(self, source: ByteSource, name: str) -> CompiledEntries:
        if self.compiled is None:
            return CompiledEntries({}, ())
        return compiled_entries(source, name, self.compiled, self.workspace)


def _unchanged(source: ByteSource) -> SlimmedFile:
    return SlimmedFile(source.size, source_blocks(source))
