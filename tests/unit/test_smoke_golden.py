"""Golden tokens: recorded, read back and compared."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import pytest
from factories import make_model
from hypothesis import given
from hypothesis import strategies as st

from builder.errors import DocumentError
from builder.model.recipes import Message, Question
from builder.model.verdicts import Agreement, Token
from builder.smoke import golden
from builder.smoke.golden import Golden, compare

if TYPE_CHECKING:
    from pathlib import Path

QUESTION = Question(ask="Capital of France?", expect="Paris")


def token(text: str, logprob: float, **top: float) -> Token:
    return Token(text=text, logprob=logprob, top=tuple(top.items()))


TOKENS = (token("The", -0.1, The=-0.1, A=-3.0), token(" answer", -0.5, **{" answer": -0.5}), token("!", -0.7, x=-0.8))


def recorded(*tokens: Token, **changes: Any) -> Golden:
    facts: dict[str, Any] = {
        "prompt": golden.prompt_of(QUESTION),
        "model": golden.model_print(make_model()),
        "title": QUESTION.title,
        "source": "level cpu",
    }
    return Golden(tokens=tokens or TOKENS, **(facts | changes))


@pytest.mark.parametrize(
    ("tokens", "expected"),
    [
        (TOKENS, Agreement(tokens=3, worst=0.0)),
        ((token("The", -0.3), token(" answer", -0.5), token("!", -0.7)), Agreement(tokens=3, worst=0.2)),
        ((*TOKENS, token("more", -9.0)), Agreement(tokens=3, worst=0.0)),
        ((*TOKENS[:2], token("x", -0.7)), Agreement(tokens=2, worst=0.0)),
    ],
)
def test_answers_that_agree(tokens: tuple[Token, ...], expected: Agreement) -> None:
    assert compare(recorded(), tokens, 0.25) == expected


@pytest.mark.parametrize(
    ("tokens", "difference"),
    [
        ((token("A", -0.1),), "token 1 is 'A', recorded 'The' at log-probability -0.10"),
        ((token("zz", -0.1),), "token 1 is 'zz', recorded 'The'"),
        ((token("The", -0.4),), "token 1, 'The', has log-probability -0.40, recorded -0.10 (allowed ±0.25)"),
        ((token("The", math.nan),), "token 1, 'The', has log-probability nan"),
        ((token("The", -math.inf),), "token 1, 'The', has log-probability -inf"),
        ((TOKENS[0],), "it ends before token 2, ' answer'"),
        ((), "it ends before token 1, 'The'"),
    ],
)
def test_answers_that_do_not(tokens: tuple[Token, ...], difference: str) -> None:
    found = compare(recorded(), tokens, 0.25).difference
    assert found is not None
    assert difference in found


def test_an_end_that_was_about_as_likely_as_the_next_token_is_no_difference() -> None:
    assert compare(recorded(), TOKENS[:2], 0.25) == Agreement(tokens=2, worst=0.0)
    assert compare(recorded(), TOKENS[:2], 0.05).difference


@given(st.lists(st.floats(-5, 0), min_size=1, max_size=9), st.floats(-0.2, 0.2))
def test_the_tolerance_is_what_it_says(values: list[float], shift: float) -> None:
    reference = recorded(*(token("x", value) for value in values))
    shifted = [token("x", value + shift) for value in values]
    agreement = compare(reference, shifted, 0.2001)
    assert agreement.difference is None
    assert agreement.worst == pytest.approx(abs(shift), abs=1e-3)
    if abs(shift) > 0.01:
        assert compare(reference, shifted, abs(shift) / 2).difference


def test_what_is_written_is_read_back(tmp_path: Path) -> None:
    path = tmp_path / "golden" / "demo.toml"
    odd = recorded(token('"\n\\ \u2026\x07', -12.3456789, **{"": -0.5, "a.b": -1.0}), title='quoted "q"\nline')
    golden.write(path, [odd])
    (found,) = golden.read(path)
    assert found.tokens[0].text == odd.tokens[0].text
    assert found.tokens[0].logprob == -12.3457
    assert dict(found.tokens[0].top) == {"": -0.5, "a.b": -1.0}
    assert (found.title, found.prompt, found.model, found.source) == (odd.title, odd.prompt, odd.model, odd.source)


def test_what_is_recorded_again_takes_the_others_place_and_no_more(tmp_path: Path) -> None:
    path = tmp_path / "demo.toml"
    other = recorded(model="0" * 16)
    golden.write(path, [recorded(), other])
    golden.write(path, [recorded(token("New", -0.1))])
    found = golden.read(path)
    assert {(each.model, each.tokens[0].text) for each in found} == {
        (recorded().model, "New"),
        ("0" * 16, "The"),
    }
    before = path.read_text()
    golden.write(path, [])
    assert path.read_text() == before, "sorted: the same entries are the same bytes"


def test_a_new_file_gets_the_answers_of_an_earlier_one(tmp_path: Path) -> None:
    before, path = tmp_path / "demo.toml", tmp_path / "new" / "demo.toml"
    golden.write(before, [recorded(), recorded(model="0" * 16)])
    golden.write(path, [recorded(token("New", -0.1))], before=before)
    assert [entry.tokens[0].text for entry in golden.read(before)] == ["The", "The"]
    assert {(entry.model, entry.tokens[0].text) for entry in golden.read(path)} == {
        (recorded().model, "New"),
        ("0" * 16, "The"),
    }


def test_a_question_is_known_by_what_decides_its_answer() -> None:
    assert golden.prompt_of(QUESTION) == golden.prompt_of(Question(ask="Capital of France?", text="x", at_once=3))
    assert golden.prompt_of(QUESTION) == golden.prompt_of(
        Question(chat=(Message(role="user", content="Capital of France?"),), expect="x")
    )
    for other in (
        Question(prompt="Capital of France?", expect="x"),
        Question(ask="Capital of Italy?", expect="x"),
        Question(ask="Capital of France?", expect="x", max_tokens=3),
        Question(ask="Capital of France?", schema='{"type": "object"}'),
    ):
        assert golden.prompt_of(other) != golden.prompt_of(QUESTION)


def test_it_counts_for_its_own_model_only() -> None:
    known = (recorded(),)
    assert golden.find(known, QUESTION, known[0].model) == known[0]
    assert golden.find(known, QUESTION, golden.model_print(make_model(files=()))) is None
    assert golden.find(known, Question(ask="?", expect="x"), known[0].model) is None
    assert golden.model_print(None) == ""


def test_no_file_no_golden_tokens(tmp_path: Path) -> None:
    assert golden.read(tmp_path / "absent.toml") == ()


@pytest.mark.parametrize(
    ("text", "key"),
    [
        ('[[golden]]\nasked = "x"\n', "golden[0].asked"),
        ('[[golden]]\nquestion = "q"\n', "golden[0]"),
        ("[[golden]]\ntokns = []\n", "golden[0].tokns"),
        ('[[golden]]\ntokens = [{ text = "a", logprob = "b" }]\n', "golden[0].tokens[0].logprob"),
        ("[[gold]]\n", "gold"),
    ],
)
def test_a_file_with_mistakes(tmp_path: Path, text: str, key: str) -> None:
    path = tmp_path / "demo.toml"
    path.write_text(text)
    with pytest.raises(DocumentError) as caught:
        golden.read(path)
    assert key in [problem.key for problem in caught.value.problems]
