"""A model's `config.json`, in Hugging Face's format."""

from __future__ import annotations

CONFIG = "config.json"


def architectures_of(document: object) -> tuple[str, ...]:
    """Return the names of the model's classes that the parsed file states; none if it is malformed."""
    names = document.get("architectures") if isinstance(document, dict) else None
    return tuple(name for name in names if isinstance(name, str)) if isinstance(names, list) else ()
