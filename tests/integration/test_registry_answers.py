"""Verbs against a real registry behind a front that answers as proxies, sign-in pages and strict registries do."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import pytest
from project import assert_refused
from proven_folder import Folder
from servers import Fault, Front, Registry, make_image, registry, running_front

from builder.errors import NetworkError, RegistryError
from builder.host.config import Config
from builder.remote.http import Patience, Retry
from builder.remote.registry.base_lookup import base_registry, resolve_digest
from builder.remote.registry.registry_client import connect
from builder.remote.registry.registry_failures import NotRegistryError, RegistryUnreachableError
from builder.remote.registry.upload import BytesBlob

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

__all__ = ["registry"]

QUICK = Retry(first_wait_s=0.01, longest_wait_s=2.0)
PAGE = b"<!doctype html><html><head><title>Sign in</title></head></html>"
HTML = {"Content-Type": "text/html"}
UPLOAD = "blobs/uploads/"
PROMOTE = ("--unsigned-verdict", "--tag", "rc")


@pytest.fixture
def folder(tmp_path: Path) -> Folder:
    return Folder(tmp_path)


def web_page(match: str) -> Fault:
    return Fault(match=match, kind="answer", status=200, headers=HTML, body=PAGE, times=None)


def blob(size: int) -> BytesBlob:
    return BytesBlob(bytes(range(256)) * (size // 256))


@pytest.mark.parametrize("match", ["", "^GET"])
def test_a_web_page_in_place_of_the_registry(folder: Folder, registry: Registry, match: str) -> None:
    with running_front(registry, web_page(match)) as front:
        image = f"{front.host}/edge/vllm:1"
        promoted = folder.run("promote", "demo", "--to", f"{front.host}/edge", *PROMOTE)
        assert_refused(promoted, 11, r"a web page answers \(200 text/html\)", "not a registry", "in a browser")
        for verb in (("verify", image), ("diff", image, image)):
            assert_refused(folder.run(*verb), 11, r"a web page answers \(200 text/html\) titled “Sign in”")
        for argv in (("tags", "demo"), ("pick", "demo", "--level", "emulated")):
            done = folder.run(*argv, "--registry", f"{front.host}/edge")
            assert done.code == 11
            assert "a web page answers" in f"{done.stdout}{done.stderr}"
    assert registry.tags("edge/vllm") == {}


def test_a_web_page_in_place_of_the_bases_registry(registry: Registry) -> None:
    with running_front(registry, web_page("")) as front:
        with pytest.raises(NetworkError, match="a web page answers"):
            resolve_digest(f"{front.host}/a/b:1", Config(), "arm64", retry=QUICK)
        with pytest.raises(NetworkError, match="a web page answers"), base_registry("a/b"):
            connect(front.host, Config(), retry=QUICK).get_manifest("a/b", "1")


def spoilt(change: Callable[[str], str]) -> Callable[[Front], Fault]:
    """Return a fault that replaces the addresses of uploads with others."""

    def fault(front: Front) -> Fault:
        return Fault(match=f"POST .*{UPLOAD}", kind="swap", headers={"Location": change(front.host)}, times=None)

    return fault


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda _: "http://127.0.0.1:1/v2/edge/vllm/blobs/uploads/1", "changes the port"),
        (lambda host: f"https://{host}/v2/edge/vllm/blobs/uploads/1", "gives https in that address"),
        (lambda _: "http://registry.invalid:5000/v2/up", "gives the host registry.invalid"),
        (lambda host: f"http://{host}/other/v2/up", "gives a wrong path"),
    ],
)
def test_an_upload_at_a_spoilt_address(registry: Registry, change: Callable[[str], str], words: str) -> None:
    with running_front(registry) as front:
        front.faults.append(spoilt(change)(front))
        client = connect(front.host, Config(), retry=replace(QUICK, tries=2))
        with pytest.raises(RegistryError, match="from the registry's Location header") as caught:
            client.send_blob("edge/vllm", blob(1024))
        assert words in (caught.value.hint or "")
        assert "insecure" not in (caught.value.hint or "")
        assert change(front.host) in caught.value.message


def test_an_immutable_tag_is_told_so(folder: Folder, registry: Registry) -> None:
    body = b'{"errors": [{"code": "PRECONDITION", "message": "\'edge/vllm:rc\' configured as immutable."}]}'
    fault = Fault(match="PUT .*manifests/rc", kind="answer", status=412, body=body, times=None)
    with running_front(registry, fault) as front:
        done = folder.run("promote", "demo", "--to", f"{front.host}/edge", *PROMOTE)
    assert_refused(done, 11, "answers 412", "the tag is immutable in this registry", "use another tag")


def turning(times: int | None) -> Fault:
    headers = {"Location": "{path}"}
    return Fault(match=f"PUT .*{UPLOAD}", kind="answer", status=307, headers=headers, times=times)


def test_a_redirect_to_itself_sends_the_whole_blob_again(registry: Registry) -> None:
    content = blob(3_000_000)
    with running_front(registry, turning(1)) as front:
        client = connect(front.host, Config(), retry=QUICK, patience=Patience(read_s=5.0))
        client.send_blob("edge/vllm", content)
        assert (front.asked("POST "), front.asked("PUT ")) == (1, 2)
    assert connect(registry.host, Config()).read_blob("edge/vllm", content.digest) == content.content


def test_redirects_of_an_upload_are_bounded(registry: Registry) -> None:
    with running_front(registry, turning(None)) as front:
        client = connect(front.host, Config(), retry=QUICK, patience=Patience(read_s=5.0))
        with pytest.raises(RegistryUnreachableError, match="redirects go in a circle"):
            client.send_blob("edge/vllm", blob(300_000))
        assert front.asked("PUT ") == 6


def test_a_rate_limited_upload_is_not_begun_anew(registry: Registry) -> None:
    said: list[str] = []
    retry = replace(QUICK, on_retry=said.append)
    fault = Fault(match=f"PUT .*{UPLOAD}", kind="answer", status=429, headers={"Retry-After": "1"}, times=2)
    with running_front(registry, fault) as front:
        connect(front.host, Config(), retry=retry).send_blob("edge/vllm", blob(3_000_000))
        assert (front.asked("POST "), front.asked("PUT "), front.asked("DELETE ")) == (1, 3, 0)
    assert [line.partition(";")[0] for line in said] == [
        "the server answers 429 Too Many Requests and asks to wait 1 s"
    ]


def test_a_large_blob_is_asked_for_by_its_head_alone(registry: Registry, tmp_path: Path) -> None:
    large = {"Content-Length": str(200 << 20)}
    with running_front(registry, Fault(match="HEAD .*blobs", kind="answer", status=200, headers=large)) as front:
        assert connect(front.host, Config(), retry=QUICK).has_blob("a/b", "sha256:" + "0" * 64)


def test_a_blob_that_is_a_web_page(registry: Registry, tmp_path: Path) -> None:
    image = make_image(tmp_path)
    with running_front(registry, web_page("GET .*blobs")) as front:
        client = connect(front.host, Config(), retry=QUICK)
        with pytest.raises(NotRegistryError):
            client.read_blob("a/b", image.config.digest)
        with pytest.raises(NotRegistryError), client.open_blob("a/b", image.config.digest):
            pass
