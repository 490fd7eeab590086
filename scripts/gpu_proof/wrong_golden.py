"""Golden tokens with one wrong token an answer, from which a right kernel must differ."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING

from builder.smoke import golden

if TYPE_CHECKING:
    from pathlib import Path

    from builder.model.verdicts import Token

# A token that no answer has.
WRONG = " wrong"


def write_wrong_golden(recorded: Path, output: Path) -> None:
    """Write the answers of a file with the surest token of each replaced.

    Raises:
        DocumentError: the file has mistakes.
        DiskError: the output cannot be written.
    """
    output.unlink(missing_ok=True)
    golden.write(output, [with_wrong_token(answer) for answer in golden.read(recorded)])


def with_wrong_token(answer: golden.Golden) -> golden.Golden:
    """Return an answer whose surest token is another one, with the right one not even among its alternatives."""
    surest = max(range(len(answer.tokens)), key=lambda index: answer.tokens[index].logprob)
    tokens = tuple(_wrong(token) if index == surest else token for index, token in enumerate(answer.tokens))
    return dataclasses.replace(answer, tokens=tokens)


def _wrong(token: Token) -> Token:
    others = tuple((text, logprob) for text, logprob in token.top if text != token.text)
    return dataclasses.replace(token, text=WRONG, top=((WRONG, token.logprob), *others))
