"""BuildKit's build caches of the configuration, checked when they are read.

Types and attributes are those of `docker buildx build --cache-from` and `--cache-to`, without secrets: every user of a
machine can read a command line.
"""

from __future__ import annotations

import csv
import io
import os
import re
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from builder.host.wording import printable, suggest

if TYPE_CHECKING:
    from builder.host.toml.tables import Table

Direction = Literal["from", "to"]

_EXPORT = (
    *("mode", "compression", "compression-level", "force-compression", "ignore-error", "oci-mediatypes"),
    *("image-manifest",),
)
# For each type, the required attributes in each direction, and the optional ones besides the export's.
_REQUIRED: dict[str, dict[Direction, tuple[str, ...]]] = {
    "registry": {"from": ("ref",), "to": ("ref",)},
    "local": {"from": ("src",), "to": ("dest",)},
    "gha": {"from": (), "to": ()},
}
_OPTIONAL = {"registry": (), "local": ("tag", "digest"), "gha": ("scope", "url", "timeout", "repository")}
_PATHS = ("src", "dest")
_SECRETS = {"token": "ACTIONS_RUNTIME_TOKEN", "ghtoken": "GITHUB_TOKEN"}
_VALUE = r"[^\x00-\x1f\x7f]+"
_PLACEHOLDERS = ("recipe", "cell")


@dataclass(frozen=True, kw_only=True, slots=True)
class BuildCache:
    """A cache to read or to write. Values may hold `{recipe}` and `{cell}`."""

    attributes: tuple[tuple[str, str], ...]

    @property
    def kind(self) -> str:
        """`registry`, `local` or `gha`."""
        return dict(self.attributes)["type"]

    def argument(self, recipe: str, cell: str) -> str:
        """Return the cache of one cell as an argument of buildx, a row of CSV."""
        names = {"recipe": recipe, "cell": cell.lower()}
        fields = [f"{k}={re.sub('{(recipe|cell)}', lambda m: names[m[1]], v)}" for k, v in self.attributes]
        row = io.StringIO()
        csv.writer(row, lineterminator="").writerow(fields)
        return row.getvalue()

    @property
    def lacks(self) -> str | None:
        """The missing environment variable without which buildx ignores the cache silently."""
        name = _SECRETS["token"]
        return name if self.kind == "gha" and not os.environ.get(name) else None


def read_caches(table: Table, key: str, direction: Direction, folder: Path) -> tuple[BuildCache, ...]:
    """Return the caches of a list of strings such as `type=registry,ref=HOST/NAME`; paths are relative to `folder`."""
    caches = []
    for index, text in enumerate(table.strings(key)):
        try:
            caches.append(_cache(text, direction, folder))
        except _Mistake as mistake:
            message, hint = mistake.args
            table.problem((key, index), message, hint)
    return tuple(caches)


class _Mistake(Exception):  # noqa: N818  # a note for the author of the file, not a failure
    """A mistake in a cache: the message, and what to write instead."""


def _cache(text: str, direction: Direction, folder: Path) -> BuildCache:
    attributes = _attributes(text)
    kind = attributes.get("type", "")
    if kind not in _REQUIRED:
        message = f"`{printable(kind)}` is not a type of cache" if kind else "`type=` is missing"
        raise _Mistake(message, suggest(kind, _REQUIRED, noun="types"))
    for name in _REQUIRED[kind][direction]:
        if name not in attributes:
            raise _Mistake(f"a cache of type {kind} needs `{name}=`", f"type={kind},{name}=…")
    allowed = {"type", *_REQUIRED[kind][direction], *_OPTIONAL[kind], *(_EXPORT if direction == "to" else ())}
    for name, value in attributes.items():
        if name in _SECRETS:
            raise _Mistake(f"`{name}` is a secret", f"set {_SECRETS[name]} in the environment instead")
        if name not in allowed:
            raise _Mistake(f"unknown attribute `{printable(name)}`", suggest(name, allowed, noun="valid here"))
        _check_value(name, value)
    return BuildCache(
        attributes=tuple(
            (name, str(folder / Path(value).expanduser()) if name in _PATHS else value)
            for name, value in attributes.items()
        )
    )


def _attributes(text: str) -> dict[str, str]:
    try:
        ((*fields,),) = csv.reader([text], strict=True)
    except (csv.Error, ValueError) as error:
        raise _Mistake(f"`{printable(text)}` cannot be read", "write type=registry,ref=HOST/NAME") from error
    pairs = [field.partition("=") for field in fields]
    for name, equals, _ in pairs:
        if not equals:
            raise _Mistake(f"`{printable(name)}` has no value", f"{printable(name)}=…")
    if len({name for name, _, _ in pairs}) < len(pairs):
        raise _Mistake("an attribute occurs twice", None)
    return {name.strip(): value for name, _, value in pairs}


def _check_value(name: str, value: str) -> None:
    if not re.fullmatch(_VALUE, value):
        raise _Mistake(f"`{name}` is empty or has a control character", None)
    for placeholder in re.findall(r"{([^}]*)}", value):
        if placeholder not in _PLACEHOLDERS:
            raise _Mistake(f"unknown placeholder `{{{printable(placeholder)}}}`", "known: {recipe}, {cell}")
