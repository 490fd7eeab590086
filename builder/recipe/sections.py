"""Declarations of a recipe's tables besides the matrix: keys, types, checks, descriptions."""

from __future__ import annotations

import re
from dataclasses import replace
from datetime import date, datetime
from typing import TYPE_CHECKING, get_args

from builder.host.registry_names import registries
from builder.host.toml.declarations import (
    Field,
    TableDeclaration,
    ValueType,
    boolean,
    boolean_map,
    choice,
    choices,
    integer,
    list_map,
    list_schema,
    string,
    string_map,
    string_schema,
    strings,
    tables,
    under,
)
from builder.host.wording import printable, suggest
from builder.model import patterns
from builder.model.kernel_verdicts import KERNEL_DEMANDS
from builder.model.recipes import (
    ImageSpec,
    Model,
    OnFailure,
    Override,
    Precompile,
    PublishSpec,
    Runners,
    ServerSpec,
    TagRule,
    Waiver,
)
from builder.recipe import value_checks
from builder.recipe.axes import condition
from builder.recipe.build_keys import BUILDS
from builder.recipe.levels import levels
from builder.recipe.slots import ENVIRONMENT, slot, slot_list, slot_schema

if TYPE_CHECKING:
    from builder.host.toml.tables import Document, Table
    from builder.recipe.slots import Slots

_MOST_TOKENS = 2**31
_DAY = r"[0-9]{4}-[0-9]{2}-[0-9]{2}"
_DTYPES = ("auto", "bfloat16", "float", "float16", "float32", "half")
# The rules of `builder.audit`, which this room cannot import; a test keeps them equal.
AUDIT_RULES = (
    "other-distribution",
    *("damaged-wheel", "wrong-machine", "other-python", "missing-library", "excluded-file"),
    *("symbol-version", "undefined-symbol"),
    *("executable-stack", "toolkit-newer", "gpu-code", "two-cudas", "two-sonames", "file-conflict", "tag-lies"),
    *("server-option", "server-parser", "lora-modules", "context-length", "parallel-size"),
    *("quantization-method", "quantization-type", "quantization-package", "quantization-gpu"),
    *("quantization-shape", "cache-type"),
    *("model-class", "model-code", "model-task", "chat-template", "tokenizer-files", "processor-files", "preflight"),
    "kernel-code",
)
# The formats of `builder.models`, which maps them to file endings.
WEIGHT_FORMATS = ("bin", "ckpt", "gguf", "onnx", "pickle", "pkl", "pt", "pth", "safetensors")


def _date(table: Table, key: str, _: Slots) -> str | None:
    """Read a date: one of TOML, or a string."""
    value = table.raw(key)
    if isinstance(value, datetime):
        table.problem(key, "must be a date without a time", "such as 2026-11-01")
        return None
    if isinstance(value, date):
        return value.isoformat()
    text = table.string(key, pattern=_DAY, noun="a date such as 2026-11-01")
    try:
        return date.fromisoformat(text).isoformat() if text else None
    except ValueError:
        if re.fullmatch(_DAY, text):
            table.problem(key, f"{text} is not a date")
        return None


_REQUIREMENTS = slot_list(value_checks.requirement)
_NO_PACKAGE = ("a recipe needs at least one package", 'such as `requires = ["vllm=={vllm}"]`')
_IDS = strings(r"[a-z0-9][a-z0-9.-]*", "an advisory's id")
_DATE = ValueType(read=_date, schema=lambda: string_schema(_DAY))
_INDEX_NAMES = strings(patterns.INDEX, "the name of a package index")
_PACKAGE_NAME = "a package's name in lower case, with `-`, or a glob"
_INDEX_OF = string_map(
    (patterns.PACKAGE, _PACKAGE_NAME),
    (patterns.INDEX, "the name of a package index, or `default` for uv's own"),
)
_MODEL_NAME = string(patterns.MODEL_NAME, "a folder name: letters, digits, `.`, `_` and `-`")
_MODEL_SOURCE = slot(value_checks.model_source)
_MODEL_FILES = strings(patterns.MODEL_FILE, "a glob on the model's files")
_REGISTRIES = registries(patterns.REGISTRY, "a registry: host[:port][/prefix]")
_ON_FAILURE = choice(get_args(OnFailure), "{} is not known", "known")

_BASE_IMAGE = slot(value_checks.image)
_APT = slot_list(value_checks.apt)
_ARGUMENT_LIST = slot_list(value_checks.argument)
_LABEL = slot(value_checks.runner)

BASE = (
    Field("base.image", _BASE_IMAGE, "Base image with a tag or digest; default the platform's.", argument="base"),
    Field("base.apt", _APT, "Packages of the distribution, NAME or NAME=VERSION."),
)

# Overrides have these fields, too.
_INDEXES = Field(
    "indexes", _INDEX_NAMES, "Indexes (names or families) that packages are pinned to; default the platform's."
)
_SOURCES = Field("from", _INDEX_OF, "Index of a single package (or glob); `default` is uv's own.", "sources")
_CONSTRAINTS = Field("constraints", _REQUIREMENTS, "Constraints on the requirements of packages.")
_REPLACE = Field("replace", _REQUIREMENTS, "Requirements that override those of all packages.")
_SLIM = Field(
    "slim",
    boolean(),
    "Whether GPU code for other GPUs is left out of open-source packages; default: if the cell has an axis `sm`.",
)
_PRECOMPILE = Field(
    "precompile",
    choice(get_args(Precompile), "{} is not known", "known"),
    "Kernels that the build compiles in place of the board: `off`, `needed` by the model, or `all`.",
)
_BUILD = Field("build", BUILDS, "Packages to build from source, or `missing`: all without a wheel that fits.", "builds")
_ARGUMENTS = Field("arguments", _ARGUMENT_LIST, "Other options of `vllm serve`, one string an argument.")

PACKAGES = under(
    "packages",
    Field("requires", _REQUIREMENTS, "Packages to install, as wheels unless `build` names them.", required=_NO_PACKAGE),
    _CONSTRAINTS,
    _REPLACE,
    Field("ignore-advisories", _IDS, "Advisories to ignore.", "ignored_advisories"),
    _INDEXES,
    _SOURCES,
    Field("released-before", _DATE, "Date (YYYY-MM-DD): no newer files, on indexes that state upload times."),
    _BUILD,
)

_SLIM_PACKAGES = "Whether GPU code for other GPUs is left out of single packages (or globs); the first match applies."
IMAGE = TableDeclaration(
    ImageSpec,
    _SLIM,
    Field("slim-packages", boolean_map((patterns.PACKAGE, _PACKAGE_NAME)), _SLIM_PACKAGES),
    _PRECOMPILE,
    Field(
        "exclude-files",
        list_map((patterns.PACKAGE, _PACKAGE_NAME), (patterns.WHEEL_FILE, "a file of the wheel, or a glob")),
        "Files (or globs) of single packages (or globs) that the image does without.",
    ),
    Field("warm", boolean(), "Whether a smoke run makes a second image that has what its server compiled."),
)

MODEL = TableDeclaration(
    Model,
    Field("name", _MODEL_NAME, "Folder of the model in the image: /models/NAME.", required=True),
    Field("source", _MODEL_SOURCE, "hf://ORGANISATION/NAME@REVISION, oci://HOST/NAME:TAG or a folder.", required=True),
    Field("licence", string(patterns.LICENCE, "a licence such as Apache-2.0"), "Licence, such as Apache-2.0."),
    Field("formats", choices(WEIGHT_FORMATS, "unknown format {}", "formats"), "Weight formats to allow."),
    Field("files", _MODEL_FILES, "Globs on the model's files; default what a model server needs."),
)

SERVER = TableDeclaration(
    ServerSpec,
    Field("model", string(), "Name of the model to serve; default the only one."),
    Field("served-name", slot(value_checks.served_name), "Model name for clients; default the model's name."),
    # The server does not run as root, so it cannot listen below 1024.
    Field("port", integer(1024, 65535), "Port that the server listens on."),
    Field("max-model-len", integer(1, _MOST_TOKENS), "Longest context in tokens."),
    Field("dtype", choice(_DTYPES, "unknown type {}", "types"), "Data type of weights and activations."),
    Field("quantization", string(patterns.QUANTIZATION, "a quantization method"), "Quantization of the weights."),
    _ARGUMENTS,
    Field("environment", ENVIRONMENT, "Environment variables of the image."),
)


def served_model(document: Document, name: str | None, models: tuple[Model, ...]) -> str | None:
    """Return the name of the model to serve, by default the only one; models of one name are mistakes."""
    names = [model.name for model in models if model.name]
    for index, model in enumerate(models):
        if model.name and model.name in [earlier.name for earlier in models[:index]]:
            document.problem(("models", index, "name"), f"two models are called `{model.name}`")
    if name and name not in names:
        hint = suggest(name, names, noun="models")
        document.problem(("server", "model"), f"`{printable(name)}` is not one of the recipe's models", hint)
    elif name is None and len(names) > 1:
        message = "the recipe has several models: name the one to serve"
        document.problem(("server", "model"), message, f"one of: {', '.join(names)}")
    return name or next(iter(names), None)


def _check_tag(table: Table, rule: TagRule, _: Slots) -> None:
    if rule.moving and rule.immutable:
        table.problem("immutable", "a moving tag cannot be immutable", "remove one of the two")


_TAG = TableDeclaration(
    TagRule,
    Field("tag", slot(value_checks.tag), "The tag, with placeholders.", argument="name", required=True),
    Field("level", choice(levels, "{} is not a level", "levels"), "Minimum level of the verdict."),
    Field("moving", boolean(), "Whether the tag moves to newer versions."),
    Field("immutable", boolean(), "Whether the tag must never move to another digest."),
    check=_check_tag,
)


def _tags(table: Table, key: str, slots: Slots) -> tuple[TagRule, ...]:
    rules: list[TagRule] = []
    for index, item in table.strings_and_tables(key):
        if isinstance(item, str):
            slots.note(table, (key, index), item, value_checks.tag)
            rule = TagRule(name=item)
        else:
            rule = _TAG.read(item, slots)
        if rule.name in [earlier.name for earlier in rules]:
            table.problem((key, index), f"`{printable(rule.name)}` is listed twice")
        rules.append(rule)
    return tuple(rules)


_TAGS = ValueType(read=_tags, schema=lambda: list_schema({"anyOf": [slot_schema(value_checks.tag), _TAG.schema()]}))
PUBLISH = TableDeclaration(
    PublishSpec,
    Field("repository", slot(value_checks.repository), "Repository below each registry's prefix."),
    Field("tags", _TAGS, "Tags of the images, or tables with the level that a tag requires."),
    Field("registries", _REGISTRIES, "Registries to push to; default those of jbuild.toml."),
    Field("on-failure", _ON_FAILURE, "If one registry fails: set no tags, or tag the others."),
    Field("attach", boolean(), "Whether SBOM, verdict and provenance are attached to the image."),
)

RUNNERS = TableDeclaration(
    Runners,
    Field("runner", _LABEL, "Label of the CI runner that builds the cells.", argument="build"),
    Field("smoke-runner", _LABEL, "Label of the CI runner on a board, for smoke runs.", argument="smoke"),
)

_KERNELS = choice(KERNEL_DEMANDS, "{} is not any, no-jit or native", "known")
_WAIVER = TableDeclaration(
    Waiver,
    Field("rule", choice(AUDIT_RULES, "the audit has no rule {}", "rules"), "The audit's rule.", required=True),
    Field("reason", string(patterns.TEXT, "a reason on one line"), "Why the findings do not matter.", required=True),
    Field("wheel", string(patterns.TEXT, "a glob on wheels' names"), "Glob on the wheel's name."),
    Field("file", string(patterns.TEXT, "a glob on the wheel's files"), "Glob on the wheel's files."),
)

AUDIT = (
    Field("audit.waive", tables(_WAIVER), "Findings of the audit to accept.", "waivers"),
    Field(
        "audit.kernels",
        _KERNELS,
        "Demand on kernels: any, no-jit (none compiled on the board) or native.",
        "kernels",
    ),
)


def _read_overrides(root: Table, key: str, slots: Slots) -> tuple[Override, ...]:
    """Read overrides; the strings of each are for its cells only, and collected in the same list."""
    return tuple(_OVERRIDE.read(table, replace(slots, when=condition(table, slots))) for table in root.tables(key))


def _check_override(table: Table, _: Override, __: Slots) -> None:
    if set(table) <= {"when"}:
        table.problem(None, "this override changes nothing", "add the changes for these cells, or remove it")


_WHEN = ValueType(
    read=lambda _, __, slots: slots.when,
    schema=lambda: {"type": "object", "minProperties": 1, "additionalProperties": string_schema(patterns.GLOB)},
)
_OVERRIDE = TableDeclaration(
    Override,
    Field("when", _WHEN, "Axis values (globs) of the cells that the override applies to.", required=True),
    Field("base", _BASE_IMAGE, "Base image, in place of the recipe's."),
    Field("apt", _APT, "More packages of the distribution."),
    Field("requires", _REQUIREMENTS, "More packages to install."),
    _CONSTRAINTS,
    _REPLACE,
    _INDEXES,
    _SOURCES,
    _BUILD,
    _SLIM,
    _PRECOMPILE,
    _ARGUMENTS,
    Field("environment", ENVIRONMENT, "Environment variables of the image, merged by name."),
    check=_check_override,
    constraints={"minProperties": 2},
)
OVERRIDES = ValueType(read=_read_overrides, schema=tables(_OVERRIDE).schema)
