"""Images checked against what is said of them, and tags shown over several registries."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

import pytest
from proofs import LOCK, Keys, call, key_pairs, keys, labels, make_evidence, make_verdict, stranger
from publishing import RULES, asked, built, image, job, layout, promoted, push, session, versioned
from servers import Fault, Registry, free_port, make_image, registry, running_front, running_registry

from builder.errors import RegistryError
from builder.host.config import Config
from builder.lock import lockfile
from builder.model.recipes import TagRule
from builder.publish import statements
from builder.publish.tag_status import TagState, overview
from builder.publish.verification import Verification, verify
from builder.remote.registry.reference import Reference
from builder.remote.registry.registry_client import connect

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from builder.host.session import Session
    from builder.model.images import Image

__all__ = ["image", "key_pairs", "keys", "layout", "registry", "session", "stranger"]
NAMES = ["digest", "blobs", "signature", "verdict", "sbom", "provenance"]


@pytest.fixture(autouse=True)
def _nobodys_credentials(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("DOCKER_CONFIG", str(tmp_path / "docker"))


@pytest.fixture
def second(tmp_path: Path) -> Iterator[Registry]:
    with running_registry(tmp_path / "second") as running:
        yield running


def check(host: str, image: Image, *keys: Keys, **options: Any) -> Verification:
    reference = Reference.parse(f"{host}/vllm@{image.digest}")
    return verify(reference, Config(), tuple(key.public for key in keys), **options)


def states(done: Verification) -> dict[str, str]:
    return {each.name: each.state for each in done.findings}


def failed(done: Verification) -> dict[str, str]:
    return {each.name: each.said for each in done.findings if each.state == "failed"}


def test_everything_holds_with_the_key(
    registry: Registry, image: Image, layout: Path, tmp_path: Path, keys: Keys, stranger: Keys
) -> None:
    push(image, layout, registry.host, evidence=make_evidence(image, tmp_path, keys.signer))
    done = check(registry.host, image, keys, level="emulated", check_blobs=True)
    assert states(done) == dict.fromkeys(NAMES, "ok")
    assert (done.level, done.holds, done.digest) == ("emulated", True, image.digest)
    refused = check(registry.host, image, stranger)
    assert failed(refused) == {
        "signature": "none of 1 is by a trusted key",
        "verdict": "none is signed by a trusted key",
        "sbom": "none is signed by a trusted key",
        "provenance": "none is signed by a trusted key",
    }
    assert refused.level is None


def test_without_a_key_nobody_vouches(registry: Registry, image: Image, layout: Path, tmp_path: Path) -> None:
    push(image, layout, registry.host, evidence=make_evidence(image, tmp_path))
    done = check(registry.host, image)
    assert states(done) == {**dict.fromkeys(NAMES, "ok"), "signature": "not checked"}
    assert done.holds
    assert "no key" in next(each.said for each in done.findings if each.name == "verdict")
    assert failed(check(registry.host, image, level="gpu")) == {"verdict": "its level is emulated, not gpu or better"}


def test_an_image_of_nobody_knows_whom(registry: Registry, image: Image, layout: Path) -> None:
    push(image, layout, registry.host)
    done = check(registry.host, image)
    assert failed(done) == dict.fromkeys(("verdict", "sbom", "provenance"), "there is none")
    with pytest.raises(RegistryError, match="404"):
        verify(Reference.parse(f"{registry.host}/vllm:nothing"), Config(), ())


def test_evidence_of_another_lock(registry: Registry, layout: Path, tmp_path: Path) -> None:
    odd = make_image(layout, labels=labels(LOCK, lock="0" * 64))
    push(odd, layout, registry.host, evidence=make_evidence(odd, tmp_path))
    done = check(registry.host, odd)
    assert set(failed(done)) == {"sbom", "provenance"}
    assert lockfile.content(LOCK) in failed(done)["sbom"]
    relabelled = make_image(layout, labels=labels(LOCK, torch="2.9.0"))
    push(relabelled, layout, registry.host, evidence=make_evidence(relabelled, tmp_path))
    assert failed(check(registry.host, relabelled)) == {
        "sbom": "it lists torch 2.10.0+cpu, but the image's labels 2.9.0"
    }


def test_evidence_about_another_image_does_not_count(
    registry: Registry, image: Image, layout: Path, tmp_path: Path
) -> None:
    """Somebody attaches what another image has earned."""
    other = make_image(layout, labels=labels())
    borrowed = make_evidence(other, tmp_path)
    moved = tuple(
        replace(each, manifest=each.manifest.replace(other.digest.encode(), image.digest.encode()))
        for each in borrowed.artifacts
    )
    client = connect(registry.host, Config())
    push(image, layout, registry.host)
    for each in moved:
        (tmp_path / "manifest.json").write_bytes(each.manifest)
        for blob in each.blobs:
            client.send_blob("vllm", blob)
        attach = ("oras", "manifest", "push", "--plain-http", f"{registry.host}/vllm", str(tmp_path / "manifest.json"))
        call(*attach, folder=tmp_path)
    done = check(registry.host, image)
    assert failed(done)["verdict"] == "there is none"
    assert failed(done)["sbom"] == f"it describes {other.digest}"
    assert failed(done)["provenance"] == "there is none"


def test_blobs_that_are_missing_or_damaged(registry: Registry, image: Image, layout: Path, tmp_path: Path) -> None:
    push(image, layout, registry.host, evidence=make_evidence(image, tmp_path))
    layer = image.layers[0]
    bad = Fault(match=f"GET .*blobs/{layer.digest}", kind="swap", body=bytes(layer.size), times=None)
    gone = Fault(match=f"HEAD .*blobs/{layer.digest}", kind="answer", status=404, times=None)
    with running_front(registry, bad) as front:
        assert check(front.host, image).holds
        assert "other bytes" in failed(check(front.host, image, check_blobs=True))["blobs"]
    with running_front(registry, gone) as front:
        assert failed(check(front.host, image)) == {"blobs": f"the registry lacks {layer.digest}"}


def test_a_statement_that_is_none_is_passed_over(
    registry: Registry, image: Image, layout: Path, tmp_path: Path
) -> None:
    push(image, layout, registry.host, evidence=make_evidence(image, tmp_path))
    (tmp_path / "odd.json").write_text("not JSON")
    call(
        *("oras", "attach", "--plain-http", "--disable-path-validation", f"--artifact-type={statements.PAYLOAD_TYPE}"),
        *(f"{registry.host}/vllm@{image.digest}", f"{tmp_path / 'odd.json'}:{statements.PAYLOAD_TYPE}"),
        folder=tmp_path,
    )
    assert check(registry.host, image).holds


def where(rows: tuple[TagState, ...]) -> set[tuple[str, str | None, str, str | None]]:
    return {(row.repository.partition("/")[0], row.tag, row.state, row.level) for row in rows}


def test_tags_over_several_registries(
    registry: Registry, second: Registry, image: Image, layout: Path, session: Session
) -> None:
    promoted(built(session, image), session, asked(registry.host))
    stray = versioned(layout, "0.9.0", recipe="demo")
    foreign = versioned(layout, "0.9.0", recipe="another")
    push(stray, layout, registry.host, tags=("old",))
    push(foreign, layout, registry.host, tags=("theirs",))
    push(stray, layout, second.host, rules=(TagRule(name="1-rc"),))
    nobody = f"127.0.0.1:{free_port()}"
    rows = overview([job()], [registry.host, second.host, nobody], session)
    assert where(rows) == {
        (registry.host, "1-rc", "current", "emulated"),
        (registry.host, "1", "missing", None),
        (registry.host, "old", "stray", None),
        (second.host, "1-rc", "other", None),
        (second.host, "1", "missing", None),
        (nobody, None, "unknown", None),
    }
    by_tag = {(row.repository.partition("/")[0], row.tag): row for row in rows}
    assert "level gpu" in (by_tag[registry.host, "1"].note or "")
    assert by_tag[registry.host, "1-rc"].proved == make_verdict(image).when
    assert by_tag[registry.host, "1-rc"].cell == "one"
    assert "refused" in (by_tag[nobody, None].note or "")


def test_tags_before_anything_was_built(registry: Registry, session: Session) -> None:
    rows = overview([job()], [registry.host], session)
    assert [(row.tag, row.state, row.note) for row in rows] == [
        (rule.name, "missing", "not built on this machine") for rule in RULES
    ]


def test_a_tag_that_waits_to_be_pushed(registry: Registry, image: Image, session: Session) -> None:
    built(session, image)
    (row, _) = overview([job()], [registry.host], session)
    assert (row.state, row.note) == ("missing", "not pushed yet")
