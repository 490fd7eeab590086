"""`[matrix]`: axes, exclusions with reasons, inclusions; and conditions on axes."""

from __future__ import annotations

import re
from dataclasses import replace
from math import prod
from typing import TYPE_CHECKING

from builder.host.toml.declarations import ValueType, anchored, list_schema, string_schema
from builder.host.wording import printable, suggest
from builder.jetson.distributions import distributions, platforms
from builder.jetson.platform import SMS, check_axes, check_value, release_mistake
from builder.model import patterns
from builder.model.recipes import Axis, Exclusion, Matrix, Pairs
from builder.recipe.placeholders import DERIVED_FACTS
from builder.recipe.select import glob

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from builder.host.toml.declarations import Schema
    from builder.host.toml.tables import Table
    from builder.recipe.slots import Slots

_RULES = ("exclude", "include")
_MOST_CELLS = 100_000


def _matrix(root: Table, key: str, slots: Slots) -> Matrix:
    """Read the matrix and add its values to the context; mistakes are noted in the document."""
    table = root.table(key)
    axes = tuple(axis for name in table if name not in _RULES and (axis := _axis(table, name)))
    if mistake := check_axes(axis.name for axis in axes):
        table.problem(None, *mistake)
    if (count := prod(len(axis.values) for axis in axes)) > _MOST_CELLS:
        table.problem(None, f"{count} cells are too many", f"at most {_MOST_CELLS}: split the recipe")
    matrix = Matrix(axes=axes, include=tuple(_included(row, axes) for row in table.tables("include")))
    slots.axes = matrix.all_values()
    matrix = replace(matrix, exclude=tuple(_excluded(row, slots.axes) for row in table.tables("exclude")))
    table.done()
    return matrix


def read_when(table: Table, values: dict[str, tuple[str, ...]], keys: Iterable[str] | None = None) -> Pairs:
    """Read axis globs from the `keys` of a table, by default from all."""
    when = []
    for name in table if keys is None else keys:
        if name not in values:
            table.leave(name)
            table.problem(name, f"`{printable(name)}` is not an axis", suggest(name, values, noun="axes"))
            continue
        pattern = table.string(name, pattern=patterns.GLOB, noun="a value or glob")
        if pattern and not any(map(glob(pattern).match, values[name])):
            hint = suggest(pattern, values[name], noun="values")
            table.problem(name, f"`{printable(pattern)}` matches no value of this axis", hint)
        else:
            when.append((name, pattern))
    return tuple(when)


def condition(table: Table, slots: Slots) -> Pairs:
    """Read the `when` of an override."""
    when = table.table("when")
    if not list(when):
        table.problem(None, "an override needs a `when`", 'add `when = { axis = "value" }`')
    return read_when(when, slots.axes)


def _axis(table: Table, name: str) -> Axis | None:
    entries = table.raw(name)
    if isinstance(entries, list) and any(isinstance(item, dict) for item in entries):
        table.problem(name, "an axis is a list of strings, not of tables", suggest(name, _RULES))
        return None
    advise = _release_advice if name == "l4t" else None
    values = table.strings(
        name, pattern=patterns.VALUE, noun="an axis value: letters, digits and `._+~-`", advise=advise
    )
    _check_name(table, name)
    if entries == []:
        table.problem(name, "an axis needs at least one value")
    for index, value in enumerate(entries if isinstance(entries, list) else ()):
        if value in entries[:index]:
            table.problem((name, index), f"`{printable(str(value))}` is listed twice")
        elif value in values and (mistake := check_value(name, value)):
            table.problem((name, index), *mistake)
    return Axis(name=name, values=values)


def _release_advice(value: str) -> str | None:
    mistake = release_mistake(value)
    return mistake and f"{mistake[0].partition(': ')[2]}: {mistake[1]}"


def _check_name(table: Table, name: str) -> None:
    if name in DERIVED_FACTS:
        table.problem(name, f"`{name}` cannot be an axis: it follows from the others", "choose another name")
    elif not re.fullmatch(patterns.AXIS, name):
        hint = "lower-case letters, digits and `-`, at most 32"
        table.problem(name, f"`{printable(name)}` is not an axis name", hint)


def _excluded(row: Table, values: dict[str, tuple[str, ...]]) -> Exclusion:
    reason = row.string("reason", pattern=patterns.TEXT, noun="a reason on one line")
    keys = [key for key in row if key != "reason"]
    if not keys:
        row.problem(None, "an exclusion names at least one axis", suggest("", values, noun="axes"))
    when = read_when(row, values, keys)
    row.done()
    return Exclusion(when=when, reason=reason)


def _included(row: Table, axes: Sequence[Axis]) -> Pairs:
    values = []
    for axis in axes:
        value = row.string(axis.name, pattern=patterns.VALUE, noun="an axis value: letters, digits and `._+~-`")
        if value and (mistake := check_value(axis.name, value)):
            row.problem(axis.name, *mistake)
        values.append((axis.name, value))
    row.done()
    return tuple(values)


def _schema() -> Schema:
    reason = {"description": "Why these cells are excluded.", **string_schema(patterns.TEXT)}
    value = string_schema(patterns.VALUE)
    excluded = {
        "type": "object",
        "properties": {"reason": reason},
        "required": ["reason"],
        "minProperties": 2,
        "additionalProperties": string_schema(patterns.GLOB),
    }
    names = {"pattern": anchored(patterns.AXIS), "not": {"enum": list(DERIVED_FACTS)}}
    rules = {
        "exclude": {"description": "Excluded cells.", **list_schema(excluded)},
        "include": {
            "description": "More cells, with a value for each axis.",
            **list_schema({"type": "object", "additionalProperties": value}),
        },
    }
    axes = {
        name: {"description": text, **_values({"enum": values} if values else value)}
        for name, text, values in (
            ("vllm", "Versions of vLLM.", None),
            ("l4t", "L4T releases, for Jetsons.", [row.l4t for row in platforms()]),
            ("distribution", "Distributions, for any CPU.", [row.name for row in distributions()]),
            ("cuda", "CUDA versions, major and minor.", None),
            ("python", "Python versions, major and minor.", None),
        )
    }
    sms = "GPUs of the images by compute capability; 8.7+11.0 is one image for both."
    axes["sm"] = {"description": sms, **_values(string_schema(SMS))}
    return {
        "type": "object",
        "properties": {**axes, **rules},
        "oneOf": [
            {"required": ["l4t"]},
            {"required": ["distribution"], "properties": {"sm": False}},
            {"required": ["sm"], "properties": {"l4t": False, "distribution": False}},
        ],
        "propertyNames": names,
        "additionalProperties": _values(value),
    }


def _values(item: Schema) -> Schema:
    return list_schema(item, minItems=1, uniqueItems=True)


MATRIX = ValueType(read=_matrix, schema=_schema)
