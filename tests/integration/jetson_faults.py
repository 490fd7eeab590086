"""What the stand-in for the Jetson AI Lab index does wrong on demand."""

from __future__ import annotations

import re
import socket
import struct
from contextlib import suppress
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Literal, get_args

from jetson_pages import HTML, Answer

if TYPE_CHECKING:
    from collections.abc import Iterator
    from http.server import BaseHTTPRequestHandler
    from threading import Event

Kind = Literal["status", "slow", "drip", "reset", "cut", "empty", "garbage", "huge", "wrong-type", "half", "corrupt"]
KINDS: tuple[str, ...] = tuple(kind for kind in get_args(Kind) if kind != "status")
GARBAGE = b"<!DOCTYPE html><html><body><h1>Hotel network</h1><p>Log in to go <a href='/portal'>on</a>.</body></html>\n"
_BLOCK = 1 << 16
_DRIPS = 20


@dataclass(kw_only=True)
class Fault:
    """What goes wrong with requests whose `METHOD path` holds the regular expression `match`, `times` times.

    `times` None means for ever.

    - `status`: answer with `status` (503, 500, 429, 404) and `headers` (Retry-After).
    - `slow`: wait `seconds`, then answer. `drip`: spread the body over `seconds`.
    - `reset`: send a `share` of the body, then reset the connection. `cut`: the same, but close it in order.
    - `empty`: 200 without a body. `garbage`: 200 and somebody else's page, as captive portals answer.
    - `huge`: 200 and a page of `size` bytes of valid links. `wrong-type`: the right body as `application/pdf`.
    - `half`: a `share` of the body as if it were all. `corrupt`: the right size, one bit wrong.
    """

    match: str
    kind: Kind
    times: int | None = 1
    status: int = 503
    headers: dict[str, str] = field(default_factory=dict)
    seconds: float = 60.0
    share: float = 0.5
    size: int = 100_000_000

    def __post_init__(self) -> None:
        if self.kind not in get_args(Kind):
            message = f"{self.kind} is no fault: {', '.join(KINDS)}"
            raise ValueError(message)

    def take(self, line: str) -> bool:
        """Tell whether the fault applies to a request, and count it."""
        if self.times == 0 or not re.search(self.match, line):
            return False
        self.times = None if self.times is None else self.times - 1
        return True


def spoil(answer: Answer, fault: Fault | None) -> Answer:
    """Return what is sent instead of `answer`."""
    page = {"Content-Type": HTML}
    if fault and fault.kind == "status":
        return Answer(status=fault.status, headers=page | fault.headers, body=b"not now\n")
    if fault and fault.kind in ("empty", "huge"):
        return Answer(status=200, headers=page)
    if fault and fault.kind == "garbage":
        return Answer(status=200, headers=page, body=GARBAGE)
    return _damage(answer, fault) if fault else answer


def _damage(answer: Answer, fault: Fault) -> Answer:
    body = answer.body
    if fault.kind == "wrong-type":
        return replace(answer, headers={**answer.headers, "Content-Type": "application/pdf"})
    if fault.kind == "half":
        return replace(answer, body=body[: int(len(body) * fault.share)])
    if fault.kind == "corrupt":
        at = len(body) // 2
        return replace(answer, body=body[:at] + bytes(byte ^ 1 for byte in body[at : at + 1]) + body[at + 1 :])
    return answer


def pieces(body: bytes, fault: Fault | None, ending: Event) -> Iterator[bytes]:
    """Yield the body as it is sent: at once, in drips until the server ends, or only its beginning."""
    if fault and fault.kind == "drip":
        step = max(1, len(body) // _DRIPS)
        for begin in range(0, len(body), step):
            ending.wait(fault.seconds / _DRIPS)
            yield body[begin : begin + step]
    elif fault and fault.kind in ("reset", "cut"):
        yield body[: int(len(body) * fault.share)]
    else:
        yield body


def huge_page(size: int) -> Iterator[bytes]:
    """Yield a page of `size` bytes: valid links to wheels that are not there."""
    block, number, sent = b"<!DOCTYPE html><html><body>\n", 0, 0
    while sent < size:
        while len(block) < min(_BLOCK, size - sent):
            name = f"torch-0.0.{number}-py3-none-any.whl"
            block += f'<a href="../../+f/000/{number:013x}/{name}">{name}</a><br>\n'.encode()
            number += 1
        yield block[: size - sent]
        sent, block = sent + len(block), b""


def hang_up(handler: BaseHTTPRequestHandler, fault: Fault) -> None:
    """End the connection: in order, or with a reset."""
    handler.close_connection = True
    with suppress(OSError):
        if fault.kind == "reset":
            handler.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            handler.connection.close()
        else:
            handler.connection.shutdown(socket.SHUT_RDWR)
