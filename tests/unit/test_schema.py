"""The schemas of `--json`: of every verb, sound, and true of what is really printed."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import click
import pytest
import tomli_w
from factories import make_lock, make_locked_wheel
from json_results import check
from jsonschema import Draft202012Validator
from recipe_factory import recipe_data

from builder.cli.main import cli
from builder.cli.verb_table import verbs
from builder.cli.verbs.integration import result_schema
from builder.host import records
from builder.host.records import schema_of
from builder.lock import lockfile

if TYPE_CHECKING:
    from collections.abc import Callable

    CommandLine = Callable[..., tuple[int, str, str]]

# For a new verb: declare the dataclass of its result beside it, and name it in VERBS.
RESULTS = [*(verb.name for verb in verbs()), "error"]
DOCS = Path(__file__).parents[2] / "docs" / "json.md"


@dataclass(frozen=True)
class Record:
    """A record.

    And more about it.
    """

    name: str
    path: Path
    sizes: tuple[int, ...]
    pair: tuple[str, float]
    kind: Literal["a", "b"] | None = None


@dataclass(frozen=True)
class Optional:
    """May lack a key, and has the keys of a record."""

    record: Record = field(metadata=records.FLAT)
    one: dict[str, bool] = field(default_factory=dict)
    two: tuple[int, ...] | None = field(default=None, metadata=records.OPTIONAL)


def test_every_verb_can_print_json() -> None:
    context = click.Context(cli)
    commands = [found for name in cli.list_commands(context) if (found := cli.get_command(context, name))]
    ends = [end for verb in commands for end in (verb.commands.values() if isinstance(verb, click.Group) else [verb])]
    assert len(ends) > len(verbs())
    assert [end.name for end in ends if not any("--json" in each.opts for each in end.params)] == []


@pytest.mark.parametrize("verb", RESULTS)
@pytest.mark.parametrize("closed", [True, False])
def test_every_schema_is_one(verb: str, closed: bool) -> None:
    schema = result_schema(verb, closed=closed)
    Draft202012Validator.check_schema(schema)
    assert json.loads(json.dumps(schema)) == schema
    assert ('additionalProperties": false' in json.dumps(schema)) == (closed and verb != "schema")


def test_a_dataclass_as_a_schema() -> None:
    assert schema_of(Record) == {
        "title": "Record",
        "description": "A record.",
        "type": "object",
        "properties": {
            "name": {"type": "string"},
            "path": {"type": "string"},
            "sizes": {"type": "array", "items": {"type": "integer"}},
            "pair": {
                "type": "array",
                "prefixItems": [{"type": "string"}, {"type": "number"}],
                "minItems": 2,
                "maxItems": 2,
            },
            "kind": {"anyOf": [{"enum": ["a", "b"]}, {"type": "null"}]},
        },
        "required": ["name", "path", "sizes", "pair", "kind"],
    }


def test_keys_that_may_be_absent_and_keys_of_a_flat_record() -> None:
    schema = schema_of(Optional, closed=True)
    assert (schema["required"], schema["additionalProperties"]) == ([*schema_of(Record)["required"], "one"], False)
    assert schema["properties"]["one"] == {"type": "object", "additionalProperties": {"type": "boolean"}}
    assert schema["properties"]["two"] == {"type": "array", "items": {"type": "integer"}}
    assert list(schema["properties"]) == ["name", "path", "sizes", "pair", "kind", "one", "two"]


@pytest.mark.parametrize("two", [None, (1, 2)])
def test_a_result_as_json_fits_its_schema(two: tuple[int, ...] | None) -> None:
    record = Record(name="a", path=Path("b"), sizes=(), pair=("c", 1.0))
    value = records.to_json(Optional(record=record, one={"x": True}, two=two))
    assert ("two" in value, value["name"], value["kind"]) == (two is not None, "a", None)
    Draft202012Validator(schema_of(Optional, closed=True)).validate(value)


def test_what_is_no_result_is_refused() -> None:
    with pytest.raises(TypeError, match="JSON cannot hold"):
        schema_of(set[str])


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A project with a recipe, a lock of its first cell, and a recipe with mistakes."""
    (tmp_path / "recipes").mkdir()
    exclude = [{"l4t": "39.2.0", "reason": "not wanted"}]
    data = recipe_data(matrix={"l4t": ["36.4.0", "39.2.0"], "vllm": ["0.10.2"], "exclude": exclude})
    (tmp_path / "recipes" / "demo.toml").write_text(tomli_w.dumps(data))
    (tmp_path / "recipes" / "broken.toml").write_text("matrix = 1\n")
    cell = "r36_4_0-v0_10_2"
    lock = make_lock(make_locked_wheel("vllm", "0.10.2"), make_locked_wheel("torch", "2.8.0"), recipe="demo", cell=cell)
    lockfile.write(tmp_path / "locks" / "demo" / f"pylock.{cell}.toml", lock)
    (tmp_path / "result.json").write_text(
        json.dumps({"recipe": "demo", "cells": [{"cell": "x", "status": "impossible", "reason": "why"}]})
    )
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.parametrize(
    "line",
    [
        "init new --board none",
        "list",
        "show demo",
        "matrix demo",
        "matrix demo --format github",
        "matrix demo --format inputs",
        "recipe demo --dry-run",
        "summary result.json",
        "audit --explain gpu-code",
        "report",
        "compose demo --image registry.example.com/vllm:1 --cell l4t=36.4.0",
        "cache info",
        "cache prune --dry-run",
        "diff locks/demo/pylock.r36_4_0-v0_10_2.toml locks/demo/pylock.r36_4_0-v0_10_2.toml",
        "completion bash",
        "schema list",
    ],
)
def test_what_is_printed_is_as_its_schema_says(project: Path, command_line: CommandLine, line: str) -> None:
    code, out, err = command_line(*line.split(), "--json")
    assert code == 0, err
    check(line.split(maxsplit=1)[0], out)


def test_what_doctor_prints(project: Path, command_line: CommandLine, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DOCKER_HOST", "unix:///nowhere/docker.sock")
    code, out, _ = command_line("doctor", "--json")
    assert code == 7
    assert check("doctor", out)["usable"] is False


@pytest.mark.parametrize(
    ("line", "code"),
    [
        ("show broken", 3),
        ("show nothing", 2),
        ("nothing", 2),
        ("lock demo --locked", 4),
        ("matrix demo --changed-since HEAD", 2),
        ("verdict demo --output x.json", 2),
        ("schema nothing", 2),
        ("completion ksh", 2),
        ("summary recipes/demo.toml", 2),
        ("push demo", 2),
        ("models lock nothing", 2),
    ],
)
def test_an_error_is_as_its_schema_says(
    project: Path, command_line: CommandLine, monkeypatch: pytest.MonkeyPatch, line: str, code: int
) -> None:
    monkeypatch.setenv("GIT_CEILING_DIRECTORIES", str(project.parent))
    found, out, err = command_line(*line.split(), "--json")
    assert (found, check("error", out)["exit_code"]) == (code, code), err


def test_the_page_names_every_verb_and_its_keys() -> None:
    page = DOCS.read_text()
    rows = dict(re.findall(r"^\| `([a-z]+)` \| (.*?) \|", page, re.MULTILINE))
    assert list(rows) == RESULTS
    for verb, row in rows.items():
        schema = result_schema(verb)
        forms = [set(form.get("properties", ())) for form in schema.get("anyOf", [schema])]
        assert [set(re.findall(r"`([a-z_]+)`", part)) for part in row.split("; or ")] == forms, verb
