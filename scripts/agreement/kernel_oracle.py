"""Compares the names of kernels that the audit reads with those that NVIDIA's cuobjdump lists.

pip downloads a wheel, and its libraries are unpacked one at a time. Lists of cuobjdump are read line by line: the PTX
of one library has 700 MB.
"""

from __future__ import annotations

import re
import shutil
import subprocess
import tempfile
import zipfile
from collections import Counter
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from pathlib import Path
from typing import TYPE_CHECKING

from builder.audit import elf, fatbin, kernel_names
from builder.audit.byte_source import File, MalformedError
from builder.errors import JbuildError
from builder.host.process import run
from builder.host.toml import documents
from builder.lock.solve import uv

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from builder.host.toml.tables import Table
    from builder.model.audits import GpuTarget

_TABLE = Path(__file__).with_name("kernel_wheels.toml")
_CUBIN = ".cubin"
# A Python that the wheels are for.
_PYTHON = "3.12"
_ARCHITECTURE = re.compile(rb"arch = sm_(\d+)([a-z]?)")
_TARGET = re.compile(rb"\s*\.target\s+sm_(\d+)([a-z]?)")
_ENTRY = re.compile(rb"\.entry\s+([^\s(]+)")
_LOOSE = re.compile(rb"ELF file +\d+: .*\.sm_(\d+)([a-z]?)\.cubin")
_LAUNCHABLE = b"STO_ENTRY"

# The names of a file, each as often as it occurs, by target: kind, SM, variant.
Names = dict[tuple[str, int, str], Counter[bytes]]


@dataclass(frozen=True, kw_only=True, slots=True)
class KernelWheel:
    """A row of the table."""

    wheel: str
    files: tuple[str, ...]
    every: int

    @property
    def package(self) -> str:
        """The package with its version."""
        name, version, *_ = self.wheel.split("-")
        return f"{name.replace('_', '-')}=={version}"


@dataclass(slots=True)
class WheelTally:
    """Counts for one wheel: files with GPU code, kernels of SASS and of PTX, packed payloads, and differences.

    `refused` are files that cuobjdump cannot read.
    """

    package: str
    files: list[str] = field(default_factory=list)
    sass: int = 0
    ptx: int = 0
    lz4: int = 0
    zstd: int = 0
    differences: list[str] = field(default_factory=list)
    refused: list[str] = field(default_factory=list)


def kernel_wheels() -> tuple[KernelWheel, ...]:
    """Return the rows of the table.

    Raises:
        DocumentError: it has mistakes.
    """
    return documents.load(_TABLE, "the table of wheels has mistakes", _parse)


def _parse(root: Table) -> tuple[KernelWheel, ...]:
    return tuple(
        KernelWheel(
            wheel=table.string("wheel", pattern=r"[^-/]+-[^-/]+-[^-/]+-[^-/]+-[^-/]+\.whl", noun="a wheel's file name"),
            files=table.strings("files"),
            every=table.integer("every", 1, low=1),
        )
        for table in root.rows("wheels")
    )


def compare(row: KernelWheel, cuobjdump: Path, links: Sequence[str], folder: Path) -> WheelTally:
    """Compare the files of a wheel; it is taken from one of the folders `links`, or downloaded.

    Raises:
        ProgramFailedError: the wheel cannot be downloaded.
    """
    tally = WheelTally(row.package)
    with tempfile.TemporaryDirectory(prefix="kernels-", dir=folder) as temporary:
        wheel = _wheel(row, links, Path(temporary))
        with zipfile.ZipFile(wheel) as archive:
            names = sorted(name for name in archive.namelist() if _is_chosen(name, row))
            for name in names[:: row.every]:
                path = Path(temporary) / Path(name).name
                with archive.open(name) as packed, path.open("wb") as unpacked:
                    shutil.copyfileobj(packed, unpacked)
                _compare(path, name, cuobjdump, tally)
                path.unlink()
    return tally


def _wheel(row: KernelWheel, links: Sequence[str], folder: Path) -> Path:
    present = [path for link in links if (path := Path(link) / row.wheel).is_file()]
    if present:
        return present[0]
    *_, platforms = row.wheel.removesuffix(".whl").split("-")
    options = ["--no-deps", "--only-binary", ":all:", "--python-version", _PYTHON]
    options += [word for platform in platforms.split(".") for word in ("--platform", platform)]
    options += [word for abi in (f"cp{_PYTHON.replace('.', '')}", "abi3", "none") for word in ("--abi", abi)]
    run([uv(), "tool", "run", "pip", "download", "--quiet", *options, "--dest", str(folder), row.package])
    return folder / row.wheel


def _is_chosen(name: str, row: KernelWheel) -> bool:
    return any(fnmatchcase(name, glob) for glob in row.files)


def _compare(path: Path, name: str, cuobjdump: Path, tally: WheelTally) -> None:
    try:
        ours = _loose_names(path) if path.suffix == _CUBIN else _library_names(path, tally)
    except MalformedError as error:
        tally.differences.append(f"`{name}`: the reader refuses it: {error.message}")
        return
    if not ours:
        return
    try:
        theirs = _listed_cubin(cuobjdump, path) if path.suffix == _CUBIN else _listed(cuobjdump, path)
    except JbuildError as error:
        tally.refused.append(f"`{name}`: {error.message}")
        return
    tally.files.append(name)
    tally.sass += sum(names.total() for (kind, *_), names in ours.items() if kind == "sass")
    tally.ptx += sum(names.total() for (kind, *_), names in ours.items() if kind == "ptx")
    for target in sorted(ours.keys() | theirs.keys()):
        mine, other = ours.get(target, Counter()), theirs.get(target, Counter())
        if mine != other:
            tally.differences.append(
                f"`{name}`: {target}: only ours {(mine - other).total()}, only theirs {(other - mine).total()}"
            )


def _library_names(path: Path, tally: WheelTally) -> Names:
    source = File(path)
    try:
        facts = elf.read_source(source)
    except MalformedError:
        return {}
    for _, entry in fatbin.entries(source, facts):
        tally.lz4 += int(entry.code is not None and entry.compression == "lz4")
        tally.zstd += int(entry.code is not None and entry.compression == "zstd")
    names: Names = {}
    for _, module, kernels in kernel_names.kernels(source, facts):
        names.setdefault(_key(module.code.target), Counter()).update(kernels)
    return {target: counted for target, counted in names.items() if counted}


def _loose_names(path: Path) -> Names:
    entry, kernels = kernel_names.loose_cubin(path.read_bytes())
    target = entry.code.target
    # cuobjdump does not show the family of a cubin without a container.
    return {(target.kind, target.sm, target.variant.replace("f", "")): Counter(kernels)}


def _key(target: GpuTarget) -> tuple[str, int, str]:
    return target.kind, target.sm, target.variant


def _listed(cuobjdump: Path, path: Path) -> Names:
    names: Names = {}
    target = ("sass", 0, "")
    for line in _lines(cuobjdump, "-symbols", path):
        if match := _ARCHITECTURE.match(line):
            target = ("sass", int(match[1]), match[2].decode())
        elif _LAUNCHABLE in line:
            names.setdefault(target, Counter())[line.split()[-1]] += 1
    for line in _lines(cuobjdump, "-ptx", path):
        if match := _TARGET.match(line):
            target = ("ptx", int(match[1]), match[2].decode())
        elif match := _ENTRY.search(line):
            names.setdefault(target, Counter())[match[1]] += 1
    return names


def _listed_cubin(cuobjdump: Path, path: Path) -> Names:
    target = next(match for line in _lines(cuobjdump, "-lelf", path) if (match := _LOOSE.match(line)))
    kernels = [line.split()[-1] for line in _lines(cuobjdump, "-symbols", path) if _LAUNCHABLE in line]
    return {("sass", int(target[1]), target[2].decode()): Counter(kernels)}


def _lines(cuobjdump: Path, option: str, path: Path) -> Iterator[bytes]:
    with subprocess.Popen([cuobjdump, option, path], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL) as child:
        yield from child.stdout or ()
    if child.returncode:
        raise JbuildError(f"cuobjdump {option} {path.name} ended with {child.returncode}")


def section(tallies: Sequence[WheelTally], package: str, when: str) -> str:
    """Return the page's section: one row per wheel, then every difference."""
    differences = [f"- {tally.package}: {text}" for tally in tallies for text in tally.differences]
    files = sum(len(tally.files) for tally in tallies)
    kernels = sum(tally.sass + tally.ptx for tally in tallies)
    lines = [
        "## Kernels",
        "",
        f"`scripts/audit-oracles --part kernels`, {when}: {files} files of {len(tallies)} wheels, {kernels} names of",
        f"kernels, {len(differences)} differences. {package} lists the names with `-symbols` and `-ptx`. They are the",
        "same, as often, for the same target with its variant.",
        "",
        "| wheel | files | names in SASS | names in PTX | entries in LZ4 | entries in zstd |",
        "|---|---|--:|--:|--:|--:|",
    ]
    for tally in tallies:
        counts = (tally.sass, tally.ptx, tally.lz4, tally.zstd)
        lines.append(f"| {tally.package} | {_shown(tally.files)} | {' | '.join(map(str, counts))} |")
    if differences:
        lines += ["", *differences]
    refused = [f"- {tally.package}: {text}" for tally in tallies for text in tally.refused]
    if refused:
        lines += ["", "cuobjdump cannot read these files, so that they are not compared:", "", *refused]
    return "\n".join(lines)


def _shown(files: Sequence[str]) -> str:
    libraries = [f"`{Path(name).name}`" for name in files if not name.endswith(_CUBIN)]
    cubins = len(files) - len(libraries)
    return ", ".join([*libraries, *([f"{cubins} cubins"] if cubins else [])])
