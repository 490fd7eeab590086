"""The models that all cells of a recipe share, locked once: `locks/<recipe>/models.toml`."""

from __future__ import annotations

import sys
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import tomli_w

from builder.errors import LockError
from builder.host import records
from builder.host.files import write_text
from builder.model.model_files import LockedModel

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

if TYPE_CHECKING:
    from collections.abc import Iterable
    from pathlib import Path

    from builder.model.recipes import Model

FORMAT = 1


@dataclass(frozen=True, kw_only=True, slots=True)
class Pin:
    """A locked model, and the fingerprint of the recipe's entry for it."""

    reference: str
    model: LockedModel


def reference_of(model: Model) -> str:
    """Return the fingerprint of a recipe's entry for a model."""
    return records.fingerprint("model", model)


def read(path: Path) -> tuple[Pin, ...]:
    """Return the models in a file, none if there is no file.

    Raises:
        LockError: the file is damaged, edited by hand, or of another format.
    """
    if not path.is_file():
        return ()
    hint = f"run `jbuild models lock {path.parent.name}` after deleting it"
    try:
        data = tomllib.loads(path.read_text(encoding="utf-8"))
        if data["format"] != FORMAT:
            raise LockError(f"model lock format {data['format']} is not {FORMAT}", where=str(path), hint=hint)
        pins, content = tuple(_pin(table) for table in data["models"]), data["content"]
    except (OSError, ValueError, KeyError, TypeError, RecursionError) as error:
        raise LockError(f"the model lock is damaged: {error}", where=str(path), hint=hint) from error
    if content != records.fingerprint(pins):
        raise LockError(
            "the model lock was edited by hand: its content does not have its checksum", where=str(path), hint=hint
        )
    return pins


def write(path: Path, pins: Iterable[Pin]) -> None:
    """Write the models of a recipe, sorted.

    Raises:
        DiskError: the file cannot be written.
    """
    ordered = tuple(sorted(pins, key=lambda pin: (pin.model.name, pin.reference)))
    # TOML has no null: an absent key reads back as the field's default.
    models = [(pin.reference, records.to_json(pin.model).items()) for pin in ordered]
    tables = [{"asked": key} | {name: item for name, item in items if item is not None} for key, items in models]
    document = {"format": FORMAT, "content": records.fingerprint(ordered), "models": tables}
    write_text(path, tomli_w.dumps(document, indent=2))


def find(path: Path, model: Model) -> LockedModel | None:
    """Return the locked model of a recipe's entry, or None.

    Raises:
        LockError: the file is damaged.
    """
    key = reference_of(model)
    return next((pin.model for pin in read(path) if pin.reference == key), None)


def _pin(table: dict[str, Any]) -> Pin:
    model = {key: value for key, value in table.items() if key != "asked"}
    return Pin(reference=str(table["asked"]), model=records.from_json(model, LockedModel))
