"""The JSON Schemas of recipes and configuration: current, described, and of one mind with the loaders."""

from __future__ import annotations

import copy
import json
import re
import sys
from collections import Counter
from datetime import date
from functools import cache
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import tomli_w
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from builder.cli.verbs.integration import INPUTS
from builder.errors import DocumentError
from builder.host import config
from builder.recipe.load import load

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

CHECKOUT = Path(__file__).parents[2]
# The files in `schemas/`; recipes name theirs in the first line.
FILES = {"recipe": "recipe.schema.json", "config": "jbuild.schema.json"}
SHIPPED = sorted((CHECKOUT / "recipes").glob("*.toml"))
BLOCKS = [
    (f"{page.name}-{number}", text)
    for page in sorted([*CHECKOUT.glob("docs/*.md"), *CHECKOUT.glob("README*.md")])
    for number, text in enumerate(re.findall(r"```toml\n(.*?)```", page.read_text(encoding="utf-8"), re.DOTALL))
]
# A table of jbuild's own data, not a user's file.
OTHER_TABLES = {"advisories"}


@cache
def validator(name: str) -> jsonschema.Draft202012Validator:
    schema = INPUTS[name]()
    jsonschema.Draft202012Validator.check_schema(schema)
    return jsonschema.Draft202012Validator(schema)


@cache
def fragment_validator(name: str) -> jsonschema.Draft202012Validator:
    """A validator of single tables: nothing is required at the top and in the tables below it."""
    schema = copy.deepcopy(INPUTS[name]())
    for table in (schema, *schema["properties"].values()):
        table.pop("required", None)
    return jsonschema.Draft202012Validator(schema)


def parsed(text: str) -> dict[str, Any]:
    return plain(tomllib.loads(text))  # type: ignore[no-any-return]


def plain(value: Any) -> Any:
    """Write dates as JSON does."""
    if isinstance(value, dict):
        return {key: plain(item) for key, item in value.items()}
    if isinstance(value, list):
        return [plain(item) for item in value]
    return value.isoformat() if isinstance(value, date) else value


@pytest.mark.parametrize(("name", "file"), FILES.items())
def test_the_files_are_current(name: str, file: str) -> None:
    text = (CHECKOUT / "schemas" / file).read_text(encoding="utf-8")
    assert text == json.dumps(INPUTS[name](), indent=2) + "\n", f"write it again: jbuild schema {name} > schemas/{file}"


@pytest.mark.parametrize("name", FILES)
def test_every_key_is_described_and_every_table_is_closed(name: str) -> None:
    count = 0

    def walk(schema: dict[str, Any], path: str) -> None:
        nonlocal count
        for key, below in schema.get("properties", {}).items():
            if path.endswith(".schema"):  # keywords of JSON Schema itself
                continue
            assert re.fullmatch(r"[A-Za-z].{3,110}\.", below.get("description", "")), f"{path}.{key}"
            count += 1
            walk(below, f"{path}.{key}")
        if "properties" in schema and not path.endswith(".schema"):
            assert "additionalProperties" in schema, path
        for below in (schema.get("items"), *schema.get("anyOf", ())):
            walk(below, path) if isinstance(below, dict) else None

    walk(INPUTS[name](), name)
    assert count > {"recipe": 80, "config": 45}[name]


@pytest.mark.parametrize("path", SHIPPED, ids=lambda path: path.stem)
def test_shipped_recipes_name_their_schema_and_fit_it(path: Path) -> None:
    text = path.read_text(encoding="utf-8")
    validator("recipe").validate(parsed(text))
    named = re.match(r"#:schema (\S+)\n", text)
    assert named
    assert (path.parent / named[1]).resolve() == CHECKOUT / "schemas" / FILES["recipe"]


def kind_of(data: dict[str, Any]) -> str:
    """Return what a documented block is: a whole recipe, tables of one kind of file, or something else."""
    if OTHER_TABLES & set(data):
        return "other"
    if "matrix" in data and "description" in data:
        return "recipe"
    of = [name for name in FILES if fragment_validator(name).is_valid(data)]
    return f"tables of {of[0]}" if of else "nothing"


def test_every_documented_block_fits_a_schema() -> None:
    kinds = {location: kind_of(parsed(text.replace(":PORT/", ":8000/"))) for location, text in BLOCKS}
    assert [location for location, kind in kinds.items() if kind == "nothing"] == []
    for location, text in BLOCKS:
        if kinds[location] == "recipe":
            validator("recipe").validate(parsed(text))
    assert Counter(kinds.values()) == {"recipe": 2, "tables of recipe": 14, "tables of config": 10, "other": 1}


REFERENCE = parsed(next(text for location, text in BLOCKS if location == "recipes.md-0"))
SETTINGS = parsed("\n".join(text for location, text in BLOCKS if location.startswith("configuration.md")))
JUNK = [1, 2.5, True, "x", "two words\n", "", [], ["x"], [1], [{}], {}, {"zz": 1}, {"zz": "x"}, [[]]]


def paths_of(value: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    below = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    return [path, *(deep for key, item in below for deep in paths_of(item, (*path, key)))]


def changed(data: dict[str, Any], path: tuple[Any, ...], value: Any) -> dict[str, Any]:
    data = copy.deepcopy(data)
    holder: Any = data
    for key in path[:-1]:
        holder = holder[key]
    if value is None:
        del holder[path[-1]]
    else:
        holder[path[-1]] = value
    return data


def accepts(name: str, data: dict[str, Any], folder: Path) -> bool:
    path = folder / "checked.toml"
    path.write_text(tomli_w.dumps(data), encoding="utf-8")
    try:
        load(path) if name == "recipe" else config.load([path])
    except DocumentError:
        return False
    return True


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("documents")
    for name in ("cosign.key", "cosign.pub", "registry.pem", "company.pem"):
        (path / name).touch()
    return path


@pytest.mark.parametrize(("name", "data"), [("recipe", REFERENCE), ("config", SETTINGS)])
def test_both_accept_the_reference(name: str, data: dict[str, Any], folder: Path) -> None:
    validator(name).validate(data)
    assert accepts(name, data, folder)


@given(source=st.data())
@settings(max_examples=300, suppress_health_check=[HealthCheck.function_scoped_fixture])
@pytest.mark.parametrize(("name", "data"), [("recipe", REFERENCE), ("config", SETTINGS)])
def test_what_the_loader_accepts_the_schema_accepts(
    name: str, data: dict[str, Any], folder: Path, source: st.DataObject
) -> None:
    path = source.draw(st.sampled_from(paths_of(data)[1:]))
    edited = changed(data, path, source.draw(st.sampled_from([None, *JUNK])))
    if accepts(name, edited, folder):
        validator(name).validate(edited)


@pytest.mark.parametrize(("name", "data"), [("recipe", REFERENCE), ("config", SETTINGS)])
def test_what_is_structurally_wrong_both_reject(name: str, data: dict[str, Any], folder: Path) -> None:
    # Tables whose names are the user's own.
    free = {("matrix",), ("labels",), ("server", "environment"), ("smoke", "environment"), ("packages", "from")}
    count = 0
    for path in paths_of(data):
        holder: Any = data
        for key in path:
            holder = holder[key]
        if isinstance(holder, dict) and path not in free and path[-1:] not in {("environment",), ("from",)}:
            edited = changed(data, (*path, "unknwon"), 1)
        elif isinstance(holder, str) and path:
            edited = changed(data, path, 1)
        elif isinstance(holder, (bool, int, float, list)):
            edited = changed(data, path, "a string")
        else:
            continue
        count += 1
        assert not validator(name).is_valid(edited), path
        assert not accepts(name, edited, folder), path
    assert count > {"recipe": 90, "config": 40}[name]
