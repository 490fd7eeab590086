"""Rows of mirrors in configuration files: an address, or a vault, in place of package indexes."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from builder.host.index_rows import ADDRESS, DEFAULT
from builder.host.toml.declarations import ValueType, boolean, declaration_of, string, string_schema, tables
from builder.model import patterns

if TYPE_CHECKING:
    from builder.host.toml.tables import Table

_NO_QUERY = "an http(s) address without `?` and `#`"
_PREFIX = string(f"{DEFAULT}|{ADDRESS}", "the beginning of an index's address")
_MIRROR = string(ADDRESS, _NO_QUERY)
_VAULT_ADDRESSES = (
    (
        "oci://",
        rf"oci://{patterns.REGISTRY}(:{patterns.TAG})?",
        "a vault in a registry such as oci://host:5000/vault:latest",
    ),
    ("http", ADDRESS, _NO_QUERY),
)


def _read_vault(table: Table, key: str, context: Any) -> str | None:
    text = table.string(key)
    for scheme, pattern, noun in _VAULT_ADDRESSES:
        if text.startswith(scheme):
            return table.string(key, pattern=pattern, noun=noun)
    return str(context.folder / Path(text).expanduser()) if text else None


_VAULT = ValueType(read=_read_vault, schema=string_schema)


@dataclass(frozen=True, kw_only=True, slots=True)
class IndexMirror:
    """A mirror of the package indexes whose addresses begin with `prefix`; `default` is uv's own default index.

    It has an address, `mirror`, or a `vault`; a vault without a prefix stands in for all indexes. A `fallback` is asked
    only if the index itself fails.
    """

    prefix: Annotated[
        str, _PREFIX, "Beginning of indexes' addresses; `default` is uv's own index. With a vault, the default is all."
    ] = ""
    mirror: Annotated[str, _MIRROR, "Address that takes the place of the prefix."] = ""
    vault: Annotated[
        str | None,
        _VAULT,
        "Vault in place of the indexes: a folder relative to this file, an address, or oci://HOST/NAME.",
    ] = None
    fallback: Annotated[bool, boolean(), "Whether to use the mirror only if the index itself fails."] = False
    stand_in: Annotated[str | None, string(), "Why the mirror is not the same; locks and output name it."] = None

    def covers(self, url: str) -> bool:
        """Return whether the rule is about an index's address, or one below it."""
        # A prefix is one of whole path components.
        return not self.prefix or f"{url}/".startswith(f"{self.prefix.rstrip('/')}/")

    @property
    def covers_default(self) -> bool:
        """Whether the rule is about uv's own default index."""
        return self.prefix == DEFAULT or (self.vault is not None and not self.prefix)


def _check(table: Table, rule: IndexMirror, _: Any) -> None:
    if rule.vault:
        if rule.mirror:
            table.problem("vault", "`mirror` and `vault` exclude each other", "write a table for each")
        if rule.stand_in:
            table.problem("stand-in", "a vault has the files of the indexes themselves", "remove `stand-in`")
        return
    for key in ("prefix", "mirror"):
        if not table.raw(key):
            table.problem(None, f"`{key}` is missing", "a mirror has `prefix` and `mirror`, or a `vault`")
    if rule.prefix == DEFAULT and not rule.fallback:
        table.problem("fallback", "a mirror of uv's own index is a fallback", "or set UV_DEFAULT_INDEX instead")


INDEX_MIRRORS = tables(declaration_of(IndexMirror, check=_check))
