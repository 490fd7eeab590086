"""Declarations of `[smoke]`: questions to the image, and bounds."""

from __future__ import annotations

from typing import TYPE_CHECKING, get_args, get_type_hints

from builder.host.toml.declarations import (
    Field,
    TableDeclaration,
    ValueType,
    boolean,
    choice,
    integer,
    nested,
    number,
    string,
    string_schema,
    strings,
    tables,
)
from builder.model import patterns
from builder.model.recipes import Bounds, Message, Question, SmokeSpec
from builder.recipe import guided_schema, value_checks
from builder.recipe.slots import ENVIRONMENT

if TYPE_CHECKING:
    from builder.host.toml.documents import Table
    from builder.recipe.slots import Slots

_DAY_S = 86_400
_MOST_TOKENS = 2**31
_MOST_AT_ONCE = 256
_KINDS = ("ask", "chat", "prompt")
_EXPECTATIONS = ("expect", "text", "tokens", "min-tokens", "schema")
_EXPECT_HINT = "a word that only a right answer contains, such as `Paris`"
_PERCENT = r"[0-9]{1,4}%"


def _read_percentage(table: Table, key: str, _: Slots) -> float | None:
    """Read a bound such as "50%"."""
    before = len(table.document.problems)
    value = table.string(key, pattern=_PERCENT, noun='a bound such as "50%"')
    return float(value[:-1]) / 100 if len(table.document.problems) == before else None


_PERCENTAGE = ValueType(read=_read_percentage, schema=lambda: string_schema(_PERCENT))
_EXCEEDED = choice(get_args(get_type_hints(Bounds)["exceeded"]), "{} is not known", "known")
_BOUNDS = TableDeclaration(
    Bounds,
    Field("slower-start", _PERCENTAGE, "How much longer the start may take."),
    Field("later-first-token", _PERCENTAGE, "How much later the first token may come."),
    Field("fewer-tokens", _PERCENTAGE, "How many fewer tokens a second there may be."),
    Field("more-memory", _PERCENTAGE, "How much more memory the server may take."),
    Field("larger-image", _PERCENTAGE, "How much larger the image may be."),
    Field("exceeded", _EXCEEDED, "What an exceeded bound is: a warning, or an error."),
)
_ROLE = choice(get_args(get_type_hints(Message)["role"]), "{} is not a role", "roles")
_MESSAGE = TableDeclaration(
    Message,
    Field("role", _ROLE, "Who speaks.", required=True),
    Field("content", string(patterns.LINES, "a message's text"), "The message's text.", required=True),
)


def _read_expectation(table: Table, key: str, _: Slots) -> str:
    value = table.string(key)
    if isinstance(table.raw(key), str) and (problem := value_checks.expectation(value)):
        table.problem(key, problem, _EXPECT_HINT)
    return value


def _read_schema(table: Table, key: str, _: Slots) -> str | None:
    """Read a JSON schema that is written as TOML."""
    raw = table.raw(key)
    problems = guided_schema.problems(raw)
    for path, message in problems:
        table.problem((key, *path), message)
    return None if problems else guided_schema.text(raw)


def _check(table: Table, question: Question, _: Slots) -> None:
    kinds = [kind for kind in _KINDS if kind in table]
    if not kinds:
        hint = 'add `ask = "…"`, `chat = [{ role = "user", content = "…" }]` or `prompt`'
        table.problem(None, "this asks nothing", hint)
    for kind in kinds[1:]:
        message = f"this question has `{kinds[0]}` already"
        table.problem(kind, message, "one question, one of `ask`, `chat` and `prompt`")
    if question.chat and question.chat[-1].role == "assistant":
        message = "the last message is the assistant's: nothing is asked"
        table.problem("chat", message, "end with a user message")
    if not question.expects and "expect" not in table:
        subject = "every answer would pass" if any(name in table for name in _EXPECTATIONS) else "this expects nothing"
        table.problem(None, f"{subject}, so it proves nothing", f'add `expect = "Paris"`: {_EXPECT_HINT}')
    for key, value in (("min-tokens", question.min_tokens), ("tokens", len(question.tokens))):
        if value > question.max_tokens:
            table.problem(key, f"an answer ends after {question.max_tokens} tokens", f"set `max-tokens = {value}`")


_TEXT = string(patterns.LINES, "text without control characters")
_EXPECTATION = ValueType(read=_read_expectation, schema=lambda: {"type": "string", "minLength": 1})
_SCHEMA = ValueType(read=_read_schema, schema=guided_schema.keyword_schema)
_QUESTION = TableDeclaration(
    Question,
    Field("ask", _TEXT, "The question, as a chat of one message."),
    Field("chat", tables(_MESSAGE), "A whole chat, in place of `ask`."),
    Field("prompt", _TEXT, "Text for the model to continue, in place of `ask`."),
    Field("expect", _EXPECTATION, "A regular expression, searched in the answer."),
    Field("text", _TEXT, "The answer, to the letter."),
    Field("tokens", strings(), "The tokens that the answer begins with."),
    Field("min-tokens", integer(0, _MOST_TOKENS), "How many tokens the answer must have at least."),
    Field("schema", _SCHEMA, "A JSON Schema, written as TOML, that the answer must fit (guided output)."),
    Field("max-tokens", integer(1, _MOST_TOKENS), "How many tokens the answer may have at most."),
    Field("at-once", integer(1, _MOST_AT_ONCE), "How many times the question is asked at the same moment."),
    Field("also-whole", boolean(), "Whether the question is asked once more without streaming."),
    check=_check,
    constraints={
        "oneOf": [{"required": [name]} for name in _KINDS],
        "anyOf": [{"required": [name]} for name in _EXPECTATIONS],
    },
)
_NO_QUESTION = (
    "a recipe asks its image at least one question: nothing else proves it",
    "add a [[smoke.questions]] table with `ask` and `expect`",
)
SMOKE = TableDeclaration(
    SmokeSpec,
    Field("questions", tables(_QUESTION), "Questions to the image, asked at temperature 0.", required=_NO_QUESTION),
    Field("ready-within-s", number(1, _DAY_S), "Longest time until the server is ready, in seconds."),
    Field("answer-within-s", number(1, _DAY_S), "Longest time until an answer is complete, in seconds."),
    Field("stop-within-s", number(1, _DAY_S), "Longest time until the server has stopped, in seconds."),
    Field("environment", ENVIRONMENT, "Environment variables for the smoke run only."),
    Field("api-key", boolean(), "Whether the server is started with a key and must refuse clients without it."),
    Field("golden-tolerance", number(0.001, 10), "How far log-probabilities may be off the recorded ones, in nats."),
    Field("bounds", nested(_BOUNDS), "How much worse than the last verdict of the cell the image may be."),
)
