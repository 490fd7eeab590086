"""What a compose file's YAML is read as: by PyYAML, and by readers that take more strings for numbers."""

from __future__ import annotations

from typing import Any

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from builder.device.compose_file import to_yaml

# A file cannot hold lone surrogates.
TEXT = st.text(st.characters(exclude_categories=["Cs"]), max_size=40)
SCALARS = st.one_of(TEXT, st.integers(), st.booleans())
VALUES = st.recursive(SCALARS | st.lists(SCALARS), lambda inner: st.dictionaries(TEXT, inner, max_size=3), max_leaves=4)
DATES = ["1e3", "0x10", "1.5", "12:30", "2026-01-02"]
INDICATORS = ["#x", "a: b", "a #b", "*x", "&x", "!x", "%x", "@x", "`x", "{x", "[x", "a\nb", "\x7f", "\U0001f600"]


@settings(max_examples=60, deadline=None)
@given(st.dictionaries(TEXT, VALUES, max_size=4))
def test_any_document_comes_back(document: dict[str, Any]) -> None:
    assert (yaml.safe_load(to_yaml(document)) or {}) == document


@pytest.mark.parametrize("text", ["no", "Off", "null", "~", "<<", "=", "-", "", *DATES])
def test_what_looks_like_something_else_stays_a_string(text: str) -> None:
    assert yaml.safe_load(to_yaml({"key": text})) == {"key": text}


@pytest.mark.parametrize("text", INDICATORS)
def test_what_has_a_meaning_in_yaml_stays_a_string(text: str) -> None:
    assert yaml.safe_load(to_yaml({"key": text, "list": [text]})) == {"key": text, "list": [text]}


def test_plain_words_are_not_quoted_and_order_is_kept() -> None:
    assert to_yaml({"b": "word", "a": {"x": 1, "empty": {}}, "l": ["a/b", True], "none": []}) == (
        "b: word\na:\n  x: 1\n  empty: {}\nl:\n  - a/b\n  - true\nnone: []\n"
    )


@pytest.mark.parametrize("text", ["1e3", "08", "0o17", "1_000", ".5", "y", "N", *DATES])
def test_a_string_that_another_reader_takes_for_something_else_is_quoted(text: str) -> None:
    assert to_yaml({"key": text}) == f'key: "{text}"\n'


def test_a_list_that_stands_twice_is_written_twice_and_long_lines_are_not_folded() -> None:
    words = ["a " * 200]
    assert to_yaml({"a": words, "b": words}) == f'a:\n  - "{words[0]}"\nb:\n  - "{words[0]}"\n'
