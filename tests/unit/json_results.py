"""Whether what `--json` prints is what its schema says, and nothing more."""

from __future__ import annotations

import json
from typing import Any

from jsonschema import Draft202012Validator

from builder.cli.verbs.integration import result_schema


def check(verb: str, text: str) -> Any:
    """Return the only object in what a verb printed, after holding it against the verb's schema."""
    value = json.loads(text)
    wrong = list(Draft202012Validator(result_schema(verb, closed=True)).iter_errors(value))
    assert not wrong, "\n".join(f"{verb}: {each.json_path}: {each.message[:300]}" for each in wrong)
    return value
