"""The licences that wheels declare, and an image's licences as one SPDX expression."""

from __future__ import annotations

import re
import zipfile
from email.parser import BytesHeaderParser
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from packaging.licenses import InvalidLicenseExpression, canonicalize_license_expression

from builder.host.toml import documents
from builder.remote.index.remote_wheel import FLAWS, metadata_of

if TYPE_CHECKING:
    from collections.abc import Iterator
    from email.message import Message

    from builder.host.paths import Workspace
    from builder.host.toml.tables import Table
    from builder.model.locks import Lock
    from builder.model.wheels import LockedWheel

_NAMES = Path(__file__).with_name("licences.toml")
_CLASSIFIER = re.compile(r"License :: (?:OSI Approved :: )?(.+)")
# Some wheels have the licence's full text instead of its name.
_LONGEST_NAME = 100


def spdx_of(lock: Lock, workspace: Workspace) -> str | None:
    """Return the licences of a lock's wheels and models as one SPDX expression, or None if they declare none.

    A name outside the SPDX list becomes a `LicenseRef-`. The base image is not included.
    """
    declared = [entry for wheel in lock.wheels for entry in licences(metadata(wheel, workspace))]
    declared += [entry for model in lock.models if model.licence for entry in licence(model.licence)]
    return " AND ".join(sorted(set(_expressions(declared)))) or None


def _expressions(declared: list[dict[str, Any]]) -> Iterator[str]:
    for entry in declared:
        expression = entry.get("expression") or _by_name(str(entry["license"]["name"]))
        if " OR " in expression or "(" in expression:
            yield f"({expression})"
        else:
            yield from expression.split(" AND ")


def _by_name(name: str) -> str:
    words = re.sub(r"[^A-Za-z0-9.]+", "-", name).strip("-")
    return names().get(name.lower()) or f"LicenseRef-{words or 'unnamed'}"


@cache
def names() -> dict[str, str]:
    """Return the SPDX identifiers of names that wheels use, by the name in lower case.

    Raises:
        DocumentError: the table has mistakes.
    """
    return dict(documents.load(_NAMES, "the names of licences have mistakes", _rows))


def _rows(root: Table) -> list[tuple[str, str]]:
    rows = []
    for table in root.tables("licences"):
        spdx = table.string("spdx", pattern=r"[A-Za-z0-9.+-]+", noun="an SPDX identifier")
        rows += [(name.lower(), spdx) for name in table.strings("names")]
        table.string("source", pattern=".+", noun="a source")
        table.done()
    return rows


def licences(metadata: bytes | None) -> list[dict[str, Any]]:
    """Return the licences that a wheel's METADATA declares, from the most exact field.

    That is `License-Expression` (PEP 639), then classifiers, then `License` if it is a name and not a text.
    """
    if metadata is None:
        return []
    headers: Message = BytesHeaderParser().parsebytes(metadata)
    expression = str(headers.get("License-Expression") or "").strip()
    if expression:
        return licence(expression)
    classified = [
        match[1] for classifier in headers.get_all("Classifier") or () if (match := _CLASSIFIER.match(str(classifier)))
    ]
    named = _licence_name(str(headers.get("License") or ""))
    if named and _expression(named):
        return licence(named)
    return [{"license": {"name": name}} for name in classified or filter(None, [named])]


def _licence_name(text: str) -> str:
    """Return the name in a `License` field: the whole field, or the first line of a text."""
    joined, first = " ".join(text.split()), next(iter(text.strip().splitlines()), "").strip()
    name = joined if len(joined) <= _LONGEST_NAME else first
    return name if name.upper() != "UNKNOWN" and len(name) <= _LONGEST_NAME else ""


def licence(text: str) -> list[dict[str, Any]]:
    """Return a licence as an SPDX expression if it is one, or else as a name."""
    expression = _expression(text)
    return [{"expression": expression}] if expression else [{"license": {"name": text}}]


def _expression(text: str) -> str | None:
    try:
        return str(canonicalize_license_expression(text))
    except InvalidLicenseExpression:
        return None


def metadata(wheel: LockedWheel, workspace: Workspace) -> bytes | None:
    """Return a wheel's METADATA from the cache, or None if neither it nor the wheel is cached."""
    stored = workspace.metadata(wheel.sha256)
    if stored.is_file():
        return stored.read_bytes()
    try:
        with zipfile.ZipFile(workspace.wheel(wheel.sha256, wheel.filename)) as archive:
            return metadata_of(archive)
    except (OSError, *FLAWS):
        return None
