"""Web pages in place of other answers: sign-in pages, captive portals, websites."""

from __future__ import annotations

import re
from contextlib import suppress
from html import unescape

import requests

from builder.remote.answer_bodies import AnswerError, read_body

# The beginning of an error's body, for its explanation.
_EXCERPT = 64 << 10
_EXCERPT_WITHIN_S = 10.0
_LONGEST_TITLE = 60
_HTML = ("text/html", "application/xhtml+xml")
_HTML_START = re.compile(rb"\s{0,100}<(!doctype html|html)\b", re.IGNORECASE)
_TITLE = re.compile(r"<title[^<>]{0,200}>([^<]{1,400})", re.IGNORECASE)


class WebPageError(AnswerError):
    """A web page where the protocol has another answer: a sign-in page, a captive portal, a website."""

    def __init__(self, response: requests.Response) -> None:
        """Take the answer; its title becomes part of the message."""
        kind = response.headers.get("Content-Type", "without a type").partition(";")[0].strip()
        text = f"a web page answers ({response.status_code} {kind}){titled(beginning(response))}"
        super().__init__(text, request=response.request, response=response)


WEB_PAGE_HINT = (
    "open the address in a browser: a network's sign-in page, a proxy or another website may answer there; "
    "sign in, or correct the address"
)


def is_web_page(response: requests.Response) -> bool:
    """Return whether an answer is HTML, by its type or, once it has been read, by its first bytes."""
    if response.headers.get("Content-Type", "").partition(";")[0].strip().lower() in _HTML:
        return True
    content = getattr(response, "_content", None)
    return isinstance(content, bytes) and _HTML_START.match(content) is not None


def refuse_web_page(response: requests.Response) -> requests.Response:
    """Return an answer that is not a web page.

    Raises:
        WebPageError: it is one.
    """
    if is_web_page(response):
        try:
            raise WebPageError(response)
        finally:
            response.close()
    return response


def titled(content: bytes) -> str:
    """Return the title of a web page for a message, such as ` titled “Sign in”`, or ""."""
    match = _TITLE.search(content[:_EXCERPT].decode("utf-8", "replace"))
    text = " ".join(unescape(match[1]).split()) if match else ""
    title = "".join(filter(str.isprintable, text))[:_LONGEST_TITLE].strip()
    return f" titled “{title}”" if title else ""


def beginning(response: requests.Response) -> bytes:
    """Return the body of an answer, or nothing if it is long, slow or read already."""
    with suppress(requests.RequestException, RuntimeError):
        return read_body(response, _EXCERPT, _EXCERPT_WITHIN_S) or b""
    return b""
