"""What devpi says: pages, refusals and parts of files, as devpi-server 6.20.3 was seen to say them on 2026-11-24."""

from __future__ import annotations

import html
import json
import os
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence

    from jetson_shelf import Link

JSON = "application/vnd.pypi.simple.v1+json"
HTML = "text/html; charset=UTF-8"
_INSTALLER = re.compile(r"([^ ]* )*(distribute|setuptools|pip|pex|uv)/.*")
_VARY = {"Vary": "Accept, User-Agent"}


@dataclass(frozen=True, kw_only=True, slots=True)
class Answer:
    """What a server is about to send."""

    status: int
    headers: dict[str, str]
    body: bytes = b""


def listing(name: str, projects: Sequence[str]) -> Answer:
    """Answer with the projects of a set."""
    links = "".join(f'<a href="{project}/">{project}</a><br>\n' for project in projects)
    return _page(f"{name}: simple list (including inherited indices)", f"<h2>{name}</h2>{links}")


def project_page(name: str, project: str, links: Sequence[Link], at: str) -> Answer:
    """Answer with a project's files; `at` is the path that was asked for, to which the links are relative."""
    return _page(f"{name}: links for {project}", "\n" + "".join(_anchor(link, at) for link in links))


def project_json(project: str, links: Sequence[Link], at: str) -> Answer:
    """Answer with a project's files as PEP 691 wants them: still no sizes and no upload times."""
    page = {"meta": {"api-version": "1.0"}, "name": project, "files": [_entry(link, at) for link in links]}
    return Answer(status=200, headers={"Content-Type": JSON, **_VARY}, body=json.dumps(page).encode())


def message(status: int, reason: str, text: str, **headers: str) -> Answer:
    """Answer with a page for people that says what is the matter."""
    title = f"{status} {reason}"
    body = (
        f"<html>\n <head>\n  <title>{title}</title>\n </head>\n <body>\n  <h1>{title}</h1>\n  {text}\n </body>\n</html>"
    )
    return Answer(status=status, headers={"Content-Type": HTML, **headers}, body=body.encode())


def not_found(text: str) -> Answer:
    """Answer that something is not there."""
    return message(404, "Not Found", text)


def unwanted(status: int, text: str) -> Answer:
    """Answer as devpi does where it speaks JSON."""
    body = json.dumps({"message": text}).encode()
    return Answer(status=status, headers={"Content-Type": "application/json"}, body=body)


def part(body: bytes, headers: dict[str, str], asked: str | None) -> Answer:
    """Answer with the one range that was asked for; several at once get everything, which a server may do."""
    found = re.fullmatch(r"bytes=(\d*)-(\d*)", asked or "")
    if not found or not any(found.groups()):
        return Answer(status=200, headers=headers, body=body)
    size = len(body)
    begin = int(found[1]) if found[1] else max(0, size - int(found[2]))
    end = min(int(found[2]) + 1, size) if found[1] and found[2] else size
    if begin >= end:
        return Answer(status=416, headers={"Content-Range": f"bytes */{size}"})
    span = f"bytes {begin}-{end - 1}/{size}"
    return Answer(status=206, headers={**headers, "Content-Range": span}, body=body[begin:end])


def is_installer(agent: str, accept: str) -> bool:
    """Tell whether devpi takes a client for one that installs, and spares it redirects."""
    return bool(_INSTALLER.match(agent)) or prefers_json(accept)


def prefers_json(accept: str) -> bool:
    """Tell whether a client would rather have JSON than HTML; of equals devpi offers HTML first."""
    best = {"text/html": 0.0, JSON: 0.0}
    for offer in accept.split(","):
        kind, *parameters = (text.strip() for text in offer.split(";"))
        weight = next((float(text[2:]) for text in parameters if text.startswith("q=")), 1.0)
        if kind in best:
            best[kind] = weight
    return best[JSON] > best["text/html"]


def _page(title: str, body: str) -> Answer:
    text = (
        f'<!DOCTYPE html><html lang="en"><head><title>{title}</title></head><body><h1>{title}</h1>{body}</body></html>'
    )
    return Answer(status=200, headers={"Content-Type": HTML, **_VARY}, body=text.encode())


def _anchor(link: Link, at: str) -> str:
    attributes = f'href="{_relative(link, at)}#sha256={link.sha256}"'
    attributes += f' data-requires-python="{html.escape(link.requires_python)}"'
    if link.yanked is not None:
        attributes += f' data-yanked="{html.escape(link.yanked)}"'
    return f"{link.stage} <a {attributes}>{link.path.name}</a><br>\n"


def _entry(link: Link, at: str) -> dict[str, object]:
    entry: dict[str, object] = {"filename": link.path.name, "url": _relative(link, at)}
    entry |= {"hashes": {"sha256": link.sha256}, "requires-python": link.requires_python}
    return entry if link.yanked is None else {**entry, "yanked": link.yanked}


def _relative(link: Link, at: str) -> str:
    return os.path.relpath(f"/{link.address}", at if at.endswith("/") else at.rpartition("/")[0])
