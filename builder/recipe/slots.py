"""Strings of a recipe that may hold placeholders: where they stand and what they must be once filled in."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from builder.recipe import checks, patterns
from builder.tomldoc import shown

if TYPE_CHECKING:
    from builder.recipe.checks import Check
    from builder.recipe.model import Pairs
    from builder.tomldoc import Table
    from builder.tomlplaces import Path as KeyPath


@dataclass(frozen=True, slots=True)
class Slot:
    """One string: it is checked for every cell that matches `when`."""

    path: KeyPath
    text: str
    check: Check
    when: Pairs = ()


@dataclass(slots=True)
class Slots:
    """Reads strings from tables and remembers them for the check of the whole recipe."""

    when: Pairs = ()
    found: list[Slot] = field(default_factory=list)

    def only(self, when: Pairs) -> Slots:
        """Return a reader of strings for some cells only, which remembers them in the same list."""
        return Slots(when=when, found=self.found)

    def text(self, table: Table, key: str, check: Check, default: str | None = None) -> str:
        """Read a string; it is required if there is no default."""
        value = table.string(key) if default is None else table.string(key, default)
        self._note(table, (key,), table.raw(key), check)
        return value

    def maybe(self, table: Table, key: str, check: Check) -> str | None:
        """Read a string that may be absent."""
        return self.text(table, key, check) if key in table else table.optional_string(key)

    def texts(self, table: Table, key: str, check: Check) -> tuple[str, ...]:
        """Read a list of strings, each there once."""
        values = table.strings(key)
        raw = table.raw(key)
        for index, item in enumerate(raw if isinstance(raw, list) else ()):
            self.item(table, key, index, check)
            if item in raw[:index]:
                table.document.problem((*table.path, key, index), f"`{shown(str(item))}` is there twice")
        return values

    def item(self, table: Table, key: str, index: int, check: Check) -> None:
        """Remember one string of a list that the caller reads."""
        self._note(table, (key, index), table.raw(key)[index], check)

    def environment(self, parent: Table) -> Pairs:
        """Read `environment`: names as shells know them, none that holds a secret, values on one line."""
        table = parent.table("environment")
        pairs = []
        for name in table:
            if not re.fullmatch(patterns.ENVIRONMENT, name):
                table.problem(name, f"`{shown(name)}` is not the name of an environment variable")
            elif re.fullmatch(patterns.SECRET, name):
                table.problem(
                    name, f"`{name}` is a secret: it would be readable in the image", "set it when the image runs"
                )
            pairs.append((name, self.text(table, name, checks.optional_text)))
        return tuple(pairs)

    def labels(self, table: Table, prefix: str = "") -> Pairs:
        """Read labels; TOML takes the dots of an unquoted name for tables, which is meant as one name all the same."""
        pairs: list[tuple[str, str]] = []
        for key in table:
            name = prefix + key
            if isinstance(table.raw(key), dict):
                pairs.extend(self.labels(table.table(key), f"{name}."))
                continue
            if not re.fullmatch(patterns.LABEL, name):
                table.problem(
                    key, f"`{shown(name)}` is not a label name", "lower-case letters, digits, `.`, `-` and `_`"
                )
            pairs.append((name, self.text(table, key, checks.optional_text)))
        return tuple(pairs)

    def _note(self, table: Table, keys: KeyPath, value: object, check: Check) -> None:
        if isinstance(value, str):
            self.found.append(Slot((*table.path, *keys), value, check, self.when))
