"""JSON schemas for guided output: the part that vLLM's grammars support, checked in recipes and in answers.

Other keywords are mistakes: an ignored expectation would prove nothing.
"""

from __future__ import annotations

import json
import re
from datetime import date, datetime, time
from typing import TYPE_CHECKING, Any

from builder.host.wording import key_path, printable, suggest

if TYPE_CHECKING:
    from collections.abc import Iterator

    from builder.host.toml.positions import Path

_TYPES: dict[str, tuple[type, ...]] = {
    "array": (list,),
    "boolean": (bool,),
    "integer": (int,),
    "null": (type(None),),
    "number": (int, float),
    "object": (dict,),
    "string": (str,),
}
# Types of each keyword's value (JSON Schema 2020-12, validation vocabulary).
_KEYWORDS: dict[str, tuple[type, ...]] = {
    "type": (str,),
    "description": (str,),
    "title": (str,),
    "properties": (dict,),
    "required": (list,),
    "additionalProperties": (bool,),
    "items": (dict,),
    "enum": (list,),
    "const": (str, int, float, bool),
    "pattern": (str,),
    "minLength": (int,),
    "maxLength": (int,),
    "minItems": (int,),
    "maxItems": (int,),
    "minimum": (int, float),
    "maximum": (int, float),
}
# A schema without any of these allows everything.
_DEFINING = ("type", "enum", "const")


def keyword_schema() -> dict[str, Any]:
    """Return the JSON Schema of the top level of such a schema."""
    return {
        "type": "object",
        "propertyNames": {"enum": list(_KEYWORDS)},
        "properties": {"type": {"enum": list(_TYPES)}},
        "anyOf": [{"required": [name]} for name in _DEFINING],
    }


def problems(schema: Any, path: Path = ()) -> list[tuple[Path, str]]:
    """Return the mistakes of a schema with their key paths."""
    if not isinstance(schema, dict):
        return [(path, 'must be a JSON schema as a table, such as { type = "object" }')]
    mistakes: list[tuple[Path, str]] = []
    if not path and not set(_DEFINING) & set(schema):
        mistakes.append((path, "this schema allows everything, so it proves nothing: give it a `type`"))
    for key, value in schema.items():
        mistakes += [((*path, key), message) for message in _keyword_mistakes(key, value)]
    properties = schema.get("properties")
    for name, nested in properties.items() if isinstance(properties, dict) else ():
        mistakes += problems(nested, (*path, "properties", name))
    if isinstance(schema.get("items"), dict):
        mistakes += problems(schema["items"], (*path, "items"))
    return mistakes


def _keyword_mistakes(key: str, value: Any) -> Iterator[str]:
    if key not in _KEYWORDS:
        yield f"unknown keyword `{printable(key)}` ({suggest(key, _KEYWORDS, noun='known')})"
    elif not _takes(key, value):
        yield f"`{key}` does not take this value"
    elif key == "type" and value not in _TYPES:
        yield f"`{printable(value)}` is not a type ({suggest(value, _TYPES, noun='types')})"
    elif key == "enum" and (not value or any(isinstance(item, (dict, date, datetime, time)) for item in value)):
        yield "`enum` lists at least one value: strings, numbers, true or false"
    elif key == "required" and not all(isinstance(item, str) for item in value):
        yield "`required` lists names of properties"
    elif key == "pattern":
        try:
            re.compile(value)
        except re.error as error:
            yield f"not a regular expression: {error}"


def _takes(key: str, value: Any) -> bool:
    kinds = _KEYWORDS[key]
    return isinstance(value, kinds) and (bool in kinds or not isinstance(value, bool))


def text(schema: Any) -> str:
    """Return a schema as JSON with sorted keys."""
    return json.dumps(schema, sort_keys=True)


def unmet(answer: str, schema: str) -> str | None:
    """Return why an answer does not fit a schema (as JSON), or None if it does."""
    try:
        value = json.loads(answer)
    except (ValueError, RecursionError):
        return "it is not JSON"
    return next(_mismatches(value, json.loads(schema), ()), None)


def _mismatches(value: Any, schema: dict[str, Any], path: Path) -> Iterator[str]:
    location = f" at `{key_path(path)}`" if path else ""
    if "type" in schema and not _is_a(value, schema["type"]):
        yield f"it is not of type {schema['type']}{location}"
        return
    yield from (f"{message}{location}" for message in _value_mismatches(value, schema))
    if isinstance(value, dict):
        properties = schema.get("properties") or {}
        yield from (f"`{name}` is missing{location}" for name in schema.get("required") or () if name not in value)
        for name, item in value.items():
            if name in properties:
                yield from _mismatches(item, properties[name], (*path, name))
            elif schema.get("additionalProperties") is False:
                yield f"`{printable(name)}` is not allowed{location}"
    if isinstance(value, list) and "items" in schema:
        for index, item in enumerate(value):
            yield from _mismatches(item, schema["items"], (*path, index))


def _is_a(value: Any, name: str) -> bool:
    if isinstance(value, bool):
        return name == "boolean"
    if name == "integer" and isinstance(value, float):
        return value.is_integer()
    return isinstance(value, _TYPES[name])


def _value_mismatches(value: Any, schema: dict[str, Any]) -> Iterator[str]:
    """Yield the mistakes of a value without its members: choices, pattern, length, size."""
    allowed = schema.get("enum", [schema["const"]] if "const" in schema else None)
    text = printable(json.dumps(value))
    # JSON's true is not its 1, Python's is.
    if allowed is not None and not any(
        value == item and isinstance(value, bool) == isinstance(item, bool) for item in allowed
    ):
        yield f"{text} is not {' or '.join(json.dumps(item) for item in allowed)}"
    if isinstance(value, str) and "pattern" in schema and not re.search(schema["pattern"], value):
        yield f"{text} does not match `{schema['pattern']}`"
    size = len(value) if isinstance(value, (str, list)) else value
    low, high = _LIMITS.get(type(value), ("", ""))
    if low in schema and size < schema[low]:
        yield f"{text} is below the `{low}` of {schema[low]}"
    if high in schema and size > schema[high]:
        yield f"{text} is above the `{high}` of {schema[high]}"


_LIMITS: dict[type, tuple[str, str]] = {
    str: ("minLength", "maxLength"),
    list: ("minItems", "maxItems"),
    int: ("minimum", "maximum"),
    float: ("minimum", "maximum"),
}
