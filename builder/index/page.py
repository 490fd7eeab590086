"""Reads the pages of package indexes: HTML (PEP 503) and JSON (PEP 691)."""

from __future__ import annotations

import json
import re
from html.parser import HTMLParser
from typing import Any
from urllib.parse import unquote, urldefrag, urljoin, urlsplit

from builder.index.model import IndexFile

ACCEPT = "application/vnd.pypi.simple.v1+json, application/vnd.pypi.simple.v1+html;q=0.2, text/html;q=0.01"

_JSON = "application/vnd.pypi.simple.v1+json"
_HTML = ("text/html", "application/vnd.pypi.simple.v1+html")
_FILE = re.compile(r"[^/\\]+\.(whl|tar\.gz|zip|tar\.bz2|tgz|egg)")
_ABSENT = "\0"
_SHA256 = re.compile(r"sha256[=:]([0-9a-fA-F]{64})")
# What pages of package indexes say of themselves even when they list nothing.
_EMPTY = re.compile(r"pypi:repository-version|links for|simple index", re.IGNORECASE)


def parse(content: bytes, content_type: str, url: str) -> tuple[IndexFile, ...]:
    """Return the files that a page lists, in its order; `url` is what its links are relative to.

    Raises:
        ValueError: this is not the page of a package index; the message says why.
    """
    kind = content_type.partition(";")[0].strip().lower()
    if kind == _JSON:
        return _from_json(content, url)
    if kind in _HTML:
        return _from_html(content.decode("utf-8", "replace"), url)
    raise ValueError(f"it answers with `{kind or 'no type'}`, not with a package page")


def _from_json(content: bytes, url: str) -> tuple[IndexFile, ...]:
    try:
        document = json.loads(content)
        version = str(document["meta"]["api-version"])
        if not version.startswith("1."):
            raise ValueError(f"its pages are of version {version}, which is not known")
        files = (_json_file(entry, url) for entry in document["files"])
        return tuple(file for file in files if _FILE.fullmatch(file.filename))
    except (KeyError, TypeError, AttributeError, RecursionError, json.JSONDecodeError) as error:
        raise ValueError("its JSON is not a package page") from error


def _json_file(entry: dict[str, Any], url: str) -> IndexFile:
    yanked, size = entry.get("yanked", False), entry.get("size")
    reason = yanked if isinstance(yanked, str) else ""
    return IndexFile(
        filename=str(entry["filename"]),
        url=urljoin(url, str(entry["url"])),
        sha256=_lower(entry.get("hashes", {}).get("sha256")),
        requires_python=entry.get("requires-python") or None,
        yanked=reason if yanked else None,
        upload_time=entry.get("upload-time"),
        size=size if isinstance(size, int) else None,
        metadata=bool(entry.get("core-metadata", entry.get("dist-info-metadata", False))),
    )


def _from_html(text: str, url: str) -> tuple[IndexFile, ...]:
    page = _Anchors(url)
    page.feed(text)
    page.close()
    files = tuple(found for attributes in page.anchors if (found := _html_file(attributes, page.base)))
    if not files and not _EMPTY.search(text):
        raise ValueError("its HTML is not a package page")
    return files


class _Anchors(HTMLParser):
    """Collects the attributes of all links; `base` is what they are relative to."""

    def __init__(self, url: str) -> None:
        super().__init__()
        self.base = url
        self.anchors: list[dict[str, str | None]] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        attributes = dict(attrs)
        if tag == "a" and attributes.get("href"):
            self.anchors.append(attributes)
        elif tag == "base" and (href := attributes.get("href")):
            self.base = urljoin(self.base, href)


def _html_file(attributes: dict[str, str | None], base: str) -> IndexFile | None:
    address, fragment = urldefrag(urljoin(base, attributes["href"] or ""))
    name = unquote(urlsplit(address).path.rpartition("/")[2])
    if not _FILE.fullmatch(name):
        return None
    digest = _SHA256.search(fragment)
    yanked = attributes.get("data-yanked", _ABSENT)
    return IndexFile(
        filename=name,
        url=address,
        sha256=_lower(digest[1]) if digest else None,
        requires_python=attributes.get("data-requires-python") or None,
        yanked=None if yanked is _ABSENT else (yanked or ""),
        metadata="data-core-metadata" in attributes or "data-dist-info-metadata" in attributes,
    )


def _lower(digest: Any) -> str | None:
    return digest.lower() if isinstance(digest, str) and re.fullmatch(r"[0-9a-fA-F]{64}", digest) else None
