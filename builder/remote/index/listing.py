"""Package indexes: their addresses after mirror rules, the files on their pages, and the packages pinned to them."""

from __future__ import annotations

import fnmatch
import os
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from builder.host.index_rows import DEFAULT

if TYPE_CHECKING:
    from collections.abc import Iterator

    from builder.host.index_mirrors import IndexMirror

_NAMED_URL = re.compile(r"(?:([A-Za-z0-9._-]+)=)?(https?://\S+)")


@dataclass(frozen=True, kw_only=True, slots=True)
class Address:
    """An address of an index; `stand_in` is the reason if another index answers there, or None.

    `vault` is the vault that stands in for the index, if this is not an address of a server.
    """

    url: str
    stand_in: str | None = None
    vault: str | None = None


@dataclass(frozen=True, kw_only=True, slots=True)
class Index:
    """A package index: its name and addresses; each address is used when those before it fail.

    `foreign_files` are path components of other indexes' files: a devpi index also lists those of the indexes that it
    inherits from. `upload_times` is True if its pages have upload times.
    """

    name: str
    addresses: tuple[Address, ...]
    foreign_files: tuple[str, ...] = ()
    upload_times: bool = True

    @property
    def vault_instead(self) -> str | None:
        """The vault that is asked and not the index itself, or None."""
        return self.addresses[0].vault if self.addresses else None


@dataclass(frozen=True, kw_only=True, slots=True)
class IndexFile:
    """A file on a page. `yanked` is the reason, `""` if none is given; `upload_time` is ISO 8601; `size` in bytes.

    `metadata` is the sha256 of the METADATA that the index serves beside the wheel (PEP 658), `""` if it is served
    without a hash, None if it is not served.
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
    """An index's page of one project; `url` is the address that answered, without credentials.

    `vault` is the vault that stood in for the index; `url` is the index's own then.
    """

    index: str
    project: str
    url: str
    files: tuple[IndexFile, ...]
    stand_in: str | None = None
    vault: str | None = None


@dataclass(frozen=True, kw_only=True, slots=True)
class IndexPin:
    """Packages (a glob on normalised names) that come from one index only, and why."""

    packages: str
    index: str
    why: str


@dataclass(frozen=True, kw_only=True, slots=True)
class IndexPins:
    """The pins of a cell, of which the first match applies, and their indexes."""

    pins: tuple[IndexPin, ...] = ()
    indexes: tuple[Index, ...] = ()

    def of(self, project: str) -> IndexPin | None:
        """Return the pin of a package, or None if it comes from uv's own indexes."""
        pin = next((pin for pin in self.pins if fnmatch.fnmatchcase(project, pin.packages)), None)
        return None if pin is None or pin.index == DEFAULT else pin

    def index(self, project: str) -> Index | None:
        """Return the index that a package is pinned to."""
        pin = self.of(project)
        return self.named(pin.index) if pin else None

    def named(self, name: str) -> Index:
        """Return an index by its name."""
        return next(index for index in self.indexes if index.name == name)

    def __bool__(self) -> bool:
        return any(pin.index != DEFAULT for pin in self.pins)


def own_indexes() -> tuple[Index, ...]:
    """Return the indexes in uv's variables that uv tries before its default one, in its order.

    Folders are left out, since they have no pages. An index without a name gets its server's.
    """
    return tuple(
        Index(name=name or urlsplit(url).netloc.rpartition("@")[2], addresses=(Address(url=url),))
        for name, url in named_urls("UV_INDEX", "UV_EXTRA_INDEX_URL")
    )


def named_urls(*variables: str) -> Iterator[tuple[str | None, str]]:
    """Yield the names and addresses in uv's variables; names may be missing."""
    for word in " ".join(os.environ.get(name, "") for name in variables).split():
        if match := _NAMED_URL.fullmatch(word):
            yield match[1], match[2]


def addresses(url: str, mirrors: tuple[IndexMirror, ...]) -> tuple[Address, ...]:
    """Return an index's addresses in order: its own or the longest rule's, then the fallbacks.

    Rules of one prefix apply in the order of the files.
    """
    rules = [rule for rule in mirrors if rule.covers(url)]
    instead = sorted((rule for rule in rules if not rule.fallback), key=lambda rule: -len(rule.prefix))
    first = _mirrored(url, instead[0]) if instead else Address(url=url)
    return (first, *(_mirrored(url, rule) for rule in rules if rule.fallback))


def _mirrored(url: str, rule: IndexMirror) -> Address:
    if rule.vault:
        return Address(url=url, vault=rule.vault)
    return Address(url=rule.mirror.rstrip("/") + url[len(rule.prefix.rstrip("/")) :], stand_in=rule.stand_in)
