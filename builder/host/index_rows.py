"""Rows of package indexes, in jbuild's own table and in configuration files."""

from __future__ import annotations

import fnmatch
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Annotated

from builder.host.toml.declarations import (
    Field,
    TableDeclaration,
    ValueType,
    boolean,
    declaration_of,
    nested,
    rows,
    string,
    strings,
    tables,
)
from builder.host.wording import suggest

if TYPE_CHECKING:
    from collections.abc import Mapping

    from builder.host.toml.tables import Table
    from builder.model.platforms import Platform

DEFAULT = "default"
"""The name of uv's own default index, wherever its configuration points to."""
NAME = r"[a-z0-9][a-z0-9-]{0,63}"
# Credentials are allowed; a query and a fragment are not, since names of packages are appended.
ADDRESS = r"https?://([^\s/?#@\[\]]+@)?(\[[0-9A-Fa-f:.]+\]|[A-Za-z0-9_.-]+)(:[0-9]{1,5})?(/[^\s?#]*)?"
PACKAGE = r"[a-z0-9*?][a-z0-9*?-]*"
_GLOBS = strings(PACKAGE, "a package's name in lower case, with `-`, or a glob")
_INDEX_NAME = string(NAME, "an index's name: lower-case letters, digits and `-`")
_L4T = strings(r"[0-9.*]+", "an L4T release or glob")
_CUDA = strings(r"[0-9]+\.[0-9]+", "a version such as 12.6")
_PATHS = strings(r"/[^\s]*", "a part of a path such as /root/pypi/")
_Strings = tuple[str, ...]
_PACKAGES = "Packages (globs) that come from this index only."


@dataclass(frozen=True, kw_only=True, slots=True)
class IndexRow:
    """A package index and what it is for.

    `l4t` (globs) and `cuda` are the platforms that its wheels are built for, any if empty; `packages` (globs) come
    from it only; recipes that name no index use the `usual` ones.
    """

    name: Annotated[str, _INDEX_NAME, "The index's name; the name of a built-in index replaces that index."]
    url: Annotated[str, string(ADDRESS, "an http(s) address"), "Address of the index."]
    packages: Annotated[_Strings, _GLOBS, _PACKAGES] = ()
    family: Annotated[
        str, string(NAME, "a family's name"), "Family of indexes; the index has the packages of this family."
    ] = ""
    foreign_files: Annotated[
        _Strings, _PATHS, "Parts of addresses; jbuild ignores files whose addresses contain one."
    ] = ()
    l4t: Annotated[_Strings, _L4T, "L4T releases (globs) of its wheels; default any."] = ()
    cuda: Annotated[_Strings, _CUDA, "CUDA versions of its wheels; default any."] = ()
    usual: Annotated[bool, boolean(), "Whether recipes use the index without naming it."] = True
    upload_times: Annotated[bool, boolean(), "Whether its pages state upload times."] = True
    lacks: Annotated[str, string(), "Known gaps of the index."] = ""
    source: Annotated[str, string(), "Source of this information."] = ""

    def serves(self, platform: Platform) -> bool:
        """Return whether the index has wheels for a platform."""
        l4t = not self.l4t or any(fnmatch.fnmatchcase(platform.l4t or "", glob) for glob in self.l4t)
        return l4t and (not self.cuda or platform.cuda in self.cuda)

    def is_called(self, name: str) -> bool:
        """Return whether a name is the index's own or its family's."""
        return name in (self.name, self.family)


def read_rows(root: Table, families: Mapping[str, tuple[str, ...]]) -> tuple[IndexRow, ...]:
    """Read the `[[indexes]]` of a document; mistakes are noted in it. `families` are added to the document's own."""
    table = root.table("families")
    families = {**families, **{name: _FAMILY.read(table.table(name)) for name in table}}
    return tuple(
        replace(row, packages=row.packages or families.get(row.family, ()))
        for row in rows(root, "indexes", _INDEX, once="name", context=families)
    )


def _check_row(table: Table, row: IndexRow, families: Mapping[str, tuple[str, ...]]) -> None:
    if not row.packages and not families.get(row.family) and not table.raw("packages"):
        if row.family:
            table.problem("family", f"there is no family `{row.family}`", suggest(row.family, families))
        else:
            table.problem("packages", "an index needs packages", 'such as `packages = ["torch", "vllm"]`')
    if row.name == DEFAULT:
        table.problem("name", "`default` is uv's own index", "choose another name")


_FAMILY = TableDeclaration[tuple[str, ...]](lambda packages=(): packages, Field("packages", _GLOBS, _PACKAGES))
_INDEX = declaration_of(IndexRow, check=_check_row)
_FAMILIES = ValueType(
    read=lambda root, *_: None if "indexes" in root else read_rows(root, {}) and None,
    schema=lambda: {"type": "object", "additionalProperties": nested(_FAMILY).schema()},
)
_INDEXES = ValueType(read=lambda root, _, context: read_rows(root, context.families), schema=tables(_INDEX).schema)
# A user's keys about indexes. Families are read along with the indexes.
INDEX_KEYS = (
    Field("families", _FAMILIES, "Packages of families of indexes."),
    Field("indexes", _INDEXES, "Package indexes for some packages.", merge="prepend"),
)
