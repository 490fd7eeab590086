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
    from builder.host.toml.tables import Table
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
    Field("slower-start", _PERCENTAGE, "Allowed increase of the time from start to ready."),
    Field("later-first-token", _PERCENTAGE, "Allowed increase of the time to first token."),
    Field("fewer-tokens", _PERCENTAGE, "Allowed decrease of tokens/s."),
    Field("more-memory", _PERCENTAGE, "Allowed increase of the peak memory."),
    Field("larger-image", _PERCENTAGE, "Allowed increase of the image's size."),
    Field("exceeded", _EXCEEDED, "Effect of an exceeded bound: a warning, or an error."),
)
_ROLE = choice(get_args(get_type_hints(Message)["role"]), "{} is not a role", "roles")
_MESSAGE = TableDeclaration(
    Message,
    Field("role", _ROLE, "Role of the speaker.", required=True),
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
        table.problem(None, "this question asks nothing", hint)
    for kind in kinds[1:]:
        message = f"this question has `{kinds[0]}` already"
        table.problem(kind, message, "one question, one of `ask`, `chat` and `prompt`")
    if question.chat and question.chat[-1].role == "assistant":
        message = "the last message is the assistant's: nothing is asked"
        table.problem("chat", message, "end with a user message")
    if not question.expects and "expect" not in table:
        subject = (
            "every answer would pass"
            if any(name in table for name in _EXPECTATIONS)
            else "this question has no expectation"
        )
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
    Field("text", _TEXT, "The exact answer."),
    Field("tokens", strings(), "The tokens that the answer begins with."),
    Field("min-tokens", integer(0, _MOST_TOKENS), "Minimum number of tokens in the answer."),
    Field("schema", _SCHEMA, "A JSON Schema, written as TOML, that the answer must match (guided output)."),
    Field("max-tokens", integer(1, _MOST_TOKENS), "Maximum number of tokens in the answer."),
    Field("at-once", integer(1, _MOST_AT_ONCE), "Number of simultaneous requests with this question."),
    Field("also-whole", boolean(), "Whether to ask again without streaming, and expect the same text."),
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
    Field("ready-within-s", number(1, _DAY_S), "Time limit until the server is ready, in seconds."),
    Field("answer-within-s", number(1, _DAY_S), "Time limit for a complete answer, in seconds."),
    Field("stop-within-s", number(1, _DAY_S), "Time limit for stopping the server, in seconds."),
    Field("environment", ENVIRONMENT, "Environment variables for the smoke run only."),
    Field("api-key", boolean(), "Whether the server starts with a key, and must refuse requests without it."),
    Field("golden-tolerance", number(0.001, 10), "Allowed difference from the recorded log-probabilities, in nats."),
    Field("bounds", nested(_BOUNDS), "Allowed regressions from the cell's last passed verdict of the same level."),
)
