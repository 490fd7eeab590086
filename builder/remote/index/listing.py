"""The records of a package index and of what it lists."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True, slots=True)
class Address:
    """One place where an index can be asked; `stand_in` says if and why it is not the index itself."""

    url: str
    stand_in: str | None = None


@dataclass(frozen=True, kw_only=True, slots=True)
class Index:
    """A package index: its name, and where it is asked, in order; each next address only when those before fail.

    `foreign_files` are parts of addresses below which files of other indexes lie: a devpi index lists those of the
    indexes that it inherits from too. `upload_times` tells whether its pages say when a file came.
    """

    name: str
    addresses: tuple[Address, ...]
    foreign_files: tuple[str, ...] = ()
    upload_times: bool = True


@dataclass(frozen=True, kw_only=True, slots=True)
class IndexFile:
    """One file of a page. `yanked` is the reason, `""` where none is given; `upload_time` is ISO 8601; `size` in bytes.

    `metadata` is the sha256 of the METADATA that the index serves beside the wheel (PEP 658), `""` where it serves it
    without one, None where it does not.
    """

    filename: str
    url: str
    sha256: str | None = None
    requires_python: str | None = None
    yanked: str | None = None
    upload_time: str | None = None
    size: int | None = None
    metadata: str | None = None


@dataclass(frozen=True, kw_only=True, slots=True)
class ProjectPage:
    """What an index lists of one project; `url` is the address that answered, without credentials."""

    index: str
    project: str
    url: str
    files: tuple[IndexFile, ...]
    stand_in: str | None = None
