"""Collects the `jbuild` commands that code, data and documentation show, and holds them against the command line."""

from __future__ import annotations

import ast
import importlib
import re
import shlex
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import click

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping

CHECKOUT = Path(__file__).parents[2]
# Stands where a message puts a recipe, a cell or a file.
VALUE = "VALUE"
_SPAN = re.compile(r"`+([^`]+)`+|<code>([^<]+)</code>")
_FENCE = re.compile(r"^ *```.*?^ *```", re.MULTILINE | re.DOTALL)
_FIELD = re.compile(r"\{\{.*?\}\}|\{[a-z_][a-z_.\[\]0-9]*\}")
_STATEMENT = re.compile(r"\{%.*?%\}")
# A command begins a row, an expansion or a part of a pipe; settings of the environment may stand before it.
_BEGIN = re.compile(r"(?:^|\$\(|[|;&(] *)(?:\$ +)?(?:[A-Z_]+=\S+ +)*(jbuild [^|;&)>]*)")
_BARE = re.compile(r"(?:\A|: )(jbuild ([a-z]+)(?: [^\s,;.]+)*)\Z")
_METAVARIABLE = re.compile(r"[A-Z][A-Z_0-9/@:.-]*|…|\$.*")
_OPTION = re.compile(r"(--[a-z][a-z0-9-]*)(?:[ =].*)?")
# Options of vLLM, Docker, cosign, uv, pip and the checkout's scripts, which pages and messages name without them.
_FOREIGN_OPTIONS = frozenset(
    """
    --allow-deprecated-quantization --api-key --cache-to --chat-template --compilation-config --compile-bytecode
    --config-format --debian-python --device --driver --dtype --enable-auto-tool-choice --enable-lora --enforce-eager
    --frandom-seed --gpu-memory-utilization --host --insecure-ignore-tlog --ipc --isolated --kernels --kv-cache-dtype
    --lora-modules --max-lora-rank --max-model-len --max-num-batched-tokens --max-num-seqs --max_model_len
    --metrics-port --name --network --no- --only --only-binary --option --platform --port --python-platform
    --python-version --quantization --reasoning-parser --runtime --secret --served-model-name --slim --small --target
    --tensor-parallel-size --tokenizer-mode --tool-call-parser --tool-parser-plugin --trust-remote-code --warmup
    """.split()  # noqa: SIM905  # a list of words reads as words
)
# A script's array of options, and its use.
_OPTIONS = re.compile(r"\boptions\+?=\(([^)]*)\)")
_ALL_OPTIONS = '"${options[@]}"'


@dataclass(frozen=True, kw_only=True, slots=True)
class AdvisedCommand:
    """A command, the file that shows it, and whether it stands there to be typed as it is.

    Options that are named without their command stand for a command of any verb that has them.
    """

    file: str
    text: str
    complete: bool


def command_group() -> click.Group:
    """Return the command line that the package installs."""
    project = tomllib.loads((CHECKOUT / "pyproject.toml").read_text(encoding="utf-8"))
    module, _, _ = project["project"]["scripts"]["jbuild"].partition(":")
    return next(thing for thing in vars(importlib.import_module(module)).values() if isinstance(thing, click.Group))


def advised_commands() -> list[AdvisedCommand]:
    """Return every command of the checkout's code, data, templates, action, workflows and documentation."""
    sources: list[tuple[Callable[[str], Iterator[tuple[str, bool]]], Iterable[Path]]] = [
        (of_python, CHECKOUT.glob("builder/**/*.py")),
        (of_data, CHECKOUT.glob("builder/**/*.toml")),
        (of_data, CHECKOUT.glob("recipes/**/*.toml")),
        (of_data, CHECKOUT.glob("builder/**/*.j2")),
        (of_data, CHECKOUT.glob("dockerfiles/**/*.j2")),
        (of_data, CHECKOUT.glob(".github/workflows/*.yml")),
        (of_data, [CHECKOUT / "action.yml"]),
        (of_markdown, CHECKOUT.glob("README*.md")),
        (of_markdown, CHECKOUT.glob("docs/**/*.md")),
    ]
    return [
        AdvisedCommand(file=path.relative_to(CHECKOUT).as_posix(), text=text, complete=complete)
        for read, paths in sources
        for path in sorted(paths)
        for text, complete in read(path.read_text(encoding="utf-8"))
    ]


def of_python(text: str) -> Iterator[tuple[str, bool]]:
    """Yield the commands in a module's strings."""
    verbs = command_group().list_commands(click.Context(command_group()))
    for literal in _literals(ast.parse(text)):
        yield from _of_spans(literal)
        # The page's commands, and hints that end in one, stand without quotes; a sentence may begin likewise.
        for bare, verb in _BARE.findall(literal):
            if verb in verbs:
                yield from ((command, False) for command in _BEGIN.findall(bare))


def _literals(tree: ast.AST) -> Iterator[str]:
    if isinstance(tree, ast.JoinedStr):
        yield "".join(str(node.value) if isinstance(node, ast.Constant) else VALUE for node in tree.values)
    elif isinstance(tree, ast.Constant) and isinstance(tree.value, str):
        yield tree.value
    else:
        for child in ast.iter_child_nodes(tree):
            yield from _literals(child)


def of_data(text: str) -> Iterator[tuple[str, bool]]:
    """Yield the commands in TOML, YAML or a template: in quotes, or a row of a script with all its options."""
    options = " ".join(_OPTIONS.findall(text))
    for row in _STATEMENT.sub("", text).replace("\\\n", " ").splitlines():
        yield from _of_spans(row)
        yield from _of_script(row.replace(_ALL_OPTIONS, options))


def of_markdown(text: str) -> Iterator[tuple[str, bool]]:
    """Yield the commands of a page: of its code blocks, and in quotes."""
    for block in _FENCE.findall(text):
        yield from _of_script(block.replace("\\\n", " "))
    for paragraph in re.split(r"\n{2,}", _FENCE.sub("", text)):
        if paragraph.startswith("    "):
            yield from _of_script(paragraph.replace("\\\n", " "))
        else:
            yield from _of_spans(paragraph)


def _of_script(text: str) -> Iterator[tuple[str, bool]]:
    for row in text.splitlines():
        # Behind the comment's sign stands no command.
        for command in _BEGIN.findall(re.sub(r"(^|\s)#.*", "", row).strip()):
            yield _FIELD.sub(VALUE, command).strip(), True


def _of_spans(text: str) -> Iterator[tuple[str, bool]]:
    for quoted, code in _SPAN.findall(text):
        span = _FIELD.sub(VALUE, " ".join((quoted or code).split()))
        for command in _BEGIN.findall(span):
            yield command.strip(), False
        option = _OPTION.fullmatch(span)
        if option and option[1] not in _FOREIGN_OPTIONS:
            yield span, False


def mistake(group: click.Group, command: AdvisedCommand) -> str | None:
    """Return why the command line would not take a command, or nothing if it would."""
    try:
        words = shlex.split(command.text)
        if words[0].startswith("-"):
            return _options_mistake(group, words)
        _parse(_context(group), words[1:], complete=command.complete)
    except click.ClickException as error:
        return error.format_message()
    except ValueError as error:
        return str(error)
    return None


def _options_mistake(group: click.Group, words: list[str]) -> str | None:
    reasons = []
    for verb in _verbs(group):
        try:
            _parse(_context(verb), words, complete=False)
        except click.NoSuchOption:
            continue
        except click.ClickException as error:
            reasons.append(error.format_message())
        else:
            return None
    return reasons[0] if reasons else "no verb has such an option"


def _verbs(command: click.Command) -> Iterator[click.Command]:
    yield command
    if isinstance(command, click.Group):
        context = click.Context(command)
        for name in command.list_commands(context):
            verb = command.get_command(context, name)
            assert verb is not None, name
            yield from _verbs(verb)


def _context(command: click.Command, parent: click.Context | None = None) -> click.Context:
    return click.Context(command, parent=parent, info_name=command.name, **command.context_settings)


def _parse(context: click.Context, words: list[str], *, complete: bool) -> None:
    command = context.command
    if isinstance(command, click.Group) and words and not words[0].startswith("-"):
        if words[0] == VALUE:
            return
        verb = command.get_command(context, words[0])
        if verb is None:
            raise click.UsageError(f"there is no verb {words[0]}")
        _parse(_context(verb, context), words[1:], complete=complete)
        return
    values, surplus, parameters = _read(context, words, complete=complete)
    if surplus:
        raise click.UsageError(f"more arguments than it takes: {' '.join(surplus)}")
    for parameter in parameters:
        for value in _texts(values.get(parameter.name or "")):
            if not (_METAVARIABLE.fullmatch(value) or isinstance(parameter.type, click.Path | click.File)):
                parameter.type.convert(value, parameter, context)
    if not {"-h", "--help"}.intersection(words):
        _check_required(command, values, complete=complete)


def _read(
    context: click.Context, words: list[str], *, complete: bool
) -> tuple[Mapping[str, object], list[str], list[click.Parameter]]:
    try:
        # The parser consumes the list.
        return context.command.make_parser(context).parse_args([*words])
    except click.BadOptionUsage:
        if complete or not words[-1].startswith("--"):
            raise
        # A sentence may name an option without its value.
        return _read(context, [*words, VALUE], complete=True)


def _check_required(command: click.Command, values: Mapping[str, object], *, complete: bool) -> None:
    arguments = [one for one in command.params if isinstance(one, click.Argument)]
    absent = [one.human_readable_name for one in arguments if one.required and not _texts(values.get(one.name or ""))]
    # In a sentence, a verb or a verb with an option is named without its arguments; with some of them, all are needed.
    named_only = not complete and len(absent) == sum(one.required for one in arguments)
    if absent and not named_only:
        raise click.UsageError(f"arguments are missing: {', '.join(absent)}")


def _texts(value: object) -> list[str]:
    """Return an option's or argument's values as written; a flag and what is not there have none."""
    values = value if isinstance(value, list | tuple) else [value]
    return [one for one in values if isinstance(one, str)]
