"""Bills of materials inside wheels: CycloneDX and SPDX, sound and damaged."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import pytest
from bill_images import check_bill, components_of
from factories import DIGEST, locked, make_lock, make_wheel
from hypothesis import given
from hypothesis import strategies as st

from builder.host.paths import Workspace
from builder.publish.bill import embedded_bills, wheel_documents
from builder.publish.bill.embedded_bills import BillError, EmbeddedBill, read_bill
from builder.publish.sbom import sbom

if TYPE_CHECKING:
    from pathlib import Path

PURL = "pkg:generic/openssl@3.0"
SPDX2 = {
    "spdxVersion": "SPDX-2.3",
    "packages": [
        {"SPDXID": "SPDXRef-demo", "name": "demo", "versionInfo": "1.0"},
        {
            "SPDXID": "SPDXRef-ssl",
            "name": "openssl",
            "versionInfo": "3.0",
            "licenseConcluded": "NOASSERTION",
            "licenseDeclared": "Apache-2.0",
            "checksums": [
                {"algorithm": "SHA256", "checksumValue": "A" * 64},
                {"algorithm": "SHA1", "checksumValue": "x"},
            ],
            "externalRefs": [{"referenceType": "purl", "referenceLocator": PURL}],
        },
        {"SPDXID": "SPDXRef-z", "name": "zlib"},
    ],
    "relationships": [
        {"spdxElementId": "SPDXRef-DOCUMENT", "relationshipType": "DESCRIBES", "relatedSpdxElement": "SPDXRef-demo"},
        {"spdxElementId": "SPDXRef-demo", "relationshipType": "DEPENDS_ON", "relatedSpdxElement": "SPDXRef-ssl"},
        {"spdxElementId": "SPDXRef-z", "relationshipType": "DEPENDENCY_OF", "relatedSpdxElement": "SPDXRef-ssl"},
    ],
}
SPDX3 = {
    "@context": "https://spdx.org/rdf/3.0.1/spdx-context.jsonld",
    "@graph": [
        {"type": "software_Package", "spdxId": "urn:a", "name": "demo"},
        {
            "type": "software_Package",
            "spdxId": "urn:b",
            "name": "openssl",
            "software_packageVersion": "3.0",
            "software_packageUrl": PURL,
            "verifiedUsing": [{"type": "Hash", "algorithm": "sha256", "hashValue": "a" * 64}],
        },
        {"type": "software_Sbom", "spdxId": "urn:c", "rootElement": ["urn:a"]},
        {"type": "Relationship", "from": "urn:a", "relationshipType": "dependsOn", "to": ["urn:b"]},
    ],
}


def read(document: object) -> EmbeddedBill:
    return read_bill(json.dumps(document).encode(), "demo")


def cyclonedx(*components: Any, **more: Any) -> dict[str, Any]:
    return {"bomFormat": "CycloneDX", "specVersion": "1.6", "components": list(components), **more}


def test_spdx_2() -> None:
    bill = read(SPDX2)
    assert bill.components == {
        "SPDXRef-ssl": {
            "type": "library",
            "name": "openssl",
            "version": "3.0",
            "purl": PURL,
            "hashes": [{"alg": "SHA-256", "content": "a" * 64}],
            "licenses": [{"expression": "Apache-2.0"}],
        },
        "SPDXRef-z": {"type": "library", "name": "zlib"},
    }
    assert bill.edges == {("", "SPDXRef-ssl"), ("SPDXRef-ssl", "SPDXRef-z")}


def test_spdx_3() -> None:
    bill = read(SPDX3)
    assert bill.edges == {("", "urn:b")}
    assert bill.components["urn:b"]["hashes"] == [{"alg": "SHA-256", "content": "a" * 64}]


def test_the_wheel_itself_is_not_listed_again() -> None:
    """As auditwheel writes it: the wheel is the subject and a component."""
    own = {"type": "library", "bom-ref": "own", "name": "Demo", "purl": "pkg:pypi/demo@1.0?file_name=demo.whl"}
    other = {"bom-ref": "b", "name": "libgomp", "purl": "pkg:rpm/almalinux/libgomp@8.5"}
    bill = read(cyclonedx(own, other, metadata={"component": own}, dependencies=[{"ref": "own", "dependsOn": ["b"]}]))
    assert set(bill.components) == {"b"}
    assert bill.edges == {("", "b")}


def test_components_inside_components_and_repeated_references() -> None:
    inner = {"bom-ref": "a", "name": "inner", "type": "cryptographic-asset"}
    bill = read(cyclonedx({"bom-ref": "a", "name": "outer", "components": [inner]}, {"name": "x"}, {"name": "y"}))
    assert {name: part["name"] for name, part in bill.components.items()} == {
        "a": "outer",
        "a-2": "inner",
        "component-2": "x",
        "component-3": "y",
    }
    assert bill.components["a-2"]["type"] == "library"


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"{",
        b"[]",
        b"{}",
        b"\xff\xfe",
        b"null",
        b'{"bomFormat": "SPDX"}',
        b"<bom/>",
        b"[" * 200_000,
        b"SPDXVersion: 2",
    ],
)
def test_damaged_bills(content: bytes) -> None:
    with pytest.raises(BillError, match=r"it is (not JSON|neither CycloneDX nor SPDX)"):
        read_bill(content, "demo")


def test_bills_with_too_many_components(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(embedded_bills, "MOST_COMPONENTS", 3)
    assert read(cyclonedx(*({"name": f"n{n}"} for n in range(4)))).cut
    assert not read(cyclonedx(*({"name": f"n{n}"} for n in range(3)))).cut


def of_wheel(folder: Path, **bills: str | bytes) -> tuple[dict[str, Any], list[str]]:
    files = {f"demo-1.0.dist-info/sboms/{name}.json": content for name, content in bills.items()}
    wheel = locked(make_wheel(folder / "made", files=files))
    workspace = Workspace(project=folder, cache=folder / "cache")
    target = workspace.wheel(wheel.sha256, wheel.filename)
    target.parent.mkdir(parents=True, exist_ok=True)
    target.write_bytes((folder / "made" / wheel.filename).read_bytes())
    flaws: list[str] = []
    return sbom(make_lock(wheel, models=()), DIGEST, "c" * 64, workspace, on_flaw=flaws.append), flaws


def test_bills_are_below_their_wheel(tmp_path: Path) -> None:
    bill, flaws = of_wheel(tmp_path, a=json.dumps(SPDX2), b=json.dumps(SPDX3), c="{", d=b"\xff{}")
    check_bill(bill)
    wheel = bill["components"][1]
    assert [part["bom-ref"] for part in wheel["components"]] == [
        "pkg:pypi/demo@1.0#a.json#SPDXRef-ssl",
        "pkg:pypi/demo@1.0#a.json#SPDXRef-z",
        "pkg:pypi/demo@1.0#b.json#urn:b",
    ]
    assert [flaw.partition("bill of materials ")[2] for flaw in flaws if "bill of" in flaw] == [
        "c.json is not listed: it is not JSON",
        "d.json is not listed: it is not JSON",
    ]


def test_large_bills_and_many_bills(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(wheel_documents, "LARGEST_BILL", 1 << 20)
    monkeypatch.setattr(wheel_documents, "MOST_BILLS", 1)
    bill, flaws = of_wheel(tmp_path, a=" " * (1 << 20) + "1", b=json.dumps(SPDX3), c=json.dumps(SPDX3))
    check_bill(bill)
    assert [flaw.partition(": ")[2] for flaw in flaws[1:]] == [
        "a.json is larger than 1 MiB",
        "it has 2 bills of materials; only 1 are read",
    ]


def test_two_bills_of_one_name(tmp_path: Path) -> None:
    other = {"other-1.dist-info/sboms/a.json": json.dumps(SPDX3), "demo-1.0.dist-info/sboms/a.json": json.dumps(SPDX2)}
    wheel = locked(make_wheel(tmp_path / "made", files=other))
    workspace = Workspace(project=tmp_path, cache=tmp_path / "cache")
    target = workspace.wheel(wheel.sha256, wheel.filename)
    target.parent.mkdir(parents=True)
    target.write_bytes((tmp_path / "made" / wheel.filename).read_bytes())
    check_bill(sbom(make_lock(wheel, models=()), DIGEST, "c" * 64, workspace))


KEYS = (
    *("bomFormat", "spdxVersion", "@graph", "packages", "components", "dependencies", "ref", "dependsOn", "bom-ref"),
    *("name", "version", "purl", "hashes", "alg", "content", "licenses", "license", "expression", "id", "type"),
    *("metadata", "component", "relationships", "relationshipType", "SPDXID", "spdxId", "from", "to"),
)
TEXTS = (
    *("CycloneDX", "SPDX-2.3", "a", "b", "demo", "", "\ud800", "MIT", "MIT OR", "SHA-256", "a" * 64, "pkg:a/b"),
    *("pkg: x", "library", "software_Package", "Relationship", "dependsOn", "DEPENDS_ON", "x" * 5000),
)
NAMES = st.sampled_from(KEYS)
LEAVES = st.none() | st.booleans() | st.integers() | st.floats() | st.sampled_from(TEXTS)
VALUES = st.recursive(LEAVES, lambda inner: st.lists(inner, max_size=4) | st.dictionaries(NAMES, inner, max_size=6))


@given(
    head=st.sampled_from([{"bomFormat": "CycloneDX"}, {"spdxVersion": "SPDX-2.3"}, {}]),
    parts=st.lists(st.dictionaries(NAMES, VALUES, max_size=8), max_size=5),
    edges=VALUES,
)
def test_no_document_breaks_the_bill(
    tmp_path_factory: pytest.TempPathFactory, head: dict[str, Any], parts: list[Any], edges: Any
) -> None:
    document = {**head, "components": parts, "packages": parts, "@graph": parts, "dependencies": edges}
    bill, _ = of_wheel(tmp_path_factory.mktemp("wheel"), a=json.dumps(document))
    check_bill(bill)
    assert next(components_of(bill))
