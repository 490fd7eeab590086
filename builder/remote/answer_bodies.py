"""Bodies of answers, read within limits of size and time."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

import requests
from requests import exceptions
from urllib3 import exceptions as urllib3_exceptions

if TYPE_CHECKING:
    from collections.abc import Iterator

_BODY_BLOCK = 1 << 16
# Limits for all answers except downloads: bytes, and seconds from the first byte to the last.
_LONGEST_ANSWER = 64 << 20
_ANSWER_WITHIN_S = 120.0
# A download that brings less than this many bytes in this many seconds has stopped.
_LEAST_BYTES = 64 << 10
_STALLED_S = 300.0


class AnswerError(requests.RequestException):
    """An answer that does not follow the protocol; its text is the reason."""


class AddressError(AnswerError):
    """An address in an answer's header that is malformed."""


def read_whole(response: requests.Response) -> None:
    """Read a body into the response's `content`.

    Raises:
        requests.RequestException: it is too long, or does not come in time.
    """
    # The length of an answer to HEAD is that of the body which GET would return.
    is_head = response.request.method == "HEAD"
    content = (
        b"".join(arriving(response, _BODY_BLOCK)) if is_head else read_body(response, _LONGEST_ANSWER, _ANSWER_WITHIN_S)
    )
    if content is None:
        raise AnswerError(f"the answer is longer than {_LONGEST_ANSWER >> 20} MiB", response=response)
    response._content, response._content_consumed = content, True  # type: ignore[attr-defined]  # noqa: SLF001
    response.raw.release_conn()


def read_body(response: requests.Response, longest: int, within_s: float = _ANSWER_WITHIN_S) -> bytes | None:
    """Return a body, or None if it has more than `longest` bytes.

    Raises:
        requests.exceptions.ReadTimeout: it took longer than `within_s` seconds.
    """
    size = response.headers.get("Content-Length", "")
    if size.isdecimal() and int(size) > longest:
        return None
    content, start_s = bytearray(), time.monotonic()
    for block in arriving(response, _BODY_BLOCK):
        content += block
        if len(content) > longest:
            return None
        if time.monotonic() - start_s > within_s:
            raise exceptions.ReadTimeout(response=response)
    return bytes(content)


def arriving(response: requests.Response, size: int) -> Iterator[bytes]:
    """Yield a body in blocks of at most `size` bytes, as they arrive; `iter_content` waits until a block is full.

    Raises:
        requests.RequestException: the connection is cut or silent.
    """
    if response.raw is None or not (hasattr(response.raw, "stream") and hasattr(response.raw, "read1")):
        yield from response.iter_content(size)
        return
    if isinstance(getattr(response, "_content", None), bytes):
        yield response.content
        return
    while block := _next_block(response, size):
        yield block


def _next_block(response: requests.Response, size: int) -> bytes:
    try:
        return bytes(response.raw.read1(size, decode_content=True) or b"")
    except urllib3_exceptions.ReadTimeoutError as error:
        raise exceptions.ReadTimeout(error, response=response) from error
    except urllib3_exceptions.DecodeError as error:
        raise exceptions.ContentDecodingError(error, response=response) from error
    except urllib3_exceptions.SSLError as error:
        raise exceptions.SSLError(error, response=response) from error
    except (urllib3_exceptions.HTTPError, OSError) as error:
        raise exceptions.ChunkedEncodingError(error, response=response) from error


def downloaded(response: requests.Response, size: int) -> Iterator[bytes]:
    """Yield a download's blocks as they arrive.

    Raises:
        requests.RequestException: the connection is cut, silent, or brings next to nothing for minutes.
    """
    since_s, received = time.monotonic(), 0
    for block in arriving(response, size):
        yield block
        received += len(block)
        if received >= _LEAST_BYTES:
            since_s, received = time.monotonic(), 0
        elif time.monotonic() - since_s > _STALLED_S:
            raise exceptions.ReadTimeout(response=response)
