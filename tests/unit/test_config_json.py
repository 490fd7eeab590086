"""What a model's config.json states, however malformed."""

from __future__ import annotations

import pytest

from builder.models.config_json import architectures_of


@pytest.mark.parametrize(
    ("document", "expected"),
    [
        ({"architectures": ["LlamaForCausalLM", 3]}, ("LlamaForCausalLM",)),
        ({"architectures": "LlamaForCausalLM"}, ()),
        ({"architectures": 3}, ()),
        ({}, ()),
        (["architectures"], ()),
        (None, ()),
    ],
)
def test_only_a_list_of_names_counts(document: object, expected: tuple[str, ...]) -> None:
    assert architectures_of(document) == expected
