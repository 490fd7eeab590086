"""Log-in and uploads against scripted servers: what no registry at hand does."""

from __future__ import annotations

import hashlib
import io
from typing import TYPE_CHECKING, Any
from urllib.parse import parse_qs, urlsplit

import pytest
import requests
from scripted_registry import HOST, Store, client

from builder.errors import IntegrityError, RegistryError
from builder.remote.registry.auth import Credentials
from builder.remote.registry.registry_failures import ImageMissingError, RegistryUnreachableError
from builder.remote.registry.upload import BytesBlob

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    Script = Callable[[requests.PreparedRequest], "tuple[int, dict[str, str], bytes]"]


def token_server(request: requests.PreparedRequest) -> tuple[int, dict[str, str], bytes]:
    if urlsplit(request.url or "").path == "/token":
        return 200, {}, b'{"token": "t1", "expires_in": 300}'
    if request.headers.get("Authorization") == "Bearer t1":
        return 200, {"Docker-Content-Digest": "sha256:" + "0" * 64, "Content-Length": "5"}, b""
    return 401, {"WWW-Authenticate": 'Bearer realm="https://auth.example.com/token",service="s&1"'}, b""


def test_a_token_is_asked_for_once_a_scope() -> None:
    asker, adapter = client(token_server, Credentials(user="me", password="hush"))
    for _ in range(3):
        assert asker.head_manifest("a/b", "1")
    urls = [urlsplit(each.url or "") for each in adapter.seen]
    assert [url.path for url in urls] == ["/v2/a/b/manifests/1", "/token", *["/v2/a/b/manifests/1"] * 3]
    assert parse_qs(urls[1].query) == {"service": ["s&1"], "scope": ["repository:a/b:pull"]}
    assert adapter.seen[1].headers["Authorization"] == Credentials(user="me", password="hush").basic
    assert "Authorization" not in adapter.seen[0].headers


def test_anonymous_tokens() -> None:
    asker, adapter = client(token_server)
    assert asker.head_manifest("a/b", "1")
    assert "Authorization" not in adapter.seen[1].headers


def test_an_identity_token_is_exchanged() -> None:
    asker, adapter = client(token_server, Credentials(identity_token="quiet"))
    assert asker.head_manifest("a/b", "1")
    assert adapter.seen[1].method == "POST"
    form = parse_qs(str(adapter.seen[1].body))
    assert form["grant_type"] == ["refresh_token"]
    assert form["refresh_token"] == ["quiet"]
    assert form["scope"] == ["repository:a/b:pull"]


def test_netrc_does_not_replace_the_token(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    netrc = tmp_path / "netrc"
    netrc.write_text(f"machine {HOST} login other password wrong\n")
    monkeypatch.setenv("NETRC", str(netrc))
    asker, adapter = client(token_server)
    assert asker.head_manifest("a/b", "1")
    assert adapter.seen[-1].headers["Authorization"] == "Bearer t1"
    assert "Authorization" not in adapter.seen[0].headers


def test_credentials_do_not_go_out_in_the_clear() -> None:
    challenge = {"WWW-Authenticate": 'Bearer realm="http://auth.example.com/token"'}
    asker, adapter = client(lambda _: (401, challenge, b""), Credentials(user="me", password="hush"))
    with pytest.raises(RegistryError, match="not an https address"):
        asker.head_manifest("a/b", "1")
    assert len(adapter.seen) == 1


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"[]",
        b"{}",
        b'{"token": "x", "expires_in": "never"}',
        b'{"token": "a\\nb"}',
        b'{"token": "\\u20ac"}',
        b'{"token": ["x"]}',
        b"[" * 100_000,
    ],
    ids=range(8),
)
def test_a_token_server_that_babbles(body: bytes) -> None:
    def script(request: requests.PreparedRequest) -> tuple[int, dict[str, str], bytes]:
        return (200, {}, body) if "/token" in (request.url or "") else token_server(request)

    asker, _ = client(script)
    with pytest.raises(RegistryError, match="returned no token"):
        asker.head_manifest("a/b", "1")


def test_a_refused_log_in_is_not_repeated_for_ever() -> None:
    challenge = {"WWW-Authenticate": 'Basic realm="x"'}
    asker, adapter = client(lambda _: (401, challenge, b""), Credentials(user="me", password="hush"))
    with pytest.raises(RegistryError) as caught:
        asker.get_manifest("a/b", "1")
    assert len(adapter.seen) == 2
    with pytest.raises(RegistryError):
        asker.get_manifest("a/b", "1")
    assert len(adapter.seen) == 3
    assert f"docker login {HOST}" in (caught.value.hint or "")
    assert "hush" not in str(caught.value.as_json())


def test_404_is_another_thing_than_no_answer() -> None:
    def nobody(_: requests.PreparedRequest) -> tuple[int, dict[str, str], bytes]:
        raise requests.ConnectionError

    gone, _ = client(lambda _: (404, {}, b'{"errors":[{"code":"MANIFEST_UNKNOWN","message":"unknown tag"}]}'))
    with pytest.raises(ImageMissingError, match="MANIFEST_UNKNOWN: unknown tag") as caught:
        gone.get_manifest("a/b", "1")
    assert caught.value.where == f"{HOST}/a/b"
    assert gone.head_manifest("a/b", "1") is None
    silent, adapter = client(nobody)
    with pytest.raises(RegistryUnreachableError):
        silent.get_manifest("a/b", "1")
    assert len(adapter.seen) == 5


def test_head_without_a_digest_reads_the_manifest() -> None:
    content = b'{"a":1}'
    asker, _ = client(lambda r: (200, {"Content-Type": "x/y; charset=utf-8"}, content if r.method == "GET" else b""))
    found = asker.head_manifest("a/b", "1")
    assert found
    assert (found.digest, found.size) == (f"sha256:{hashlib.sha256(content).hexdigest()}", 7)
    assert found.media_type == "x/y"


def test_other_bytes_than_promised_are_refused() -> None:
    asker, _ = client(lambda _: (200, {"Docker-Content-Digest": "sha256:" + "1" * 64}, b"{}"))
    with pytest.raises(RegistryError, match="was expected"):
        asker.get_manifest("a/b", "1")
    plain, _ = client(lambda _: (200, {}, b"{}"))
    with pytest.raises(RegistryError, match="was expected"):
        plain.get_manifest("a/b", "sha256:" + "2" * 64)


@pytest.fixture
def blob(tmp_path: Path) -> Path:
    path = tmp_path / "blob"
    path.write_bytes(bytes(range(256)) * 40)
    return path


def digest_of(path: Path) -> str:
    return f"sha256:{hashlib.sha256(path.read_bytes()).hexdigest()}"


def test_an_upload_goes_on_where_the_registry_stopped(blob: Path) -> None:
    store, counted = Store(1000, 2000), list[int]()
    sender, adapter = client(store)
    sender.send_blob("a/b", BytesBlob(blob.read_bytes()), counted.append)
    assert store.kept == blob.read_bytes()
    assert store.ranges == [None, "1000-10239", "3000-10239"]
    assert sum(counted) == blob.stat().st_size
    assert [each.method for each in adapter.seen].count("POST") == 1


def test_an_upload_that_gets_on_may_break_more_often_than_tries(blob: Path) -> None:
    store = Store(*[500] * 12)
    client(store)[0].send_blob("a/b", BytesBlob(blob.read_bytes()))
    assert store.kept == blob.read_bytes()


def test_an_upload_that_does_not_get_on_ends(blob: Path) -> None:
    sender, adapter = client(Store(*[0] * 50))
    with pytest.raises(RegistryUnreachableError, match="cannot send blob"):
        sender.send_blob("a/b", BytesBlob(blob.read_bytes()))
    assert [each.method for each in adapter.seen].count("PUT") == 5


def test_all_bytes_held_but_not_closed(blob: Path) -> None:
    store = Store(blob.stat().st_size)
    client(store)[0].send_blob("a/b", BytesBlob(blob.read_bytes()))
    assert store.done
    assert store.ranges == [None, None]


def test_an_empty_blob(tmp_path: Path) -> None:
    empty = tmp_path / "empty"
    empty.touch()
    store = Store()
    client(store)[0].send_blob("a/b", BytesBlob(empty.read_bytes()))
    assert store.done


def test_other_hosts_get_no_credentials(blob: Path) -> None:
    store = Store(location="https://store.example.net/up?sig=1")

    def script(request: requests.PreparedRequest) -> tuple[int, dict[str, str], bytes]:
        if "store.example.net" in (request.url or "") or request.headers.get("Authorization") == "Bearer t1":
            return store(request)
        return token_server(request)

    sender, adapter = client(script)
    sender.send_blob("a/b", BytesBlob(blob.read_bytes()))
    (put,) = [each for each in adapter.seen if each.method == "PUT"]
    assert "Authorization" not in put.headers
    assert parse_qs(urlsplit(put.url or "").query) == {"sig": ["1"], "digest": [digest_of(blob)]}


def test_what_begins_with_tls_goes_on_with_it(blob: Path) -> None:
    sender, adapter = client(Store(location=f"http://{HOST}/up"))
    sender.send_blob("a/b", BytesBlob(blob.read_bytes()))
    assert all((each.url or "").startswith("https://") for each in adapter.seen)


def test_a_registry_without_locations(blob: Path) -> None:
    with pytest.raises(RegistryError, match="without a Location header"):
        client(lambda _: (202, {}, b""))[0].send_blob("a/b", BytesBlob(blob.read_bytes()))


def test_a_registry_that_forgets(blob: Path) -> None:
    def script(request: requests.PreparedRequest) -> tuple[int, dict[str, str], bytes]:
        answers = {"POST": (202, {"Location": "/up"}, b""), "PUT": (201, {}, b""), "HEAD": (404, {}, b"")}
        return answers.get(request.method or "", (204, {}, b""))

    sender, adapter = client(script)
    with pytest.raises(RegistryError, match="shows None bytes"):
        sender.send_blob("a/b", BytesBlob(blob.read_bytes()))
    assert [(each.method, urlsplit(each.url or "").path) for each in adapter.seen][-1] == ("DELETE", "/up")


class Changed(BytesBlob):
    """A blob whose bytes are not those of its digest."""

    @property
    def digest(self) -> str:
        return "sha256:" + "0" * 64

    def find_corruption(self) -> IntegrityError:
        return IntegrityError("changed on disk")


def test_a_file_that_changed_is_blamed_itself(blob: Path) -> None:
    def script(request: requests.PreparedRequest) -> tuple[int, dict[str, str], bytes]:
        return (202, {"Location": "/up"}, b"") if request.method == "POST" else (400, {}, b"")

    with pytest.raises(IntegrityError, match="changed on disk"):
        client(script)[0].send_blob("a/b", Changed(blob.read_bytes()))
    with pytest.raises(RegistryError, match="answers 400"):
        client(script)[0].send_blob("a/b", BytesBlob(blob.read_bytes()))


class Breaking(io.BytesIO):
    """A body whose connection is cut after its last byte."""

    def read(self, size: int | None = -1) -> bytes:
        block = super().read(size)
        if not block:
            raise requests.ConnectionError
        return block


@pytest.mark.parametrize("ranges", [True, False])
def test_a_download_goes_on_with_and_without_ranges(blob: Path, ranges: bool) -> None:
    whole, asked = blob.read_bytes(), list[str | None]()

    def script(request: requests.PreparedRequest) -> tuple[int, dict[str, str], bytes]:
        asked.append(request.headers.get("Range"))
        start = int((asked[-1] or "bytes=0-")[6:-1]) if ranges else 0
        return (
            (206 if start else 200),
            {},
            whole[start:] if len(asked) > 2 else whole[start : start + 1000 * len(asked)],
        )

    reader, adapter = client(script)
    send = adapter.send

    def breaking(request: requests.PreparedRequest, *args: Any, **options: Any) -> requests.Response:
        response = send(request, *args, **options)
        if len(asked) < 3:
            response.raw = Breaking(response.raw.read())
        return response

    adapter.send = breaking  # type: ignore[method-assign]
    blocks: list[bytes] = []
    assert reader.get_blob("a/b", digest_of(blob), blocks.append) == len(whole)
    assert b"".join(blocks) == whole
    assert asked == [None, "bytes=1000-", "bytes=3000-" if ranges else "bytes=2000-"]


STATUSES = [
    (401, b"", "docker login"),
    (403, b'{"errors":[{"code":"DENIED","message":"no"}]}', "may not push"),
    (403, b'{"errors":[{"code":"DENIED","message":"exceeds the quota of 5 GiB"}]}', "is full"),
    (404, b"", "project or repository is created first"),
    (413, b"<html>", "client_max_body_size"),
    (429, b"", "limits requests"),
    (500, b'{"errors":[{"code":"UNKNOWN","detail":"write: no space left on device"}]}', "is full"),
    (500, b"", "registry's log"),
    (503, b"", "down or starting"),
    (507, b"", "is full"),
]


@pytest.mark.parametrize(("status", "body", "hint"), STATUSES)
def test_every_refusal_says_what_to_do(status: int, body: bytes, hint: str) -> None:
    with pytest.raises(RegistryError) as caught:
        client(lambda _: (status, {}, body))[0].put_manifest("a/b", "1", b"{}", "x/y")
    assert hint in (caught.value.hint or "")
    assert str(status) in caught.value.message
    assert caught.value.where == f"{HOST}/a/b"
    assert isinstance(caught.value, RegistryUnreachableError) is (status == 503)


@pytest.mark.parametrize(("status", "body", "hint"), [s for s in STATUSES if s[0] not in (403, 413)])
def test_who_reads_gets_no_advice_about_sending(status: int, body: bytes, hint: str) -> None:
    with pytest.raises(RegistryError) as caught:
        client(lambda _: (status, {}, body))[0].get_manifest("a/b", "1")
    said = caught.value.hint or ""
    assert not any(word in said for word in ("sent again", "created first", "disk full"))
    assert hint in said or status == 404


def test_a_mount_that_fails_only_says_so() -> None:
    digest = "sha256:" + "0" * 64
    assert client(lambda _: (201, {}, b""))[0].mount_blob("a/b", digest, "c")
    opened, adapter = client(lambda _: (202, {"Location": "/up"}, b""))
    assert not opened.mount_blob("a/b", digest, "c")
    assert [each.method for each in adapter.seen] == ["POST", "DELETE"]
    assert not client(lambda _: (500, {}, b""))[0].mount_blob("a/b", digest, "c")
