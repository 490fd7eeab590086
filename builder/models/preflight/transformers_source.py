"""Reads the model types, architectures and tokenizers of a transformers release out of its source files."""

from __future__ import annotations

import ast
from typing import TYPE_CHECKING

from builder.models.preflight import syntax
from builder.models.preflight.server_facts import TransformersFacts
from builder.models.preflight.syntax import Module

if TYPE_CHECKING:
    from collections.abc import Iterator

    from builder.models.preflight.vllm_source import ReadSource

_AUTO = "transformers/models/auto"
SOURCES = tuple(
    f"{_AUTO}/{name}.py"
    for name in (
        *("auto_mappings", "configuration_auto", "image_processing_auto"),
        *("modeling_auto", "processing_auto", "tokenization_auto"),
    )
)
"""The files that this module reads."""


def read_transformers(read: ReadSource) -> TransformersFacts:
    """Return the facts of the release (read in 4.44 to 5.18: its `auto` classes keep all names in mappings)."""
    modules = [Module(read(path)) for path in SOURCES]
    mappings = {name: value for module in modules for name, value in module.assignments.items()}

    def keys(name: str) -> tuple[str, ...]:
        """Return the keys of a mapping; newer releases build one in several steps and files."""
        return tuple(sorted({key for module in modules for value in module.values(name) for key in syntax.keys(value)}))

    return TransformersFacts(
        model_types=keys("CONFIG_MAPPING_NAMES"),
        architectures=tuple(sorted(set(_classes(mappings, "MODEL_")))),
        image_types=keys("IMAGE_PROCESSOR_MAPPING_NAMES"),
        tokenizers=tuple(sorted(set(_classes(mappings, "TOKENIZER_")))),
    )


def _classes(mappings: dict[str, ast.expr], prefix: str) -> Iterator[str]:
    for name, value in mappings.items():
        if name.startswith(prefix) and name.endswith("MAPPING_NAMES"):
            yield from _values(value)


def _values(mapping: ast.expr) -> Iterator[str]:
    """Yield the class names on the right of a mapping's pairs."""
    for node in ast.walk(mapping):
        if isinstance(node, ast.Tuple) and len(node.elts) == 2 and syntax.strings(node.elts[0]):  # noqa: PLR2004  # pair
            yield from _names(node.elts[1])
        if isinstance(node, ast.Dict):
            for value in node.values:
                yield from _names(value)


def _names(node: ast.expr) -> Iterator[str]:
    """Yield the names in a value: a class, several, or `Name if is_available() else None`."""
    yield from (text for inner in ast.walk(node) if isinstance(inner, ast.Constant) for text in syntax.strings(inner))
