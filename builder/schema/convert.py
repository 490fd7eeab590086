"""From types to JSON Schema (draft 2020-12): dataclasses as `records.plain` writes them, and typed dictionaries."""

from __future__ import annotations

import dataclasses
import inspect
import types
import typing
from pathlib import Path
from typing import Any

DIALECT = "https://json-schema.org/draft/2020-12/schema"
_PLAIN = {str: "string", bool: "boolean", int: "integer", float: "number", type(None): "null", Path: "string"}


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class Beside:
    """In an annotation of a typed dictionary: the fields of this dataclass stand beside its keys."""

    kind: type


def schema_of(kind: Any, *, closed: bool = False) -> dict[str, Any]:  # noqa: PLR0911  # one for each kind of type
    """Return the schema of a type. A `closed` one allows no other keys; else some may be added in later versions.

    Raises:
        TypeError: it is no type that results are made of.
    """
    if kind is Any:
        return {}
    if kind in _PLAIN:
        return {"type": _PLAIN[kind]}
    origin, arguments = typing.get_origin(kind), typing.get_args(kind)
    if origin is typing.Annotated:
        return _beside(arguments[0], arguments[1].kind, closed=closed)
    if origin in (typing.Union, types.UnionType):
        return {"anyOf": [schema_of(each, closed=closed) for each in arguments]}
    if origin is typing.Literal:
        return {"enum": list(arguments)}
    if origin in (list, tuple):
        return _array(arguments, closed=closed)
    if origin is dict:
        return {"type": "object", "additionalProperties": schema_of(arguments[1], closed=closed)}
    if dataclasses.is_dataclass(kind):
        hints = typing.get_type_hints(kind, include_extras=True)
        own = {field.name: hints[field.name] for field in dataclasses.fields(kind)}
        return _object(kind, own, frozenset(own), closed=closed)
    if typing.is_typeddict(kind):
        own = typing.get_type_hints(kind, include_extras=True)
        return _object(kind, own, kind.__required_keys__, closed=closed)
    raise TypeError(f"{kind!r} is nothing that a result is made of")


def _object(kind: Any, own: dict[str, Any], required: frozenset[str], *, closed: bool) -> dict[str, Any]:
    about = (inspect.getdoc(kind) or "").split("\n\n")[0].replace("\n", " ")
    return {
        "title": kind.__name__,
        "description": about,
        "type": "object",
        "properties": {name: schema_of(each, closed=closed) for name, each in own.items()},
        "required": [name for name in own if name in required],
        **({"additionalProperties": False} if closed else {}),
    }


def _beside(kind: Any, record: type, *, closed: bool) -> dict[str, Any]:
    ours, theirs = schema_of(kind, closed=closed), schema_of(record, closed=closed)
    properties = {**theirs["properties"], **ours["properties"]}
    required = list(dict.fromkeys([*theirs["required"], *ours["required"]]))
    return {**ours, "properties": properties, "required": required}


def _array(arguments: tuple[Any, ...], *, closed: bool) -> dict[str, Any]:
    if len(arguments) == 1 or arguments[1:] == (Ellipsis,):
        return {"type": "array", "items": schema_of(arguments[0], closed=closed)}
    each = [schema_of(argument, closed=closed) for argument in arguments]
    return {"type": "array", "prefixItems": each, "minItems": len(each), "maxItems": len(each)}
