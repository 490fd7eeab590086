"""SBOM, statements and signatures beside an image, read by the programs that others use: oras, cosign, skopeo."""

from __future__ import annotations

import base64
import gzip
import json
import threading
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import pytest
from elf_files import layer
from factories import make_job, make_plan, make_session
from proofs import LOCK, Keys, call, key_pairs, keys, labels, make_evidence, oras_discover, stranger
from publishing import all_on, push
from servers import Fault, Registry, make_image, registry, running_front

from builder.errors import IntegrityError, RegistryError, UsageError
from builder.foundry.in_toto import PROVENANCE
from builder.host.config import Config
from builder.host.signing import Signer, is_signed
from builder.model.audits import Audit
from builder.model.locks import LockedBase
from builder.publish import statements
from builder.publish.attachments import evidence_of
from builder.publish.bill.installed_packages import system_contents
from builder.publish.push import PublicationError
from builder.publish.stage import still_published
from builder.remote.http import Retry
from builder.remote.registry.referrers import add_referrers, referrers, tag_of
from builder.remote.registry.registry_client import OCI_INDEX, connect

if TYPE_CHECKING:
    from pathlib import Path

    from builder.model.images import Image

__all__ = ["key_pairs", "keys", "registry", "stranger"]
KINDS = {"sbom", "verdict", "provenance"}


@pytest.fixture(autouse=True)
def _nobodys_credentials(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("DOCKER_CONFIG", str(tmp_path / "docker"))


@pytest.fixture
def layout(tmp_path: Path) -> Path:
    return tmp_path / "layout"


@pytest.fixture
def image(layout: Path) -> Image:
    return make_image(layout, sizes=(5000,), labels=labels())


def place(registry: Registry, image: Image) -> str:
    return f"{registry.host}/vllm@{image.digest}"


def test_oras_finds_what_is_attached(registry: Registry, image: Image, layout: Path, tmp_path: Path) -> None:
    done = push(
        image,
        layout,
        registry.host,
        evidence=make_evidence(image, tmp_path, audit=Audit(cell="one", findings=(), base="debian")),
    )
    assert {each.name for each in done.registries[0].attached} == KINDS | {"audit"}
    assert still_published(done, Config())
    there = oras_discover(place(registry, image), tmp_path)
    assert sorted(
        (each["artifactType"], (each.get("annotations") or {}).get("in-toto.io/predicate-type")) for each in there
    ) == [
        ("application/vnd.cyclonedx+json", None),
        ("application/vnd.in-toto+json", statements.VERDICT),
        ("application/vnd.in-toto+json", PROVENANCE),
        ("application/vnd.in-toto+json", statements.AUDIT),
    ]
    (bill,) = [each["digest"] for each in there if "cyclonedx" in each["artifactType"]]
    call("oras", "pull", "--plain-http", f"{registry.host}/vllm@{bill}", "-o", str(tmp_path / "got"), folder=tmp_path)
    document = json.loads((tmp_path / "got" / "sbom.json").read_text())
    assert (document["bomFormat"], document["specVersion"]) == ("CycloneDX", "1.5")
    assert {"vllm", "torch", "tiny"} <= {component["name"] for component in document["components"]}


def test_a_bill_needs_no_blobs_of_the_base(registry: Registry, tmp_path: Path) -> None:
    """The layer comes from the base's registry, once; what is in it stays in the cache."""
    status = b"Package: libc6\nStatus: install ok installed\nVersion: 2.36-9\nArchitecture: arm64\n"
    release = b"ID=debian\nVERSION_ID=12\n"
    content = gzip.compress(layer(("var/lib/dpkg/status", status), ("etc/os-release", release)))
    base = make_image(tmp_path / "elsewhere", contents=(content,))
    push(base, tmp_path / "elsewhere", registry.host, tags=("base",))
    with running_front(registry) as front:
        used = f"{front.host}/vllm:base"
        lock = replace(LOCK, base=LockedBase(name="debian", used=used, digest=base.digest))
        plan = make_plan(system="FROM debian")
        session = make_session(tmp_path / "cache" / "models")
        for _ in range(2):
            contents = system_contents(make_job(), lock, plan, base, session)
            assert [(package.name, package.version) for package in contents.packages] == [("libc6", "2.36-9")]
        assert front.asked("GET .*blobs") == 1
        session = make_session(tmp_path / "other" / "models")
        absent = replace(base, layers=(replace(base.layers[0], digest="sha256:" + "0" * 64),))
        with pytest.raises(IntegrityError, match="neither in the cache nor in the registry"):
            system_contents(make_job(), lock, plan, absent, session)


def test_cosign_verifies_signature_and_attestations(
    registry: Registry, image: Image, layout: Path, tmp_path: Path, keys: Keys, stranger: Keys
) -> None:
    done = push(image, layout, registry.host, evidence=make_evidence(image, tmp_path, keys.signer))
    assert done.registries[0].signed
    checked = ("--insecure-ignore-tlog=true", "--allow-http-registry")
    key = f"--key={keys.public}"
    call("cosign", "verify", key, *checked, place(registry, image), folder=tmp_path)
    for kind in (statements.VERDICT, PROVENANCE, statements.SBOM):
        said = call(
            "cosign", "verify-attestation", key, *checked, f"--type={kind}", place(registry, image), folder=tmp_path
        )
        payload = json.loads(base64.b64decode(json.loads(said.stdout.splitlines()[0])["payload"]))
        assert payload["predicateType"] == kind
        assert payload["subject"][0]["digest"] == {"sha256": image.digest[7:]}
    call("cosign", "verify-attestation", key, *checked, "--type=cyclonedx", place(registry, image), folder=tmp_path)
    tree = call("cosign", "tree", "--allow-http-registry", place(registry, image), folder=tmp_path).stdout
    assert "Signatures for an image" in tree
    # The image, its signature, and the signed verdict, provenance and bill.
    assert tree.count("sha256:") == 1 + 1 + 3
    refused = call(
        "cosign", "verify", f"--key={stranger.public}", *checked, place(registry, image), folder=tmp_path, check=False
    )
    assert refused.returncode != 0


def test_cosign_keeps_its_own_beside_ours(
    registry: Registry, image: Image, layout: Path, tmp_path: Path, keys: Keys, stranger: Keys
) -> None:
    push(image, layout, registry.host)
    sign = ("cosign", "sign", f"--key={stranger.private}", "--tlog-upload=false", "--yes", "--allow-http-registry")
    call(*sign, place(registry, image), folder=tmp_path)
    push(image, layout, registry.host, evidence=make_evidence(image, tmp_path, keys.signer))
    checked = ("--insecure-ignore-tlog=true", "--allow-http-registry", place(registry, image))
    for key in (keys, stranger):
        call("cosign", "verify", f"--key={key.public}", *checked, folder=tmp_path)


def test_what_is_there_is_not_put_again(
    registry: Registry, image: Image, layout: Path, tmp_path: Path, keys: Keys
) -> None:
    push(image, layout, registry.host, evidence=make_evidence(image, tmp_path, keys.signer))
    before = registry.tags("vllm", evidence=True)
    with running_front(registry) as front:
        push(image, layout, front.host, evidence=make_evidence(image, tmp_path, keys.signer))
        assert front.asked("^(PUT|POST)") == 0
    assert registry.tags("vllm", evidence=True) == before
    assert set(before) == {tag_of(image.digest) + end for end in ("", ".sig", ".att")}


def test_a_registry_with_its_own_list_needs_no_fallback(
    registry: Registry, image: Image, layout: Path, tmp_path: Path
) -> None:
    """A stand-in for a registry of OCI 1.1: the front adds what such a one answers."""
    own = {"OCI-Subject": image.digest}
    listed = json.dumps({"schemaVersion": 2, "mediaType": OCI_INDEX, "manifests": []}).encode()
    faults = (
        Fault(match="PUT .*manifests/sha256", kind="swap", headers=own, times=None),
        Fault(match="GET .*referrers", kind="answer", status=200, body=listed, times=None),
    )
    with running_front(registry, *faults) as front:
        push(image, layout, front.host, evidence=make_evidence(image, tmp_path))
        push(image, layout, front.host, evidence=make_evidence(image, tmp_path))
    assert registry.tags("vllm", evidence=True) == {}
    assert registry.tags("vllm") == all_on(image)


REFUSALS = [
    Fault(match="PUT .*manifests/sha256-", kind="answer", status=500, times=None),
    Fault(match="PUT .*manifests/sha256-", kind="answer", status=403, times=None),
    Fault(match="GET .*referrers", kind="answer", status=429, headers={"Retry-After": "9999"}, times=None),
    Fault(match="GET .*referrers", kind="answer", status=401, times=None),
    Fault(match="GET .*referrers", kind="answer", status=200, body=b"<html>", times=None),
    Fault(match="PUT .*manifests/sha256-.*", kind="cut", after=1, times=None),
]


@pytest.mark.parametrize("fault", REFUSALS, ids=lambda fault: f"{fault.kind} {fault.match} {fault.status}")
def test_without_its_evidence_an_image_gets_no_tag(
    registry: Registry, image: Image, layout: Path, tmp_path: Path, fault: Fault
) -> None:
    proof = make_evidence(image, tmp_path)
    with running_front(registry, fault) as front:
        with pytest.raises(PublicationError) as caught:
            push(image, layout, front.host, evidence=proof)
        assert front.asked("PUT .*manifests/(0.15|latest)") == 0
    (failure,) = caught.value.publication.failures
    assert failure.stage == "attachments"
    assert "attach = false" in (failure.hint or "")
    assert registry.tags("vllm") == {}
    # The registry may still be writing what was cut off from it.
    push(image, layout, registry.host, evidence=proof, retry=Retry(first_wait_s=0.3))
    assert registry.tags("vllm") == all_on(image)
    assert len(oras_discover(place(registry, image), tmp_path)) == len(KINDS)


def test_what_got_lost_from_the_list_is_noticed(registry: Registry, image: Image, layout: Path, tmp_path: Path) -> None:
    done = push(image, layout, registry.host, evidence=make_evidence(image, tmp_path))
    client = connect(registry.host, Config())
    assert still_published(done, Config())
    empty = json.dumps({"schemaVersion": 2, "mediaType": OCI_INDEX, "manifests": []}).encode()
    client.put_manifest("vllm", tag_of(image.digest), empty, OCI_INDEX)
    assert not still_published(done, Config())
    push(image, layout, registry.host, evidence=make_evidence(image, tmp_path))
    assert still_published(done, Config())


def test_runs_that_attach_at_once_find_together(registry: Registry, image: Image, layout: Path, tmp_path: Path) -> None:
    push(image, layout, registry.host)
    levels: tuple[Any, ...] = ("emulated", "cpu", "gpu")
    failures: list[Exception] = []

    def run(level: Any) -> None:
        try:
            push(image, layout, registry.host, evidence=make_evidence(image, tmp_path / level, level=level))
        except PublicationError as error:
            failures.append(error)

    runs = [threading.Thread(target=run, args=(level,)) for level in levels]
    for each in runs:
        each.start()
    for each in runs:
        each.join()
    assert len(oras_discover(place(registry, image), tmp_path)) >= len(KINDS) or failures
    for level in levels:
        run(level)
    # Three verdicts, one bill, one provenance.
    assert len(oras_discover(place(registry, image), tmp_path)) == 5


def test_everything_is_found_again(registry: Registry, image: Image, layout: Path, tmp_path: Path, keys: Keys) -> None:
    proof = make_evidence(image, tmp_path, keys.signer)
    push(image, layout, registry.host, evidence=proof)
    there = evidence_of(connect(registry.host, Config()), "vllm", image.digest)
    assert [each.referrer.descriptor.digest for each in there.artifacts] == [
        each.referrer.descriptor.digest for each in proof.artifacts
    ]
    assert sorted(each.content for each in there.cosign) == sorted(each.content for each in proof.cosign)


def test_what_is_listed_but_gone_is_passed_over(registry: Registry, image: Image, layout: Path, tmp_path: Path) -> None:
    proof = make_evidence(image, tmp_path)
    push(image, layout, registry.host, evidence=proof)
    client = connect(registry.host, Config())
    content, _ = client.get_manifest("vllm", tag_of(image.digest))
    index = json.loads(content)
    index["manifests"].append({**index["manifests"][0], "digest": "sha256:" + "0" * 64})
    # A registry takes no list of what it does not hold, but may lose it later: the front tells of such a list.
    listed = Fault(match="GET .*referrers", kind="answer", status=200, body=json.dumps(index).encode(), times=None)
    with running_front(registry, listed) as front:
        there = evidence_of(connect(front.host, Config()), "vllm", image.digest)
    assert len(there.artifacts) == len(proof.artifacts)


def test_a_list_that_cannot_be_understood(registry: Registry, image: Image, layout: Path) -> None:
    push(image, layout, registry.host)
    client = connect(registry.host, Config())
    broken = Fault(match="GET .*referrers", kind="answer", status=200, body=b'{"manifests": [{}]}', times=None)
    with running_front(registry, broken) as front, pytest.raises(RegistryError, match="cannot be read"):
        referrers(connect(front.host, Config()), "vllm", image.digest)
    assert referrers(client, "vllm", image.digest) == ()


def test_an_entry_that_keeps_getting_lost(registry: Registry, image: Image, layout: Path, tmp_path: Path) -> None:
    push(image, layout, registry.host)
    (first, *_) = make_evidence(image, tmp_path).artifacts
    lost = Fault(match="PUT .*manifests/sha256-", kind="answer", status=201, times=None)
    with running_front(registry, lost) as front, pytest.raises(RegistryError, match="attached manifests disappear"):
        add_referrers(connect(front.host, Config()), "vllm", image.digest, [first.referrer])


def test_signatures_are_checked_with_the_key(keys: Keys, tmp_path: Path, stranger: Keys) -> None:
    signature = keys.signer.sign(b"what is signed")
    assert is_signed(b"what is signed", ["bm8=", signature], [stranger.public, keys.public])
    assert not is_signed(b"what is signed", [signature], [stranger.public])
    assert not is_signed(b"something else", [signature], [keys.public])
    assert not is_signed(b"what is signed", ["no base64!"], [keys.public])
    assert not is_signed(b"what is signed", [], [keys.public])


def test_a_key_without_its_password(keys: Keys, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COSIGN_PASSWORD", "wrong")
    with pytest.raises(RegistryError, match="could not sign") as caught:
        keys.signer.sign(b"x")
    assert "COSIGN_PASSWORD" in (caught.value.hint or "")
    monkeypatch.delenv("COSIGN_PASSWORD")
    with pytest.raises(UsageError, match="COSIGN_PASSWORD is not set"):
        Signer(key=keys.private, cache=keys.folder / "another").sign(b"x")
