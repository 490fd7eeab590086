"""The registry client against a real registry, and against one that misbehaves."""

from __future__ import annotations

import json
import socket
from typing import TYPE_CHECKING, Any

import pytest
from servers import (
    PASSWORD,
    USER,
    Fault,
    Registry,
    free_port,
    locked_registry,
    make_image,
    registry,
    running_front,
    unknown_authority,
)

from builder.errors import IntegrityError, RecipeError, RegistryError
from builder.host.config import Config, RegistryMirror
from builder.remote.http import CA_HINT, Patience, Retry
from builder.remote.registry.base_lookup import resolve_digest
from builder.remote.registry.registry_client import OCI_INDEX, RegistryClient, connect
from builder.remote.registry.registry_failures import ImageMissingError, RegistryUnreachableError
from builder.remote.registry.upload import BytesBlob

if TYPE_CHECKING:
    from pathlib import Path

    from builder.model.images import Image

__all__ = ["locked_registry", "registry"]

QUICK = Retry(first_wait_s=0.01, longest_wait_s=2.0)
NAME = "r.test"


@pytest.fixture(autouse=True)
def _nobodys_credentials(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("DOCKER_CONFIG", str(tmp_path / "docker"))


def ask(host: str, **options: Any) -> RegistryClient:
    return connect(host, Config(), retry=QUICK, **options)


def push(client: RegistryClient, image: Image, layout: Path, tag: str = "1") -> None:
    for blob in (image.config, *image.layers):
        client.send_blob("a/b", BytesBlob((layout / "blobs/sha256" / blob.digest[7:]).read_bytes()))
    content = (layout / "blobs/sha256" / image.digest[7:]).read_bytes()
    client.put_manifest("a/b", tag, content, image.manifest.media_type)


def test_an_image_goes_up_and_comes_down(registry: Registry, tmp_path: Path) -> None:
    image, client = make_image(tmp_path), ask(registry.host)
    assert client.head_manifest("a/b", "1") is None
    assert not client.has_blob("a/b", image.config.digest)
    push(client, image, tmp_path)
    assert registry.tags("a/b") == {"1": image.digest}
    assert client.head_manifest("a/b", "1") == image.manifest
    content, descriptor = client.get_manifest("a/b", image.digest)
    assert descriptor == image.manifest
    assert json.loads(content)["config"]["digest"] == image.config.digest
    for layer in image.layers:
        blocks: list[bytes] = []
        assert client.get_blob("a/b", layer.digest, blocks.append) == layer.size
        assert b"".join(blocks) == (tmp_path / "blobs/sha256" / layer.digest[7:]).read_bytes()


def test_a_blob_is_mounted_from_another_repository(registry: Registry, tmp_path: Path) -> None:
    image, client = make_image(tmp_path), ask(registry.host)
    push(client, image, tmp_path)
    assert client.mount_blob("c/d", image.layers[0].digest, "a/b")
    assert client.has_blob("c/d", image.layers[0].digest)
    assert not client.mount_blob("c/d", "sha256:" + "0" * 64, "a/b")


def test_what_is_not_there_is_missing(registry: Registry) -> None:
    with pytest.raises(ImageMissingError) as caught:
        ask(registry.host).get_manifest("a/b", "1")
    assert caught.value.where == f"{registry.host}/a/b"
    with pytest.raises(ImageMissingError):
        ask(registry.host).get_blob("a/b", "sha256:" + "0" * 64, lambda _: None)


def test_nobody_there_is_unreachable() -> None:
    host = f"127.0.0.1:{free_port()}"
    with pytest.raises(RegistryUnreachableError, match="connection refused") as caught:
        ask(host).get_manifest("a/b", "1")
    assert f"running at {host}" in (caught.value.hint or "")
    assert not isinstance(caught.value, ImageMissingError)


def test_a_host_that_does_not_exist() -> None:
    with pytest.raises(RegistryUnreachableError, match=r"host name is unknown|no answer|proxy"):
        ask("registry.invalid").get_manifest("a/b", "1")


def test_a_locked_registry_wants_a_log_in(locked_registry: Registry, tmp_path: Path) -> None:
    with pytest.raises(RegistryError) as caught:
        ask(locked_registry.host).head_manifest("a/b", "1")
    assert f"docker login {locked_registry.host}" in (caught.value.hint or "")
    assert not isinstance(caught.value, RegistryUnreachableError)


def test_a_locked_registry_takes_the_password(
    locked_registry: Registry, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("JBUILD_REGISTRY_USER", USER)
    monkeypatch.setenv("JBUILD_REGISTRY_PASSWORD", PASSWORD)
    image = make_image(tmp_path)
    push(ask(locked_registry.host, publish=True), image, tmp_path)
    assert locked_registry.tags("a/b", user=f"{USER}:{PASSWORD}") == {"1": image.digest}
    monkeypatch.setenv("JBUILD_REGISTRY_PASSWORD", "wrong")
    with pytest.raises(RegistryError, match="answers 401"):
        ask(locked_registry.host, publish=True).get_manifest("a/b", "1")


def log_in(folder: Path, host: str, entry: dict[str, str]) -> None:
    folder.mkdir(exist_ok=True)
    (folder / "config.json").write_text(json.dumps({"auths": {host: entry}}))


@pytest.mark.parametrize("entry", [{"username": USER, "password": PASSWORD}, {"identitytoken": PASSWORD}])
def test_tokens(registry: Registry, tmp_path: Path, entry: dict[str, str]) -> None:
    image = make_image(tmp_path)
    with running_front(registry, tokens=True) as front:
        with pytest.raises(RegistryError, match="UNAUTHORIZED: who are you"):
            ask(front.host).head_manifest("a/b", "1")
        log_in(tmp_path / "docker", front.host, entry)
        client = ask(front.host)
        push(client, image, tmp_path)
        assert client.head_manifest("a/b", "1") == image.manifest
        assert client.mount_blob("c/d", image.layers[0].digest, "a/b")
        scopes = sorted(front.issued.values())
    assert scopes == [
        "repository:a/b:pull",
        "repository:a/b:pull,push",
        "repository:c/d:pull,push repository:a/b:pull",
    ]


@pytest.mark.parametrize(("status", "times"), [(429, 2), (500, 2), (503, 4)])
def test_faults_that_pass(registry: Registry, tmp_path: Path, status: int, times: int) -> None:
    image = make_image(tmp_path)
    fault = Fault(match="(PUT|GET|POST|HEAD) ", kind="answer", status=status, times=times, headers={"Retry-After": "0"})
    with running_front(registry, fault) as front:
        push(ask(front.host), image, tmp_path)
    assert registry.tags("a/b") == {"1": image.digest}


def test_a_fault_that_stays_ends_after_five_tries(registry: Registry) -> None:
    fault = Fault(match="GET .*manifests", kind="answer", status=500, times=None)
    with running_front(registry, fault) as front:
        with pytest.raises(RegistryError, match="answers 500"):
            ask(front.host).get_manifest("a/b", "1")
        assert front.asked("GET .*manifests") == 5


def test_a_slow_registry_is_given_up(registry: Registry) -> None:
    fault = Fault(match="GET", kind="delay", seconds=2, times=None)
    with (
        running_front(registry, fault) as front,
        pytest.raises(RegistryUnreachableError, match="within the time limit"),
    ):
        connect(
            front.host, Config(), retry=Retry(tries=2, first_wait_s=0.01), patience=Patience(read_s=0.2)
        ).get_manifest("a/b", "1")


def test_an_upload_that_is_cut_goes_again(registry: Registry, tmp_path: Path) -> None:
    image = make_image(tmp_path, sizes=(3_000_000,))
    counted: list[int] = []
    with running_front(registry, Fault(match="PUT .*uploads", kind="cut", after=1_000_000, times=2)) as front:
        layer = image.layers[0]
        path = tmp_path / "blobs/sha256" / layer.digest[7:]
        ask(front.host).send_blob("a/b", BytesBlob(path.read_bytes()), counted.append)
    assert sum(counted) == layer.size
    assert ask(registry.host).has_blob("a/b", layer.digest)


def test_an_upload_whose_answer_is_lost_does_not_go_again(registry: Registry, tmp_path: Path) -> None:
    image = make_image(tmp_path, sizes=(1_000_000,))
    layer = image.layers[0]
    with running_front(registry, Fault(match="PUT .*uploads", kind="forward-then-cut")) as front:
        ask(front.host).send_blob("a/b", BytesBlob((tmp_path / "blobs/sha256" / layer.digest[7:]).read_bytes()))
        assert front.asked("PUT .*uploads") == 1
        assert front.bytes_in == layer.size


def test_a_download_that_is_cut_goes_on(registry: Registry, tmp_path: Path) -> None:
    image = make_image(tmp_path, sizes=(3_000_000,))
    push(ask(registry.host), image, tmp_path)
    blocks: list[bytes] = []
    with running_front(registry, Fault(match="GET .*blobs", kind="cut-answer", after=1_500_000, times=2)) as front:
        assert ask(front.host).get_blob("a/b", image.layers[0].digest, blocks.append) == 3_000_000
    assert b"".join(blocks) == (tmp_path / "blobs/sha256" / image.layers[0].digest[7:]).read_bytes()


def test_other_bytes_are_noticed(registry: Registry, tmp_path: Path) -> None:
    image = make_image(tmp_path)
    push(ask(registry.host), image, tmp_path)
    swaps = [Fault(match=f"GET .*{kind}", kind="swap", body=b"{}", times=None) for kind in ("manifests", "blobs")]
    with running_front(registry, *swaps) as front:
        with pytest.raises(RegistryError, match="was expected"):
            ask(front.host).get_manifest("a/b", "1")
        with pytest.raises(IntegrityError):
            ask(front.host).get_blob("a/b", image.config.digest, lambda _: None)


@pytest.fixture
def named_loopback(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let a name that does not look like loopback lead there, so that the client speaks TLS."""
    real = socket.getaddrinfo

    def fake(host: Any, *args: Any, **options: Any) -> Any:
        return real("127.0.0.1" if host == NAME else host, *args, **options)

    monkeypatch.setattr(socket, "getaddrinfo", fake)
    for name in ("HTTPS_PROXY", "https_proxy", "ALL_PROXY", "all_proxy", "REQUESTS_CA_BUNDLE"):
        monkeypatch.delenv(name, raising=False)


@pytest.mark.usefixtures("named_loopback")
def test_an_unknown_authority_is_named_and_a_bundle_mends_it(registry: Registry, tmp_path: Path) -> None:
    image = make_image(tmp_path)
    context, certificate = unknown_authority(tmp_path, NAME)
    with running_front(registry, tls=context) as front:
        host = f"{NAME}:{front.server_address[1]}"
        with pytest.raises(RegistryUnreachableError, match="certificate is not trusted") as caught:
            ask(host).get_manifest("a/b", "1")
        assert caught.value.hint == CA_HINT
        push(connect(host, Config(ca_bundle=certificate), retry=QUICK), image, tmp_path)
    assert registry.tags("a/b") == {"1": image.digest}


@pytest.mark.usefixtures("named_loopback")
def test_plain_http_where_tls_was_expected(registry: Registry) -> None:
    host = registry.host.replace("127.0.0.1", NAME)
    with pytest.raises(RegistryUnreachableError, match="TLS") as caught:
        ask(host).get_manifest("a/b", "1")
    assert f'insecure = ["{host}"]' in (caught.value.hint or "")
    insecure = Config(insecure_registries=(host,))
    with pytest.raises(ImageMissingError):
        connect(host, insecure, retry=QUICK).get_manifest("a/b", "1")


def test_a_base_image_is_looked_up(registry: Registry, tmp_path: Path) -> None:
    image = make_image(tmp_path)
    push(ask(registry.host), image, tmp_path)
    found = resolve_digest(f"{registry.host}/a/b:1", Config(), "arm64", retry=QUICK)
    assert (found.digest, found.stand_in) == (image.digest, None)
    again = resolve_digest(f"{registry.host}/a/b@{image.digest}", Config(), "arm64", retry=QUICK)
    assert again.digest == image.digest


def test_a_mirror_rule_applies_to_short_and_full_names(registry: Registry, tmp_path: Path) -> None:
    image = make_image(tmp_path)
    push(ask(registry.host), image, tmp_path, tag="bookworm")
    rule = RegistryMirror(prefix="docker.io/library/debian", mirror=f"{registry.host}/a/b", stand_in="made here")
    for name in ("debian:bookworm", "docker.io/library/debian:bookworm"):
        found = resolve_digest(name, Config(registry_mirrors=(rule,)), "arm64", retry=QUICK)
        assert (found.name, found.used) == (name, f"{registry.host}/a/b:bookworm")
        assert (found.digest, found.stand_in) == (image.digest, "made here")


def test_a_missing_image_names_the_mirror_rule(registry: Registry) -> None:
    rule = RegistryMirror(prefix="debian", mirror=f"{registry.host}/a/b")
    with pytest.raises(ImageMissingError) as caught:
        resolve_digest("debian:bookworm", Config(registry_mirrors=(rule,)), "arm64", retry=QUICK)
    assert "a mirror rule sends debian to" in (caught.value.hint or "")


def test_an_image_for_another_architecture_is_refused(registry: Registry, tmp_path: Path) -> None:
    push(ask(registry.host), make_image(tmp_path, architecture="amd64"), tmp_path)
    with pytest.raises(RecipeError, match="is for linux/amd64, not for linux/arm64"):
        resolve_digest(f"{registry.host}/a/b:1", Config(), "arm64", retry=QUICK)


def test_an_index_offers_its_platforms(registry: Registry, tmp_path: Path) -> None:
    client, entries = ask(registry.host), []
    for architecture in ("amd64", "arm64"):
        image = make_image(tmp_path, architecture=architecture)
        push(client, image, tmp_path, tag=architecture)
        platform = {"os": "linux", "architecture": architecture}
        entries.append(
            {
                "mediaType": image.manifest.media_type,
                "digest": image.digest,
                "size": image.manifest.size,
                "platform": platform,
            }
        )
    entries.append({**entries[0], "platform": {"os": "unknown", "architecture": "unknown"}})
    content = json.dumps({"schemaVersion": 2, "mediaType": OCI_INDEX, "manifests": entries}).encode()
    client.put_manifest("a/b", "all", content, OCI_INDEX)
    name = f"{registry.host}/a/b:all"
    assert resolve_digest(name, Config(), "arm64", retry=QUICK).digest == client.get_manifest("a/b", "all")[1].digest
    with pytest.raises(RecipeError, match="is for linux/amd64, linux/arm64, not for linux/riscv64"):
        resolve_digest(name, Config(), "riscv64", retry=QUICK)


def test_what_is_no_image_is_said_to_be_none(registry: Registry, tmp_path: Path) -> None:
    push(ask(registry.host), make_image(tmp_path), tmp_path)
    odd = Fault(match="GET .*manifests", kind="swap", body=b"[]", headers={"Docker-Content-Digest": ""}, times=None)
    with running_front(registry, odd) as front, pytest.raises(RegistryError, match="cannot be read"):
        resolve_digest(f"{front.host}/a/b:1", Config(), "arm64", retry=QUICK)
