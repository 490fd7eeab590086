"""What a wheel adds to an image: the files that an installer would write, where, and with which mode.

It follows `installer`, whose rules these are, without writing files.
"""

from __future__ import annotations

import configparser
import csv
import io
import lzma
import posixpath
import stat
import zipfile
import zlib
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

from builder.errors import IntegrityError
from builder.host.files import sha256_of
from builder.host.tarball import FILE_MODE, PROGRAM_MODE
from builder.image.wheels.aliases import alias_files
from builder.model.images import ENVIRONMENT, site_packages

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from installer.sources import WheelFile

    from builder.model.wheels import LockedWheel

INTERPRETER = f"{ENVIRONMENT}/bin/python"
# Errors of reading an invalid wheel, besides those of `installer` itself.
FLAWS = (
    *(ValueError, LookupError, RuntimeError, AssertionError, EOFError, TypeError),
    *(zipfile.BadZipFile, zlib.error, lzma.LZMAError, csv.Error, configparser.Error),
)
_INSTALLER = b"jbuild"


class PlannedFile(NamedTuple):
    """A file of a wheel in the image: `path` without a leading slash.

    `name` is its path within its scheme, by which RECORD is sorted, and `prefix` precedes it there; a file without a
    name is not in RECORD. `member` is the file in the zip, else `content` has its bytes. A `script` may begin with
    `#!python`.
    """

    path: str
    mode: int
    name: str = ""
    prefix: str = ""
    member: zipfile.ZipInfo | None = None
    content: bytes = b""
    script: bool = False


@dataclass(frozen=True, kw_only=True, slots=True)
class WheelPlan:
    """The files of a wheel in the order of the zip, those of the installer last, but for RECORD.

    `metadata` is the path of the wheel's `.dist-info` in the image, and `digests` are the hashes in the wheel's own
    RECORD, by the member's name.
    """

    locked: LockedWheel
    wheel: Path
    files: tuple[PlannedFile, ...]
    metadata: str
    digests: dict[str, str]

    @property
    def record(self) -> str:
        """The path of RECORD in the image."""
        return f"{self.metadata}/RECORD"


def plan_wheel(locked: LockedWheel, wheel: Path, python: str) -> WheelPlan:
    """Return what a wheel adds to an image with a Python minor version.

    Raises:
        IntegrityError: the wheel is not a valid wheel, or reaches outside the environment.
    """
    from installer.exceptions import InstallerError  # noqa: PLC0415  # slow to import; `list` does without
    from installer.records import InvalidRecordEntry  # noqa: PLC0415
    from installer.sources import WheelFile  # noqa: PLC0415

    try:
        with WheelFile.open(wheel) as source:
            plan = _planned(locked, wheel, source, python)
            _refuse_conflicts((*(file.path for file in plan.files), plan.record))
            return plan
    except (InstallerError, InvalidRecordEntry, *FLAWS) as error:
        raise unusable(locked, wheel, error) from error


def unusable(locked: LockedWheel, wheel: Path, error: Exception) -> IntegrityError:
    """Return the error of a wheel that cannot be read; one that was damaged on this disk is removed."""
    name, location = wheel.name, str(wheel)
    if sha256_of(wheel) != locked.sha256:
        wheel.unlink(missing_ok=True)
        hint = "run the same command again to fetch it again"
        return IntegrityError(f"{name} was damaged on this disk: {error}", where=location, hint=hint)
    hint = "exclude this version with `constraints` in the recipe, or report it to its authors"
    return IntegrityError(f"{name} is not a valid wheel: {error}", where=location, hint=hint)


def _planned(locked: LockedWheel, wheel: Path, source: WheelFile, python: str) -> WheelPlan:
    from installer.records import parse_record_file  # noqa: PLC0415  # as above

    schemes = _Schemes(source, python)
    metadata = source.dist_info_dir
    rows = {row[0]: row[1] for row in parse_record_file(source.read_dist_info("RECORD").splitlines())}
    files = [*_launchers(source, schemes)]
    for member in source._zipfile.infolist():  # noqa: SLF001  # `get_contents` opens each
        name = member.filename
        if name.endswith("/") or name == f"{metadata}/RECORD" or "__pycache__" in name.split("/")[:-1]:
            # Bytecode in a wheel is left out: jbuild compiles it.
            continue
        mode = member.external_attr >> 16
        program = stat.S_ISREG(mode) and mode & 0o111
        scheme, path = schemes.place(name)
        files.append(schemes.planned(scheme, path, PROGRAM_MODE if program else FILE_MODE)._replace(member=member))
    installer = schemes.planned(schemes.root, f"{metadata}/INSTALLER", FILE_MODE)
    files.append(installer._replace(content=_INSTALLER))
    packages = site_packages(python).lstrip("/")
    for path, content in alias_files(locked.name, locked.version):
        files.append(PlannedFile(f"{packages}/{path}", FILE_MODE, content=content))
    return WheelPlan(locked=locked, wheel=wheel, files=tuple(files), metadata=f"{packages}/{metadata}", digests=rows)


class _Schemes:
    """The folders of a wheel's schemes in the image."""

    def __init__(self, source: WheelFile, python: str) -> None:
        from installer.utils import SCHEME_NAMES, parse_metadata_file  # noqa: PLC0415  # as above

        headers = parse_metadata_file(source.read_dist_info("WHEEL"))
        version = headers["Wheel-Version"]
        if not (version and version.startswith("1.")):
            raise ValueError(f"its Wheel-Version is {version}, not 1.x")
        self.root = "purelib" if headers["Root-Is-Purelib"] == "true" else "platlib"
        packages = site_packages(python)
        self._folders = {
            "purelib": packages,
            "platlib": packages,
            "headers": f"{ENVIRONMENT}/include/site/python{python}/{source.distribution}",
            "scripts": f"{ENVIRONMENT}/bin",
            "data": ENVIRONMENT,
        }
        self._prefixes = {
            name: "" if name == self.root else f"{posixpath.relpath(folder, packages)}/"
            for name, folder in self._folders.items()
        }
        self._names, self._data = SCHEME_NAMES, f"{source.data_dir}/"

    def place(self, name: str) -> tuple[str, str]:
        """Return the scheme of a member, and its path there."""
        if not name.startswith(self._data):
            return self.root, name
        scheme, _, path = name.removeprefix(self._data).partition("/")
        if scheme not in self._names or not path:
            raise ValueError(f"{name} is not in a valid folder of {self._data}")
        return scheme, path

    def planned(self, scheme: str, path: str, mode: int) -> PlannedFile:
        """Return a file of a scheme."""
        folder = self._folders[scheme]
        target = posixpath.normpath(posixpath.join(folder, path))
        if not target.startswith(f"{folder}/"):
            raise ValueError(f"{path} is outside of {folder}")
        return PlannedFile(target[1:], mode, path, self._prefixes[scheme], script=scheme == "scripts")


def _launchers(source: WheelFile, schemes: _Schemes) -> Iterator[PlannedFile]:
    """Yield the scripts of a wheel's entry points."""
    from installer.scripts import Script  # noqa: PLC0415  # as above
    from installer.utils import parse_entrypoints  # noqa: PLC0415

    if f"{source.dist_info_dir}/entry_points.txt" not in source._zipfile.NameToInfo:  # noqa: SLF001  # as above
        return
    for name, module, attribute, section in parse_entrypoints(source.read_dist_info("entry_points.txt")):
        path, content = Script(name, module, attribute, section).generate(INTERPRETER, "posix")
        yield schemes.planned("scripts", path, PROGRAM_MODE)._replace(content=content, script=False)


def _refuse_conflicts(paths: tuple[str, ...]) -> None:
    files, folders = set(paths), set[str]()
    for path in files:
        folder = posixpath.dirname(path)
        while folder and folder not in folders:
            folders.add(folder)
            folder = posixpath.dirname(folder)
    if both := files & folders:
        raise ValueError(f"/{min(both)} is both a file and a folder")


def owners(plans: list[WheelPlan]) -> dict[str, int]:
    """Return the number of the wheel whose file each path of a layer gets: the last one that has it.

    Where a file meets a folder of an earlier wheel, or a folder a file, the later wheel wins, too.
    """
    files: dict[str, int] = {}
    folders: set[str] = set()
    for number, plan in enumerate(plans):
        for path in (*(file.path for file in plan.files), plan.record):
            if path in folders:
                below = f"{path}/"
                files = {other: owner for other, owner in files.items() if not other.startswith(below)}
                folders = {other for other in folders if other != path and not other.startswith(below)}
            folder = posixpath.dirname(path)
            while folder and folder not in folders:
                files.pop(folder, None)
                folders.add(folder)
                folder = posixpath.dirname(folder)
            files[path] = number
    return files


def record_text(rows: list[tuple[str, tuple[str, str, str]]]) -> bytes:
    """Return a RECORD of rows, sorted by the names that come with them."""
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows(row for _, row in sorted(rows, key=lambda item: item[0]))
    return text.getvalue().encode("utf-8", "surrogateescape")
