"""Records the answers of a dequantised model as golden tokens of a recipe that serves the quantised one.

A smoke run then compares the tokens of the server's quantised kernels with those of transformers in float32. Run it in
the project's folder: scripts/reference_tokens.py RECIPE --model FOLDER --python PYTHON, where PYTHON has torch and
transformers and FOLDER is the dequantised model that quantised_model.py wrote.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

sys.path.insert(0, str(Path(__file__).parents[1]))

from builder.cli.cell_selection import open_session, select_cells
from builder.errors import JbuildError
from builder.host import records
from builder.host.console import Console
from builder.image.runtime import served_model
from builder.model.verdicts import Token
from builder.models.model_lock import lock_model
from builder.smoke import golden
from builder.smoke.probe import MARK, script

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from builder.cli.cell_selection import CellSelection
    from builder.model.recipes import Question, Spec


def main(arguments: Sequence[str] | None = None) -> int:
    """Write the golden tokens; the exit code is 1 if transformers fails, else that of jbuild's error."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("recipe", help="the recipe of the quantised model")
    parser.add_argument("--model", type=Path, required=True, metavar="FOLDER", help="the dequantised model")
    parser.add_argument("--python", required=True, help="a Python interpreter with torch and transformers")
    options = parser.parse_args(arguments)
    try:
        selection = select_cells(options.recipe, (), open_session())
        path = selection.session.workspace.golden(selection.recipe.path)
        references = _references(selection, options.model.absolute(), options.python)
        golden.write(path, references)
    except JbuildError as error:
        Console().failure(error, as_result=False)
        return error.exit_code
    except (OSError, subprocess.CalledProcessError) as error:
        print(f"reference_tokens: {error}", file=sys.stderr)
        return 1
    for reference in references:
        print(f"{reference.title}: {''.join(token.text for token in reference.tokens)}")
    print(f"{path} written")
    return 0


def _references(selection: CellSelection, folder: Path, python: str) -> list[golden.Golden]:
    """Return the answers to the recipe's questions, as answers of the recipe's model."""
    spec = selection.jobs()[0].spec
    fingerprint = _fingerprint(spec, selection)
    return [
        golden.Golden(
            prompt=golden.prompt_of(question),
            model=fingerprint,
            title=question.title,
            source=f"transformers on the CPU in float32, {folder.name}",
            tokens=tuple(tokens),
        )
        for question, tokens in zip(spec.smoke.questions, _answers(folder, python, spec.smoke.questions), strict=True)
    ]


def _fingerprint(spec: Spec, selection: CellSelection) -> str:
    served = served_model(spec)
    model = lock_model(served, selection.recipe.path.parent, selection.session) if served else None
    return golden.model_print(model)


def _answers(folder: Path, python: str, questions: Sequence[Question]) -> Iterator[list[Token]]:
    """Yield the greedy tokens of each answer, by the smoke run's own probe."""
    prompts = [
        {"messages": records.to_json(item.messages), "prompt": item.prompt, "max_tokens": item.max_tokens}
        for item in questions
    ]
    argv = [python, str(script("forward")), json.dumps({"model": str(folder), "questions": prompts})]
    output = subprocess.run(argv, check=True, stdout=subprocess.PIPE, text=True).stdout
    report = next(line.removeprefix(MARK) for line in output.splitlines() if line.startswith(MARK))
    for answer in json.loads(report)["answers"]:
        yield [_token(token) for token in answer["tokens"]]


def _token(token: dict[str, Any]) -> Token:
    top = tuple((text, logprob) for text, logprob in token["top"])
    return Token(text=token["text"], logprob=token["logprob"], top=top)


if __name__ == "__main__":
    sys.exit(main())
