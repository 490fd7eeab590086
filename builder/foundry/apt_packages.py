"""Debian packages for sandboxes: apt resolves them with an empty state of its own, and installs nothing."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import unquote

from builder.errors import BuildError, NetworkError, ProgramFailedError
from builder.host.files import disk_errors, work_folder
from builder.host.process import find_program, run
from builder.model.builds import ToolFile

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from builder.foundry.toolchains import CompilerPackage
    from builder.model.builds import ToolRole
    from builder.model.recipes import Architecture

_TIMEOUT_S = 300
_OS_RELEASE = Path("/etc/os-release")
_URI = re.compile(r"'(?P<url>[^']+)' (?P<file>\S+\.deb) (?P<size>[0-9]+) SHA256:(?P<sha256>[0-9a-f]{64})")
_ETC = {
    "sourcelist": "sources.list",
    "sourceparts": "sources.list.d",
    "trusted": "trusted.gpg",
    "trustedparts": "trusted.gpg.d",
    "preferences": "preferences",
    "preferencesparts": "preferences.d",
}
# Of sources that only the image reaches, jbuild can do without.
_PATIENCE = ("Acquire::http::Timeout=20", "Acquire::https::Timeout=20", "Acquire::Retries=1")
_SOURCE_URL = re.compile(r"'(?P<url>[^']+)/dists/[^']*'")


@dataclass(frozen=True, kw_only=True, slots=True)
class Apt:
    """apt with an empty state in `folder` and the machine's sources, or those in `sources`.

    With `system`, a folder with another system's `etc/apt`, its sources, keys and `architecture` count instead.
    """

    folder: Path
    sources: Path | None = None
    system: Path | None = None
    architecture: Architecture | None = None

    def update(self, *, all_sources: bool = True) -> str:
        """Fetch the lists of packages; without `all_sources`, sources that do not answer are left out.

        Return apt's messages about them.

        Raises:
            NetworkError: a source does not answer.
        """
        for part in ("lists/partial", "cache/archives/partial"):
            (self.folder / part).mkdir(parents=True, exist_ok=True)
        (self.folder / "status").touch()
        update = ["apt-get", *self._options(), "--quiet=2", "--error-on=any", "update"]
        try:
            return run(update, timeout_s=_TIMEOUT_S, check=all_sources).stderr
        except ProgramFailedError as error:
            hint = "run `apt-get update` to see whether this machine's package sources work"
            raise NetworkError("apt cannot fetch its lists of packages", hint=hint, log=error.output) from error

    def resolve(self, packages: Sequence[str], role: ToolRole, *, dependencies: bool = True) -> tuple[ToolFile, ...]:
        """Return packages, with all packages that they depend on.

        Raises:
            BuildError: a package does not exist.
        """
        verb = ["install", "--no-install-recommends"] if dependencies else ["download"]
        argv = ["apt-get", *self._options(), "-o", "Acquire::ForceHash=SHA256", "--quiet=2", "--yes", "--print-uris"]
        try:
            printed = run([*argv, *verb, *packages], cwd=self.folder, timeout_s=_TIMEOUT_S).stdout
        except ProgramFailedError as error:
            owner = "the base image" if self.system else "this machine"
            message = f"{owner}'s package sources lack one of {', '.join(packages)}"
            raise BuildError(
                message, hint="the log names it; add the source, or build natively", log=error.output
            ) from None
        return tuple(sorted(_files(printed, role), key=lambda file: file.filename))

    def policy(self, package: str) -> tuple[str, ...]:
        """Return the versions of a package, newest first."""
        listed = run(["apt-cache", *self._options(), "madison", package], timeout_s=_TIMEOUT_S).stdout
        return tuple(line.split("|")[1].strip() for line in listed.splitlines() if line.count("|") == 2)  # noqa: PLR2004

    def names(self, beginning: str) -> tuple[str, ...]:
        """Return the names of the packages with a beginning."""
        listed = run(["apt-cache", *self._options(), "pkgnames", beginning], timeout_s=_TIMEOUT_S).stdout
        return tuple(sorted(listed.split()))

    def archive(self) -> str:
        """Return the address of the distribution's archive in the machine's sources."""
        printed = run(["apt-get", *self._options(), "--print-uris", "update"], timeout_s=_TIMEOUT_S).stdout
        urls = [match["url"] for match in _SOURCE_URL.finditer(printed)]
        if not urls:
            raise BuildError(
                "apt has no package sources", hint="add those of the distribution to /etc/apt/sources.list"
            )
        return unquote(urls[0])

    def _options(self) -> list[str]:
        folder = str(self.folder)
        settings = [
            f"Dir::State={folder}",
            "Dir::State::lists=lists",
            f"Dir::State::status={folder}/status",
            f"Dir::Cache={folder}/cache",
            # Images for containers switch these files off, and each command would read all lists again.
            "Dir::Cache::pkgcache=pkgcache.bin",
            "Dir::Cache::srcpkgcache=srcpkgcache.bin",
            "Acquire::Languages=none",
            "APT::Sandbox::User=root",
            f"APT::Architectures::={self.architecture or ''}",
        ]
        if self.sources:
            settings += [f"Dir::Etc::sourcelist={self.sources}", "Dir::Etc::sourceparts=/dev/null"]
        if self.system:
            etc = self.system / "etc/apt"
            settings += [f"Dir::Etc::{key}={etc / name}" for key, name in _ETC.items()]
            settings += [f"APT::Architecture={self.architecture}", *_PATIENCE]
        return [word for setting in settings for word in ("-o", setting)]


def _files(printed: str, role: ToolRole) -> Iterator[ToolFile]:
    for match in _URI.finditer(printed):
        # apt writes the colon of an epoch as %3a.
        name = match["file"].rpartition("/")[2]
        yield ToolFile(role=role, filename=name, url=match["url"], sha256=match["sha256"], size=int(match["size"]))


def check_apt() -> None:
    """Refuse machines without apt.

    Raises:
        BuildError: apt is missing.
    """
    if find_program("apt-get") is None or find_program("dpkg-deb") is None:
        hint = "run jbuild on Debian or Ubuntu, for instance in a container"
        raise BuildError("compilers come from Debian packages, and this machine has no apt", hint=hint)


def distribution() -> str:
    """Return the id of this machine's distribution (`debian`)."""
    rows = dict(line.split("=", 1) for line in _OS_RELEASE.read_text(encoding="utf-8").splitlines() if "=" in line)
    return rows.get("ID", "").strip('"')


def package_of_suite(package: CompilerPackage, machine: Apt) -> tuple[ToolFile, ...]:
    """Return the compiler's package, from a suite of the distribution that the machine itself does not use.

    Raises:
        BuildError: the machine has another distribution, or the suite has another version.
        NetworkError: the archive does not answer.
    """
    if distribution() != package.distribution:
        raise BuildError(
            f"{package.name} {package.version}* comes from {package.distribution.title()}'s {package.suite}, and "
            f"this machine runs {distribution().title()}",
            hint=f"run jbuild on {package.distribution.title()}, for instance in a container",
        )
    archive = machine.archive()
    with work_folder("jbuild-apt") as folder, disk_errors(folder):
        sources = folder / "sources.list"
        keyring = f"/usr/share/keyrings/{package.distribution}-archive-keyring.gpg"
        sources.write_text(f"deb [signed-by={keyring}] {archive} {package.suite} {' '.join(package.components)}\n")
        apt = Apt(folder=folder, sources=sources)
        apt.update()
        versions = apt.policy(package.name)
        if not any(version.startswith(package.version) for version in versions):
            message = f"{package.suite} has {package.name} {', '.join(versions) or 'no more'}, not {package.version}*"
            raise BuildError(message, hint="update jbuild, or change the row in builder/foundry/toolchains.toml")
        return apt.resolve([package.name], "nvcc", dependencies=False)
