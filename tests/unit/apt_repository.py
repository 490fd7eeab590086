"""Package sources in folders, for apt itself."""

from __future__ import annotations

from typing import TYPE_CHECKING

from builder.foundry.apt_packages import Apt

if TYPE_CHECKING:
    from pathlib import Path

_STANZA = """Package: {name}
Version: {version}
Architecture: all
Maintainer: x <x@example.org>
Depends: {depends}
Filename: ./{name}_{version}_all.deb
Size: 8
SHA256: {sha256}
Description: x

"""


def source_line(folder: Path, *packages: tuple[str, str, str]) -> str:
    """Return the line for a new source with packages of a name, a version and dependencies."""
    folder.mkdir()
    stanzas = [_STANZA.format(name=n, version=v, depends=d, sha256=f"{i:064x}") for i, (n, v, d) in enumerate(packages)]
    (folder / "Packages").write_text("".join(stanzas))
    return f"deb [trusted=yes] file:{folder} ./\n"


def updated_apt(folder: Path, *packages: tuple[str, str, str]) -> Apt:
    """Return apt on a source with these packages."""
    sources = folder / "sources.list"
    sources.write_text(source_line(folder / "repository", *packages))
    (folder / "state").mkdir()
    apt = Apt(folder=folder / "state", sources=sources)
    apt.update()
    return apt
