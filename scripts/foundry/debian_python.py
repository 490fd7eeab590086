"""A stand-in for a release of python-build-standalone: Debian's Python for another architecture, in its layout.

Nothing is installed on this machine: apt keeps a state of its own for the other architecture, and its packages are
unpacked.
"""

from __future__ import annotations

import hashlib
import re
import tarfile
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from builder.host.process import run
from builder.jetson.distributions import StandalonePython
from builder.model.locks import LockedInterpreter

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from builder.model.recipes import Architecture

_KEYRING = "/usr/share/keyrings/debian-archive-keyring.gpg"
_SOURCE = re.compile(r"[a-z]+://\S*/debian/?(?=\s|$)", re.MULTILINE)
# The suite of each Python, and the packages of the libraries that its modules load.
SUITES = {"3.11": "bookworm", "3.13": "trixie"}
_LIBRARIES = {
    "bookworm": ("libexpat1", "zlib1g", "libssl3", "libffi8", "libbz2-1.0", "liblzma5", "libuuid1", "libcrypt1"),
    "trixie": ("libexpat1", "zlib1g", "libssl3t64", "libffi8", "libbz2-1.0", "liblzma5", "libuuid1", "libcrypt1"),
}
_TRIPLETS = {"arm64": "aarch64-linux-gnu", "amd64": "x86_64-linux-gnu"}
# The date of a release, a part of its address.
_BUILD = "20200101"
# What Debian's interpreter loads beside the C library is beside it.
_WRAPPER = (
    '#!/bin/sh\nLD_LIBRARY_PATH="/opt/python/lib/debian:$LD_LIBRARY_PATH" exec /opt/python/bin/python{0}.debian "$@"\n'
)


class DebianPython(NamedTuple):
    """An archive in the layout of python-build-standalone, and how a lock names it."""

    archive: Path
    locked: LockedInterpreter


def debian_python(folder: Path, python: str, architecture: Architecture) -> DebianPython:
    """Return Debian's Python of a minor version for an architecture, in a mirror's folder, after fetching it."""
    suite = SUITES[python]
    root = folder / f"root-{suite}-{architecture}"
    packages = _fetched(folder / f"apt-{suite}-{architecture}", suite, python, architecture)
    if not root.is_dir():
        for package in packages:
            run(["dpkg", "-x", str(package), str(root)])
    row = StandalonePython(python=python, version=_version(packages, python), build=_BUILD, sha256=(), source="Debian")
    url = row.url(architecture)
    path = folder / "mirror" / _BUILD / url.rpartition("/")[2].replace("%2B", "+")
    if not path.is_file():
        path.parent.mkdir(parents=True, exist_ok=True)
        _pack(root, path, python, _TRIPLETS[architecture])
    sha256 = hashlib.sha256(path.read_bytes()).hexdigest()
    return DebianPython(path, LockedInterpreter(release=row.release, url=url, sha256=sha256))


def _version(packages: Sequence[Path], python: str) -> str:
    """Return the version of CPython in the name of Debian's package: 3.11.2."""
    names = (re.fullmatch(rf"python{python}-minimal_([0-9.]+).*", path.name) for path in packages)
    return next(match[1] for match in names if match)


def _fetched(state: Path, suite: str, python: str, architecture: str) -> Sequence[Path]:
    packages = state / "packages"
    for below in ("lists/partial", "cache/archives/partial"):
        (state / below).mkdir(parents=True, exist_ok=True)
    if packages.is_dir():
        return sorted(packages.glob("*.deb"))
    (state / "status").touch()
    source = f"deb [arch={architecture} signed-by={_KEYRING}] {_mirror()} {suite} main\n"
    (state / "sources.list").write_text(source, encoding="utf-8")
    settings = {
        "Dir::State": state,
        "Dir::State::status": state / "status",
        "Dir::Cache": state / "cache",
        "Dir::Etc::sourcelist": state / "sources.list",
        "Dir::Etc::sourceparts": "/dev/null",
        "APT::Architecture": architecture,
        "APT::Architectures::": architecture,
        "Acquire::Languages": "none",
        "APT::Sandbox::User": "root",
    }
    apt = ["apt-get", "-qq", *(word for name, value in settings.items() for word in ("-o", f"{name}={value}"))]
    names = [f"python{python}-minimal", f"libpython{python}-minimal", f"libpython{python}-stdlib", *_LIBRARIES[suite]]
    run([*apt, "update"])
    packages.mkdir()
    run([*apt, "download", *names], cwd=packages)
    return sorted(packages.glob("*.deb"))


def _mirror() -> str:
    """Return the address of Debian that this machine's apt uses."""
    for path in (Path("/etc/apt/sources.list"), *sorted(Path("/etc/apt/sources.list.d").glob("*"))):
        if path.is_file() and (match := _SOURCE.search(path.read_text(encoding="utf-8"))):
            return match[0]
    raise SystemExit("apt's sources name no mirror of Debian")


def _pack(root: Path, path: Path, python: str, triplet: str) -> None:
    with tarfile.open(path, "w:gz", compresslevel=1) as archive:
        archive.add(root / f"usr/bin/python{python}", f"python/bin/python{python}.debian")
        wrapper = path.with_suffix(".sh")
        wrapper.write_text(_WRAPPER.format(python), encoding="utf-8")
        wrapper.chmod(0o755)
        archive.add(wrapper, f"python/bin/python{python}")
        wrapper.unlink()
        # Some files are links to others of the distribution.
        for name, file in _standard_library(root / f"usr/lib/python{python}"):
            archive.add(file, f"python/lib/python{python}/{name}")
        for library in _libraries(root, triplet):
            archive.add(library.resolve(), f"python/lib/debian/{library.name}")


def _standard_library(folder: Path) -> Iterator[tuple[str, Path]]:
    for file in sorted(folder.rglob("*")):
        if file.is_file() and "__pycache__" not in file.parts and not file.is_symlink():
            yield str(file.relative_to(folder)), file


def _libraries(root: Path, triplet: str) -> Iterator[Path]:
    for folder in (root / "lib" / triplet, root / "usr/lib" / triplet):
        yield from sorted(file for file in folder.glob("*.so.*") if file.exists())
