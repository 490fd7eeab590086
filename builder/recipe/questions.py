"""Reading what a recipe asks its image: `[smoke]` and its questions."""

from __future__ import annotations

from typing import TYPE_CHECKING, cast, get_args, get_type_hints

from builder.recipe import checks, patterns, schema
from builder.recipe.model import Bounds, Message, Question, SmokeSpec
from builder.tomldoc import shown, suggest

if TYPE_CHECKING:
    from typing import Literal

    from builder.recipe.slots import Slots
    from builder.tomldoc import Table

_DAY_S = 86_400
_MOST_TOKENS = 2**31
_MOST_AT_ONCE = 256
_KINDS = ("ask", "chat", "prompt")
_EXPECTATIONS = ("expect", "text", "tokens", "min-tokens", "schema")
_RIGHT = "a word that only a right answer holds, such as `Paris`"


def read_smoke(table: Table, slots: Slots) -> SmokeSpec:
    """Read what the image is asked, and how long it may take."""
    usual = SmokeSpec()
    smoke = SmokeSpec(
        questions=tuple(_question(question) for question in table.tables("questions")),
        ready_within_s=table.number("ready-within-s", usual.ready_within_s, low=1, high=_DAY_S),
        answer_within_s=table.number("answer-within-s", usual.answer_within_s, low=1, high=_DAY_S),
        stop_within_s=table.number("stop-within-s", usual.stop_within_s, low=1, high=_DAY_S),
        environment=slots.environment(table),
        api_key=table.boolean("api-key", default=usual.api_key),
        golden_tolerance=table.number("golden-tolerance", usual.golden_tolerance, low=0.001, high=10),
        bounds=_bounds(table.table("bounds")),
    )
    if not table.raw("questions"):
        table.problem(
            "questions",
            "a recipe asks its image at least one question: nothing else proves it",
            "add a [[smoke.questions]] table with `ask` and `expect`",
        )
    table.done()
    return smoke


def _bounds(table: Table) -> Bounds:
    choices = get_args(get_type_hints(Bounds)["exceeded"])
    exceeded = table.string("exceeded", Bounds().exceeded)
    if exceeded not in choices:
        table.problem("exceeded", f"`{shown(exceeded)}` is not known", suggest(exceeded, choices, noun="known"))
    bounds = Bounds(
        slower_start=_part(table, "slower-start"),
        later_first_token=_part(table, "later-first-token"),
        fewer_tokens=_part(table, "fewer-tokens"),
        more_memory=_part(table, "more-memory"),
        larger_image=_part(table, "larger-image"),
        exceeded=cast("Literal['warning', 'error']", exceeded),
    )
    table.done()
    return bounds


def _part(table: Table, key: str) -> float | None:
    """Read a bound such as "50%"."""
    before = len(table.document.problems)
    found = table.optional_string(key, pattern=r"[0-9]{1,4}%", noun='a bound such as "50%"')
    return float(found[:-1]) / 100 if found and len(table.document.problems) == before else None


def _question(table: Table) -> Question:
    usual = Question()
    question = Question(
        ask=_text(table, "ask") or "",
        chat=tuple(_message(message) for message in table.tables("chat")),
        prompt=_text(table, "prompt") or "",
        expect=_pattern(table),
        text=_text(table, "text"),
        tokens=table.strings("tokens"),
        min_tokens=table.integer("min-tokens", usual.min_tokens, high=_MOST_TOKENS),
        schema=_schema(table),
        max_tokens=table.integer("max-tokens", usual.max_tokens, low=1, high=_MOST_TOKENS),
        at_once=table.integer("at-once", usual.at_once, low=1, high=_MOST_AT_ONCE),
        also_whole=table.boolean("also-whole", default=usual.also_whole),
    )
    _check(table, question)
    table.done()
    return question


def _check(table: Table, question: Question) -> None:
    given = [kind for kind in _KINDS if kind in table]
    if not given:
        table.problem(
            None, "this asks nothing", 'add `ask = "…"`, `chat = [{ role = "user", content = "…" }]` or `prompt`'
        )
    for kind in given[1:]:
        table.problem(
            kind, f"this question has `{given[0]}` already", "one question, one of `ask`, `chat` and `prompt`"
        )
    if table.raw("chat") and question.chat and question.chat[-1].role == "assistant":
        table.problem(
            "chat", "the last message is the assistant's: nothing is asked", "end with a message of the user's"
        )
    if not any(name in table for name in _EXPECTATIONS):
        table.problem(None, "this expects nothing, so it proves nothing", f'add `expect = "Paris"`: {_RIGHT}')
    elif not question.expects and "expect" not in table:
        table.problem(None, "every answer would pass, so it proves nothing", f'add `expect = "Paris"`: {_RIGHT}')
    for key, wanted in (("min-tokens", question.min_tokens), ("tokens", len(question.tokens))):
        if wanted > question.max_tokens:
            table.problem(key, f"an answer ends after {question.max_tokens} tokens", f"set `max-tokens = {wanted}`")


def _text(table: Table, key: str) -> str | None:
    return table.optional_string(key, pattern=patterns.LINES, noun="text without control characters")


def _pattern(table: Table) -> str | None:
    found = table.optional_string("expect")
    if found is not None and isinstance(table.raw("expect"), str) and (problem := checks.expectation(found)):
        table.problem("expect", problem, _RIGHT)
    return found


def _message(table: Table) -> Message:
    roles = get_args(get_type_hints(Message)["role"])
    role, content = table.string("role"), table.string("content", pattern=patterns.LINES, noun="a message's text")
    if isinstance(table.raw("role"), str) and role not in roles:
        table.problem("role", f"`{shown(role)}` is not a role", suggest(role, roles, noun="roles"))
    table.done()
    return Message(role=cast("Message", role), content=content)  # type: ignore[arg-type]


def _schema(table: Table) -> str | None:
    """Read a JSON schema, written as TOML."""
    if "schema" not in table:
        table.raw("schema")
        return None
    found = table.raw("schema")
    problems = schema.problems(found)
    for path, message in problems:
        table.document.problem((*table.path, "schema", *path), message)
    return None if problems else schema.text(found)
