"""The page as one HTML file with its styles and script; its content security policy forbids all else."""

from __future__ import annotations

import base64
import hashlib
import unicodedata
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from markupsafe import Markup

from builder.host.units import duration, moment, size_of
from builder.project.page.page_parts import short

if TYPE_CHECKING:
    from builder.project.page.page_data import ReportPage

_TEMPLATES = Path(__file__).with_name("templates")
# Signs of the states, for readers who cannot tell colours apart.
SIGNS = {
    "failed": "✗",
    "published": "✔",
    "smoked": "✓",
    "built": "▣",
    "planned": "▤",
    "audited": "▥",
    "locked": "▢",
    "stale": "↻",
    "not begun": "·",
    "no wheels": "∅",
    "impossible": "⊘",
}


def render(page: ReportPage) -> str:
    """Return the page as HTML."""
    from jinja2 import Environment, FileSystemLoader, StrictUndefined  # noqa: PLC0415  # slow to import

    environment = Environment(
        loader=FileSystemLoader(_TEMPLATES),
        autoescape=True,
        undefined=StrictUndefined,
        finalize=clean,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {
        "size": size_of,
        "time": duration,
        "moment": moment,
        "slug": slug,
        "short": short,
        "package_row": package_row,
    }
    style, script = (_text(name) for name in ("page.css", "page.js"))
    policy = (
        f"default-src 'none'; style-src '{_hash(style)}'; script-src '{_hash(script)}'; "
        "base-uri 'none'; form-action 'none'"
    )
    # jbuild's own, and hashed: escaping would change them.
    assets = {"style": Markup(style), "script": Markup(script)}  # noqa: S704
    return environment.get_template("page.html.j2").render(page=page, policy=policy, signs=SIGNS, **assets)


@lru_cache(maxsize=1 << 14)
def package_row(name: str, version: str, size: int | None, index: str | None) -> Markup:
    """Return a row of a package table: most cells of a recipe share most rows, and there are thousands of them."""
    megabytes = "" if size is None else f"{size / 1e6:.1f}"
    source = Markup(" <i>{}</i>").format(clean(index)) if index else ""
    return Markup("<tr><th>{}<td>{}{}<td>{}\n").format(clean(name), clean(version), source, megabytes)


def clean(value: Any) -> Any:
    """Return a value without control characters and changes of direction.

    Texts of models, logs and wheel names are not trusted; escaping alone does not remove these.
    """
    if type(value) is not str or value.isprintable():
        return value
    return "".join(
        c if c in "\n\t" or unicodedata.category(c)[0] != "C" else "\N{REPLACEMENT CHARACTER}" for c in value
    )


def slug(text: str) -> str:
    """Return a text for use in a CSS class name."""
    return text.replace(" ", "-")


def _text(name: str) -> str:
    return (_TEMPLATES / name).read_text(encoding="utf-8").strip()


def _hash(text: str) -> str:
    return "sha256-" + base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()
