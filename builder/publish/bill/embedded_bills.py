"""Bills of materials inside wheels (PEP 770): CycloneDX and SPDX, both as JSON, reduced to what one bill can hold."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass, field
from itertools import count
from typing import TYPE_CHECKING, Any

from packaging.utils import canonicalize_name

from builder.image.wheels.licences import licence

if TYPE_CHECKING:
    from collections.abc import Container, Iterable, Iterator

MOST_COMPONENTS = 10_000
# The types of components in CycloneDX 1.5; later versions have more.
_TYPES = frozenset(
    (
        *("application", "framework", "library", "container", "platform", "operating-system", "device"),
        *("device-driver", "firmware", "file", "machine-learning-model", "data"),
    )
)
# The length of each algorithm's hash in hexadecimal digits.
_HASHES = {"MD5": 32, "SHA-1": 40, "SHA-256": 64, "SHA-384": 96, "SHA-512": 128}
_SPDX_ALGORITHMS = {"MD5": "MD5", **{f"SHA{name}": f"SHA-{name}" for name in ("1", "256", "384", "512")}}
# SPDX relationships from a package to what it needs or holds, and those in the other direction.
_DOWN = ("DEPENDS_ON", "CONTAINS", "dependsOn", "contains")
_UP = ("DEPENDENCY_OF", "RUNTIME_DEPENDENCY_OF", "BUILD_DEPENDENCY_OF", "CONTAINED_BY")
_PURL = re.compile(r"pkg:[A-Za-z][A-Za-z0-9.+-]*/\S+")
_LONGEST = 4096


class BillError(ValueError):
    """A bill inside a wheel that cannot be read; the message is the reason."""


@dataclass(frozen=True, kw_only=True, slots=True)
class EmbeddedBill:
    """The components of a bill by reference, without the wheel itself, and their dependencies.

    The reference of the wheel itself is the empty string; `pedigree` is what the bill states of its source.
    """

    components: dict[str, dict[str, Any]] = field(default_factory=dict)
    edges: frozenset[tuple[str, str]] = frozenset()
    cut: bool = False
    pedigree: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True, slots=True)
class _RawBill:
    """Components, the references of the bill's subject, and dependencies, as the document has them."""

    components: list[tuple[str, dict[str, Any]]]
    subjects: frozenset[str]
    edges: list[tuple[str, str]]
    pedigree: dict[str, Any] = field(default_factory=dict)


def read_bill(content: bytes, wheel: str) -> EmbeddedBill:
    """Return the components of a bill inside the wheel of a distribution.

    Raises:
        BillError: it is damaged, or of another format.
    """
    try:
        document = json.loads(content)
    except (ValueError, RecursionError) as error:
        raise BillError("it is not JSON") from error
    if not isinstance(document, dict):
        raise BillError("it is neither CycloneDX nor SPDX")
    if document.get("bomFormat") == "CycloneDX":
        raw = _cyclonedx(document)
    elif isinstance(document.get("spdxVersion"), str):
        raw = _spdx2(document)
    elif isinstance(document.get("@graph"), list):
        raw = _spdx3(document["@graph"])
    else:
        raise BillError("it is neither CycloneDX nor SPDX")
    return _bill(raw, wheel)


def _bill(raw: _RawBill, wheel: str) -> EmbeddedBill:
    components: dict[str, dict[str, Any]] = {}
    names: dict[str, str] = {}
    for reference, component in raw.components[:MOST_COMPONENTS]:
        if _is_wheel(component, wheel, subject=reference in raw.subjects):
            names[reference] = ""
            continue
        own = _free(reference, components)
        components[own] = component
        names.setdefault(reference, own)
    edges = {(names[a], names[b]) for a, b in raw.edges if a and a in names and b in names}
    below = {lower for _, lower in edges}
    # What nothing else in the bill needs, the wheel itself brings.
    edges |= {("", reference) for reference in components if reference not in below}
    edges |= {("", names[subject]) for subject in raw.subjects if names.get(subject)}
    return EmbeddedBill(
        components=components,
        edges=frozenset((a, b) for a, b in edges if b and a != b),
        cut=len(raw.components) > MOST_COMPONENTS,
        pedigree=raw.pedigree,
    )


def _free(reference: str, components: Container[str]) -> str:
    """Return a reference that no component has: a damaged bill can repeat them, and they are optional."""
    numbered = (f"{reference or 'component'}-{number}" for number in count(2))
    return reference if reference and reference not in components else next(n for n in numbered if n not in components)


def _is_wheel(component: dict[str, Any], wheel: str, *, subject: bool) -> bool:
    purl, name = component.get("purl"), str(canonicalize_name(component["name"]))
    if purl:
        own = re.match(r"pkg:pypi/([^@?#]+)", purl)
        return bool(own and canonicalize_name(own[1]) == wheel)
    return subject and name == wheel


def _cyclonedx(document: dict[str, Any]) -> _RawBill:
    metadata = document.get("metadata")
    subject = metadata.get("component") if isinstance(metadata, dict) else None
    found: list[tuple[str, dict[str, Any]]] = []
    waiting = [*_objects(document.get("components"))[::-1], *_objects([subject])]
    while waiting and len(found) <= MOST_COMPONENTS:
        raw = waiting.pop()
        if raw.get("scope") == "excluded":
            # A tool of the build, which the wheel does not contain.
            continue
        waiting += _objects(raw.get("components"))[::-1]
        if component := _component(raw, raw.get("hashes"), raw.get("licenses")):
            found.append((_text(raw.get("bom-ref")), component))
    edges = [
        (_text(entry.get("ref")), _text(lower))
        for entry in _objects(document.get("dependencies"))
        for lower in _list(entry.get("dependsOn"))
    ]
    subjects = [_text(subject.get("bom-ref"))] if isinstance(subject, dict) else []
    pedigree = _pedigree(subject.get("pedigree")) if isinstance(subject, dict) else {}
    return _RawBill(components=found, subjects=frozenset(subjects), edges=edges, pedigree=pedigree)


def _pedigree(raw: Any) -> dict[str, Any]:
    """Return the ancestors, patches and notes of a component, without invalid ones."""
    if not isinstance(raw, dict):
        return {}
    known = (_component(row, row.get("hashes"), row.get("licenses")) for row in _objects(raw.get("ancestors")))
    diffs = [row["diff"] for row in _objects(raw.get("patches")) if isinstance(row.get("diff"), dict)]
    patches = [{"type": "unofficial", "diff": {"url": url}} for diff in diffs if (url := _text(diff.get("url")))]
    fields = {"ancestors": [row for row in known if row], "patches": patches, "notes": _text(raw.get("notes"))}
    return {key: value for key, value in fields.items() if value}


def _component(raw: dict[str, Any], hashes: Any, licences: Any) -> dict[str, Any] | None:
    """Return the fields of a CycloneDX component that every reader understands, without invalid ones."""
    name = _text(raw.get("name"))
    if not name:
        return None
    kind = raw.get("type")
    purl = _text(raw.get("purl"))
    fields: dict[str, Any] = {
        "type": kind if isinstance(kind, str) and kind in _TYPES else "library",
        "group": _text(raw.get("group")),
        "name": name,
        "version": _text(raw.get("version")),
        "purl": purl if _PURL.fullmatch(purl) else "",
        "hashes": list(_hashes(_objects(hashes))),
        "licenses": _licences(_objects(licences)),
    }
    return {key: value for key, value in fields.items() if value}


def _hashes(raw: Iterable[dict[str, Any]]) -> Iterator[dict[str, str]]:
    known = {}
    for entry in raw:
        algorithm, content = _text(entry.get("alg")), _text(entry.get("content")).lower()
        if re.fullmatch(r"[0-9a-f]+", content) and len(content) == _HASHES.get(algorithm):
            known[algorithm, content] = {"alg": algorithm, "content": content}
    yield from (known[key] for key in sorted(known))


def _licences(raw: Iterable[dict[str, Any]]) -> list[dict[str, Any]]:
    """Return licences: one expression, or a list of identifiers and names. CycloneDX 1.5 allows no mixture."""
    found: list[str] = []
    for entry in raw:
        inner = entry.get("license")
        inner = inner if isinstance(inner, dict) else {}
        found.append(_text(entry.get("expression")) or _text(inner.get("id")) or _text(inner.get("name")))
    names = list(dict.fromkeys(name for name in found if name and name not in ("NOASSERTION", "NONE")))
    if len(names) == 1:
        return licence(names[0])
    return [{"license": {"name": name}} for name in names]


def _spdx2(document: dict[str, Any]) -> _RawBill:
    components = []
    for package in _objects(document.get("packages")):
        licences = package.get("licenseConcluded")
        if licences in (None, "NOASSERTION", "NONE"):
            licences = package.get("licenseDeclared")
        hashes = [
            {"alg": _SPDX_ALGORITHMS.get(_text(sum_.get("algorithm"))), "content": sum_.get("checksumValue")}
            for sum_ in _objects(package.get("checksums"))
        ]
        purls = [
            link.get("referenceLocator")
            for link in _objects(package.get("externalRefs"))
            if link.get("referenceType") == "purl"
        ]
        raw = {"name": package.get("name"), "version": package.get("versionInfo"), "purl": next(iter(purls), None)}
        if component := _component(raw, hashes, [{"expression": licences}]):
            components.append((_text(package.get("SPDXID")), component))
    relations = [
        (_text(r.get("spdxElementId")), _text(r.get("relationshipType")), _text(r.get("relatedSpdxElement")))
        for r in _objects(document.get("relationships"))
    ]
    described = {_text(reference) for reference in _list(document.get("documentDescribes"))}
    described |= {lower for _, kind, lower in relations if kind == "DESCRIBES"}
    return _RawBill(components=components, subjects=frozenset(described), edges=_edges(relations))


def _spdx3(graph: list[Any]) -> _RawBill:
    components, relations, roots = [], [], set()
    for element in _objects(graph):
        kind = _text(element.get("type") or element.get("@type"))
        reference = _text(element.get("spdxId") or element.get("@id"))
        if kind == "software_Package":
            raw = {
                "name": element.get("name"),
                "version": element.get("software_packageVersion"),
                "purl": element.get("software_packageUrl"),
            }
            hashes = [
                {"alg": _SPDX_ALGORITHMS.get(_text(h.get("algorithm")).upper()), "content": h.get("hashValue")}
                for h in _objects(element.get("verifiedUsing"))
            ]
            if component := _component(raw, hashes, None):
                components.append((reference, component))
        elif kind == "Relationship" or kind.endswith("Relationship"):
            upper, name = _text(element.get("from")), _text(element.get("relationshipType"))
            relations += [(upper, name, _text(lower)) for lower in _list(element.get("to"))]
        elif kind in ("SpdxDocument", "software_Sbom"):
            roots |= {_text(root) for root in _list(element.get("rootElement"))}
    return _RawBill(components=components, subjects=frozenset(roots), edges=_edges(relations))


def _edges(relations: Iterable[tuple[str, str, str]]) -> list[tuple[str, str]]:
    edges = []
    for upper, kind, lower in relations:
        if kind in _DOWN:
            edges.append((upper, lower))
        elif kind in _UP:
            edges.append((lower, upper))
    return edges


def _list(value: Any) -> list[Any]:
    return value if isinstance(value, list) else []


def _objects(value: Any) -> list[dict[str, Any]]:
    return [entry for entry in _list(value) if isinstance(entry, dict)]


def _text(value: Any) -> str:
    """Return a string that UTF-8 can hold; the empty one for other values and for texts of unusual length."""
    if not isinstance(value, str) or len(value) > _LONGEST:
        return ""
    return value.encode("utf-8", "replace").decode().strip()
