"""The software bill of materials of an image, from its lock: CycloneDX 1.5."""

from __future__ import annotations

import re
import uuid
import zipfile
from email.parser import BytesParser
from email.policy import compat32
from typing import TYPE_CHECKING, Any

from packaging.licenses import InvalidLicenseExpression, canonicalize_license_expression

from builder import __version__
from builder.index.archive import FLAWS, metadata_of

if TYPE_CHECKING:
    from email.message import Message

    from builder.models.model import LockedModel
    from builder.resolve.model import Lock, LockedBase, LockedWheel
    from builder.workspace import Workspace

MEDIA_TYPE = "application/vnd.cyclonedx+json"
LOCK_PROPERTY = "io.jbuild.lock"
_CLASSIFIER = re.compile(r"License :: (?:OSI Approved :: )?(.+)")
# Some wheels hold the licence's whole text where its name should be.
_LONGEST_NAME = 100


def sbom(lock: Lock, digest: str, checksum: str, workspace: Workspace) -> dict[str, Any]:
    """Return the bill of an image: its base, every wheel and every model, with hashes and licences.

    It holds no time, and its serial number comes from the digest: the same image has one bill. What the distribution's
    packages are is not in a lock, so the bill says that it is incomplete.
    """
    components = [
        _base(lock.base),
        *(_wheel(wheel, _metadata(wheel, workspace)) for wheel in lock.wheels),
        *(_model(model) for model in lock.models),
    ]
    return {
        "bomFormat": "CycloneDX",
        "specVersion": "1.5",
        "serialNumber": f"urn:uuid:{uuid.uuid5(uuid.NAMESPACE_OID, digest)}",
        "version": 1,
        "metadata": {
            "tools": {"components": [{"type": "application", "name": "jbuild", "version": __version__}]},
            "component": {
                "type": "container",
                "bom-ref": "image",
                "name": f"{lock.recipe}/{lock.cell}",
                "version": digest,
                "hashes": [_hash(digest.partition(":")[2])],
            },
            "properties": [{"name": LOCK_PROPERTY, "value": checksum}],
        },
        "components": components,
        "dependencies": [{"ref": "image", "dependsOn": sorted(str(each["bom-ref"]) for each in components)}],
        "compositions": [{"aggregate": "incomplete", "assemblies": ["image"]}],
    }


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


def _wheel(wheel: LockedWheel, metadata: bytes | None) -> dict[str, Any]:
    purl = f"pkg:pypi/{wheel.name}@{wheel.version.replace('+', '%2B')}"
    properties = [{"name": "io.jbuild.filename", "value": wheel.filename}]
    properties += [{"name": "io.jbuild.index", "value": wheel.index}] if wheel.index else []
    return {
        "type": "library",
        "bom-ref": purl,
        "name": wheel.name,
        "version": wheel.version,
        "purl": purl,
        "hashes": [_hash(wheel.sha256)],
        "properties": properties,
        **_with_licences(licences(metadata)),
    }


def _model(model: LockedModel) -> dict[str, Any]:
    reference = f"model:{model.name}"
    files = [
        {
            "type": "file",
            "bom-ref": f"{reference}/{file.path}",
            "name": file.path,
            "hashes": [_hash(file.sha256)],
        }
        for file in model.files
    ]
    properties = [{"name": "io.jbuild.source", "value": model.source}]
    properties += [{"name": "io.jbuild.stand-in", "value": model.stand_in}] if model.stand_in else []
    return {
        "type": "machine-learning-model",
        "bom-ref": reference,
        "name": model.name,
        **({"version": model.revision} if model.revision else {}),
        **_with_licences(licence(model.licence) if model.licence else []),
        "properties": properties,
        "components": files,
    }


def _base(base: LockedBase) -> dict[str, Any]:
    properties = [{"name": "io.jbuild.used", "value": base.used}]
    properties += [{"name": "io.jbuild.stand-in", "value": base.stand_in}] if base.stand_in else []
    return {
        "type": "container",
        "bom-ref": f"base:{base.digest}",
        "name": base.name,
        "version": base.digest,
        "hashes": [_hash(base.digest.partition(":")[2])],
        "properties": properties,
    }


def _hash(sha256: str) -> dict[str, str]:
    return {"alg": "SHA-256", "content": sha256}


def _with_licences(found: list[dict[str, Any]]) -> dict[str, Any]:
    return {"licenses": found} if found else {}


def _metadata(wheel: LockedWheel, workspace: Workspace) -> bytes | None:
    """Return a wheel's METADATA from what this machine has of it; None where it has neither it nor the wheel."""
    kept = workspace.metadata(wheel.sha256)
    if kept.is_file():
        return kept.read_bytes()
    try:
        with zipfile.ZipFile(workspace.wheel(wheel.sha256, wheel.filename)) as archive:
            return metadata_of(archive)
    except (OSError, *FLAWS):
        return None
