"""Placeholders such as `{axis}` in a recipe's strings: their names, and their values in a cell."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping

    from builder.model.platforms import Platform
    from builder.model.recipes import Cell

# Other braces, as in `{"image": 2}` or the pattern `a{2}`, are text.
PATTERN = r"\{([A-Za-z][A-Za-z0-9_-]*)\}"
_PLACEHOLDER = re.compile(PATTERN)

# Facts of every cell besides its axes. An axis may have a name of the first group, never of the second.
_PLATFORM_FACTS = ("l4t", "distribution", "ubuntu", "cuda", "python", "sm")
DERIVED_FACTS = ("release", "jetpack", "cuda-nodots", "python-nodots", "sm-nodots", "architecture", "recipe", "cell")
# Facts that only the built image's labels show. They are for tags, and a mark stands in for them until publication.
MEASURED = ("vllm", "torch", "l4t", "cuda", "python")
MEASURED_FACTS = tuple(f"image-{name}" for name in MEASURED)
FACTS = (*_PLATFORM_FACTS, *DERIVED_FACTS)


def names(text: str) -> tuple[str, ...]:
    """Return the names of a text's placeholders, without duplicates, in order."""
    return tuple(dict.fromkeys(_PLACEHOLDER.findall(text))) if "{" in text else ()


def fill(text: str, facts: Mapping[str, str]) -> str:
    """Replace the placeholders of a text.

    Raises:
        KeyError: unknown fact; the recipe's checks exclude it.
    """
    return _PLACEHOLDER.sub(lambda match: facts[match.group(1)], text) if "{" in text else text


def facts(cell: Cell, platform: Platform) -> dict[str, str]:
    """Return the facts of a cell: its axes and its platform's facts, without missing ones."""
    cuda = platform.cuda or ""
    values = {
        "l4t": platform.l4t,
        "distribution": platform.distribution,
        "ubuntu": platform.release if platform.distribution.startswith("ubuntu-") else None,
        "cuda": platform.cuda,
        "python": platform.python,
        "sm": "+".join(platform.sms),
        "release": platform.release,
        "jetpack": platform.jetpack and platform.jetpack.replace(" ", "-"),
        "cuda-nodots": cuda.replace(".", ""),
        "python-nodots": platform.python.replace(".", ""),
        "sm-nodots": "-".join(platform.sms).replace(".", ""),
        "architecture": platform.architecture,
        "recipe": cell.recipe,
        "cell": cell.id,
    }
    return {**{name: value for name, value in values.items() if value}, **dict(cell.values)}


def marks() -> dict[str, str]:
    """Return the mark of each measured fact, which stands in for it until publication: it is valid in a tag."""
    return {f"image-{name}": f"__image-{name}__" for name in MEASURED}


def in_tag(values: Mapping[str, str]) -> dict[str, str]:
    """Return facts as tags hold them: a local version's plus sign cannot be part of a tag."""
    return {name: value.replace("+", "-") for name, value in values.items()}


def unmarked(text: str) -> str:
    """Return a tag with placeholders in place of its marks."""
    for name, mark in marks().items():
        text = text.replace(mark, f"{{{name}}}")
    return text
