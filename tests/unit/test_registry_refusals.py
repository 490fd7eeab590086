"""What registries answer in place of what the protocol has: other codes, web pages, redirects, wrong addresses."""

from __future__ import annotations

import hashlib
import json
from typing import TYPE_CHECKING

import pytest
import requests
from scripted_registry import HOST, Store, always, client

from builder.errors import RegistryError
from builder.model.images import Descriptor
from builder.remote.registry.referrers import Referrer, add_referrers
from builder.remote.registry.refusals import refusal_for, refusals
from builder.remote.registry.registry_client import OCI_MANIFEST
from builder.remote.registry.registry_failures import NotRegistryError, RegistryUnreachableError, TagImmutableError
from builder.remote.registry.upload import BytesBlob

if TYPE_CHECKING:
    _Answer = tuple[int, dict[str, str], bytes]

PAGE = b"<!doctype html><title>Sign\n in</title>"
HTML = {"Content-Type": "text/html; charset=utf-8"}
DIGEST = "sha256:" + "0" * 64
_ECR = "The image tag '1' already exists in the 'x' repository and cannot be overwritten because the tag is immutable."
_ARTIFACTORY = (
    "Not enough permissions to delete/overwrite artifact 'b/1/manifest.json' (user 'u' needs DELETE permission)."
)
IMMUTABLE = [
    (400, "TAG_INVALID", _ECR),
    (400, "ImageTagAlreadyExistsException", "conflict"),
    (412, "PRECONDITION", "Failed to process request due to 'a/b:1' configured as immutable."),
    (400, "MANIFEST_INVALID", "cannot update tag 1. The repository has enabled tag immutability"),
    (400, "UNKNOWN", "Repository does not allow updating assets: docker-hosted"),
    (403, "DENIED", "Updating asset denied by the deployment policy"),
    (403, "DENIED", _ARTIFACTORY),
    (403, "DENIED", "cannot overwrite tag 1: it is protected"),
    (409, "CONFLICT", "Tag 1 is immutable"),
    (405, "UNSUPPORTED", "overwriting tags is not allowed"),
]


def refusing(status: int, code: str, message: str) -> _Answer:
    body = json.dumps({"errors": [{"code": code, "message": message}]})
    return status, {"Content-Type": "application/json"}, body.encode()


@pytest.mark.parametrize(("status", "code", "message"), IMMUTABLE)
def test_an_immutable_tag_in_the_words_of_each_registry(status: int, code: str, message: str) -> None:
    with pytest.raises(TagImmutableError) as caught:
        client(lambda _: refusing(status, code, message))[0].put_manifest("a/b", "1", b"{}", "x/y")
    assert caught.value.hint == "the tag is immutable in this registry: use another tag, or lift the rule there"
    assert str(status) in caught.value.message
    assert message[:40] in caught.value.message


@pytest.mark.parametrize(
    ("status", "code", "message", "hint"),
    [
        (404, "NOT_FOUND", "project x not found", "create its project or repository"),
        (404, "BLOB_UPLOAD_UNKNOWN", "blob upload unknown to registry", "common storage"),
        (405, "UNSUPPORTED", "the registry is in read-only mode", "takes no uploads"),
        (403, "DENIED", "The system is in read only mode. Any modification is prohibited.", "takes no uploads"),
        (400, "MANIFEST_INVALID", "manifest invalid", "this kind of manifest"),
        (400, "NAME_INVALID", "invalid repository name", "does not allow the repository name"),
        (
            412,
            "PRECONDITION",
            "an image with vulnerabilities cannot be pulled due to configured policy",
            "a policy",
        ),
        (403, "DENIED", "requested access to the resource is denied", "may not push"),
        (409, "UNKNOWN", "", "registry's log"),
    ],
)
def test_the_code_decides_before_the_status(status: int, code: str, message: str, hint: str) -> None:
    with pytest.raises(RegistryError) as caught:
        client(lambda _: refusing(status, code, message))[0].put_manifest("a/b", "1", b"{}", "x/y")
    assert hint in (caught.value.hint or "")
    assert not isinstance(caught.value, TagImmutableError)


def test_the_errors_of_other_forms_are_quoted() -> None:
    for content, kind in (
        (b'{"__type": "RepositoryNotFoundException", "message": "no x"}', "application/json"),
        (b"repository x not found\n", "text/plain"),
        (
            b'{"errors": [{"code": "NAME_UNKNOWN", "detail": {"description": "d"}}]}',
            "application/json",
        ),
    ):
        with pytest.raises(RegistryError) as caught:
            client(always(400, {"Content-Type": kind}, content))[0].put_manifest("a/b", "1", b"{}", "x/y")
        assert "project or repository is created first" in (caught.value.hint or "")


def test_every_row_has_its_right_and_no_row_is_for_readers_of_tags() -> None:
    assert len({row.id for row in refusals()}) == len(refusals())
    assert refusal_for("TAG_INVALID: the tag is immutable", "pull") is None


@pytest.mark.parametrize("content", [(PAGE, HTML), (PAGE, {}), (b" <html>", {"Content-Type": "application/json"})])
def test_a_web_page_is_no_answer(content: tuple[bytes, dict[str, str]]) -> None:
    body, headers = content
    page = client(lambda r: (200, headers, b"" if r.method == "HEAD" else body))[0]
    for step in (
        lambda: page.get_manifest("a/b", "1"),
        lambda: page.tags("a/b"),
        lambda: page.referrers("a/b", DIGEST),
        lambda: page.put_manifest("a/b", "1", b"{}", "x/y"),
        lambda: page.try_upload("a/b"),
        lambda: page.send_blob("a/b", BytesBlob(b"x")),
    ):
        with pytest.raises(NotRegistryError, match="a web page answers") as caught:
            step()
        assert f"https://{HOST}/v2/ in a browser" in (caught.value.hint or "")
    assert not page.mount_blob("a/b", DIGEST, "c")


def test_the_head_of_a_web_page_is_no_blob() -> None:
    page = client(lambda _: (200, HTML, b""))[0]
    with pytest.raises(NotRegistryError):
        page.has_blob("a/b", DIGEST)
    with pytest.raises(NotRegistryError):
        page.head_manifest("a/b", "1")
    with pytest.raises(NotRegistryError):
        page.read_blob("a/b", DIGEST)


def test_a_title_is_quoted_on_one_line() -> None:
    with pytest.raises(NotRegistryError, match="titled “Sign in”, not a registry"):
        client(lambda _: (200, HTML, PAGE))[0].get_manifest("a/b", "1")
    with pytest.raises(NotRegistryError, match=r"answers 403 .a web page titled “Sign in”"):
        client(lambda _: (403, HTML, PAGE))[0].get_manifest("a/b", "1")


def test_a_blob_of_another_size_or_digest_is_not_there() -> None:
    def stored(**headers: str) -> bool:
        named = {name.replace("_", "-"): value for name, value in headers.items()}
        return client(lambda _: (200, named, b""))[0].has_blob("a/b", DIGEST, size=7)

    assert stored()
    assert stored(Content_Length="7", Docker_Content_Digest=DIGEST)
    assert stored(Content_Length="0")
    assert not stored(Content_Length="8")
    assert not stored(Content_Length="7", Docker_Content_Digest="sha256:" + "1" * 64)


def test_a_manifest_must_be_stored_under_its_digest() -> None:
    digest = f"sha256:{hashlib.sha256(b'{}').hexdigest()}"
    for status, headers in (
        (201, {}),
        (201, {"Docker-Content-Digest": digest}),
        (200, {"Docker-Content-Digest": digest}),
    ):
        assert not client(always(status, headers, b""))[0].put_manifest("a/b", "1", b"{}", "x/y")
    for status, headers in ((200, {}), (201, {"Docker-Content-Digest": DIGEST})):
        with pytest.raises(RegistryError, match="did not store"):
            client(always(status, headers, b"{}"))[0].put_manifest("a/b", "1", b"{}", "x/y")


@pytest.mark.parametrize("body", [b"[]", b'{"manifests": 7}', b'{"manifests": ["x"]}', b"{"])
def test_a_fallback_list_that_is_none(body: bytes) -> None:
    asker = client(lambda _: (200, {}, body))[0]
    descriptor = Descriptor(media_type=OCI_MANIFEST, digest=DIGEST, size=2)
    with pytest.raises(RegistryError, match=r"cannot be read|is not JSON"):
        add_referrers(asker, "a/b", DIGEST, [Referrer(descriptor=descriptor, artifact_type="x")])


def test_a_list_that_goes_in_a_circle_ends() -> None:
    link = {"Link": '</v2/a/b/tags/list?last=1>; rel="next"'}
    with pytest.raises(RegistryError, match="goes in a circle"):
        client(lambda _: (200, link, b'{"tags": ["1"]}'))[0].tags("a/b")
    with pytest.raises(RegistryError, match="is not a JSON object"):
        client(lambda _: (200, {}, b"[]"))[0].tags("a/b")


@pytest.mark.parametrize("body", [b'{"tags": 7}', b'{"tags": {"a": 1}}', b'{"tags": ["1", null]}', b"[" * 100_000])
def test_a_list_of_another_form(body: bytes) -> None:
    with pytest.raises(RegistryError, match=r"list of tags(/list)? (has another form|is not JSON)"):
        client(lambda _: (200, {}, body))[0].tags("a/b")


@pytest.mark.parametrize("body", [b'{"manifests": 7}', b'{"manifests": ["x"]}'])
def test_referrers_of_another_form(body: bytes) -> None:
    with pytest.raises(RegistryError, match="list of manifests has another form"):
        client(lambda _: (200, {}, body))[0].referrers("a/b", DIGEST)


@pytest.mark.parametrize("address", ["http://[oops:x/", "http://[::1/x", "http://h:99999/x", "http://h:port/x"])
def test_malformed_addresses_in_headers(address: str) -> None:
    for header in ({"Location": address}, {"Link": f'<{address}>; rel="next"'}):
        asker = client(always(202 if "Location" in header else 200, header, b"{}"))[0]
        step = asker.tags if "Link" in header else asker.try_upload
        with pytest.raises(RegistryError, match="sends a malformed address, 'http://") as caught:
            step("a/b")
        assert "correct the external address" in (caught.value.hint or "")
    mounting = client(lambda _: (202, {"Location": address}, b""))[0]
    assert not mounting.mount_blob("a/b", DIGEST, "a/c")
    with pytest.raises(RegistryError, match="sends a malformed address"):
        mounting.send_blob("a/b", BytesBlob(b"x"))
    with pytest.raises(RegistryError, match="redirects to a malformed address") as caught:
        client(lambda _: (307, {"Location": address}, b""))[0].get_manifest("a/b", "1")
    assert "correct the external address" in (caught.value.hint or "")


def test_a_manifest_nested_too_deeply() -> None:
    with pytest.raises(RegistryError, match="is not a manifest"):
        client(lambda _: (200, {}, b"[" * 100_000 + b"]" * 100_000))[0].get_manifest("a/b", "1")


def test_an_address_from_the_registry_is_blamed_and_named() -> None:
    def script(request: requests.PreparedRequest) -> _Answer:
        if request.method == "POST":
            return 202, {"Location": "http://inside:5000/v2/a/b/blobs/uploads/1?state=secret"}, b""
        if "inside" in (request.url or ""):
            raise_refused()
        return 404, {}, b""

    with pytest.raises(RegistryUnreachableError) as caught:
        client(script)[0].send_blob("a/b", BytesBlob(b"x"))
    message = caught.value.message
    assert message.endswith("at http://inside:5000/v2/a/b/blobs/uploads/1 (from the registry's Location header)")
    assert "gives the host inside" in (caught.value.hint or "")
    assert "insecure" not in (caught.value.hint or "")


def raise_refused() -> None:
    request = requests.Request("PUT", "http://inside:5000/v2/a/b/blobs/uploads/1?state=secret").prepare()
    raise requests.ConnectionError(request=request)


def test_a_redirect_sends_the_whole_body_again() -> None:
    class Turning(Store):
        """Redirects the first request of an upload to itself."""

        turned = False

        def __call__(self, request: requests.PreparedRequest) -> _Answer:
            if request.method == "PUT" and not self.turned:
                self.turned = True
                return 307, {"Location": request.path_url}, b""
            return super().__call__(request)

    store = Turning()
    client(store)[0].send_blob("a/b", BytesBlob(b"abc" * 1000))
    assert store.kept == b"abc" * 1000


def test_redirects_are_bounded() -> None:
    def circle(request: requests.PreparedRequest) -> _Answer:
        if request.method == "PUT":
            return 307, {"Location": "/again"}, b""
        return (202, {"Location": "/up"}, b"") if request.method == "POST" else (404, {}, b"")

    sender, adapter = client(circle)
    with pytest.raises(RegistryUnreachableError, match="redirects go in a circle"):
        sender.send_blob("a/b", BytesBlob(b"x"))
    assert len([each for each in adapter.seen if each.method == "PUT"]) == 6
    reader, adapter = client(lambda r: (307, {"Location": r.path_url}, b""))
    with pytest.raises(RegistryUnreachableError, match="redirects go in a circle"):
        reader.get_manifest("a/b", "1")
    assert len(adapter.seen) == 11


def test_a_sign_in_page_behind_a_redirect() -> None:
    def script(request: requests.PreparedRequest) -> _Answer:
        if "sso" in (request.url or ""):
            return 200, HTML, PAGE
        return 302, {"Location": "https://sso.example.com/login?back=secret"}, b""

    away, adapter = client(script)
    with pytest.raises(RegistryUnreachableError, match=r"redirects it to https://sso.example.com/login \(302\)"):
        away.try_upload("a/b")
    with pytest.raises(NotRegistryError, match=r"at https://sso.example.com/login .from the registry.s Location"):
        away.get_manifest("a/b", "1")
    assert all("Authorization" not in each.headers for each in adapter.seen)


def test_a_token_server_that_is_a_web_page() -> None:
    realm = "https://auth.example.com/token"

    def script(request: requests.PreparedRequest) -> _Answer:
        if (request.url or "").startswith(realm):
            return 200, HTML, PAGE
        return 401, {"WWW-Authenticate": f'Bearer realm="{realm}",service="s"'}, b""

    with pytest.raises(NotRegistryError, match=f"at {realm} .from the registry's WWW-Authenticate header"):
        client(script)[0].get_manifest("a/b", "1")


class Limited(Store):
    """Answers 429 to some uploads."""

    def __init__(self, *statuses: int) -> None:
        super().__init__()
        self.statuses = list(statuses)

    def take(self, request: requests.PreparedRequest) -> _Answer:
        status = self.statuses.pop(0) if self.statuses else 201
        if status != 201:
            return status, {"Retry-After": "1"}, b""
        return super().take(request)


def test_a_rate_limited_upload_goes_on() -> None:
    store = Limited(429, 429)
    sender, adapter = client(store)
    sender.send_blob("a/b", BytesBlob(b"abc"))
    assert [each.method for each in adapter.seen] == ["POST", "PUT", "PUT", "PUT", "HEAD"]


def test_an_upload_that_the_registry_forgot_meanwhile_begins_anew() -> None:
    store = Limited(429, 404)
    sender, adapter = client(store)
    sender.send_blob("a/b", BytesBlob(b"abc"))
    assert [each.method for each in adapter.seen] == ["POST", "PUT", "PUT", "DELETE", "POST", "PUT", "HEAD"]


def test_a_wait_that_is_too_long_is_said() -> None:
    with pytest.raises(RegistryError, match="answers 429 and asks to wait 60 minutes") as caught:
        client(lambda _: (429, {"Retry-After": "3600"}, b""))[0].get_manifest("a/b", "1")
    assert "limits requests" in (caught.value.hint or "")
