"""Golden tokens: a reference run's answers with log-probabilities, to detect kernels that compute garbage.

Every recipe has one file beside it. An entry is for one question and one model, by their content: it applies to every
cell that asks that question of that model, on any hardware and in any precision.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import tomli_w

from builder.host import records
from builder.host.files import write_text
from builder.host.toml import documents
from builder.image.runtime import served_model
from builder.model.locks import Locked
from builder.model.verdicts import Agreement, Token

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence
    from pathlib import Path

    from builder.host.toml.tables import Table
    from builder.model.model_files import LockedModel
    from builder.model.recipes import Question
    from builder.pipeline.cell import CellRun

_HEADING = "# What a reference run answered: written by `jbuild smoke --record`, compared by every later smoke run.\n\n"
_SHORT = 16
_DIGITS = 4
_LEAST = -1e9


@dataclass(frozen=True, kw_only=True, slots=True)
class Golden:
    """The recorded answer to a question: `prompt` and `model` are fingerprints, `title` and `source` for readers."""

    prompt: str
    model: str
    title: str
    source: str
    tokens: tuple[Token, ...]


def prompt_of(question: Question) -> str:
    """Return the fingerprint of the parts of a question that decide its answer."""
    return records.fingerprint(question.messages, question.prompt, question.schema, question.max_tokens)[:_SHORT]


def model_print(model: LockedModel | None) -> str:
    """Return the fingerprint of a model's files, empty without a baked model."""
    return records.fingerprint([(file.path, file.sha256) for file in model.files])[:_SHORT] if model else ""


def find(references: Iterable[Golden], question: Question, model: str) -> Golden | None:
    """Return the recorded answer to a question by a model, or None."""
    key = (prompt_of(question), model)
    return next((golden for golden in references if (golden.prompt, golden.model) == key), None)


def model_of(run: CellRun) -> str:
    """Return the fingerprint of the model that a locked cell serves, empty without a baked model."""
    served = served_model(run.job.spec)
    return model_print(next((model for model in run.lock.models if served and model.name == served.name), None))


def of_cell(run: CellRun) -> tuple[Golden, ...]:
    """Return the golden answers to a cell's questions: those of its model, or of any model before the cell is locked.

    Raises:
        DocumentError: the file has mistakes.
    """
    recorded = read(run.session.workspace.golden(run.job.recipe.path))
    questions = run.job.spec.smoke.questions
    if run.find(Locked) is None:
        prints = {prompt_of(question) for question in questions}
        return tuple(entry for entry in recorded if entry.prompt in prints)
    entries = (find(recorded, question, model_of(run)) for question in questions)
    return tuple(dict.fromkeys(entry for entry in entries if entry))


def compare(golden: Golden, tokens: Sequence[Token], tolerance: float) -> Agreement:
    """Compare an answer with the recorded one, token by token; `tolerance` is in nats.

    If two tokens are about equally likely, rounding decides between them and the answers diverge: the comparison ends
    there. Any other token, or a log-probability outside the tolerance, is a difference.
    """
    worst = 0.0
    for index, expected in enumerate(golden.tokens):
        if index == len(tokens):
            rival = any(
                expected.logprob - logprob <= tolerance for text, logprob in expected.top if text != expected.text
            )
            difference = None if rival else f"it ends before token {index + 1}, {expected.text!r}"
            return Agreement(tokens=index, worst=worst, difference=difference)
        token = tokens[index]
        if token.text != expected.text:
            return Agreement(tokens=index, worst=worst, difference=_difference(index, expected, token, tolerance))
        worst = max(worst, round(abs(token.logprob - expected.logprob), _DIGITS))
        if not abs(token.logprob - expected.logprob) <= tolerance:
            off = f"has log-probability {token.logprob:.2f}, recorded {expected.logprob:.2f} (allowed ±{tolerance:g})"
            return Agreement(tokens=index, worst=worst, difference=f"token {index + 1}, {expected.text!r}, {off}")
    return Agreement(tokens=len(golden.tokens), worst=worst)


def _difference(index: int, expected: Token, token: Token, tolerance: float) -> str | None:
    recorded = dict(expected.top).get(token.text)
    if recorded is not None and expected.logprob - recorded <= tolerance:
        return None
    return f"token {index + 1} is {token.text!r}, recorded {expected.text!r} at log-probability {expected.logprob:.2f}"


def read(path: Path) -> tuple[Golden, ...]:
    """Return the recorded answers; none without a file.

    Raises:
        DocumentError: the file has mistakes.
    """
    if not path.is_file():
        return ()
    return documents.load(path, f"the golden tokens in {path.name} have mistakes", _parse)


def write(path: Path, recorded: Sequence[Golden], *, before: Path | None = None) -> None:
    """Write recorded answers; they replace those to the same questions by the same models.

    The file keeps its other answers, and gets those of the file `before`.

    Raises:
        DocumentError: the existing file has mistakes.
        DiskError: the file cannot be written.
    """
    earlier = read(before) if before and before != path else ()
    new = {(golden.prompt, golden.model): golden for golden in (*earlier, *read(path), *recorded)}
    entries = [_plain(golden) for _, golden in sorted(new.items(), key=lambda item: (item[1].title, item[0]))]
    write_text(path, _HEADING + tomli_w.dumps({"golden": entries}))


def _plain(golden: Golden) -> dict[str, Any]:
    tokens = [
        {
            "text": token.text,
            "logprob": round(token.logprob, _DIGITS),
            "top": {text: round(logprob, _DIGITS) for text, logprob in token.top},
        }
        for token in golden.tokens
    ]
    named = {"question": golden.title, "asked": golden.prompt, "model": golden.model, "source": golden.source}
    return {**named, "tokens": tokens}


def _parse(root: Table) -> tuple[Golden, ...]:
    return tuple(_golden(table) for table in root.rows("golden"))


def _golden(table: Table) -> Golden:
    tokens = tuple(_token(token) for token in table.rows("tokens"))
    if not tokens:
        table.problem("tokens", "an answer without tokens proves nothing", "record it again: `jbuild smoke --record`")
    return Golden(
        prompt=table.string("asked", pattern=rf"[0-9a-f]{{{_SHORT}}}", noun="a fingerprint"),
        model=table.string("model", pattern=rf"([0-9a-f]{{{_SHORT}}})?", noun="a fingerprint"),
        title=table.string("question"),
        source=table.string("source"),
        tokens=tokens,
    )


def _token(table: Table) -> Token:
    top = table.table("top")
    likely = tuple((text, top.number(text, low=_LEAST)) for text in top)
    return Token(text=table.string("text"), logprob=table.number("logprob", low=_LEAST), top=likely)
