"""The software bill of materials of an image, from its lock: CycloneDX 1.5."""

from __future__ import annotations

import uuid
from typing import TYPE_CHECKING, Any

from builder import __version__
from builder.image.wheels.licences import licence, licences, metadata

if TYPE_CHECKING:
    from builder.host.paths import Workspace
    from builder.model.locks import Lock, LockedBase, LockedWheel
    from builder.model.model_files import LockedModel

MEDIA_TYPE = "application/vnd.cyclonedx+json"
LOCK_PROPERTY = "io.jbuild.lock"


def sbom(lock: Lock, digest: str, checksum: str, workspace: Workspace) -> dict[str, Any]:
    """Return the bill of an image: its base, every wheel and every model, with hashes and licences.

    It holds no time, and its serial number comes from the digest: the same image has one bill. A lock does not list the
    distribution's packages, so the bill is marked as incomplete.
    """
    components = [
        _base(lock.base),
        *(_wheel(wheel, metadata(wheel, workspace)) for wheel in lock.wheels),
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
        "dependencies": [{"ref": "image", "dependsOn": sorted(str(component["bom-ref"]) for component in components)}],
        "compositions": [{"aggregate": "incomplete", "assemblies": ["image"]}],
    }


def _wheel(wheel: LockedWheel, metadata: bytes | None) -> dict[str, Any]:
    purl = f"pkg:pypi/{wheel.name}@{wheel.version.replace('+', '%2B')}"
    return {
        "type": "library",
        "bom-ref": purl,
        "name": wheel.name,
        "version": wheel.version,
        "purl": purl,
        "hashes": [_hash(wheel.sha256)],
        "properties": _properties(filename=wheel.filename, index=wheel.index),
        **_with_licences(licences(metadata)),
    }


def _model(model: LockedModel) -> dict[str, Any]:
    reference = f"model:{model.name}"
    return {
        "type": "machine-learning-model",
        "bom-ref": reference,
        "name": model.name,
        **({"version": model.revision} if model.revision else {}),
        **_with_licences(licence(model.licence) if model.licence else []),
        "properties": _properties(source=model.source, stand_in=model.stand_in),
        "components": [
            {"type": "file", "bom-ref": f"{reference}/{file.path}", "name": file.path, "hashes": [_hash(file.sha256)]}
            for file in model.files
        ],
    }


def _base(base: LockedBase) -> dict[str, Any]:
    return {
        "type": "container",
        "bom-ref": f"base:{base.digest}",
        "name": base.name,
        "version": base.digest,
        "hashes": [_hash(base.digest.partition(":")[2])],
        "properties": _properties(used=base.used, stand_in=base.stand_in),
    }


def _properties(**values: str | None) -> list[dict[str, str]]:
    """Return jbuild's own properties that are set."""
    return [{"name": f"io.jbuild.{name.replace('_', '-')}", "value": value} for name, value in values.items() if value]


def _hash(sha256: str) -> dict[str, str]:
    return {"alg": "SHA-256", "content": sha256}


def _with_licences(licences: list[dict[str, Any]]) -> dict[str, Any]:
    return {"licenses": licences} if licences else {}
