"""JSON Schemas of users' files, made from the declarations that check them."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

from builder.host.config import config_schema
from builder.recipe.load import recipe_schema

if TYPE_CHECKING:
    from builder.host.toml.declarations import Schema

# Files in `schemas/`; recipes name theirs in the first line.
FILES = {"recipe": "recipe.schema.json", "config": "jbuild.schema.json"}
_SCHEMAS = {"recipe": recipe_schema, "config": config_schema}


def input_schema(name: str) -> Schema:
    """Return the JSON Schema (draft 2020-12) of `recipe` or `config`.

    Raises:
        KeyError: unknown name.
    """
    return _SCHEMAS[name]()


def schema_text(name: str) -> str:
    """Return the text of a schema's file, as `jbuild schema` prints it."""
    return json.dumps(input_schema(name), indent=2) + "\n"
