"""The records of a recipe and of one cell of its matrix."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

Architecture = Literal["arm64", "amd64"]
# Where one registry fails: no registry gets a tag, or all the others do.
OnFailure = Literal["none", "complete-others"]
Pairs = tuple[tuple[str, str], ...]


@dataclass(frozen=True, kw_only=True, slots=True)
class Axis:
    """One axis of the matrix, such as `vllm`, with its values in file order."""

    name: str
    values: tuple[str, ...]


@dataclass(frozen=True, kw_only=True, slots=True)
class Exclusion:
    """Cells that are declared impossible: all that have these axis values (globs allowed), and why."""

    when: Pairs
    reason: str


@dataclass(frozen=True, kw_only=True, slots=True)
class Matrix:
    """All axes, what is taken out of their product and what is added to it."""

    axes: tuple[Axis, ...]
    exclude: tuple[Exclusion, ...] = ()
    include: tuple[Pairs, ...] = ()

    def all_values(self) -> dict[str, tuple[str, ...]]:
        """Return all values of each axis, those of included cells too."""
        included = [dict(values) for values in self.include]
        return {
            axis.name: tuple(dict.fromkeys([*axis.values, *(row[axis.name] for row in included if axis.name in row)]))
            for axis in self.axes
        }


@dataclass(frozen=True, kw_only=True, slots=True)
class Model:
    """A model to bake in under `/models/<name>`.

    `source` is `hf://org/name@revision` or a folder (relative to the recipe). `formats` are the weight formats
    allowed, safetensors only by default; `files` are globs, everything a model server needs by default.
    """

    name: str
    source: str
    licence: str | None = None
    formats: tuple[str, ...] = ("safetensors",)
    files: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True, slots=True)
class ServerSpec:
    """How the image's server is started; maps to `vllm serve` options.

    `model` names one of the recipe's models. `max_model_len` is in tokens. `arguments` are passed as they are.
    """

    model: str | None = None
    served_name: str | None = None
    port: int = 8000
    max_model_len: int | None = None
    dtype: str | None = None
    quantization: str | None = None
    arguments: tuple[str, ...] = ()
    environment: Pairs = ()


@dataclass(frozen=True, kw_only=True, slots=True)
class Message:
    """One message of a chat."""

    role: Literal["system", "user", "assistant"]
    content: str


@dataclass(frozen=True, kw_only=True, slots=True)
class Question:
    """One question, asked at temperature 0, and what a right answer is.

    One of `ask` (a chat of one message), `chat` (a whole one) and `prompt` (text to be continued) is given. An answer
    meets all expectations that are there: `expect` is a regular expression searched in it, `text` what it is to the
    letter, `tokens` the tokens that it begins with, `schema` a JSON schema, as JSON, that the server is told too
    (guided output). It is asked `at_once` times at the same moment, and `also_whole` once more without streaming.
    """

    ask: str = ""
    chat: tuple[Message, ...] = ()
    prompt: str = ""
    expect: str | None = None
    text: str | None = None
    tokens: tuple[str, ...] = ()
    min_tokens: int = 0
    schema: str | None = None
    max_tokens: int = 32
    at_once: int = 1
    also_whole: bool = False

    @property
    def title(self) -> str:
        """What people know it by: what is asked last."""
        return self.ask or self.prompt or (self.chat[-1].content if self.chat else "")

    @property
    def messages(self) -> tuple[Message, ...]:
        """The chat, empty where text is to be continued."""
        return (Message(role="user", content=self.ask),) if self.ask else self.chat

    @property
    def expects(self) -> bool:
        """Whether there is an answer that would be wrong."""
        return bool(self.expect or self.text or self.tokens or self.min_tokens or self.schema)


@dataclass(frozen=True, kw_only=True, slots=True)
class Bounds:
    """How much worse than the last verdict of its cell an image may be, as a part of it (0.5: half as much again).

    None is not looked at; `exceeded` says what becomes of an image that is worse.
    """

    slower_start: float | None = None
    later_first_token: float | None = None
    fewer_tokens: float | None = None
    more_memory: float | None = None
    larger_image: float | None = None
    exceeded: Literal["warning", "error"] = "warning"


@dataclass(frozen=True, kw_only=True, slots=True)
class SmokeSpec:
    """What the built image is asked, and how long it may take (seconds).

    With `api_key` the server is started with a key, and must refuse who has none. `golden_tolerance` is how far a
    token's log-probability may be from the recorded one, in nats.
    """

    questions: tuple[Question, ...] = ()
    ready_within_s: float = 900.0
    answer_within_s: float = 300.0
    stop_within_s: float = 60.0
    environment: Pairs = ()
    api_key: bool = True
    golden_tolerance: float = 0.3
    bounds: Bounds = field(default_factory=Bounds)


@dataclass(frozen=True, kw_only=True, slots=True)
class TagRule:
    """A tag (in a recipe: its template) and when an image may have it.

    `level` is what the verdict must reach at least, None for any that passed. A `moving` tag goes to newer versions
    only; an `immutable` one never goes to another digest.
    """

    name: str
    level: str | None = None
    moving: bool = False
    immutable: bool = False


@dataclass(frozen=True, kw_only=True, slots=True)
class PublishSpec:
    """Where a proven image goes: repository below each registry's prefix, and its tags.

    `on_failure` says what becomes of the other registries where one fails; `attach` whether SBOM, verdict and
    provenance go along.
    """

    repository: str
    tags: tuple[TagRule, ...] = ()
    registries: tuple[str, ...] = ()
    on_failure: OnFailure = "none"
    attach: bool = True


@dataclass(frozen=True, kw_only=True, slots=True)
class Waiver:
    """Findings of the audit that do not stop a cell: a rule's id, globs on wheel and file, and why."""

    rule: str
    reason: str
    wheel: str = "*"
    file: str = "*"


@dataclass(frozen=True, kw_only=True, slots=True)
class Spec:
    """Everything a cell asks for. In a recipe, strings may hold `{axis}` placeholders; in a cell's spec none are left.

    `constraints` narrow what packages ask for; `replace` are requirements that stand in place of whatever any package
    asks of that name (uv's overrides), for pins that cannot be met or are wrong. `indexes` are the package indexes
    (names or families) that packages are tied to, None for the platform's usual ones; `sources` names the index of
    single packages; `released_before` (a date, YYYY-MM-DD) leaves out what came later.

    Merge rules when an override applies: `requires`, `constraints`, `replace`, `apt`, `server.arguments` are appended
    to; environments and sources are merged key by key, sources of the override first; every other value is replaced.
    """

    base: str | None = None
    apt: tuple[str, ...] = ()
    requires: tuple[str, ...] = ()
    constraints: tuple[str, ...] = ()
    replace: tuple[str, ...] = ()
    ignored_advisories: tuple[str, ...] = ()
    indexes: tuple[str, ...] | None = None
    sources: Pairs = ()
    released_before: str | None = None
    models: tuple[Model, ...] = ()
    server: ServerSpec = field(default_factory=ServerSpec)
    smoke: SmokeSpec = field(default_factory=SmokeSpec)
    publish: PublishSpec = field(default_factory=lambda: PublishSpec(repository="vllm"))
    labels: Pairs = ()
    template: str = "Dockerfile.j2"
    waivers: tuple[Waiver, ...] = ()


@dataclass(frozen=True, kw_only=True, slots=True)
class Override:
    """Changes to the spec of the cells whose axis values match (globs allowed)."""

    when: Pairs
    base: str | None = None
    apt: tuple[str, ...] = ()
    requires: tuple[str, ...] = ()
    constraints: tuple[str, ...] = ()
    replace: tuple[str, ...] = ()
    indexes: tuple[str, ...] | None = None
    sources: Pairs = ()
    arguments: tuple[str, ...] = ()
    environment: Pairs = ()


@dataclass(frozen=True, kw_only=True, slots=True)
class Runners:
    """Labels of CI runners, which may hold placeholders: one that builds, one that is a board with the GPU."""

    build: str | None = None
    smoke: str | None = None


@dataclass(frozen=True, kw_only=True, slots=True)
class Recipe:
    """One recipe file. `architecture` is the one its images are for, `boards` name the boards that must bear them."""

    name: str
    path: Path
    description: str
    architecture: Architecture
    matrix: Matrix
    spec: Spec
    overrides: tuple[Override, ...] = ()
    boards: tuple[str, ...] = ()
    runners: Runners = field(default_factory=Runners)


@dataclass(frozen=True, kw_only=True, slots=True)
class Cell:
    """One point of the matrix.

    `impossible` is the reason why it cannot be built, if it cannot; `note` is what is unusual about it, if anything.
    """

    id: str
    recipe: str
    values: Pairs
    impossible: str | None = None
    note: str | None = None

    def value(self, axis: str) -> str | None:
        """Return the cell's value on an axis, or None if the matrix has no such axis."""
        return dict(self.values).get(axis)
