"""Declarations of `build` under `[packages]`: packages that are built from source; and checks of them."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from builder.host.toml.declarations import (
    Field,
    TableDeclaration,
    ValueType,
    list_schema,
    nested,
    rows,
    string,
    string_schema,
)
from builder.host.wording import printable, suggest
from builder.model import patterns
from builder.model.recipes import InputSource, PackageBuild, PackageBuilds, PackageInput, PackageSource
from builder.recipe import value_checks
from builder.recipe.slots import BUILD_ENVIRONMENT, slot, slot_list

if TYPE_CHECKING:
    from collections.abc import Iterator

    from builder.host.toml.tables import Document, Table
    from builder.model.recipes import Override, Recipe, Spec
    from builder.recipe.slots import Slots

_MISSING = "missing"
_NAME = re.compile(patterns.REQUIREMENT_NAME)


def _check_source(table: Table, source: PackageSource | InputSource, _: Slots) -> None:
    if source.folder is None and source.git is None:
        hint = (
            'add `git = "https://…"` with `commit`, or `folder = "…"`; without `source`, the index\'s archive is built'
        )
        table.problem(None, "this source names no Git repository and no folder", hint)
    elif source.folder is not None and (source.git is not None or source.commit is not None):
        table.problem("folder", "this source has a Git repository already", "keep one of `git` and `folder`")
    elif source.folder is None and source.commit is None:
        hint = "add `commit` with all 40 digits (`git rev-parse HEAD`): branches and tags move"
        table.problem("git", "a Git repository needs a commit", hint)


def _check_input_source(table: Table, source: InputSource, slots: Slots) -> None:
    archive = source.archive is not None
    if not archive and source.sha256 is None:
        _check_source(table, source, slots)
    elif any(value is not None for value in (source.git, source.commit, source.folder)):
        table.problem("archive" if archive else "sha256", "this source is not an archive", "keep one kind of source")
    elif not archive:
        table.problem("sha256", "this source names no archive", 'add `archive = "https://…"`')
    elif source.sha256 is None:
        hint = "add `sha256` with all 64 digits (`sha256sum FILE`), since a server can change the file"
        table.problem("archive", "an archive needs a sha256", hint)


def _folder(table: Table, key: str, _: Slots) -> str:
    return _inside(table, key, "folder", "the project")


def _inside(table: Table, key: str, noun: str, around: str) -> str:
    """Read a relative path that stays in a folder."""
    before, text = len(table.document.problems), table.string(key)
    if len(table.document.problems) == before and not re.fullmatch(patterns.PROJECT_PATH, text):
        table.problem(key, *_outside(text, noun, around))
    return text


def _outside(path: str, noun: str, around: str) -> tuple[str, str]:
    if path.startswith(("/", "~")) or ".." in path.split("/"):
        return f"the {noun} `{printable(path)}` is outside {around}", f"copy it into {around}, and name it from there"
    return f"`{printable(path)}` is not the path of a {noun}", f"relative to {around}, such as `native/operators`"


def _patches(table: Table, key: str, _: Slots) -> tuple[str, ...]:
    paths = table.strings(key)
    for index, path in enumerate(table.raw(key) if isinstance(table.raw(key), list) else ()):
        if isinstance(path, str) and not re.fullmatch(patterns.PROJECT_PATH, path):
            table.problem((key, index), *_outside(path, "patch", "the recipe's folder"))
        elif path in paths[:index]:
            table.problem((key, index), f"`{printable(path)}` is listed twice")
    return paths


def _check_build(table: Table, build: PackageBuild, _: Slots) -> None:
    if build.version is not None and build.source is None:
        hint = "remove it: `requires` under [packages] decides the version"
        table.problem("version", "the index's source archives have versions", hint)
    for index, entry in enumerate(build.inputs or ()):
        if entry.variable in dict(build.environment):
            hint = "remove it there: jbuild sets the variable to the folder of the input"
            table.problem(("inputs", index, "variable"), f"`environment` sets `{entry.variable}` too", hint)


_SOURCE_FIELDS = (
    Field("git", string(patterns.GIT_URL, "a Git URL without a password"), "URL of a Git repository."),
    Field("commit", string(patterns.GIT_COMMIT, "a commit: 40 hexadecimal digits"), "Commit, all 40 digits."),
    Field(
        "folder",
        ValueType(read=_folder, schema=lambda: string_schema(patterns.PROJECT_PATH)),
        "Folder, relative to the project, which is the folder with `recipes/`.",
    ),
)
_SOURCE_KEYS: list[dict[str, list[str]]] = [{"required": ["git", "commit"]}, {"required": ["folder"]}]
_SOURCE = TableDeclaration(PackageSource, *_SOURCE_FIELDS, check=_check_source, constraints={"oneOf": [*_SOURCE_KEYS]})
_INPUT_SOURCE = TableDeclaration(
    InputSource,
    *_SOURCE_FIELDS,
    Field(
        "archive",
        string(patterns.ARCHIVE_URL, "the address of a .tar.gz, .tar.xz, .tar.bz2 or .zip"),
        "Address of an archive.",
    ),
    Field("sha256", string(patterns.SHA256, "a sha256: 64 hexadecimal digits"), "The archive's sha256."),
    check=_check_input_source,
    constraints={"oneOf": [*_SOURCE_KEYS, {"required": ["archive", "sha256"]}]},
)
_PATCHES = ValueType(read=_patches, schema=lambda: list_schema(string_schema(patterns.PROJECT_PATH), uniqueItems=True))
_INPUT = TableDeclaration(
    PackageInput,
    Field(
        "variable",
        string(patterns.ENVIRONMENT, "the name of an environment variable"),
        "Variable that the build reads: it names the folder with the source.",
        required=True,
    ),
    Field("source", nested(_INPUT_SOURCE), "Source of the folder.", required=True),
    Field("patches", _PATCHES, "Patches of this source, relative to the recipe's folder."),
)
_INPUTS = ValueType(
    read=lambda table, key, slots: rows(table, key, _INPUT, once="variable", context=slots),
    schema=lambda: list_schema(_INPUT.schema()),
)
_BUILD = TableDeclaration(
    PackageBuild,
    Field(
        "name",
        string(patterns.PACKAGE_NAME, "a package's name in lower case, with `-`"),
        "Name of the package, which `requires` names too.",
        required=True,
    ),
    Field("source", nested(_SOURCE, always=False), "Source; default the index's source archive."),
    Field("patches", _PATCHES, "Patches for `git apply`, relative to the folder of the recipe's file."),
    Field("environment", BUILD_ENVIRONMENT, "Environment variables of the build."),
    Field("version", slot(value_checks.version), "Version of a Git or folder source that states none."),
    Field("requires", slot_list(value_checks.requirement), "Requirements, in place of those in the source's metadata."),
    Field("build-requires", slot_list(value_checks.requirement), "Build requirements besides those of the source."),
    Field("inputs", _INPUTS, "Other sources, which the build finds in folders that variables name."),
    check=_check_build,
)


def _read_builds(table: Table, key: str, slots: Slots) -> PackageBuilds | None:
    if isinstance(table.raw(key), str):
        text = table.string(key)
        if text == _MISSING:
            return PackageBuilds(missing=True)
        hint = f'write `{key} = "{_MISSING}"`, or a [[packages.{key}]] table for each package'
        table.problem(key, f"`{printable(text)}` is not `{_MISSING}`", hint)
        return None
    return PackageBuilds(packages=rows(table, key, _BUILD, once="name", context=slots))


BUILDS = ValueType(
    read=_read_builds,
    schema=lambda: {"anyOf": [{"type": "string", "enum": [_MISSING]}, list_schema(_BUILD.schema())]},
)


def check_builds(document: Document, recipe: Recipe, *, files: bool) -> None:
    """Note builds of packages that no requirement names, and with `files` patches that are not there."""
    rules: tuple[Spec | Override, ...] = (recipe.spec, *recipe.overrides)
    texts = [text for rule in rules for text in (*rule.requires, *rule.replace)]
    names = {re.sub(r"[-_.]+", "-", match[0]).lower() for text in texts if (match := _NAME.match(text))}
    for path, build in _builds(recipe):
        if build.name and build.name not in names:
            hint = f'{suggest(build.name, names, noun="required")}; or add `"{build.name}"` to `requires`'
            document.problem((*path, "name"), f"no requirement names `{printable(build.name)}`", hint)
        for key, patches in _patch_lists(build) if files else ():
            for index, patch in enumerate(patches):
                if re.fullmatch(patterns.PROJECT_PATH, patch) and not (recipe.path.parent / patch).is_file():
                    hint = f"put it beside the recipe: {recipe.path.parent / patch}"
                    document.problem((*path, *key, index), f"there is no patch `{printable(patch)}`", hint)


def _patch_lists(build: PackageBuild) -> Iterator[tuple[tuple[str | int, ...], tuple[str, ...]]]:
    """Yield the patches of a build's source and of its inputs, with their key paths."""
    yield ("patches",), build.patches
    for index, entry in enumerate(build.inputs or ()):
        yield ("inputs", index, "patches"), entry.patches


def _builds(recipe: Recipe) -> Iterator[tuple[tuple[str | int, ...], PackageBuild]]:
    """Yield the builds of a recipe with their key paths."""
    holders: list[tuple[tuple[str | int, ...], PackageBuilds | None]] = [(("packages", "build"), recipe.spec.builds)]
    holders += [(("overrides", index, "build"), rule.builds) for index, rule in enumerate(recipe.overrides)]
    for path, builds in holders:
        for index, build in enumerate(builds.packages if builds else ()):
            yield (*path, index), build
