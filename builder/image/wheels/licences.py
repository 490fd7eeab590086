"""The licences that wheels declare, and those of an image's parts as one SPDX expression."""

from __future__ import annotations

import re
import zipfile
from email.parser import BytesParser
from email.policy import compat32
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
    from builder.host.toml.documents import Table
    from builder.model.locks import Lock, LockedWheel

_NAMES = Path(__file__).with_name("licences.toml")
_CLASSIFIER = re.compile(r"License :: (?:OSI Approved :: )?(.+)")
# Some wheels hold the licence's whole text where its name should be.
_LONGEST_NAME = 100


def spdx_of(lock: Lock, workspace: Workspace) -> str | None:
    """Return the licences of a lock's wheels and models as one SPDX expression, None if none declares any.

    A name that is no SPDX one becomes a `LicenseRef-`. What the base image holds is not counted.
    """
    found = {part for wheel in lock.wheels for part in _parts(licences(metadata(wheel, workspace)))}
    found |= {part for model in lock.models if model.licence for part in _parts(licence(model.licence))}
    return " AND ".join(sorted(found)) or None


def _parts(declared: list[dict[str, Any]]) -> Iterator[str]:
    for each in declared:
        expression = each.get("expression") or _by_name(str(each["license"]["name"]))
        if " OR " in expression or "(" in expression:
            yield f"({expression})"
        else:
            yield from expression.split(" AND ")


def _by_name(name: str) -> str:
    words = re.sub(r"[^A-Za-z0-9.]+", "-", name).strip("-")
    return names().get(name.lower()) or f"LicenseRef-{words or 'unnamed'}"


@cache
def names(path: Path = _NAMES) -> dict[str, str]:
    """Return the SPDX identifiers of names that wheels use, by the name in lower case.

    Raises:
        DocumentError: the table has mistakes.
    """
    return dict(documents.load(path, "the names of licences have mistakes", _rows))


def _rows(root: Table) -> list[tuple[str, str]]:
    rows = []
    for table in root.tables("licences"):
        spdx = table.string("spdx", pattern=r"[A-Za-z0-9.+-]+", noun="an SPDX identifier")
        rows += [(name.lower(), spdx) for name in table.strings("names")]
        table.string("source", pattern=".+", noun="a source")
        table.done()
    return rows


def licences(metadata: bytes | None) -> list[dict[str, Any]]:
    """Return the licences that a wheel's METADATA declares, the most exact way of saying so first.

    That is `License-Expression` (PEP 639), then classifiers, then `License` where it holds a name and not a text.
    """
    if metadata is None:
        return []
    headers: Message = BytesParser(policy=compat32).parsebytes(metadata, headersonly=True)
    expression = str(headers.get("License-Expression") or "").strip()
    if expression:
        return licence(expression)
    classified = [found[1] for line in headers.get_all("Classifier") or () if (found := _CLASSIFIER.match(str(line)))]
    named = _named(str(headers.get("License") or ""))
    if named and _expression(named):
        return licence(named)
    return [{"license": {"name": name}} for name in classified or filter(None, [named])]


def _named(text: str) -> str:
    """Return the name in a `License` field: all of it, or the first line of a whole text."""
    whole, first = " ".join(text.split()), next(iter(text.strip().splitlines()), "").strip()
    name = whole if len(whole) <= _LONGEST_NAME else first
    return name if name.upper() != "UNKNOWN" and len(name) <= _LONGEST_NAME else ""


def licence(text: str) -> list[dict[str, Any]]:
    """Return a licence by its SPDX expression, or by its name where it is none."""
    expression = _expression(text)
    return [{"expression": expression}] if expression else [{"license": {"name": text}}]


def _expression(text: str) -> str | None:
    try:
        return str(canonicalize_license_expression(text))
    except InvalidLicenseExpression:
        return None


def metadata(wheel: LockedWheel, workspace: Workspace) -> bytes | None:
    """Return a wheel's METADATA from what this machine has of it; None where it has neither it nor the wheel."""
    kept = workspace.metadata(wheel.sha256)
    if kept.is_file():
        return kept.read_bytes()
    try:
        with zipfile.ZipFile(workspace.wheel(wheel.sha256, wheel.filename)) as archive:
            return metadata_of(archive)
    except (OSError, *FLAWS):
        return None
