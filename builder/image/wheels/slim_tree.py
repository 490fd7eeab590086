"""Takes GPU code for other GPUs out of an unpacked wheel; its RECORD stays true, and a report tells what was done.

The report is a file of the wheel's metadata in the image, so that the tree of the cache alone describes itself.
"""

from __future__ import annotations

import csv
import hashlib
import io
import json
from typing import TYPE_CHECKING

from builder.audit.byte_source import File, MalformedError
from builder.audit.slim_tables import code_sections, cubin_glob, slim_tables
from builder.errors import IntegrityError
from builder.foundry.wheel_names import Renaming, updated_record
from builder.host import records
from builder.image.precompile.module_compiler import CompiledEntries, compiled_entries
from builder.image.slim import elf_layout
from builder.image.slim.loose_cubins import cubin_reports, judge_cubin
from builder.image.slim.slim_library import has_code, slim_library
from builder.image.slim.slim_wheel import ALGORITHM
from builder.model.images import SlimmedWheel
from builder.model.slimming import TreeReport

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from builder.host.paths import Workspace
    from builder.image.slim.loose_cubins import LooseCubin
    from builder.model.precompiled import CompiledWheel, CubinKey
    from builder.model.slimming import SlimmedLibrary, SlimRules
    from builder.model.wheels import LockedWheel

_ELF = b"\x7fELF"
_REPORT = "jbuild-slim.json"
_REPORT_FORMAT = "slim-1"


def slim_key(rules: SlimRules, compiled: CompiledWheel | None = None) -> str:
    """Return what identifies the content of a slimmed wheel besides the wheel.

    That is its rules, tables, the version of the method, and the modules that are compiled.
    """
    more, tables = (compiled,) if compiled else (), slim_tables()
    return f"slim{ALGORITHM}-{records.fingerprint(rules, tables.sections, tables.cubins, *more)[:12]}"


def slim_installed(
    wheel: LockedWheel, packages: Path, rules: SlimRules, compiled: CompiledWheel | None, workspace: Workspace
) -> None:
    """Slim the libraries of a wheel that was just unpacked into a site-packages folder, and remove its other cubins.

    `compiled` are modules in the cache to add. A wheel without code to remove stays as it is; a library whose code
    cannot be read does, too.

    Raises:
        IntegrityError: the wheel's RECORD does not list its files.
        BuildError: a compiled module is not in the cache.
        OSError: a file cannot be written.
    """
    cubins: list[CubinKey] = []

    def added(source: File, name: str) -> CompiledEntries:
        return compiled_entries(source, name, compiled, workspace) if compiled else CompiledEntries({}, ())

    folder = _metadata_folder(packages)
    record = folder / "RECORD"
    text = record.read_bytes()
    changed: dict[str, tuple[bytes, int]] = {}
    libraries: list[SlimmedLibrary] = []
    cubin_files: dict[str, LooseCubin] = {}
    for name in _files(text):
        if cubin := _cubin(wheel.name, name, packages / name, rules):
            cubin_files[name] = cubin
            continue
        library, keys = _slim_file(wheel.name, name, packages / name, rules, changed, added)
        if library:
            libraries.append(library)
            cubins += keys
    gone = frozenset(name for name, cubin in cubin_files.items() if not cubin.stays)
    if not changed and not gone:
        return
    for name in gone:
        (packages / name).unlink()
    libraries += cubin_reports(cubin_files.values())
    report = TreeReport(
        package=wheel.name,
        version=wheel.version,
        sha256=wheel.sha256,
        rules=rules,
        algorithm=ALGORITHM,
        libraries=tuple(sorted(libraries, key=lambda library: library.path)),
        cubins=tuple(cubins),
    )
    content = json.dumps({"format": _REPORT_FORMAT, **records.to_json(report)}, indent=1, sort_keys=True).encode()
    (folder / _REPORT).write_bytes(content)
    row = f"{folder.name}/{_REPORT},,\n".encode()
    changed[f"{folder.name}/{_REPORT}"] = hashlib.sha256(content).digest(), len(content)
    try:
        record.write_bytes(updated_record(text + row, Renaming(folder.name, "", ""), changed, gone))
    except MalformedError as error:
        hint = "report it to the authors of the wheel; `slim-packages` in the recipe's [image] leaves it as it is"
        raise IntegrityError(f"{wheel.filename}: {error.message}", where=str(record), hint=hint) from error


def slimmed_wheel(packages: Path) -> SlimmedWheel | None:
    """Return what was done to the wheel of a tree, given its site-packages folder; None if nothing was.

    Raises:
        IntegrityError: the report is damaged.
    """
    found = list(packages.glob(f"*.dist-info/{_REPORT}"))
    if not found:
        return None
    try:
        body = json.loads(found[0].read_bytes())
        body.pop("format")
        report: TreeReport = records.from_json(body, TreeReport)
        record = hashlib.sha256((found[0].parent / "RECORD").read_bytes()).hexdigest()
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        hint = "run `jbuild cache prune --older-than 0` and the same command again"
        raise IntegrityError("the report of a slimmed wheel is damaged", where=str(found[0]), hint=hint) from error
    changed = [library for library in report.libraries if library.method != "unchanged"]
    return SlimmedWheel(
        name=report.package,
        version=report.version,
        sha256=report.sha256,
        rules=report.rules,
        algorithm=report.algorithm,
        record=record,
        before=sum(library.before for library in changed),
        after=sum(library.after for library in changed),
        removed=sum(amount.size for library in changed for amount in library.removed),
        cubins=report.cubins,
    )


def _metadata_folder(packages: Path) -> Path:
    return next(path.parent for path in packages.glob("*.dist-info/RECORD"))


def _files(record: bytes) -> Iterator[str]:
    """Yield the files of a RECORD; an installer has just written it."""
    for row in csv.reader(io.StringIO(record.decode("utf-8", "surrogateescape"))):
        yield row[0]


def _slim_file(
    package: str,
    name: str,
    path: Path,
    rules: SlimRules,
    changed: dict[str, tuple[bytes, int]],
    added: Callable[[File, str], CompiledEntries],
) -> tuple[SlimmedLibrary | None, tuple[CubinKey, ...]]:
    """Slim a file, if it is a library with GPU code, and note its new hash and size.

    Return its report, and the inputs of the modules that were added.
    """
    if not _is_elf(path):
        return None, ()
    source = File(path)
    sections = code_sections(package, name)
    try:
        if not has_code(elf_layout.read_layout(source), sections):
            return None, ()
        more = added(source, name)
        library = slim_library(source, name, rules, sections, more.entries)
    except MalformedError:
        # The audit reports it; the image gets the file as it is.
        return None, ()
    if library.report.method != "unchanged":
        changed[name] = _replace(path, library.blocks(source))
    return library.report, more.keys if library.report.compiled else ()


def _cubin(package: str, name: str, path: Path, rules: SlimRules) -> LooseCubin | None:
    return judge_cubin(File(path), package, name, rules) if cubin_glob(package, name) and _is_elf(path) else None


def _is_elf(path: Path) -> bool:
    with path.open("rb") as file:
        return file.read(len(_ELF)) == _ELF


def _replace(path: Path, blocks: Iterator[bytes]) -> tuple[bytes, int]:
    """Write a file anew with the same mode; its old bytes are read meanwhile."""
    digest, size = hashlib.sha256(), 0
    new = path.with_name(f"{path.name}.slimmed")
    with new.open("wb") as file:
        for block in blocks:
            digest.update(block)
            size += file.write(block)
    new.chmod(path.stat().st_mode)
    new.replace(path)
    return digest.digest(), size
