"""The records of a vault: a package index in a folder, with every file that locks name."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import Literal

VAULT_FORMAT = 1
CATALOGUE = "vault.json"
METADATA_SUFFIX = ".metadata"

VaultFileKind = Literal["wheel", "sdist", "file"]


@dataclass(frozen=True, kw_only=True, slots=True)
class VaultOrigin:
    """A lock that names a file, and the address that the lock has for it.

    `index` is the index's name, `default` for uv's own; None for files of no index, such as interpreters.
    """

    index: str | None
    url: str
    lock: str


@dataclass(frozen=True, kw_only=True, slots=True)
class VaultFile:
    """A file of a vault; `size` is in bytes.

    `metadata` is the sha256 of the METADATA beside a wheel. `yanked` is the reason, `""` if the index gave none.
    `upload_time` (ISO 8601) is the index's, if it stated one.
    """

    filename: str
    sha256: str
    size: int
    kind: VaultFileKind
    origins: tuple[VaultOrigin, ...]
    project: str | None = None
    metadata: str | None = field(default=None, metadata={"json": "optional"})
    requires_python: str | None = field(default=None, metadata={"json": "optional"})
    yanked: str | None = field(default=None, metadata={"json": "optional"})
    upload_time: str | None = field(default=None, metadata={"json": "optional"})

    def __post_init__(self) -> None:
        # Parts of paths; the catalogue may come from a server.
        for sha256 in filter(None, (self.sha256, self.metadata)):
            if not re.fullmatch(r"[0-9a-f]{64}", sha256):
                raise ValueError(f"{self.filename} has no valid sha256")
        if not re.fullmatch(r"[^/\\\x00-\x20.][^/\\\x00-\x1f]*", self.filename):
            raise ValueError(f"{self.filename!r} is not a file's name")
        if self.project is not None and not re.fullmatch(r"[a-z0-9]([a-z0-9-]*[a-z0-9])?", self.project):
            raise ValueError(f"{self.project!r} is not a normalised name")
        for index in self.indexes:
            if not re.fullmatch(r"[a-z0-9][a-z0-9-]{0,63}", index):
                raise ValueError(f"{index!r} is not an index's name")

    @property
    def path(self) -> str:
        """The file's path in the vault."""
        return f"files/{self.sha256}/{self.filename}"

    @property
    def metadata_path(self) -> str:
        """The path of the METADATA beside a wheel."""
        return f"{self.path}{METADATA_SUFFIX}"

    @property
    def indexes(self) -> tuple[str, ...]:
        """The names of the indexes that the file came from, sorted."""
        return tuple(sorted({origin.index for origin in self.origins if origin.index}))

    def url_in(self, index: str) -> str:
        """Return the address that locks have for the file in an index."""
        return next(origin.url for origin in self.origins if origin.index == index)


@dataclass(frozen=True, kw_only=True, slots=True)
class Vault:
    """The catalogue of a vault: its files in the order in which they were added."""

    files: tuple[VaultFile, ...] = ()
    format: int = VAULT_FORMAT

    def of_index(self, index: str) -> tuple[VaultFile, ...]:
        """Return the files that came from an index."""
        return tuple(file for file in self.files if index in file.indexes)

    def one_per_name(self) -> tuple[VaultFile, ...]:
        """Return the files of packages, each name once: the first of several indexes' files with one name."""
        named: dict[str, VaultFile] = {}
        for file in self.files:
            if file.project:
                named.setdefault(file.filename, file)
        return tuple(named.values())

    def by_content(self) -> dict[tuple[str, str], VaultFile]:
        """Return the files by sha256 and name."""
        return {(file.sha256, file.filename): file for file in self.files}
