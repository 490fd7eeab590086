"""Reads the stacks of the comparison from `stacks.toml`, and turns each stack into a recipe for jbuild."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import tomli_w

from builder.host.toml import documents

if TYPE_CHECKING:
    from builder.host.toml.tables import Table

_STACKS = Path(__file__).with_name("stacks.toml")


@dataclass(frozen=True, kw_only=True, slots=True)
class Stack:
    """A row of `stacks.toml`.

    If `loose` is set, `--wheels` audits the stack without its recipe. `runtime` are sonames that the NVIDIA
    runtime would inject. `breaks` and `loads` are globs of files, relative to site-packages, that must fail and must
    load: otherwise the stack no longer serves its purpose, which `special` describes.
    """

    name: str
    distribution: str
    special: str
    requires: tuple[str, ...]
    constraints: tuple[str, ...] = ()
    replace: tuple[str, ...] = ()
    ignore_advisories: tuple[str, ...] = ()
    apt: tuple[str, ...] = ()
    runtime: tuple[str, ...] = ()
    breaks: tuple[str, ...] = ()
    loads: tuple[str, ...] = ()
    loose: bool = False

    def recipe(self, model: str) -> str:
        """Return the stack as a recipe; `model` is a folder, because every recipe needs a model."""
        packages = {
            "requires": self.requires,
            "constraints": self.constraints,
            "replace": self.replace,
            "ignore-advisories": self.ignore_advisories,
        }
        document: dict[str, Any] = {
            "description": self.special,
            "architecture": "arm64",
            "matrix": {"distribution": [self.distribution]},
            "base": {"apt": list(self.apt)},
            "packages": {key: list(value) for key, value in packages.items() if value},
            "models": [{"name": "tiny", "source": model, "licence": "CC0-1.0"}],
            "smoke": {"questions": [{"ask": "Are you there?", "expect": "yes"}]},
            "publish": {"repository": "agreement", "tags": [self.name]},
        }
        return tomli_w.dumps(document)


def read_stacks(path: Path = _STACKS) -> tuple[Stack, ...]:
    """Read the stacks.

    Raises:
        DocumentError: the file has errors.
    """

    def parse(root: Table) -> tuple[Stack, ...]:
        return tuple(_stack(table) for table in root.tables("stacks"))

    return documents.load(path, "the stacks have errors", parse)


def _stack(table: Table) -> Stack:
    stack = Stack(
        name=table.string("name", pattern=r"[a-z0-9][a-z0-9.-]*", noun="a recipe's name"),
        distribution=table.string("distribution"),
        special=table.string("special"),
        requires=table.strings("requires"),
        constraints=table.strings("constraints"),
        replace=table.strings("replace"),
        ignore_advisories=table.strings("ignore-advisories"),
        apt=table.strings("apt"),
        runtime=table.strings("runtime"),
        breaks=table.strings("breaks"),
        loads=table.strings("loads"),
        loose=table.boolean("loose", default=False),
    )
    table.done()
    return stack
