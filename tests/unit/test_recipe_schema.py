"""JSON schemas in recipes, and answers that fit them or do not."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from builder.recipe import guided_schema

CITY: dict[str, Any] = {
    "type": "object",
    "properties": {
        "city": {"type": "string", "enum": ["Paris", "Rome"]},
        "people": {"type": "integer", "minimum": 1},
        "names": {"type": "array", "items": {"type": "string", "minLength": 2}, "maxItems": 2},
    },
    "required": ["city"],
    "additionalProperties": False,
}


@pytest.mark.parametrize(
    ("found", "path", "message"),
    [
        ("text", (), "must be a JSON schema as a table"),
        ({}, (), "allows everything"),
        ({"title": "x"}, (), "allows everything"),
        ({"type": "objekt"}, ("type",), "`objekt` is not a type (did you mean `object`?)"),
        ({"type": ["string", "null"]}, ("type",), "does not take this value"),
        (
            {"type": "object", "propertys": {}},
            ("propertys",),
            "unknown keyword `propertys` (did you mean `properties`?)",
        ),
        ({"type": "object", "properties": {"a": {"type": 1}}}, ("properties", "a", "type"), "does not take this value"),
        ({"type": "array", "items": {"max": 1}}, ("items", "max"), "unknown keyword"),
        ({"type": "string", "pattern": "("}, ("pattern",), "not a regular expression"),
        ({"type": "string", "minLength": True}, ("minLength",), "does not take this value"),
        ({"enum": []}, ("enum",), "at least one value"),
        ({"type": "object", "required": [1]}, ("required",), "names of properties"),
    ],
)
def test_schemas_with_mistakes(found: Any, path: tuple[str, ...], message: str) -> None:
    (problem,) = guided_schema.problems(found)
    assert problem[0] == path
    assert message in problem[1]


@pytest.mark.parametrize("found", [CITY, {"type": "string"}, {"enum": ["a", 1]}, {"const": 3}])
def test_schemas_without(found: dict[str, Any]) -> None:
    assert guided_schema.problems(found) == []
    assert json.loads(guided_schema.text(found)) == found


@pytest.mark.parametrize(
    ("answer", "problem"),
    [
        ({"city": "Paris"}, None),
        ({"city": "Rome", "people": 2, "names": ["ab"]}, None),
        ({"city": "Rome", "people": 2.0}, None),
        ([], "it is not of type object"),
        ({}, "`city` is missing"),
        ({"city": "Bonn"}, '"Bonn" is not "Paris" or "Rome" at `city`'),
        ({"city": 3}, "it is not of type string at `city`"),
        ({"city": "Rome", "people": 0}, "0 is below the `minimum` of 1 at `people`"),
        ({"city": "Rome", "people": True}, "it is not of type integer at `people`"),
        ({"city": "Rome", "people": 1.5}, "it is not of type integer at `people`"),
        ({"city": "Rome", "names": ["ab", "c"]}, '"c" is below the `minLength` of 2 at `names[1]`'),
        ({"city": "Rome", "names": ["ab", "cd", "ef"]}, "is above the `maxItems` of 2 at `names`"),
        ({"city": "Rome", "more": 1}, "`more` is not allowed"),
    ],
)
def test_answers(answer: Any, problem: str | None) -> None:
    found = guided_schema.unmet(json.dumps(answer), guided_schema.text(CITY))
    assert found == problem or (problem and found and problem in found)


@pytest.mark.parametrize("text", ["", "Paris", '{"city": ', "[" * 100_000])
def test_what_is_no_json(text: str) -> None:
    assert guided_schema.unmet(text, guided_schema.text(CITY)) == "it is not JSON"


@pytest.mark.parametrize(
    ("wanted", "right", "wrong"),
    [
        ({"const": 1}, "1", "true"),
        ({"enum": [True]}, "true", "1"),
        ({"type": "string", "pattern": "^P"}, '"Paris"', '"Rome"'),
        ({"type": "number", "maximum": 2}, "1.5", "2.5"),
        ({"type": "null"}, "null", "0"),
        ({"type": "boolean"}, "false", '"false"'),
    ],
)
def test_each_keyword(wanted: dict[str, Any], right: str, wrong: str) -> None:
    assert guided_schema.unmet(right, guided_schema.text(wanted)) is None
    assert guided_schema.unmet(wrong, guided_schema.text(wanted)) is not None


@given(
    st.recursive(
        st.none() | st.booleans() | st.integers() | st.text(), lambda v: st.lists(v) | st.dictionaries(st.text(), v)
    )
)
def test_any_answer_is_judged(answer: Any) -> None:
    wrong = guided_schema.unmet(json.dumps(answer), guided_schema.text(CITY))
    assert wrong or (isinstance(answer, dict) and answer["city"] in ("Paris", "Rome"))
