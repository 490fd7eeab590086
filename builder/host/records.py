"""Records of stages: JSON files with the fingerprint of the inputs that they were made from."""

from __future__ import annotations

import dataclasses
import functools
import hashlib
import json
import operator
import types
import typing
from pathlib import Path
from typing import Any, TypeVar

from builder.host.files import write_text

_T = TypeVar("_T")

# Part of every fingerprint: raise it when the results of a stage change for the same inputs.
FORMAT = 1
# Metadata of fields: the keys of a FLAT one are in the object around it; an OPTIONAL one that is None has no key.
FLAT = {"json": "flat"}
OPTIONAL = {"json": "optional"}
DIALECT = "https://json-schema.org/draft/2020-12/schema"
_PLAIN = {str: "string", bool: "boolean", int: "integer", float: "number", type(None): "null", Path: "string"}


def to_json(value: Any) -> Any:
    """Turn dataclasses, tuples and paths into plain JSON."""
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return _json_object(value)
    if isinstance(value, dict):
        return {str(k): to_json(v) for k, v in value.items()}
    if isinstance(value, (list, tuple)):
        return [to_json(v) for v in value]
    return str(value) if isinstance(value, Path) else value


def _json_object(record: Any) -> dict[str, Any]:
    keys: dict[str, Any] = {}
    for field in dataclasses.fields(record):
        value, form = getattr(record, field.name), field.metadata.get("json")
        if form == "flat":
            keys |= to_json(value)
        elif form != "optional" or value is not None:
            keys[field.name] = to_json(value)
    return keys


def as_bytes(document: object) -> bytes:
    """Return a JSON document as bytes that depend on its content only."""
    return json.dumps(document, sort_keys=True, separators=(",", ":"), ensure_ascii=False).encode()


def fingerprint(*inputs: Any) -> str:
    """Return the sha256 of any records and values, independent of the order of keys."""
    text = json.dumps([FORMAT, *(to_json(i) for i in inputs)], sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()


def write(path: Path, made_from: str, record: Any) -> None:
    """Write a stage's record with the fingerprint of its inputs.

    Raises:
        DiskError: the file cannot be written.
    """
    body = {"format": FORMAT, "fingerprint": made_from, "record": to_json(record)}
    write_text(path, json.dumps(body, indent=2, sort_keys=True) + "\n")


def read(path: Path, made_from: str | None, kind: type[_T]) -> _T | None:
    """Return a stage's record, or None if there is none with this fingerprint.

    An unreadable record counts as none: the stage runs again. With `made_from` None any record counts.
    """
    try:
        body = json.loads(path.read_text(encoding="utf-8"))
        if body["format"] != FORMAT or (made_from is not None and body["fingerprint"] != made_from):
            return None
        return typing.cast("_T", from_json(body["record"], kind))
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        return None


def from_json(value: Any, kind: Any) -> Any:  # noqa: C901, PLR0911  # one line for each kind of type
    """Turn plain JSON back into records, by the fields' types.

    Raises:
        ValueError, KeyError, TypeError: the value does not fit.
    """
    origin, arguments = typing.get_origin(kind), typing.get_args(kind)
    if kind is Any:
        return value
    if origin in (typing.Union, types.UnionType):
        if value is None and type(None) in arguments:
            return None
        (only,) = (alternative for alternative in arguments if alternative is not type(None))
        return from_json(value, only)
    if origin is typing.Literal:
        if value not in arguments:
            raise ValueError(f"{value!r} is not one of {arguments}")
        return value
    if origin is tuple:
        return _decode_tuple(value, arguments)
    if origin is dict:
        return {from_json(k, arguments[0]): from_json(v, arguments[1]) for k, v in _is(value, dict).items()}
    if dataclasses.is_dataclass(kind):
        hints = _hints(typing.cast("Any", kind))
        return kind(**{name: from_json(item, hints[name]) for name, item in _is(value, dict).items()})  # type: ignore[operator]
    if kind is Path:
        return Path(value)
    if isinstance(value, bool) and kind is not bool:
        raise TypeError(f"{value!r} is not {kind}")
    if kind is float and isinstance(value, int):
        return float(value)
    return _is(value, kind)


@functools.cache
def _hints(kind: Any) -> dict[str, Any]:
    """Return the types of a record's fields; without the cache they take most of a read's time."""
    return typing.get_type_hints(kind)


def _is(value: Any, kind: Any) -> Any:
    if not isinstance(value, kind):
        raise TypeError(f"{value!r} is not {kind}")
    return value


def _decode_tuple(value: Any, arguments: tuple[Any, ...]) -> tuple[Any, ...]:
    if len(arguments) == 2 and arguments[1] is Ellipsis:  # noqa: PLR2004  # tuple[X, ...]
        return tuple(from_json(v, arguments[0]) for v in _is(value, list))
    return tuple(from_json(v, k) for v, k in zip(_is(value, list), arguments, strict=True))


def schema_of(kind: Any, *, closed: bool = False) -> dict[str, Any]:  # noqa: PLR0911  # one for each kind of type
    """Return the JSON Schema (draft 2020-12) of a type; a `closed` one allows no other keys.

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
        return _object_schema(kind, closed=closed)
    raise TypeError(f"JSON cannot hold {kind!r}")


def _object_schema(kind: Any, *, closed: bool) -> dict[str, Any]:
    hints = typing.get_type_hints(kind)
    properties: dict[str, Any] = {}
    required: list[str] = []
    for field in dataclasses.fields(kind):
        hint, form = hints[field.name], field.metadata.get("json")
        if form == "flat":
            inner = _object_schema(hint, closed=closed)
            properties |= inner["properties"]
            required += inner["required"]
            continue
        properties[field.name] = schema_of(_without_none(hint) if form == "optional" else hint, closed=closed)
        required += [field.name] if form != "optional" else []
    return {
        "title": kind.__name__,
        "description": " ".join((kind.__doc__ or "").split("\n\n")[0].split()),
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
