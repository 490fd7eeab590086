"""Package indexes made for Jetsons: the rows of `indexes.toml`, and which of them a platform takes packages from."""

from __future__ import annotations

import fnmatch
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

from builder import tomldoc
from builder.tomldoc import suggest

if TYPE_CHECKING:
    from collections.abc import Iterable

    from builder.jetson.model import Platform
    from builder.tomldoc import Table

_DATA = Path(__file__).with_name("indexes.toml")
NAME = r"[a-z0-9][a-z0-9-]{0,63}"
# A log-in may be in it, a query or a fragment may not: names of packages are appended.
ADDRESS = r"https?://([^\s/?#@\[\]]+@)?(\[[0-9A-Fa-f:.]+\]|[A-Za-z0-9_.-]+)(:[0-9]{1,5})?(/[^\s?#]*)?"
PACKAGE = r"[a-z0-9*?][a-z0-9*?-]*"
_GLOB = r"[0-9.*]+"


@dataclass(frozen=True, kw_only=True, slots=True)
class IndexRow:
    """A package index and what it is for.

    `l4t` (globs) and `cuda` are the platforms that its wheels are built for, any where empty; `packages` (globs) come
    from it only; `usual` says whether they do without being asked for.
    """

    name: str
    url: str
    packages: tuple[str, ...]
    family: str = ""
    foreign_files: tuple[str, ...] = ()
    l4t: tuple[str, ...] = ()
    cuda: tuple[str, ...] = ()
    usual: bool = True
    upload_times: bool = True
    lacks: str = ""
    source: str = ""

    def serves(self, platform: Platform) -> bool:
        """Tell whether the index has wheels for a platform."""
        l4t = not self.l4t or any(fnmatch.fnmatchcase(platform.l4t or "", glob) for glob in self.l4t)
        return l4t and (not self.cuda or platform.cuda in self.cuda)

    def is_called(self, name: str) -> bool:
        """Tell whether a name means this index: its own, or its family's."""
        return name in (self.name, self.family)


@cache
def indexes() -> tuple[IndexRow, ...]:
    """Return the rows of `indexes.toml`.

    Raises:
        DocumentError: the file has mistakes.
    """
    return tomldoc.load(_DATA, "the indexes have mistakes", lambda root: _read(root, {}, known=True))


def own_rows(root: Table) -> tuple[IndexRow, ...]:
    """Read the `[[indexes]]` of a user's document, which may be of our families; mistakes are noted in it."""
    return _read(root, {row.family: row.packages for row in indexes() if row.family}, known=False)


def _read(root: Table, families: dict[str, tuple[str, ...]], *, known: bool) -> tuple[IndexRow, ...]:
    """Read a document's rows; those that we know must have a source."""
    own = root.table("families")
    families = families | {name: _family(own.table(name)) for name in own}
    rows: list[IndexRow] = []
    for table in root.tables("indexes"):
        rows.append(_row(table, families, known=known))
        if [row.name for row in rows].count(rows[-1].name) > 1:
            table.problem("name", f"`{rows[-1].name}` is there twice")
        table.done()
    return tuple(rows)


def _family(table: Table) -> tuple[str, ...]:
    packages = _packages(table)
    table.done()
    return packages


def _packages(table: Table) -> tuple[str, ...]:
    return table.strings("packages", pattern=PACKAGE, noun="a package's name in lower case, with `-`, or a glob")


def _row(table: Table, families: dict[str, tuple[str, ...]], *, known: bool) -> IndexRow:
    family = table.optional_string("family", pattern=NAME, noun="a family's name") or ""
    packages = _packages(table) or families.get(family, ())
    if not table.raw("packages") and not packages:
        if family:
            table.problem("family", f"there is no family `{family}` to have packages from", suggest(family, families))
        else:
            table.problem("packages", "an index is named for some packages", 'such as `packages = ["torch", "vllm"]`')
    row = IndexRow(
        name=table.string("name", pattern=NAME, noun="an index's name: lower-case letters, digits and `-`"),
        family=family,
        url=table.string("url", pattern=ADDRESS, noun="an http(s) address"),
        foreign_files=table.strings("foreign-files", pattern=r"/[^\s]*", noun="a part of a path such as /root/pypi/"),
        l4t=table.strings("l4t", pattern=_GLOB, noun="an L4T release or glob"),
        cuda=table.strings("cuda", pattern=r"[0-9]+\.[0-9]+", noun="a version such as 12.6"),
        packages=packages,
        usual=table.boolean("usual", default=True),
        upload_times=table.boolean("upload-times", default=True),
        lacks=table.optional_string("lacks") or "",
        source=table.string("source") if known else table.optional_string("source") or "",
    )
    if row.name == "default":
        table.problem("name", "`default` is uv's own index", "choose another name")
    return row


def with_own(own: Iterable[IndexRow]) -> tuple[IndexRow, ...]:
    """Return all rows, the user's first; of those with one name the first counts."""
    rows: dict[str, IndexRow] = {}
    for row in (*own, *indexes()):
        rows.setdefault(row.name, row)
    return tuple(rows.values())
