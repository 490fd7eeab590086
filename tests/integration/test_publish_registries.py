"""Publications to real registries, some of which misbehave: tags only where, and when, they are earned."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import threading
import time
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import pytest
from publishing import TAGS, all_on, blob_bytes, push, versioned
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
    running_registry,
    unknown_authority,
)

from builder.errors import IntegrityError, RecipeError
from builder.host.config import Config, RegistrySettings
from builder.model.publications import Publication, TagPut
from builder.model.recipes import TagRule
from builder.publish.push import PublicationError
from builder.recipe import placeholders

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from servers import Front

    from builder.model.images import Image

__all__ = ["locked_registry", "registry"]


@pytest.fixture(autouse=True)
def _nobodys_credentials(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("DOCKER_CONFIG", str(tmp_path / "docker"))


@pytest.fixture
def layout(tmp_path: Path) -> Path:
    return tmp_path / "layout"


@pytest.fixture
def image(layout: Path) -> Image:
    return make_image(layout)


@pytest.fixture
def second(tmp_path: Path) -> Iterator[Registry]:
    with running_registry(tmp_path / "second") as running:
        yield running


def test_an_image_is_published(registry: Registry, image: Image, layout: Path) -> None:
    done = push(image, layout, f"{registry.host}/jbuild")
    assert registry.tags("jbuild/vllm") == all_on(image)
    (there,) = done.registries
    assert there.repository == f"{registry.host}/jbuild/vllm"
    assert there.digest == done.digest == image.digest
    assert there.tags == tuple(TagPut(name=name, previous=None) for name in TAGS)
    assert (there.bytes_sent, there.bytes_there, there.bytes_mounted) == (blob_bytes(image), 0, 0)
    assert there.seconds > 0


def test_a_second_publication_sends_nothing(registry: Registry, image: Image, layout: Path) -> None:
    push(image, layout, registry.host)
    with running_front(registry) as front:
        (there,) = push(image, layout, front.host).registries
        assert front.asked("^(PUT|POST)") == 0
    assert (there.bytes_sent, there.bytes_there) == (0, blob_bytes(image))
    assert there.tags[0].previous == image.digest


def test_a_moved_tag_is_noted(registry: Registry, image: Image, layout: Path) -> None:
    other = make_image(layout)
    push(other, layout, registry.host, tags=("latest",))
    (there,) = push(image, layout, registry.host).registries
    assert there.tags == (TagPut(name="0.15.1", previous=None), TagPut(name="latest", previous=other.digest))
    assert registry.tags("vllm") == all_on(image)


def test_only_what_is_missing_is_sent(registry: Registry, layout: Path) -> None:
    first = make_image(layout, sizes=(1000, 2000))
    push(first, layout, registry.host)
    with running_front(registry) as front:
        again = make_image(layout, sizes=(5000,))
        (there,) = push(again, layout, front.host).registries
        assert front.bytes_in == there.bytes_sent + again.manifest.size * 3


def test_two_registries(registry: Registry, second: Registry, image: Image, layout: Path) -> None:
    done = push(image, layout, registry.host, f"{second.host}/mirror", registry.host)
    assert [each.repository for each in done.registries] == [f"{registry.host}/vllm", f"{second.host}/mirror/vllm"]
    assert registry.tags("vllm") == second.tags("mirror/vllm") == all_on(image)


def test_a_second_repository_of_a_registry_is_mounted(registry: Registry, image: Image, layout: Path) -> None:
    first, then = push(image, layout, f"{registry.host}/a", f"{registry.host}/b").registries
    assert (first.bytes_sent, then.bytes_sent, then.bytes_mounted) == (blob_bytes(image), 0, blob_bytes(image))
    assert registry.tags("a/vllm") == registry.tags("b/vllm") == all_on(image)


def test_layers_of_the_base_image_are_mounted(registry: Registry, layout: Path) -> None:
    base = f"{registry.host}/bases/debian:1"
    image = make_image(layout, labels=(("org.opencontainers.image.base.name", base),))
    push(image, layout, f"{registry.host}/bases", repository="debian", tags=("1",))
    (there,) = push(image, layout, registry.host).registries
    assert (there.bytes_sent, there.bytes_mounted) == (0, blob_bytes(image))


def test_an_odd_base_label_is_passed_over(registry: Registry, layout: Path) -> None:
    image = make_image(layout, labels=(("org.opencontainers.image.base.name", "https://no name"),))
    assert push(image, layout, registry.host).digest == image.digest


def test_a_locked_registry(
    locked_registry: Registry, image: Image, layout: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(PublicationError) as caught:
        push(image, layout, locked_registry.host)
    assert f"docker login {locked_registry.host}" in (caught.value.hint or "")
    monkeypatch.setenv("JBUILD_REGISTRY_USER", USER)
    monkeypatch.setenv("JBUILD_REGISTRY_PASSWORD", PASSWORD)
    push(image, layout, locked_registry.host)
    assert locked_registry.tags("vllm", user=f"{USER}:{PASSWORD}") == all_on(image)


REFUSALS = [
    ("blob refused", Fault(match="POST .*uploads", kind="answer", status=403, times=None), "may not push"),
    ("log-in wanted", Fault(match="HEAD .*blobs", kind="answer", status=401, times=None), "docker login"),
    ("name unknown", Fault(match="POST .*uploads", kind="answer", status=404, times=None), "created first"),
    ("too large", Fault(match="PUT .*uploads", kind="answer", status=413, times=None), "client_max_body_size"),
    ("full", Fault(match="PUT .*uploads", kind="answer", status=507, times=None), "is full"),
    ("broken", Fault(match="PUT .*uploads", kind="answer", status=500, times=None), "registry's log"),
    ("limited", Fault(match="POST .*uploads", kind="answer", status=429, times=None), "limits requests"),
    ("cut for ever", Fault(match="PUT .*uploads", kind="cut", after=1, times=None), "run the same command again"),
    ("manifest refused", Fault(match="PUT .*manifests/sha256", kind="answer", status=400, times=None), "version 2"),
    ("manifest lost", Fault(match="GET .*manifests/sha256", kind="answer", status=404, times=None), "does not have"),
    ("other bytes", Fault(match="GET .*manifests/sha256", kind="swap", body=b"{}", times=None), "damaged"),
    ("gone", Fault(match="", kind="answer", status=503, times=None), "down or starting"),
]


@pytest.mark.parametrize(("fault", "hint"), [pytest.param(f, h, id=n) for n, f, h in REFUSALS])
def test_a_registry_that_fails_gets_no_tag_nor_does_any_other(
    registry: Registry, second: Registry, image: Image, layout: Path, fault: Fault, hint: str
) -> None:
    with running_front(registry, fault) as front:
        with pytest.raises(PublicationError) as caught:
            push(image, layout, front.host, second.host)
        assert front.asked("PUT .*manifests/(?!sha256)") == 0
        name = f"{front.host}/vllm"
    error = caught.value
    assert error.where == name
    assert hint in (error.hint or "")
    assert "No tags were set" in error.message
    assert registry.tags("vllm") == second.tags("vllm") == {}
    (failure,) = error.publication.failures
    assert (failure.repository, failure.stage) == (name, "image")
    (there,) = error.publication.registries
    assert (there.repository, there.digest, there.tags) == (f"{second.host}/vllm", image.digest, ())
    push(image, layout, registry.host, second.host)
    assert registry.tags("vllm") == second.tags("vllm") == all_on(image)


def test_the_others_are_completed_if_the_recipe_says_so(second: Registry, image: Image, layout: Path) -> None:
    nobody = f"127.0.0.1:{free_port()}"
    with pytest.raises(PublicationError) as caught:
        push(image, layout, nobody, second.host, on_failure="complete-others")
    assert second.tags("vllm") == all_on(image)
    assert "connection refused" in caught.value.message
    assert f"Tags were put in {second.host}/vllm (0.15.1, latest)" in caught.value.message
    assert f"{nobody}/vllm" == caught.value.where


PASSING = [
    Fault(match="POST .*uploads", kind="answer", status=429, headers={"Retry-After": "0"}, times=3),
    Fault(match="PUT .*uploads", kind="answer", status=500, times=3),
    Fault(match="PUT .*uploads", kind="cut", after=50_000, times=3),
    Fault(match="PUT .*uploads", kind="forward-then-cut", times=2),
    Fault(match="PUT .*manifests", kind="forward-then-cut", times=2),
    Fault(match="PUT .*manifests/latest", kind="answer", status=502, times=2),
    Fault(match="GET .*manifests", kind="cut-answer", after=10, times=2),
    Fault(match="HEAD", kind="delay", seconds=0.3, times=2),
]


@pytest.mark.parametrize("fault", PASSING, ids=lambda fault: f"{fault.kind} {fault.match}")
def test_faults_that_pass_do_no_harm(registry: Registry, image: Image, layout: Path, fault: Fault) -> None:
    with running_front(registry, fault) as front:
        (there,) = push(image, layout, front.host).registries
    assert registry.tags("vllm") == all_on(image)
    assert there.bytes_sent == blob_bytes(image)


def test_a_tag_that_fails_is_reported_with_those_that_are_put(registry: Registry, image: Image, layout: Path) -> None:
    fault = Fault(match="PUT .*manifests/latest", kind="answer", status=403, times=None)
    with running_front(registry, fault) as front, pytest.raises(PublicationError) as caught:
        push(image, layout, front.host)
    (failure,) = caught.value.publication.failures
    (there,) = caught.value.publication.registries
    assert failure.stage == "tags"
    assert [tag.name for tag in there.tags] == ["0.15.1"]
    assert registry.tags("vllm") == {"0.15.1": image.digest}


def test_a_tag_that_somebody_else_moved_is_noticed(registry: Registry, image: Image, layout: Path) -> None:
    other = make_image(layout)
    push(other, layout, registry.host, tags=("other",))
    content = (layout / "blobs/sha256" / other.digest[7:]).read_bytes()
    digest = {"Docker-Content-Digest": other.digest}
    swap = Fault(match="GET .*manifests/0.15.1", kind="swap", body=content, headers=digest)
    with running_front(registry, swap) as front, pytest.raises(PublicationError, match="now points to") as caught:
        push(image, layout, front.host)
    assert other.digest in caught.value.message
    assert "No tag points to the pushed image" in caught.value.message


def test_an_unknown_authority(
    registry: Registry, image: Image, layout: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    context, certificate = unknown_authority(tmp_path, "localhost.test")
    real = socket.getaddrinfo
    monkeypatch.setattr(
        socket, "getaddrinfo", lambda host, *a, **o: real("127.0.0.1" if host == "localhost.test" else host, *a, **o)
    )
    monkeypatch.setenv("NO_PROXY", "localhost.test")
    with running_front(registry, tls=context) as front:
        target = f"localhost.test:{front.server_address[1]}"
        with pytest.raises(PublicationError, match="not trusted") as caught:
            push(image, layout, target)
        assert "ca-bundle" in (caught.value.hint or "")
        assert registry.tags("vllm") == {}
        own = RegistrySettings(host=target, ca_bundle=certificate)
        push(image, layout, target, config=Config(registry_settings=(own,)))
        push(image, layout, target, config=Config(ca_bundle=certificate))
    assert registry.tags("vllm") == all_on(image)


@pytest.mark.parametrize(
    "names", [{"tags": ("a b",)}, {"tags": ("ok", "--flag")}, {"repository": "Vllm"}, {"repository": "../x"}]
)
def test_bad_names_are_refused_before_anything_is_sent(
    registry: Registry, image: Image, layout: Path, names: dict[str, Any]
) -> None:
    with running_front(registry) as front:
        with pytest.raises(RecipeError):
            push(image, layout, front.host, **names)
        assert front.log == []


def test_a_damaged_layout_is_refused_before_anything_is_sent(registry: Registry, image: Image, layout: Path) -> None:
    layer = layout / "blobs/sha256" / image.layers[0].digest[7:]
    content = layer.read_bytes()
    with running_front(registry) as front:
        for damage in (layer.unlink, lambda: layer.write_bytes(b"short")):
            damage()
            with pytest.raises(IntegrityError):
                push(image, layout, front.host)
        assert front.log == []
        layer.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
        with pytest.raises(PublicationError, match="does not match its digest"):
            push(image, layout, front.host)
    assert registry.tags("vllm") == {}


def _interrupt_upload(front: Front, registry: Registry) -> None:
    """Interrupt this process when one upload stands still and another blob is there."""
    until = time.monotonic() + 60
    while not (front.asked("PUT .*uploads") and any(registry.storage.rglob("_layers/sha256/*/link"))):
        if time.monotonic() > until:
            break
        time.sleep(0.05)
    os.kill(os.getpid(), signal.SIGINT)


def test_ctrl_c_ends_at_once_and_the_next_run_goes_on(registry: Registry, image: Image, layout: Path) -> None:
    slow = Fault(match="PUT .*uploads", kind="delay", seconds=600, times=1)
    with running_front(registry, slow) as front:
        threading.Thread(target=_interrupt_upload, args=(front, registry)).start()
        with pytest.raises(KeyboardInterrupt):
            push(image, layout, front.host)
        assert registry.tags("vllm") == {}
        (there,) = push(image, layout, front.host).registries
    assert there.bytes_there > 0
    assert registry.tags("vllm") == all_on(image)


def test_two_runs_that_publish_the_same_do_not_disturb_each_other(
    registry: Registry, image: Image, layout: Path
) -> None:
    outcomes: list[Publication] = []
    runs = [threading.Thread(target=lambda: outcomes.append(push(image, layout, registry.host))) for _ in range(3)]
    for run in runs:
        run.start()
    for run in runs:
        run.join()
    assert [each.digest for each in outcomes] == [image.digest] * 3
    assert registry.tags("vllm") == all_on(image)


def test_a_blob_that_the_registry_overlooks_once(registry: Registry, image: Image, layout: Path) -> None:
    body = b'{"errors": [{"code": "MANIFEST_BLOB_UNKNOWN", "message": "blob unknown to registry"}]}'
    fault = Fault(match="PUT .*manifests/sha256", kind="answer", status=400, body=body)
    with running_front(registry, fault) as front:
        push(image, layout, front.host)
        front.faults = [replace(fault, times=None)]
        with pytest.raises(PublicationError, match="MANIFEST_BLOB_UNKNOWN"):
            push(make_image(layout), layout, front.host)
    assert registry.tags("vllm") == all_on(image)


def test_a_refused_blob_ends_the_others_of_its_registry(registry: Registry, layout: Path) -> None:
    image = make_image(layout, sizes=(60_000_000, 1000))
    large, small = (layer.digest[7:] for layer in image.layers)
    refused = Fault(match=f"PUT .*{small}", kind="answer", status=403)
    slow = Fault(match=f"PUT .*{large}", kind="delay", seconds=6)
    with running_front(registry, refused, slow) as front:
        with pytest.raises(PublicationError, match="answers 403"):
            push(image, layout, front.host)
        assert front.bytes_in < 60_000_000


RC, RELEASE = TagRule(name="1-rc"), TagRule(name="1", level="gpu", immutable=True)
LATEST = TagRule(name="latest", moving=True)


def test_a_tag_waits_for_its_level_and_the_digest_goes_up(registry: Registry, image: Image, layout: Path) -> None:
    done = push(image, layout, registry.host, rules=(RC, RELEASE), level="emulated")
    assert registry.tags("vllm") == {"1-rc": image.digest}
    assert [each.name for each in done.withheld] == ["1"]
    assert done.level == "emulated"
    push(image, layout, registry.host, rules=(RC, RELEASE), level="gpu")
    assert registry.tags("vllm") == {"1-rc": image.digest, "1": image.digest}


def test_nothing_is_tagged_without_a_verdict(registry: Registry, image: Image, layout: Path) -> None:
    done = push(image, layout, registry.host, rules=(RC,), level=None)
    assert registry.tags("vllm") == {}
    assert registry.request(f"/v2/vllm/manifests/{image.digest}")[0] == 200
    assert done.registries[0].tags == ()


def test_a_building_block_needs_no_verdict(registry: Registry, image: Image, layout: Path) -> None:
    push(image, layout, registry.host, rules=(RC,), level=None, building_block=True)
    assert registry.tags("vllm") == {"1-rc": image.digest}


def test_a_moving_tag_stays_on_what_is_newer(registry: Registry, second: Registry, layout: Path) -> None:
    old, new = versioned(layout, "0.9.2"), versioned(layout, "0.15.1")
    push(new, layout, registry.host, rules=(LATEST,))
    done = push(old, layout, registry.host, second.host, rules=(LATEST, RC))
    assert registry.tags("vllm") == {"latest": new.digest, "1-rc": old.digest}
    assert second.tags("vllm") == {"latest": old.digest, "1-rc": old.digest}
    first, then = done.registries
    assert [(each.name, "0.15.1" in each.reason) for each in first.withheld] == [("latest", True)]
    assert then.withheld == ()
    push(new, layout, registry.host, second.host, rules=(LATEST,))
    assert registry.tags("vllm")["latest"] == second.tags("vllm")["latest"] == new.digest


def test_a_moving_tag_on_a_foreign_image_stays_unless_forced(registry: Registry, image: Image, layout: Path) -> None:
    push(image, layout, registry.host, tags=("latest",))
    new = versioned(layout, "0.15.1")
    (there,) = push(new, layout, registry.host, rules=(LATEST,)).registries
    assert "cannot be compared" in there.withheld[0].reason
    assert registry.tags("vllm") == {"latest": image.digest}
    push(new, layout, registry.host, rules=(LATEST,), force_tags=True)
    assert registry.tags("vllm") == {"latest": new.digest}


def test_a_tag_that_leaves_another_recipes_image_is_mentioned(
    registry: Registry, image: Image, layout: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    first, copy = versioned(layout, "0.15.1"), versioned(layout, "0.15.1", recipe="copy")
    push(first, layout, registry.host, tags=("1",))
    push(versioned(layout, "0.15.2"), layout, registry.host, tags=("1",))
    assert capsys.readouterr().err == ""
    push(copy, layout, registry.host, tags=("1", "2"))
    assert capsys.readouterr().err == (
        f"warning: {registry.host}/vllm:1 moves from an image of recipe r to the new image; "
        "if the recipe is a copy, give it other `tags` under [publish]\n"
    )
    assert registry.tags("vllm") == {"1": copy.digest, "2": copy.digest}
    push(first, layout, registry.host, tags=("1",), force_tags=True)
    push(image, layout, registry.host, tags=("1",))
    assert capsys.readouterr().err == ""


def test_an_immutable_tag_is_not_overwritten_anywhere(
    registry: Registry, second: Registry, image: Image, layout: Path
) -> None:
    other = make_image(layout, sizes=(1000,))
    push(other, layout, second.host, rules=(RELEASE,), level="gpu")
    with pytest.raises(PublicationError, match="immutable tags are on another image") as caught:
        push(image, layout, registry.host, second.host, rules=(RC, RELEASE), level="gpu")
    assert "--force-tags" in (caught.value.hint or "")
    assert other.digest in caught.value.message
    assert (registry.tags("vllm"), second.tags("vllm")) == ({}, {"1": other.digest})
    push(other, layout, second.host, rules=(RELEASE,), level="gpu")
    push(image, layout, registry.host, second.host, rules=(RC, RELEASE), level="gpu", force_tags=True)
    assert registry.tags("vllm") == second.tags("vllm") == {"1-rc": image.digest, "1": image.digest}


def test_force_does_not_lower_the_level(registry: Registry, image: Image, layout: Path) -> None:
    push(image, layout, registry.host, rules=(RELEASE,), level="cpu", force_tags=True)
    assert registry.tags("vllm") == {}


def test_a_failed_upload_leaves_nothing_open(registry: Registry, image: Image, layout: Path) -> None:
    fault = Fault(match="PUT .*uploads", kind="answer", status=500, times=None)
    with running_front(registry, fault) as front, pytest.raises(PublicationError):
        push(image, layout, front.host)
    # The registry itself leaves empty folders where an upload was cancelled.
    assert list(registry.storage.rglob("_uploads/*/data")) == []


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A folder on a disk of 256 KB."""
    folder = tmp_path / "small"
    folder.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=256k", "tmpfs", str(folder)], check=False)
    if mounted.returncode != 0:
        pytest.skip("no right to mount a small disk")
    yield folder
    subprocess.run(["umount", "--lazy", str(folder)], check=True)


def test_a_registry_whose_disk_is_really_full(small_disk: Path, image: Image, layout: Path, second: Registry) -> None:
    with running_registry(small_disk) as full:
        with pytest.raises(PublicationError, match="cannot send blob") as caught:
            push(image, layout, full.host, second.host)
        assert full.tags("vllm") == second.tags("vllm") == {}
    assert "is its disk full?" in (caught.value.hint or "")


def test_a_tag_that_the_image_names(registry: Registry, layout: Path) -> None:
    image = versioned(layout, "0.15.1", torch="2.8.0+cu126")
    push(image, layout, registry.host, rules=(TagRule(name=f"torch{placeholders.marks()['image-torch']}"),))
    assert registry.tags("vllm") == {"torch2.8.0-cu126": image.digest}
