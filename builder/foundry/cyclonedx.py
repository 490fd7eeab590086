"""Parts of CycloneDX 1.5 documents that the bills of wheels and of images share."""

from __future__ import annotations

import uuid
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

from builder import __version__

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

Component = dict[str, Any]


def purl(kind: str, *names: str, version: str, **qualifiers: str) -> str:
    """Return a package URL; `names` are its namespace and its name."""
    path = "/".join(quote(name, safe="") for name in names)
    tail = "&".join(f"{key}={quote(value, safe=':')}" for key, value in sorted(qualifiers.items()) if value)
    return f"pkg:{kind}/{path}@{quote(version, safe=':')}" + (f"?{tail}" if tail else "")


def properties(**values: str | None) -> list[dict[str, str]]:
    """Return jbuild's own properties that are set."""
    return [{"name": f"io.jbuild.{name.replace('_', '-')}", "value": value} for name, value in values.items() if value]


def sha256_entry(sha256: str) -> dict[str, str]:
    """Return a hash of a component."""
    return {"alg": "SHA-256", "content": sha256}


def bill(
    seed: str, subject: Component, about: Sequence[Mapping[str, str]], writer: str = __version__, **rest: object
) -> dict[str, Any]:
    """Return a bill about a component.

    The seed decides its serial number, `about` are properties, and `writer` is the version of the tool that writes it.
    """
    return {
        "bomFormat": "CycloneDX",
        "specVersion": "1.5",
        "serialNumber": f"urn:uuid:{uuid.uuid5(uuid.NAMESPACE_OID, seed)}",
        "version": 1,
        "metadata": {
            "tools": {"components": [{"type": "application", "name": "jbuild", "version": writer}]},
            "component": subject,
            **({"properties": list(about)} if about else {}),
        },
        **rest,
    }
