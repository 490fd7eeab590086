"""A wheel as its build backend wrote it: its members, its metadata and its binaries."""

from __future__ import annotations

import zipfile
from dataclasses import dataclass
from email.parser import Parser
from typing import TYPE_CHECKING

from packaging.requirements import InvalidRequirement, Requirement
from packaging.utils import canonicalize_name, parse_wheel_filename
from packaging.version import Version

from builder.audit import wheel_reader
from builder.audit.byte_source import File, MalformedError
from builder.audit.wheel_facts import read_members
from builder.errors import BuildError
from builder.foundry.wheel_names import SIGNATURES, wheel_name

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from pathlib import Path

    from builder.audit.wheel_reader import Member
    from builder.foundry.wheel_names import WheelName
    from builder.model.audits import Binary
    from builder.model.builds import LockedBuild

_INFO = ".dist-info"
_LONGEST_METADATA = 16 << 20
_EXECUTABLE = 0o111 << 16


@dataclass(frozen=True, kw_only=True, slots=True)
class RawWheel:
    """A wheel that a backend wrote. `folder` is its `.dist-info`, `executable` the members that are programs."""

    path: Path
    name: WheelName
    folder: str
    members: Mapping[str, Member]
    executable: frozenset[str]
    binaries: tuple[Binary, ...]

    def blocks(self, member: Member) -> Iterator[bytes]:
        """Yield the bytes of a member, and check them against the zip's directory.

        Raises:
            MalformedError: the member is damaged.
        """
        try:
            with zipfile.ZipFile(self.path) as archive, archive.open(member.name) as file:
                while block := file.read(1 << 20):
                    yield block
        except (zipfile.BadZipFile, EOFError, NotImplementedError) as error:
            raise MalformedError(f"{member.name} is damaged: {error}", where=self.path.name) from error

    def text(self, name: str) -> bytes:
        """Return the content of a file of its `.dist-info`.

        Raises:
            MalformedError: there is none, or it is damaged.
        """
        member = self.members.get(f"{self.folder}/{name}")
        if member is None or member.size > _LONGEST_METADATA:
            raise MalformedError(f"it has no {name} in {self.folder}", where=self.path.name)
        return b"".join(self.blocks(member))

    @property
    def tags(self) -> tuple[frozenset[str], frozenset[str]]:
        """The Python tags and the ABI tags of its file name."""
        tags = parse_wheel_filename(self.path.name)[3]
        return frozenset(tag.interpreter for tag in tags), frozenset(tag.abi for tag in tags)

    def required(self) -> frozenset[str]:
        """Return the packages that its METADATA requires, without those of extras.

        Raises:
            MalformedError: it has no METADATA.
        """
        headers = Parser().parsestr(self.text("METADATA").decode("utf-8", "replace"), headersonly=True)
        return frozenset(_required(str(line)) for line in headers.get_all("Requires-Dist", ())) - {""}


def _required(line: str) -> str:
    try:
        requirement = Requirement(line)
    except InvalidRequirement:
        return ""
    is_extra = requirement.marker is not None and "extra" in str(requirement.marker)
    return "" if is_extra else str(canonicalize_name(requirement.name))


def read_raw(path: Path, build: LockedBuild) -> RawWheel:
    """Read the wheel of a build.

    Raises:
        BuildError: it is another package or version than the lock's, or cannot be read.
    """
    name = wheel_name(path.name)
    if name.package != build.name or Version(name.version).public != Version(build.version).public:
        raise BuildError(
            f"the build of {build.name} {build.version} wrote {name.package} {name.version}",
            where=path.name,
            hint="sources that take their version from Git need it: set SETUPTOOLS_SCM_PRETEND_VERSION, or the "
            "variable that the package documents, in `environment` of its [[packages.build]]",
        )
    try:
        return _read(path, name)
    except MalformedError as error:
        hint = "the package's build backend wrote it so: report it to its authors, or patch the source"
        raise BuildError(f"the built wheel is damaged: {error.message}", where=path.name, hint=hint) from error


def _read(path: Path, name: WheelName) -> RawWheel:
    members, flaws = wheel_reader.listing(path)
    if not flaws:
        binaries, flaws = _binaries(path, members)
    if flaws:
        raise MalformedError("{} {}".format(*flaws[0]))
    folders = {member.name.partition("/")[0] for member in members if member.name.endswith(f"{_INFO}/WHEEL")}
    if len(folders) != 1:
        raise MalformedError(f"it has {len(folders)} folders with a WHEEL file, instead of one")
    (folder,) = folders
    with zipfile.ZipFile(path) as archive:
        executable = frozenset(entry.filename for entry in archive.infolist() if entry.external_attr & _EXECUTABLE)
    kept = {member.name: member for member in members if member.name.removeprefix(f"{folder}/") not in SIGNATURES}
    raw = RawWheel(path=path, name=name, folder=folder, members=kept, executable=executable, binaries=binaries)
    for text in ("METADATA", "WHEEL", "RECORD"):
        raw.text(text)
    return raw


def _binaries(path: Path, members: tuple[Member, ...]) -> tuple[tuple[Binary, ...], tuple[tuple[str, str], ...]]:
    binaries, flaws = read_members(path, members)
    return tuple(sorted(binaries, key=lambda binary: binary.path)), tuple(flaws)


def elf_members(raw: RawWheel) -> frozenset[str]:
    """Return the names of the members that are binaries."""
    paths = {binary.path for binary in raw.binaries}
    return frozenset(name for name, member in raw.members.items() if member.path in paths)


def content_of(wheel: Path, name: str) -> bytes | None:
    """Return a file of a wheel's `.dist-info`, or None if there is none.

    Raises:
        MalformedError: the wheel cannot be read.
    """
    data, (members, _) = File(wheel), wheel_reader.listing(wheel)
    for member in members:
        folder, _, rest = member.name.partition("/")
        if folder.endswith(_INFO) and rest == name and member.size <= _LONGEST_METADATA:
            return wheel_reader.source(data, member).read(0, member.size)
    return None
