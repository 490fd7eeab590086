"""Reading a recipe's tables below the matrix: what its cells ask for."""

from __future__ import annotations

import re
from datetime import date, datetime
from typing import TYPE_CHECKING, cast, get_args

from builder.recipe import checks, patterns
from builder.recipe.axes import read_when
from builder.recipe.levels import levels
from builder.recipe.model import (
    Model,
    OnFailure,
    Override,
    PublishSpec,
    Runners,
    Server,
    Spec,
    TagRule,
    Waiver,
)
from builder.recipe.questions import read_smoke
from builder.tomldoc import shown, suggest

if TYPE_CHECKING:
    from builder.recipe.model import Pairs
    from builder.recipe.slots import Slots
    from builder.tomldoc import Table

_MOST_TOKENS = 2**31
_DTYPES = ("auto", "bfloat16", "float", "float16", "float32", "half")
# The audit's rules, which lie in a later room; a test keeps the two the same.
AUDIT_RULES = (
    "other-distribution",
    *("damaged-wheel", "wrong-machine", "other-python", "missing-library", "symbol-version", "undefined-symbol"),
    *("executable-stack", "toolkit-newer", "gpu-code", "two-cudas", "two-sonames", "file-conflict", "tag-lies"),
)
# What the models' room knows how to tell apart; it maps each to file endings.
WEIGHT_FORMATS = ("bin", "ckpt", "gguf", "onnx", "pickle", "pkl", "pt", "pth", "safetensors")


def read_spec(root: Table, slots: Slots) -> Spec:
    """Read everything that all cells ask for."""
    base, packages = root.table("base"), root.table("packages")
    models = tuple(_model(table, slots) for table in root.tables("models"))
    _distinct_models(root, models)
    spec = Spec(
        base=slots.maybe(base, "image", checks.image),
        apt=slots.texts(base, "apt", checks.apt),
        requires=slots.texts(packages, "requires", checks.requirement),
        constraints=slots.texts(packages, "constraints", checks.requirement),
        replace=slots.texts(packages, "replace", checks.requirement),
        ignored_advisories=packages.strings(
            "ignore-advisories", pattern=r"[a-z0-9][a-z0-9.-]*", noun="an advisory's id"
        ),
        indexes=_indexes(packages),
        sources=_sources(packages),
        released_before=_date(packages, "released-before"),
        models=models,
        server=_server(root.table("server"), models, slots),
        smoke=read_smoke(root.table("smoke"), slots),
        publish=_publish(root.table("publish"), slots),
        labels=slots.labels(root.table("labels")),
        template=root.string("template", Spec().template, pattern=patterns.TEMPLATE, noun="a template's file name"),
        waivers=_waivers(root.table("audit")),
    )
    if not packages.raw("requires"):
        packages.problem("requires", "a recipe needs at least one package", 'such as `requires = ["vllm=={vllm}"]`')
    base.done()
    packages.done()
    return spec


def _indexes(table: Table) -> tuple[str, ...] | None:
    found = table.strings("indexes", pattern=patterns.INDEX, noun="the name of a package index")
    return found if "indexes" in table else None


def _sources(table: Table) -> Pairs:
    """Read `from`: which index single packages come from."""
    return table.string_map(
        "from",
        key_pattern=patterns.PACKAGE,
        value_pattern=patterns.INDEX,
        noun="the name of a package index, or `default` for uv's own",
        key_noun="a package's name in lower case, with `-`, or a glob",
    )


def _date(table: Table, key: str) -> str | None:
    """Read a date; TOML has dates of its own, people write strings."""
    found = table.raw(key)
    if isinstance(found, datetime):
        table.problem(key, "must be a date without a time", "such as 2026-11-01")
        return None
    if isinstance(found, date):
        return found.isoformat()
    text = table.optional_string(key, pattern=r"[0-9]{4}-[0-9]{2}-[0-9]{2}", noun="a date such as 2026-11-01")
    try:
        return date.fromisoformat(text).isoformat() if text else None
    except ValueError:
        if re.fullmatch(r"[0-9]{4}-[0-9]{2}-[0-9]{2}", text or ""):
            table.problem(key, f"there is no day {text}")
        return None


def read_runners(root: Table, slots: Slots) -> Runners:
    """Read on which runners CI works on the recipe's cells."""
    table = root.table("ci")
    runners = Runners(
        build=slots.maybe(table, "runner", checks.runner), smoke=slots.maybe(table, "smoke-runner", checks.runner)
    )
    table.done()
    return runners


def read_overrides(root: Table, known: dict[str, tuple[str, ...]], slots: Slots) -> tuple[Override, ...]:
    """Read the overrides; `known` are the values of each axis."""
    return tuple(_override(table, known, slots) for table in root.tables("overrides"))


def _override(table: Table, known: dict[str, tuple[str, ...]], slots: Slots) -> Override:
    conditions = table.table("when")
    when = read_when(conditions, known)
    if not list(conditions):
        table.problem(None, "an override says when it applies", 'add `when = { axis = "value" }`')
    slots = slots.only(when)
    override = Override(
        when=when,
        base=slots.maybe(table, "base", checks.image),
        apt=slots.texts(table, "apt", checks.apt),
        requires=slots.texts(table, "requires", checks.requirement),
        constraints=slots.texts(table, "constraints", checks.requirement),
        replace=slots.texts(table, "replace", checks.requirement),
        indexes=_indexes(table),
        sources=_sources(table),
        arguments=slots.texts(table, "arguments", checks.argument),
        environment=slots.environment(table),
    )
    table.done()
    if set(table) <= {"when"}:
        table.problem(None, "this override changes nothing", "say what is different for these cells, or take it out")
    return override


def _model(table: Table, slots: Slots) -> Model:
    formats = table.strings("formats")
    model = Model(
        name=table.string("name", pattern=patterns.MODEL_NAME, noun="a folder name: letters, digits, `.`, `_` and `-`"),
        source=slots.text(table, "source", checks.model_source),
        licence=table.optional_string("licence", pattern=patterns.LICENCE, noun="a licence such as Apache-2.0"),
        formats=formats or ("safetensors",),
        files=table.strings("files", pattern=patterns.MODEL_FILE, noun="a glob on the model's files"),
    )
    for index, name in enumerate(formats):
        if name not in WEIGHT_FORMATS:
            hint = suggest(name, WEIGHT_FORMATS, noun="formats")
            table.document.problem((*table.path, "formats", index), f"unknown format `{shown(name)}`", hint)
    table.done()
    return model


def _distinct_models(root: Table, models: tuple[Model, ...]) -> None:
    if not root.raw("models"):
        root.problem("models", "a recipe needs a model: without one the image cannot answer", "add a [[models]] table")
    names = [model.name for model in models]
    for index, name in enumerate(names):
        if name and name in names[:index]:
            root.document.problem(("models", index, "name"), f"two models are called `{name}`")


def _server(table: Table, models: tuple[Model, ...], slots: Slots) -> Server:
    server = Server(
        model=_served(table, models),
        served_name=slots.maybe(table, "served-name", checks.served_name),
        # The server does not run as root, so ports below 1024 are not for it.
        port=table.integer("port", Server().port, low=1024, high=65535),
        max_model_len=_tokens(table, "max-model-len"),
        dtype=table.optional_string("dtype"),
        quantization=table.optional_string("quantization", pattern=patterns.QUANTIZATION, noun="a quantization method"),
        arguments=slots.texts(table, "arguments", checks.argument),
        environment=slots.environment(table),
    )
    if server.dtype and server.dtype not in _DTYPES:
        table.problem("dtype", f"unknown type `{shown(server.dtype)}`", suggest(server.dtype, _DTYPES, noun="types"))
    table.done()
    return server


def _served(table: Table, models: tuple[Model, ...]) -> str | None:
    names = [model.name for model in models if model.name]
    name = table.optional_string("model")
    if name and name not in names:
        table.problem(
            "model", f"`{shown(name)}` is not one of the recipe's models", suggest(name, names, noun="models")
        )
    elif name is None and len(names) > 1:
        table.problem("model", "which of the models does the server serve?", f"one of: {', '.join(names)}")
    return name or next(iter(names), None)


def _tokens(table: Table, key: str) -> int | None:
    if key in table:
        return table.integer(key, low=1, high=_MOST_TOKENS)
    table.raw(key)
    return None


def _waivers(table: Table) -> tuple[Waiver, ...]:
    found = tuple(_waiver(waive) for waive in table.tables("waive"))
    table.done()
    return found


def _waiver(table: Table) -> Waiver:
    waiver = Waiver(
        rule=table.string("rule"),
        reason=table.string("reason", pattern=patterns.TEXT, noun="a reason on one line"),
        wheel=table.string("wheel", "*", pattern=patterns.TEXT, noun="a glob on wheels' names"),
        file=table.string("file", "*", pattern=patterns.TEXT, noun="a glob on the wheel's files"),
    )
    if isinstance(table.raw("rule"), str) and waiver.rule not in AUDIT_RULES:
        hint = suggest(waiver.rule, AUDIT_RULES, noun="rules")
        table.problem("rule", f"the audit has no rule `{shown(waiver.rule)}`", hint)
    table.done()
    return waiver


def _publish(table: Table, slots: Slots) -> PublishSpec:
    publish = PublishSpec(
        repository=slots.text(table, "repository", checks.repository, default="vllm"),
        tags=_tags(table, slots),
        registries=table.strings("registries", pattern=patterns.REGISTRY, noun="a registry: host[:port][/prefix]"),
        on_failure=_on_failure(table),
        attach=table.boolean("attach", default=True),
    )
    table.done()
    return publish


def _on_failure(table: Table) -> OnFailure:
    choices = get_args(OnFailure)
    found = table.string("on-failure", PublishSpec(repository="").on_failure)
    if found not in choices:
        table.problem("on-failure", f"`{shown(found)}` is not known", suggest(found, choices, noun="known"))
    return cast("OnFailure", found)


def _tags(table: Table, slots: Slots) -> tuple[TagRule, ...]:
    rules: list[TagRule] = []
    for index, item in table.strings_and_tables("tags"):
        if isinstance(item, str):
            slots.item(table, "tags", index, checks.tag)
        rule = TagRule(name=item) if isinstance(item, str) else _tag(item, slots)
        if rule.name in [other.name for other in rules]:
            table.document.problem((*table.path, "tags", index), f"`{shown(rule.name)}` is there twice")
        rules.append(rule)
    return tuple(rules)


def _tag(table: Table, slots: Slots) -> TagRule:
    rule = TagRule(
        name=slots.text(table, "tag", checks.tag),
        level=table.optional_string("level"),
        moving=table.boolean("moving", default=False),
        immutable=table.boolean("immutable", default=False),
    )
    if rule.level is not None and rule.level not in levels():
        table.problem("level", f"`{shown(rule.level)}` is not a level", suggest(rule.level, levels(), noun="levels"))
    if rule.moving and rule.immutable:
        table.problem("immutable", "a tag that moves is not immutable", "take one of the two out")
    table.done()
    return rule
