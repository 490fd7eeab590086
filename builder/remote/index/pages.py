"""Parses the pages of package indexes: HTML (PEP 503) and JSON (PEP 691)."""

from __future__ import annotations

import json
import re
from html import unescape
from typing import TYPE_CHECKING, Any
from urllib.parse import unquote, urldefrag, urljoin, urlsplit

from builder.remote.index.listing import IndexFile

if TYPE_CHECKING:
    from collections.abc import Iterator

ACCEPT = "application/vnd.pypi.simple.v1+json, application/vnd.pypi.simple.v1+html;q=0.2, text/html;q=0.01"

JSON_PAGE = "application/vnd.pypi.simple.v1+json"
_HTML = ("text/html", "application/vnd.pypi.simple.v1+html")
# Names of wheels and source archives: printable ASCII without slashes.
_FILE = re.compile(r"[!-.0-\[\]-~]+\.(whl|tar\.gz|zip|tar\.bz2|tgz|egg)")
_SHA256 = re.compile(r"(?i:sha256)[=:]([0-9a-fA-F]{64})(?![0-9a-fA-F])")
_MOMENT = re.compile(r"[0-9]{4}-[0-9]{2}-[0-9]{2}T[0-9]{2}:[0-9]{2}:[0-9]{2}(\.[0-9]+)?(Z|[+-][0-9]{2}:[0-9]{2})")
_MOST_BYTES = 2**53
# Marks of package indexes' empty pages.
_EMPTY = re.compile(
    r"<meta[^<>]{0,200}pypi:repository-version"
    r"|<(?:title|h1)\b[^<>]{0,200}>[^<]{0,400}(?:links for|simple index|index of)",
    re.IGNORECASE,
)
# `html.parser` needs quadratic time for some garbage; these only move forward.
_MARK = re.compile(r"<!--|<(?P<tag>a|base|script|style)(?=[\s/>])", re.IGNORECASE)
_ATTRIBUTE = re.compile(r"[\s/]*([^\s/>=]+)(?:\s*=\s*(?:\"([^\"]*)\"|'([^']*)'|([^\s>\"']+)))?")
_TAG_END = re.compile(r"[\s/=]*(>?)")


def parse(content: bytes, content_type: str, url: str) -> tuple[IndexFile, ...]:
    """Return the files on a page, in its order; `url` is the base of its links.

    Raises:
        ValueError: this is not the page of a package index; the message says why.
    """
    kind = content_type.partition(";")[0].strip().lower()
    if kind == JSON_PAGE:
        return _from_json(content, url)
    if kind in _HTML:
        return _from_html(content.decode("utf-8", "replace"), url)
    raise ValueError(f"it answers with `{kind or 'no type'}`, not with a package page")


def _from_json(content: bytes, url: str) -> tuple[IndexFile, ...]:
    try:
        document = json.loads(content)
        version = str(document["meta"]["api-version"])
        entries = [(entry, str(entry["filename"]), str(entry["url"])) for entry in document["files"]]
    except (KeyError, TypeError, AttributeError, RecursionError, ValueError) as error:
        raise ValueError("its JSON is not a package page") from error
    if not version.startswith("1."):
        raise ValueError(f"its pages have the unknown version {version[:20]!r}")
    files = (_json_file(entry, name, _address(url, target)) for entry, name, target in entries)
    return tuple(file for file in files if file)


def _json_file(entry: dict[str, Any], name: str, url: str | None) -> IndexFile | None:
    if url is None or not _FILE.fullmatch(name):
        return None
    yanked, moment, size = entry.get("yanked", False), _text(entry.get("upload-time")), entry.get("size")
    return IndexFile(
        filename=name,
        url=url,
        sha256=_digest(entry.get("hashes")),
        requires_python=_text(entry.get("requires-python")),
        yanked=(_text(yanked) or "") if yanked else None,
        upload_time=moment if moment and _MOMENT.fullmatch(moment) else None,
        size=size if type(size) is int and 0 <= size < _MOST_BYTES else None,
        metadata=_metadata(entry.get("core-metadata", entry.get("dist-info-metadata", False))),
    )


def _from_html(text: str, url: str) -> tuple[IndexFile, ...]:
    anchors, base = [], None
    for tag, attributes in _tags(text):
        if tag == "a" and attributes.get("href"):
            anchors.append(attributes)
        elif tag == "base" and base is None:
            base = attributes.get("href")
    start = (_address(url, base) if base else None) or url
    files = tuple(filter(None, (_html_file(attributes, start) for attributes in anchors)))
    if not files and not _EMPTY.search(text):
        raise ValueError("its HTML is not a package page")
    return files


def _tags(text: str) -> Iterator[tuple[str, dict[str, str]]]:
    """Yield the `a` and `base` tags of a page with their attributes, in one pass, without comments and scripts."""
    at = 0
    while mark := _MARK.search(text, at):
        tag, at = (mark["tag"] or "").lower(), mark.end()
        if tag in ("a", "base"):
            attributes, at = _attributes(text, at)
            yield tag, attributes
            continue
        end = re.compile(f"</{tag}" if tag else "-->", re.IGNORECASE).search(text, at)
        if end is None:
            return
        at = end.end()


def _attributes(text: str, at: int) -> tuple[dict[str, str], int]:
    """Return the attributes of a tag, the first of each name, and its end; `at` is the end of the tag's name."""
    attributes: dict[str, str] = {}
    while at < len(text):
        if attribute := _ATTRIBUTE.match(text, at):
            name, *values = attribute.groups()
            attributes.setdefault(name.lower(), unescape(next((value for value in values if value is not None), "")))
            at = attribute.end()
        end = _TAG_END.match(text, at)
        at = end.end() if end else at
        if end and end[1]:
            break
    return attributes, at


def _html_file(attributes: dict[str, str], base: str) -> IndexFile | None:
    address, fragment = urldefrag(_address(base, attributes["href"]) or "")
    name = unquote(urlsplit(address).path.rpartition("/")[2])
    if not _FILE.fullmatch(name):
        return None
    digest = _SHA256.search(fragment)
    return IndexFile(
        filename=name,
        url=address,
        sha256=digest[1].lower() if digest else None,
        requires_python=_text(attributes.get("data-requires-python")),
        yanked=_text(attributes["data-yanked"]) or "" if "data-yanked" in attributes else None,
        metadata=_metadata(attributes.get("data-core-metadata", attributes.get("data-dist-info-metadata", False))),
    )


def _address(base: str, target: str) -> str | None:
    """Return a link's absolute address without its log-in, or None if it is not an http(s) address."""
    try:
        url = urlsplit(urljoin(base, target.strip()))
    except ValueError:
        return None
    if url.scheme not in ("http", "https") or not url.netloc or not url.geturl().isprintable():
        return None
    return url._replace(netloc=url.netloc.rpartition("@")[2]).geturl()


def _text(value: Any) -> str | None:
    """Return a text that can be encoded, or None for anything else; JSON may contain lone surrogates."""
    return value.encode("utf-8", "replace").decode() if isinstance(value, str) and value else None


def _digest(hashes: Any) -> str | None:
    digest = hashes.get("sha256") if isinstance(hashes, dict) else None
    return digest.lower() if isinstance(digest, str) and re.fullmatch(r"[0-9a-fA-F]{64}", digest) else None


def _metadata(value: Any) -> str | None:
    """Return the sha256 of the METADATA beside a wheel, `""` if the page gives none, None if there is no METADATA."""
    if isinstance(value, str):
        digest = _SHA256.fullmatch(value)
        return None if value.lower() == "false" else digest[1].lower() if digest else ""
    return _digest(value) or "" if value else None
