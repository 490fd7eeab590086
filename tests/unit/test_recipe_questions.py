"""The questions of a recipe: every kind, every expectation, and every mistake located."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import pytest

from builder.errors import DocumentError
from builder.model.recipes import Bounds, Message, SmokeSpec
from builder.recipe.load import load

if TYPE_CHECKING:
    from pathlib import Path

RECIPE = """\
description = "d"
[matrix]
vllm = ["1.0"]
distribution = ["debian-12"]
[base]
image = "docker.io/library/debian:bookworm-slim"
[packages]
requires = ["vllm=={vllm}"]
[[models]]
name = "tiny"
source = "./tiny"
"""


def read(tmp_path: Path, text: str) -> SmokeSpec:
    path = tmp_path / "demo.toml"
    path.write_text(RECIPE + text)
    return load(path).spec.smoke


def test_every_kind_and_every_expectation(tmp_path: Path) -> None:
    smoke = read(
        tmp_path,
        """
[smoke]
api-key = false
[[smoke.questions]]
ask = "Capital of France?"
expect = "Paris"
min-tokens = 2
at-once = 4
also-whole = true
[[smoke.questions]]
prompt = "The capital of France is"
text = " Paris"
tokens = [" Paris"]
max-tokens = 1
[[smoke.questions]]
chat = [{ role = "system", content = "Answer in JSON." }, { role = "user", content = "Where is the Louvre?" }]
schema = { type = "object", required = ["city"], properties.city.type = "string" }
""",
    )
    one, two, three = smoke.questions
    assert not smoke.api_key
    assert (one.title, one.at_once, one.also_whole, one.min_tokens) == ("Capital of France?", 4, True, 2)
    assert one.messages == (Message(role="user", content="Capital of France?"),)
    assert (two.title, two.messages, two.text, two.tokens) == ("The capital of France is", (), " Paris", (" Paris",))
    assert three.title == "Where is the Louvre?"
    assert three.messages[0] == Message(role="system", content="Answer in JSON.")
    assert json.loads(three.schema or "")["required"] == ["city"]
    assert all(question.expects for question in smoke.questions)


@pytest.mark.parametrize(
    ("question", "key", "message"),
    [
        ('expect = "x"', "", "this question asks nothing"),
        ('ask = "q"', "", "has no expectation, so it proves nothing"),
        ('ask = "q"\nmin-tokens = 0', "", "every answer would pass"),
        ('ask = "q"\ntext = ""', ".text", "is not text without control characters"),
        ('ask = "q"\nprompt = "p"\nexpect = "x"', ".prompt", "has `ask` already"),
        ('ask = "q"\nchat = [{ role = "user", content = "c" }]\nexpect = "x"', ".chat", "has `ask` already"),
        ('chat = [{ role = "usr", content = "c" }]\nexpect = "x"', ".chat[0].role", "`usr` is not a role"),
        ('chat = [{ role = "user", contents = "c" }]\nexpect = "x"', ".chat[0].contents", "unknown key `contents`"),
        (
            'chat = [{ role = "assistant", content = "c" }]\nexpect = "x"',
            ".chat",
            "the last message is the assistant's",
        ),
        ('ask = "q"\nexpects = "x"', ".expects", "unknown key `expects`"),
        ('ask = "q"\nexpect = "x"\nat-once = 0', ".at-once", "out of bounds"),
        ('ask = "q"\nexpect = "x"\nalso-whole = 1', ".also-whole", "must be true or false"),
        ('ask = "q"\ntokens = ["a", "b"]\nmax-tokens = 1', ".tokens", "an answer ends after 1 tokens"),
        ('ask = "q"\nmin-tokens = 40', ".min-tokens", "an answer ends after 32 tokens"),
        ('ask = "q"\ntokens = "a"', ".tokens", "must be a list of strings"),
        ('ask = "q"\nschema = "{}"', ".schema", "must be a JSON schema as a table"),
        ('ask = "q"\nschema = { type = "objct" }', ".schema.type", "`objct` is not a type (did you mean `object`?)"),
        ('ask = "q"\nschema = { type = "object", maxLen = 1 }', ".schema.maxLen", "unknown keyword `maxLen`"),
    ],
)
def test_mistakes_are_located(tmp_path: Path, question: str, key: str, message: str) -> None:
    with pytest.raises(DocumentError) as caught:
        read(tmp_path, "[[smoke.questions]]\n" + question)
    problems = {problem.key: problem for problem in caught.value.problems}
    found = problems[f"smoke.questions[0]{key}"]
    assert message in found.message
    assert found.line is not None
    assert found.line > len(RECIPE.splitlines())


@pytest.mark.parametrize("value", ["0", '"32"'])
def test_a_wrong_number_is_no_reason_for_other_mistakes(tmp_path: Path, value: str) -> None:
    with pytest.raises(DocumentError) as caught:
        read(tmp_path, f'[[smoke.questions]]\nask = "q"\nmin-tokens = 4\nmax-tokens = {value}')
    assert [problem.key for problem in caught.value.problems] == ["smoke.questions[0].max-tokens"]


ONE = '[[smoke.questions]]\nask = "q"\nexpect = "x"\n'


def test_bounds_and_tolerance(tmp_path: Path) -> None:
    bounds = '[smoke.bounds]\nslower-start = "50%"\nfewer-tokens = "0%"\nlarger-image = "150%"\nexceeded = "error"\n'
    smoke = read(tmp_path, f"[smoke]\ngolden-tolerance = 0.5\n{bounds}{ONE}")
    assert smoke.golden_tolerance == 0.5
    assert smoke.bounds == Bounds(slower_start=0.5, fewer_tokens=0.0, larger_image=1.5, exceeded="error")
    assert read(tmp_path, ONE).bounds == Bounds()


@pytest.mark.parametrize(
    ("line", "key", "message"),
    [
        ('slower-start = "half"', "slower-start", '`half` is not a bound such as "50%"'),
        ("slower-start = 0.5", "slower-start", 'must be a bound such as "50%"'),
        ('slower-starts = "50%"', "slower-starts", "unknown key `slower-starts`"),
        ('exceeded = "fail"', "exceeded", "`fail` is not known"),
    ],
)
def test_bounds_with_mistakes(tmp_path: Path, line: str, key: str, message: str) -> None:
    with pytest.raises(DocumentError) as caught:
        read(tmp_path, f"[smoke.bounds]\n{line}\n{ONE}")
    (problem,) = caught.value.problems
    assert problem.key == f"smoke.bounds.{key}"
    assert message in problem.message


def test_a_key_of_smoke_that_is_none(tmp_path: Path) -> None:
    with pytest.raises(DocumentError) as caught:
        read(tmp_path, '[smoke]\napikey = true\n[[smoke.questions]]\nask = "q"\nexpect = "x"\n')
    (problem,) = caught.value.problems
    assert (problem.key, problem.hint) == ("smoke.apikey", "did you mean `api-key`?")
