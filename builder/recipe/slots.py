"""Types of a recipe's strings with placeholders: where they are, and the checks of the filled strings."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from builder.host.toml.declarations import ValueType, anchored, list_schema
from builder.host.wording import printable
from builder.model import patterns
from builder.recipe import placeholders, value_checks

if TYPE_CHECKING:
    from builder.host.toml.declarations import Schema
    from builder.host.toml.positions import Path as KeyPath
    from builder.host.toml.tables import Table
    from builder.model.recipes import Pairs
    from builder.recipe.value_checks import Check


@dataclass(frozen=True, slots=True)
class Slot:
    """A string that is checked for every cell that matches `when`."""

    path: KeyPath
    text: str
    check: Check
    when: Pairs = ()


@dataclass(slots=True)
class Slots:
    """The context of reading a recipe: its slots so far, the values of each axis, the cells of the next strings."""

    when: Pairs = ()
    collected: list[Slot] = field(default_factory=list)
    axes: dict[str, tuple[str, ...]] = field(default_factory=dict)

    def note(self, table: Table, keys: KeyPath, value: object, check: Check) -> None:
        """Collect a value, if it is a string."""
        if isinstance(value, str):
            self.collected.append(Slot((*table.path, *keys), value, check, self.when))


def slot(check: Check) -> ValueType:
    """Return the type of strings that may hold placeholders."""

    def read(table: Table, key: str, slots: Slots) -> str:
        slots.note(table, (key,), table.raw(key), check)
        return table.string(key)

    return ValueType(read=read, schema=lambda: slot_schema(check))


def slot_list(check: Check) -> ValueType:
    """Return the type of lists of such strings without duplicates."""

    def read(table: Table, key: str, slots: Slots) -> tuple[str, ...]:
        values, raw = table.strings(key), table.raw(key)
        for index, item in enumerate(raw if isinstance(raw, list) else ()):
            slots.note(table, (key, index), item, check)
            if item in raw[:index]:
                table.problem((key, index), f"`{printable(str(item))}` is listed twice")
        return values

    return ValueType(read=read, schema=lambda: list_schema(slot_schema(check), uniqueItems=True))


def slot_schema(check: Check) -> Schema:
    """Return the JSON Schema of a string that passes a check or has a placeholder."""
    if not isinstance(check, value_checks.PatternCheck):
        return {"type": "string"}
    return {"type": "string", "pattern": f"{anchored(check.pattern)}|{placeholders.PATTERN}"}


def _environment(shown_in: str, advice: str) -> ValueType:
    """Return the type of environments: shells' names, no secrets, values on one line."""

    def read(parent: Table, key: str, slots: Slots) -> Pairs:
        table = parent.table(key)
        for name in table:
            if not re.fullmatch(patterns.ENVIRONMENT, name):
                table.problem(name, f"`{printable(name)}` is not the name of an environment variable")
            elif re.fullmatch(patterns.SECRET, name):
                table.problem(name, f"`{name}` is a secret: everybody could read it in {shown_in}", advice)
        return tuple((name, _VALUE.read(table, name, slots)) for name in table)

    return ValueType(read=read, schema=_environment_schema)


def _environment_schema() -> Schema:
    return {
        "type": "object",
        "propertyNames": {"pattern": anchored(patterns.ENVIRONMENT), "not": {"pattern": anchored(patterns.SECRET)}},
        "additionalProperties": _VALUE.schema(),
    }


def _labels(parent: Table, key: str, slots: Slots, prefix: str = "") -> Pairs:
    """Read labels; the tables that TOML makes of an unquoted name with dots are joined to one name."""
    table, pairs = parent.table(key), list[tuple[str, str]]()
    for name in table:
        full = prefix + name
        if isinstance(table.raw(name), dict):
            pairs.extend(_labels(table, name, slots, f"{full}."))
            continue
        if not re.fullmatch(patterns.LABEL, full):
            hint = "lower-case letters, digits, `.`, `-` and `_`"
            table.problem(name, f"`{printable(full)}` is not a label name", hint)
        pairs.append((full, _VALUE.read(table, name, slots)))
    return tuple(pairs)


_VALUE = slot(value_checks.optional_text)
ENVIRONMENT = _environment("the image", "set it when the image runs")
BUILD_ENVIRONMENT = _environment("the lock", "remove it: builds have no network")
LABELS = ValueType(
    read=_labels,
    schema=lambda: {
        "type": "object",
        "propertyNames": {"pattern": anchored(patterns.LABEL)},
        "additionalProperties": {"anyOf": [_VALUE.schema(), {"type": "object"}]},
    },
)
