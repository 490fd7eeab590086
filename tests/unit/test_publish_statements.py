"""Statements about images, and the artifacts that they become."""

from __future__ import annotations

import base64
import json
from pathlib import Path
from typing import Any

import pytest
from factories import DIGEST, make_image, make_job, make_lock, make_locked_wheel, make_plan
from hypothesis import given
from hypothesis import strategies as st

from builder.errors import IntegrityError
from builder.host.records import as_bytes
from builder.image.oci.warm_image import WARM_LABEL
from builder.model.images import Descriptor
from builder.model.verdicts import Answer, Verdict
from builder.publish import statements
from builder.publish.evidence import Evidence, artifact, cosign_evidence, together
from builder.publish.statements import (
    PAYLOAD_TYPE,
    VERDICT,
    envelope,
    opened,
    parse,
    provenance_predicate,
    signed_bytes,
    statement,
    verdict_predicate,
)
from builder.publish.trust import best
from builder.remote.registry.cosign_images import signature_of, signed_payload
from builder.remote.registry.manifests import parts_of

IMAGE = Descriptor(media_type="application/vnd.oci.image.manifest.v1+json", digest=DIGEST, size=1234)
PLAN = make_plan(content="p" * 64, command=("docker", "buildx"))


def verdict(**changes: Any) -> Verdict:
    facts: dict[str, Any] = {
        "level": "cpu",
        "digest": DIGEST,
        "passed": True,
        "when": "2026-01-01T00:00:00+00:00",
        "log": Path("/home/somebody/smoke.log"),
        "answers": (Answer(question="Capital?", text="Paris", seconds=1.0, tokens=2),),
    }
    return Verdict(**(facts | changes))


def said(predicate: dict[str, Any], kind: str = VERDICT) -> bytes:
    return statement(DIGEST, "vllm", kind, predicate)


def test_a_verdict_is_a_test_result() -> None:
    predicate = verdict_predicate(verdict(), "demo", "one", "f" * 64)
    assert predicate["result"] == "PASSED"
    assert predicate["configuration"] == [{"name": "demo/one", "digest": {"sha256": "f" * 64}}]
    assert (predicate["passedTests"], predicate["failedTests"]) == (["Capital?"], [])
    assert "/home/somebody" not in json.dumps(predicate)
    read = parse(said(predicate), "here")
    assert (read.level, read.when, read.digests) == ("cpu", "2026-01-01T00:00:00+00:00", (DIGEST,))


def test_a_verdict_that_failed_has_no_level() -> None:
    predicate = verdict_predicate(verdict(passed=False, step="question", failure="wrong"), "demo", "one", "f" * 64)
    assert (predicate["result"], predicate["failedTests"]) == ("FAILED", ["question: wrong"])
    assert parse(said(predicate), "here").level is None
    assert parse(said({**predicate, "result": "PASSED"}, statements.AUDIT), "here").level is None
    assert parse(said({"result": "PASSED", "level": 3}), "here").level is None


def test_provenance_names_all_inputs_and_no_times_or_passwords() -> None:
    wheel = make_locked_wheel("torch", "2.10.0", url="https://me:secret@index.example/torch.whl?token=secret")
    lock = make_lock(wheel)
    first = provenance_predicate(make_job(), lock, PLAN, "c" * 64, make_image())
    assert first == provenance_predicate(make_job(), lock, PLAN, "c" * 64, make_image())
    inputs = first["buildDefinition"]["resolvedDependencies"]
    assert [each["name"] for each in inputs] == [
        lock.base.name,
        wheel.filename,
        "tiny/config.json",
        "tiny/model.safetensors",
    ]
    assert "secret" not in json.dumps(first)
    assert first["buildDefinition"]["internalParameters"]["lock"] == "c" * 64


def test_provenance_of_a_warm_image_names_its_layer_and_the_image_below() -> None:
    warm = make_image(labels=((WARM_LABEL, "sha256:" + "5" * 64),))
    inputs = provenance_predicate(make_job(), make_lock(), PLAN, "c" * 64, warm)["buildDefinition"][
        "resolvedDependencies"
    ]
    digests = {entry["name"]: entry["digest"]["sha256"] for entry in inputs}
    assert digests["image without compiled files"] == "5" * 64
    assert f"sha256:{digests['layer of compiled files']}" == warm.layers[-1].digest


BAD = [b"", b"{", b"[]", b"{}", b'{"_type": "x", "subject": [], "predicateType": "", "predicate": {}}', b"\xff", b"3"]


@pytest.mark.parametrize("content", BAD)
def test_what_is_no_statement(content: bytes) -> None:
    with pytest.raises(IntegrityError, match="not an in-toto statement"):
        parse(content, "here")


@given(st.binary(max_size=200))
def test_nonsense_never_surprises(content: bytes) -> None:
    errors = []
    for read in (opened, parse):
        try:
            read(content, "here")
        except IntegrityError as error:
            errors.append(error)
    assert [error.where for error in errors] == ["here"] * len(errors)
    assert errors


def test_an_envelope_holds_what_was_signed() -> None:
    payload = said({"a": 1})
    assert opened(envelope(payload, "c2ln"), "here") == (payload, ("c2ln",))
    assert opened(payload, "here") == (payload, ())
    # The example of the DSSE specification.
    assert signed_bytes(b"hello")[:7] == b"DSSEv1 "
    assert signed_bytes(b"hello").endswith(b" application/vnd.in-toto+json 5 hello")


@pytest.mark.parametrize(
    "document",
    [
        {"payload": "e30=", "payloadType": "text/plain", "signatures": []},
        {"payload": "no base64!", "payloadType": PAYLOAD_TYPE, "signatures": []},
        {"payload": "e30=", "payloadType": PAYLOAD_TYPE},
        {"payload": "e30=", "payloadType": PAYLOAD_TYPE, "signatures": [3]},
    ],
)
def test_envelopes_that_are_none(document: dict[str, Any]) -> None:
    with pytest.raises(IntegrityError, match="neither an in-toto"):
        opened(json.dumps(document).encode(), "here")


def test_an_artifact_refers_to_the_image() -> None:
    made = artifact(IMAGE, "sbom", "application/x", b"content", {"a": "b"})
    manifest = json.loads(made.manifest)
    assert manifest["subject"] == {"mediaType": IMAGE.media_type, "digest": DIGEST, "size": 1234}
    assert manifest["artifactType"] == "application/x"
    assert manifest["layers"][0]["digest"] == made.blobs[1].digest
    assert manifest["config"]["digest"] == made.blobs[0].digest
    assert made.referrer.descriptor.size == len(made.manifest)
    assert made == artifact(IMAGE, "sbom", "application/x", b"content", {"a": "b"})


def test_a_signed_statement_lies_where_cosign_looks_too() -> None:
    bare, signed = (
        cosign_evidence(IMAGE, "verdict", said({})),
        cosign_evidence(IMAGE, "verdict", envelope(said({}), "c2ln")),
    )
    assert (len(bare.artifacts), len(bare.cosign)) == (1, 0)
    (layer,) = signed.cosign
    assert (layer.tag, layer.layer["annotations"]["predicateType"]) == ("att", VERDICT)
    assert json.loads(base64.b64decode(json.loads(layer.content)["payload"]))["predicateType"] == VERDICT
    assert together(bare, bare, signed, Evidence()) == Evidence(
        artifacts=(*bare.artifacts, *signed.artifacts), cosign=signed.cosign
    )
    assert not signed.signed
    assert signature_of(layer.layer) == ""


def test_what_cosign_signs() -> None:
    payload = json.loads(signed_payload(DIGEST, "vllm"))
    assert payload["critical"]["image"] == {"docker-manifest-digest": DIGEST}
    assert payload["critical"]["identity"] == {"docker-reference": "vllm"}


def test_the_best_of_some_levels() -> None:
    assert best(["emulated", None, "gpu", "cpu", "imagined"]) == "gpu"
    assert best([None, "imagined"]) is None
    assert as_bytes({"b": 1, "a": "é"}) == '{"a":"é","b":1}'.encode()


PART = {"mediaType": "m", "digest": DIGEST, "size": 3}


@pytest.mark.parametrize(
    "manifest",
    [
        b"",
        b"[]",
        b"null",
        b'{"config": {}, "layers": []}',
        json.dumps({"config": PART}).encode(),
        json.dumps({"config": PART, "layers": [3]}).encode(),
        json.dumps({"config": PART, "layers": [PART | {"digest": "../../x"}]}).encode(),
        json.dumps({"config": PART, "layers": [PART | {"size": "3"}]}).encode(),
    ],
)
def test_manifests_of_others_that_cannot_be_understood(manifest: bytes) -> None:
    assert parts_of(manifest) == []


def test_the_parts_of_a_manifest() -> None:
    made = artifact(IMAGE, "sbom", "application/x", b"content", {})
    assert [part["digest"] for part in parts_of(made.manifest)] == [blob.digest for blob in made.blobs]
