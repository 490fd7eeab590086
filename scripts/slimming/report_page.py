"""The page with the results of the checks of slimming: each command writes its section."""

from __future__ import annotations

import re
from pathlib import Path

PAGE = Path(__file__).parents[2] / "docs" / "slim.md"


def with_section(page: Path, name: str, text: str) -> str:
    """Return a page with another text between its marks `<!-- name -->` and `<!-- /name -->`."""
    content = page.read_text(encoding="utf-8")
    block = f"<!-- {name} -->\n{text.strip()}\n<!-- /{name} -->"
    return re.sub(rf"<!-- {name} -->.*?<!-- /{name} -->", lambda _: block, content, flags=re.DOTALL)
