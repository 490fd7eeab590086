"""From dataclasses, as `records.plain` writes them, to JSON Schema (draft 2020-12)."""

from __future__ import annotations

import dataclasses
import functools
import inspect
import operator
import types
import typing
from pathlib import Path
from typing import Any

DIALECT = "https://json-schema.org/draft/2020-12/schema"
_PLAIN = {str: "string", bool: "boolean", int: "integer", float: "number", type(None): "null", Path: "string"}


def schema_of(kind: Any, *, closed: bool = False) -> dict[str, Any]:  # noqa: PLR0911  # one for each kind of type
    """Return the schema of a type. A `closed` one allows no other keys; else later versions may add some.

    Raises:
        TypeError: JSON cannot hold the type.
    """
    if kind is Any:
        return {}
    if kind in _PLAIN:
        return {"type": _PLAIN[kind]}
    origin, arguments = typing.get_origin(kind), typing.get_args(kind)
    if origin in (typing.Union, types.UnionType):
        return {"anyOf": [schema_of(alternative, closed=closed) for alternative in arguments]}
    if origin is typing.Literal:
        return {"enum": list(arguments)}
    if origin in (list, tuple):
        return _array(arguments, closed=closed)
    if origin is dict:
        return {"type": "object", "additionalProperties": schema_of(arguments[1], closed=closed)}
    if dataclasses.is_dataclass(kind):
        return _object(kind, closed=closed)
    raise TypeError(f"JSON cannot hold {kind!r}")


def _object(kind: Any, *, closed: bool) -> dict[str, Any]:
    hints = typing.get_type_hints(kind)
    properties: dict[str, Any] = {}
    required: list[str] = []
    for field in dataclasses.fields(kind):
        form = field.metadata.get("json")
        if form == "flat":
            inner = _object(hints[field.name], closed=closed)
            properties |= inner["properties"]
            required += inner["required"]
        elif form == "optional":
            properties[field.name] = schema_of(_without_none(hints[field.name]), closed=closed)
        else:
            properties[field.name] = schema_of(hints[field.name], closed=closed)
            required.append(field.name)
    return {
        "title": kind.__name__,
        "description": (inspect.getdoc(kind) or "").split("\n\n")[0].replace("\n", " "),
        "type": "object",
        "properties": properties,
        "required": required,
        **({"additionalProperties": False} if closed else {}),
    }


def _without_none(kind: Any) -> Any:
    members = (member for member in typing.get_args(kind) if member is not type(None))
    return functools.reduce(operator.or_, members)


def _array(arguments: tuple[Any, ...], *, closed: bool) -> dict[str, Any]:
    if len(arguments) == 1 or arguments[1:] == (Ellipsis,):
        return {"type": "array", "items": schema_of(arguments[0], closed=closed)}
    items = [schema_of(argument, closed=closed) for argument in arguments]
    return {"type": "array", "prefixItems": items, "minItems": len(items), "maxItems": len(items)}
