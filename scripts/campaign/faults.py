"""The kinds of faults: what a server, a proxy or a network between does wrong with a request."""

from __future__ import annotations

import json
import time
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from campaign.front import Fault, Reply

if TYPE_CHECKING:
    from collections.abc import Callable

    from campaign.front import Exchange

ANY = ""
_GET, _HEAD = r"^\w+ GET ", r"^\w+ HEAD "
_READ = r"^\w+ (GET|HEAD) "
_SENT = r"^registry (POST|PUT|PATCH) "
_UPLOAD = r"^registry (PUT|PATCH) .*/blobs/uploads/"
_OPENING = r"^registry POST .*/blobs/uploads/"
_MANIFEST = r"^registry PUT .*/manifests/"
_TAG = r"^registry PUT .*/manifests/(?!sha256[:-])"
_DIGESTS = r"^(registry|base) (GET|HEAD|PUT) .*/manifests/"
_BLOB_READ = r"^\w+ GET .*(/blobs/sha256|\.whl|/resolve/|/cdn/)"
_LIST = r"^registry GET .*/(tags/list|referrers/)"
_TOKENS = r"^registry GET /token"
_PAGE = b"<!doctype html><html><head><title>Sign in</title></head><body>Please sign in.</body></html>"
_HTML = (("Content-Type", "text/html; charset=utf-8"),)
_JSON = (("Content-Type", "application/json"),)
_ZEROS = "sha256:" + "0" * 64
_SHAPES: tuple[object, ...] = ([], {}, None, 7, "text", [[]], {"errors": "none"}, {"manifests": 5, "tags": {"a": 1}})
_STRANGERS: tuple[object, ...] = (None, 7, -1, "", "text", [], {}, [None], {"a": []}, True, 1e300, "\x00", "../../x")
_STALL_S = 3.0
_TRICKLES, _TRICKLE_S = 12, 0.2


def _status(status: int, *headers: tuple[str, str], body: bytes = b'{"errors":[]}') -> Callable[[Exchange], None]:
    def act(exchange: Exchange) -> None:
        exchange.send(Reply(status=status, headers=(*_JSON, *headers), body=body))

    return act


def _refusal(status: int, code: str, message: str) -> Callable[[Exchange], None]:
    return _status(status, body=json.dumps({"errors": [{"code": code, "message": message}]}).encode())


def _page(status: int) -> Callable[[Exchange], None]:
    def act(exchange: Exchange) -> None:
        exchange.send(Reply(status=status, headers=_HTML, body=_PAGE))

    return act


def _changed(change: Callable[[Exchange, Reply], Reply]) -> Callable[[Exchange], None]:
    """Let the server do it, and change its answer."""

    def act(exchange: Exchange) -> None:
        exchange.send(change(exchange, exchange.forward()))

    return act


def _header(name: str, value: Callable[[Exchange], str | None]) -> Callable[[Exchange], None]:
    return _changed(lambda exchange, reply: reply.with_header(name, value(exchange)))


def _redirect(status: int, address: Callable[[Exchange], str]) -> Callable[[Exchange], None]:
    def act(exchange: Exchange) -> None:
        exchange.send(Reply(status=status, headers=(("Location", address(exchange)),)))

    return act


def _flipped(exchange: Exchange, reply: Reply) -> Reply:
    if not reply.body:
        return reply
    position = exchange.rng.randrange(len(reply.body))
    changed = bytes([reply.body[position] ^ (1 << exchange.rng.randrange(8))])
    return replace(reply, body=reply.body[:position] + changed + reply.body[position + 1 :])


def _mutated(exchange: Exchange, reply: Reply) -> Reply:
    """Replace one value of a JSON document by another, and keep quiet about the digest."""
    try:
        document = json.loads(reply.body)
    except ValueError:
        return _flipped(exchange, reply)
    places = list(_places(document))
    if not places:
        return replace(reply, body=b"[]")
    container, key = exchange.rng.choice(places)
    container[key] = exchange.rng.choice(_STRANGERS)
    return replace(reply, body=json.dumps(document).encode()).with_header("Docker-Content-Digest", None)


def _places(value: Any) -> Any:
    if isinstance(value, (dict, list)):
        for key, inner in list(value.items() if isinstance(value, dict) else enumerate(value)):
            yield value, key
            yield from _places(inner)


def _reset(exchange: Exchange) -> None:
    exchange.hang_up(reset=True)


def _reset_in_request(exchange: Exchange) -> None:
    exchange.receive(exchange.length // 2)
    exchange.hang_up(reset=True)


def _silent(exchange: Exchange) -> None:
    """Let the server do it, and never say so."""
    exchange.forward()
    exchange.hang_up()


def _cut(exchange: Exchange) -> None:
    reply = exchange.forward()
    exchange.send(reply, cut_after=len(reply.body) // 2)


def _reset_in_answer(exchange: Exchange) -> None:
    reply = exchange.forward()
    exchange.begin(reply)
    exchange.write(reply.body[: len(reply.body) // 2])
    exchange.hang_up(reset=True)


def _cut_then_range(exchange: Exchange) -> None:
    if exchange.before == 0:
        _cut(exchange)
    else:
        exchange.send(Reply(status=416, headers=(("Content-Range", "bytes */1"),)))


def _cut_then_other_range(exchange: Exchange) -> None:
    if exchange.before == 0:
        _cut(exchange)
    else:
        reply = exchange.forward()
        exchange.send(replace(reply, status=206).with_header("Content-Range", f"bytes 1-{len(reply.body)}/*"))


def _stall(exchange: Exchange) -> None:
    time.sleep(_STALL_S)
    exchange.send(exchange.forward())


def _stall_then_reset(exchange: Exchange) -> None:
    time.sleep(_STALL_S)
    exchange.hang_up(reset=True)


def _trickle(exchange: Exchange) -> None:
    reply = exchange.forward()
    exchange.begin(reply)
    size = max(1, len(reply.body) // _TRICKLES)
    for begin in range(0, len(reply.body), size):
        exchange.write(reply.body[begin : begin + size])
        time.sleep(_TRICKLE_S)


def _raw(content: bytes) -> Callable[[Exchange], None]:
    def act(exchange: Exchange) -> None:
        exchange.receive()
        exchange.write(content)
        exchange.hang_up()

    return act


def _swallowed(exchange: Exchange) -> None:
    """Say that it is stored, and store nothing."""
    exchange.receive()
    exchange.send(Reply(status=201, headers=(("Location", exchange.path),)))


def _present(exchange: Exchange) -> None:
    exchange.send(Reply(headers=(("Content-Type", "application/octet-stream"),), length="0"))


def _shape(exchange: Exchange) -> None:
    reply = exchange.forward()
    shape = exchange.rng.choice(_SHAPES)
    changed = replace(reply, status=200, body=json.dumps(shape).encode()).with_header("Docker-Content-Digest", None)
    exchange.send(changed)


def _deep(exchange: Exchange) -> None:
    exchange.send(Reply(headers=_JSON, body=b"[" * 100_000 + b"]" * 100_000))


def _useless(exchange: Exchange) -> None:
    realm = f'Bearer realm="http://{exchange.host}/token",service="campaign"'
    exchange.send(Reply(status=401, headers=(("WWW-Authenticate", realm),)))


def _token(body: bytes) -> Callable[[Exchange], None]:
    return _status(200, body=body)


_ROWS: tuple[tuple[str, str, Callable[[Exchange], None]], ...] = (
    ("401", ANY, _status(401)),
    ("403", ANY, _status(403)),
    ("403 web page", ANY, _page(403)),
    ("404", ANY, _status(404)),
    ("409", ANY, _status(409)),
    ("413", _SENT, _status(413)),
    ("416 to a first request", _GET, _status(416)),
    ("429", ANY, _status(429)),
    ("429 with Retry-After", ANY, _status(429, ("Retry-After", "1"))),
    ("429 with a spoilt Retry-After", ANY, _status(429, ("Retry-After", "soon; -1e9"))),
    ("500", ANY, _status(500)),
    ("502 web page", ANY, _page(502)),
    ("503 with Retry-After", ANY, _status(503, ("Retry-After", "1"))),
    ("504", ANY, _status(504)),
    ("507", _SENT, _status(507)),
    ("status 700", ANY, _status(700)),
    ("web page with 200 for GET", _GET, _page(200)),
    ("web page with 200 for HEAD", _HEAD, _page(200)),
    ("web page with 200 for an upload", _SENT, _page(200)),
    ("JSON of another shape", _GET, _shape),
    ("JSON with one other value", _GET, _changed(_mutated)),
    ("JSON 100 000 levels deep", _GET, _deep),
    ("JSON that is not UTF-8", _GET, _status(200, body=b'{"a": "\xff\xfe"}')),
    ("body cut, length of the whole", _GET, _cut),
    ("body cut, length of the rest", _GET, _changed(lambda _, r: replace(r, body=r.body[: len(r.body) // 2]))),
    ("body too long", _GET, _changed(lambda _, r: replace(r, body=r.body + b"\n" + bytes(1000)))),
    ("empty body", _GET, _changed(lambda _, r: replace(r, body=b""))),
    ("204 without a body", ANY, _status(204, body=b"")),
    ("Content-Length too large", _GET, _changed(lambda _, r: replace(r, length=str(len(r.body) + 9)))),
    ("Content-Length too small", _GET, _changed(lambda _, r: replace(r, length=str(max(0, len(r.body) - 9))))),
    ("Content-Length not a number", _READ, _changed(lambda _, r: replace(r, length="many"))),
    ("flipped bit", _GET, _changed(_flipped)),
    ("garbage as gzip", _GET, _changed(lambda _, r: r.with_header("Content-Encoding", "gzip"))),
    ("garbage as chunks", ANY, _raw(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\nnothing\r\n")),
    ("answer not HTTP", ANY, _raw(b"SSH-2.0-OpenSSH_9.2\r\n")),
    ("header of 100 000 bytes", ANY, _raw(b"HTTP/1.1 200 OK\r\nX-Long: " + b"x" * 100_000 + b"\r\n\r\n")),
    ("wrong Content-Type", _READ, _header("Content-Type", lambda _: "application/octet-stream")),
    ("no Content-Type", _READ, _header("Content-Type", lambda _: None)),
    ("wrong digest header", _DIGESTS, _header("Docker-Content-Digest", lambda _: _ZEROS)),
    ("digest header of another image", _DIGESTS, _header("Docker-Content-Digest", lambda e: e.other_digest)),
    ("digest header spoilt", _DIGESTS, _header("Docker-Content-Digest", lambda _: "sha256:../../x")),
    ("reset before the answer", ANY, _reset),
    ("reset in the request's body", _UPLOAD, _reset_in_request),
    ("reset in the answer's body", _GET, _reset_in_answer),
    ("done, but never answered", ANY, _silent),
    ("stall", ANY, _stall),
    ("stall, then reset", ANY, _stall_then_reset),
    ("trickle", _GET, _trickle),
    ("cut, then 416", _BLOB_READ, _cut_then_range),
    ("cut, then another range", _BLOB_READ, _cut_then_other_range),
    ("redirect to itself", ANY, _redirect(307, lambda e: e.path)),
    ("redirect to a dead host", ANY, _redirect(307, lambda _: "http://127.0.0.1:1/v2/")),
    ("redirect to an unknown host", ANY, _redirect(302, lambda _: "http://registry.invalid/sign-in")),
    ("redirect to a spoilt address", ANY, _redirect(307, lambda _: "http://[::1/x:99999")),
    ("redirect without Location", ANY, _status(302, body=b"")),
    (
        "Location of an upload without port",
        _OPENING,
        _header("Location", lambda _: "http://127.0.0.1/v2/x/blobs/uploads/1"),
    ),
    ("Location of an upload with a dead port", _OPENING, _header("Location", lambda _: "http://127.0.0.1:1/v2/up")),
    ("Location of an upload spoilt", _OPENING, _header("Location", lambda _: "http://[oops:x/")),
    ("Location of an upload missing", _OPENING, _header("Location", lambda _: None)),
    ("200 where 201 or 202 belongs", _SENT, _changed(lambda _, r: replace(r, status=200))),
    ("202 where 201 belongs", _SENT, _changed(lambda _, r: replace(r, status=202))),
    ("201 without any header", _SENT, _changed(lambda _, r: replace(r, status=201, headers=()))),
    ("upload session lost", _UPLOAD, _refusal(404, "BLOB_UPLOAD_UNKNOWN", "blob upload unknown to registry")),
    ("upload refused as wrong digest", _UPLOAD, _refusal(400, "DIGEST_INVALID", "provided digest did not match")),
    ("blob accepted, not stored", _UPLOAD, _swallowed),
    ("blob only said to be there", r"^registry HEAD .*/blobs/", _present),
    ("manifest accepted, not stored", _MANIFEST, _swallowed),
    ("manifest refused as invalid", _MANIFEST, _refusal(400, "MANIFEST_INVALID", "manifest invalid")),
    ("tag refused as immutable, 400", _TAG, _refusal(400, "TAG_INVALID", "tag is immutable, cannot be overwritten")),
    ("tag refused as immutable, 409", _TAG, _refusal(409, "TAG_IMMUTABLE", "tag is immutable")),
    ("list whose next page is itself", _LIST, _header("Link", lambda e: f'<{e.path}>; rel="next"')),
    ("list whose next page is spoilt", _LIST, _header("Link", lambda _: '<http://[x/>; rel="next"')),
    ("tokens that the registry refuses", r"^registry \w+ /v2/", _useless),
    ("token server: 401", _TOKENS, _status(401)),
    ("token server: 500", _TOKENS, _status(500)),
    ("token server: web page", _TOKENS, _page(200)),
    ("token server: no token", _TOKENS, _token(b'{"expires_in": 300}')),
    ("token server: spoilt token", _TOKENS, _token(b'{"token": "a\\nb\\u20ac", "expires_in": "x"}')),
    ("token server: list", _TOKENS, _token(b"[1]")),
)
FAULTS = tuple(Fault(kind=kind, match=match, act=act) for kind, match, act in _ROWS)
# Faults that need a second request of the same address.
IN_TWO = frozenset({"cut, then 416", "cut, then another range"})
