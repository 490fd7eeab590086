"""Digests that move between real registries with their evidence, and tags that wait for a verdict made elsewhere."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import pytest
from proofs import (
    Keys,
    call,
    key_pairs,
    keys,
    make_evidence,
    make_verdict,
    oras_discover,
    stranger,
)
from publishing import asked, blob_bytes, built, image, job, layout, promoted, push, session
from servers import (
    PASSWORD,
    USER,
    Fault,
    Registry,
    locked_registry,
    make_image,
    registry,
    running_front,
    running_registry,
)

from builder.errors import IntegrityError, JbuildError, RegistryError, SmokeError, UsageError
from builder.host import records
from builder.host.config import Config
from builder.host.paths import Workspace
from builder.publish import statements
from builder.publish.promotion import PromoteOptions, from_cell, from_image, promote
from builder.publish.push import PublicationError
from builder.publish.trust import write_verdict
from builder.remote.registry.reference import Reference

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from builder.host.session import Session
    from builder.model.images import Image
    from builder.model.publications import Publication

__all__ = ["image", "key_pairs", "keys", "layout", "locked_registry", "registry", "session", "stranger"]


@pytest.fixture(autouse=True)
def _nobodys_credentials(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("DOCKER_CONFIG", str(tmp_path / "docker"))


@pytest.fixture
def second(tmp_path: Path) -> Iterator[Registry]:
    with running_registry(tmp_path / "second") as running:
        yield running


def at(registry: Registry | str, image: Image) -> Reference:
    host = registry if isinstance(registry, str) else registry.host
    return Reference.parse(f"{host}/vllm@{image.digest}")


def moved(reference: Reference, session: Session, wish: PromoteOptions) -> Publication:
    return promote(from_image(reference, session, wish.keys), wish, session)


def verdict_file(path: Path, image: Image, keys: Keys | None, level: Any = "gpu", **changes: Any) -> Path:
    predicate = statements.verdict_predicate(make_verdict(image, level, **changes), "demo", "one", "f" * 64)
    content = statements.statement(image.digest, "vllm", statements.VERDICT, predicate)
    if keys:
        content = statements.envelope(content, keys.signer.sign(statements.signed_bytes(content)))
    path.write_bytes(content)
    return path


def test_a_digest_moves_with_its_evidence(
    registry: Registry, second: Registry, image: Image, layout: Path, session: Session, tmp_path: Path, keys: Keys
) -> None:
    push(image, layout, registry.host, evidence=make_evidence(image, tmp_path, keys.signer))
    done = moved(at(registry, image), session, asked(f"{second.host}/team", tags=("1",), keys=(keys.public,)))
    assert second.tags("team/vllm") == {"1": image.digest}
    assert done.level == "emulated"
    assert done.registries[0].bytes_sent == blob_bytes(image)
    place = f"{second.host}/team/vllm@{image.digest}"
    before = oras_discover(f"{registry.host}/vllm@{image.digest}", tmp_path)
    assert [each["digest"] for each in oras_discover(place, tmp_path)] == [each["digest"] for each in before]
    checked = (f"--key={keys.public}", "--insecure-ignore-tlog=true", "--allow-http-registry")
    call("cosign", "verify", *checked, place, folder=tmp_path)
    call("cosign", "verify-attestation", *checked, f"--type={statements.VERDICT}", place, folder=tmp_path)
    read = call("skopeo", "inspect", "--tls-verify=false", f"docker://{second.host}/team/vllm:1", folder=tmp_path)
    assert json.loads(read.stdout)["Digest"] == image.digest


def test_within_one_registry_blobs_are_mounted(
    registry: Registry, image: Image, layout: Path, session: Session
) -> None:
    push(image, layout, registry.host)
    (there,) = moved(at(registry, image), session, asked(f"{registry.host}/other", repository="deep/name")).registries
    assert (there.bytes_sent, there.bytes_mounted) == (0, blob_bytes(image))
    assert registry.request(f"/v2/other/deep/name/manifests/{image.digest}")[0] == 200


STREAM_FAULTS = [
    Fault(match="GET .*blobs", kind="cut-answer", after=100_000, times=2),
    Fault(match="GET .*blobs", kind="answer", status=503, times=2),
    Fault(match="GET .*blobs", kind="answer", status=429, headers={"Retry-After": "0"}, times=2),
]


@pytest.mark.parametrize("fault", STREAM_FAULTS, ids=lambda fault: f"{fault.kind} {fault.status}")
def test_a_source_that_falters_is_read_on(
    registry: Registry, second: Registry, image: Image, layout: Path, session: Session, fault: Fault
) -> None:
    push(image, layout, registry.host)
    with running_front(registry, fault) as front:
        moved(at(front.host, image), session, asked(second.host))
    assert second.request(f"/v2/vllm/manifests/{image.digest}")[0] == 200


def test_a_source_that_sends_other_bytes(
    registry: Registry, second: Registry, image: Image, layout: Path, session: Session
) -> None:
    push(image, layout, registry.host)
    largest = max(image.layers, key=lambda layer: layer.size)
    swapped = Fault(match=f"GET .*blobs/{largest.digest}", kind="swap", body=bytes(largest.size), times=None)
    with running_front(registry, swapped) as front, pytest.raises(PublicationError, match="other bytes"):
        moved(at(front.host, image), session, asked(second.host))
    assert second.request(f"/v2/vllm/manifests/{image.digest}")[0] == 404


def test_a_source_without_the_image(registry: Registry, image: Image, session: Session) -> None:
    with pytest.raises(RegistryError, match="404"):
        from_image(at(registry, image), session, ())


def test_an_unsigned_verdict_beside_the_image_counts_only_if_asked_for(
    registry: Registry, second: Registry, image: Image, layout: Path, session: Session, tmp_path: Path
) -> None:
    push(image, layout, registry.host, evidence=make_evidence(image, tmp_path))
    with pytest.raises(
        RegistryError, match="tag 1 was not put: it needs a passed verdict, but no trusted key has signed"
    ):
        moved(at(registry, image), session, asked(second.host, tags=("1",)))
    assert second.tags("vllm") == {}
    # Nothing was uploaded for a tag that the verdicts do not earn.
    assert second.request(f"/v2/vllm/manifests/{image.digest}")[0] == 404
    moved(at(registry, image), session, asked(second.host, tags=("1",), unsigned=True))
    assert second.tags("vllm") == {"1": image.digest}
    with pytest.raises(RegistryError, match="level gpu or better"):
        moved(at(registry, image), session, asked(second.host, tags=("2",), level="gpu", unsigned=True))


def test_a_cell_is_promoted_by_its_own_records(
    registry: Registry, second: Registry, image: Image, session: Session, tmp_path: Path
) -> None:
    done = promoted(built(session, image), session, asked(registry.host, second.host))
    assert registry.tags("vllm") == second.tags("vllm") == {"1-rc": image.digest}
    assert [each.name for each in done.withheld] == ["1"]
    assert len(oras_discover(f"{registry.host}/vllm@{image.digest}", tmp_path)) == 3


def test_a_verdict_made_on_the_board_gives_the_release_tag(
    registry: Registry, image: Image, session: Session, tmp_path: Path, keys: Keys
) -> None:
    promoted(built(session, image), session, asked(registry.host))
    board = replace(session, workspace=Workspace(project=tmp_path / "board", cache=tmp_path / "board-cache"))
    board = replace(board, config=Config(cosign_key=keys.private))
    written = write_verdict(built(board, image, "gpu"), board, tmp_path / "verdict.json")
    assert written.level == "gpu"
    wish = asked(registry.host, verdict=tmp_path / "verdict.json", keys=(keys.public,))
    done = promoted(job(), session, wish)
    assert registry.tags("vllm") == {"1-rc": image.digest, "1": image.digest}
    assert done.level == "gpu"
    assert done.withheld == ()
    kinds = [
        (each.get("annotations") or {}).get("in-toto.io/predicate-type")
        for each in oras_discover(f"{registry.host}/vllm@{image.digest}", tmp_path)
    ]
    assert kinds.count(statements.VERDICT) == 2


def test_a_verdict_is_handed_over_for_an_image_in_a_registry(
    registry: Registry, image: Image, layout: Path, session: Session, tmp_path: Path, keys: Keys
) -> None:
    push(image, layout, registry.host, level=None)
    path = verdict_file(tmp_path / "verdict.json", image, keys)
    moved(
        at(registry, image), session, asked(registry.host, tags=("1",), level="gpu", verdict=path, keys=(keys.public,))
    )
    assert registry.tags("vllm") == {"1": image.digest}


def test_verdicts_that_do_not_count(
    registry: Registry, image: Image, layout: Path, session: Session, tmp_path: Path, keys: Keys, stranger: Keys
) -> None:
    push(image, layout, registry.host, level=None)
    other = make_image(layout)
    path, public = tmp_path / "verdict.json", (keys.public,)
    cases: list[tuple[type[JbuildError], str, Any, dict[str, Any]]] = [
        (UsageError, "is not signed", lambda: verdict_file(path, image, None), {"keys": public}),
        (IntegrityError, "not signed by a trusted key", lambda: verdict_file(path, image, stranger), {"keys": public}),
        (UsageError, "no key to check", lambda: verdict_file(path, image, keys), {}),
        (IntegrityError, f"about {other.digest}, not", lambda: verdict_file(path, other, keys), {"keys": public}),
        (
            SmokeError,
            "FAILED",
            lambda: verdict_file(path, image, keys, passed=False, step="question"),
            {"keys": public},
        ),
        (IntegrityError, "neither an in-toto", lambda: path.write_text("{"), {"keys": public}),
        (IntegrityError, "not an in-toto statement", lambda: path.write_text("{}"), {"unsigned": True}),
        (UsageError, "cannot read the verdict", path.unlink, {"keys": public}),
    ]
    for kind, said, make, options in cases:
        make()
        with pytest.raises(kind, match=said):
            moved(at(registry, image), session, asked(registry.host, tags=("1",), verdict=path, **options))
        assert registry.tags("vllm") == {}
    verdict_file(path, image, None)
    moved(at(registry, image), session, asked(registry.host, tags=("1",), verdict=path, unsigned=True))
    assert registry.tags("vllm") == {"1": image.digest}


def test_a_signed_verdict_that_was_altered(
    registry: Registry, image: Image, layout: Path, session: Session, tmp_path: Path, keys: Keys
) -> None:
    push(image, layout, registry.host, level=None)
    low, high = (verdict_file(tmp_path / level, image, keys, level) for level in ("emulated", "gpu"))
    payload = json.loads(high.read_text())["payload"]
    altered = tmp_path / "altered.json"
    altered.write_text(json.dumps({**json.loads(low.read_text()), "payload": payload}))
    with pytest.raises(IntegrityError, match="not signed by a trusted key"):
        moved(at(registry, image), session, asked(registry.host, tags=("1",), verdict=altered, keys=(keys.public,)))
    assert registry.tags("vllm") == {}


def test_an_index_is_not_promoted(registry: Registry, image: Image, layout: Path, session: Session) -> None:
    push(image, layout, registry.host)
    entry = {"mediaType": image.manifest.media_type, "digest": image.digest, "size": image.manifest.size}
    (layout / "index.json").write_text(json.dumps({"schemaVersion": 2, "manifests": [entry]}))
    call(
        *("oras", "manifest", "push", "--plain-http", "--media-type", "application/vnd.oci.image.index.v1+json"),
        *(f"{registry.host}/vllm:index", str(layout / "index.json")),
        folder=layout,
    )
    with pytest.raises(RegistryError, match="index of several images"):
        from_image(Reference.parse(f"{registry.host}/vllm:index"), session, ())


def test_a_locked_source(
    locked_registry: Registry,
    registry: Registry,
    image: Image,
    layout: Path,
    session: Session,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    name = "".join(c if c.isalnum() else "_" for c in locked_registry.host)
    monkeypatch.setenv(f"JBUILD_REGISTRY_USER_{name}", USER)
    monkeypatch.setenv(f"JBUILD_REGISTRY_PASSWORD_{name}", PASSWORD)
    push(image, layout, locked_registry.host)
    moved(at(locked_registry, image), session, asked(registry.host))
    assert registry.request(f"/v2/vllm/manifests/{image.digest}")[0] == 200


def test_a_cell_without_an_image_or_a_verdict(image: Image, session: Session, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="has not been built"):
        from_cell(job(), session, asked())
    with pytest.raises(UsageError, match="no passing smoke verdict"):
        write_verdict(job(), session, tmp_path / "verdict.json")
    built(session, image)
    record = session.workspace.cell("demo", "one").record("smoke")
    records.write(record, "x", make_verdict(image, passed=False))
    assert from_cell(job(), session, asked()).levels == ()
    with pytest.raises(UsageError, match="no passing smoke verdict"):
        write_verdict(job(), session, tmp_path / "verdict.json")
    assert not (tmp_path / "verdict.json").exists()
