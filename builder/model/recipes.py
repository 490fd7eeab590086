"""The records of a recipe and a cell of its matrix."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from builder.model.kernel_verdicts import KernelDemand

Architecture = Literal["arm64", "amd64"]
# If one registry fails: no registry gets a tag, or all others do.
OnFailure = Literal["none", "complete-others"]
Pairs = tuple[tuple[str, str], ...]
Precompile = Literal["off", "needed", "all"]


@dataclass(frozen=True, kw_only=True, slots=True)
class Axis:
    """One axis of the matrix, such as `vllm`, with its values in file order."""

    name: str
    values: tuple[str, ...]


@dataclass(frozen=True, kw_only=True, slots=True)
class Exclusion:
    """Impossible cells: all with these axis values (globs allowed), and why."""

    when: Pairs
    reason: str


@dataclass(frozen=True, kw_only=True, slots=True)
class Matrix:
    """All axes, and the cells that are removed from their product and added to it."""

    axes: tuple[Axis, ...]
    exclude: tuple[Exclusion, ...] = ()
    include: tuple[Pairs, ...] = ()

    def all_values(self) -> dict[str, tuple[str, ...]]:
        """Return all values of each axis, with those of included cells."""
        included = [dict(values) for values in self.include]
        return {
            axis.name: tuple(dict.fromkeys([*axis.values, *(row[axis.name] for row in included if axis.name in row)]))
            for axis in self.axes
        }


@dataclass(frozen=True, kw_only=True, slots=True)
class Model:
    """A model in the image's `/models/<name>`.

    `source` is `hf://org/name@revision`, `oci://…` or a folder (relative to the recipe). `formats` are the allowed
    weight formats; `files` are globs, by default of everything that a model server needs.
    """

    name: str
    source: str
    licence: str | None = None
    formats: tuple[str, ...] = ("safetensors",)
    files: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True, slots=True)
class ServerSpec:
    """The image's server: options of `vllm serve`.

    `model` names one of the recipe's models. `max_model_len` is in tokens. `arguments` are further options.
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
    """A question at temperature 0, and its expectations.

    It is one of `ask` (a chat of one message), `chat` and `prompt` (text to continue). An answer must meet all
    expectations: `expect` is a regular expression searched in it, `text` the exact answer, `tokens` its first tokens,
    `schema` a JSON Schema, as JSON, which the server gets too (guided output). It is asked `at_once` times at the same
    moment, and with `also_whole` once more without streaming.
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
        """The last message, as a title."""
        return self.ask or self.prompt or (self.chat[-1].content if self.chat else "")

    @property
    def messages(self) -> tuple[Message, ...]:
        """The chat, empty for a prompt."""
        return (Message(role="user", content=self.ask),) if self.ask else self.chat

    @property
    def expects(self) -> bool:
        """Whether an answer can be wrong."""
        return bool(self.expect or self.text or self.tokens or self.min_tokens or self.schema)


@dataclass(frozen=True, kw_only=True, slots=True)
class Bounds:
    """The bounds of regressions from the last verdict of the cell, as fractions (0.5: half as much again).

    None is not checked; `exceeded` is the consequence of a regression.
    """

    slower_start: float | None = None
    later_first_token: float | None = None
    fewer_tokens: float | None = None
    more_memory: float | None = None
    larger_image: float | None = None
    exceeded: Literal["warning", "error"] = "warning"


@dataclass(frozen=True, kw_only=True, slots=True)
class SmokeSpec:
    """The smoke run: questions and longest times in seconds.

    With `api_key` the server is started with a key and must refuse clients without it. `golden_tolerance` is the
    largest difference of a token's log-probability from the recorded one, in nats.
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
    """A tag (in a recipe: its template) and its conditions.

    `level` is the lowest level of the verdict, None for any that passed. A `moving` tag moves to newer versions only;
    an `immutable` one never moves to another digest.
    """

    name: str
    level: str | None = None
    moving: bool = False
    immutable: bool = False


@dataclass(frozen=True, kw_only=True, slots=True)
class PublishSpec:
    """The publication of proven images: repository below each registry's prefix, and tags.

    `on_failure` is for the other registries if one fails; with `attach`, SBOM, verdict and provenance are attached.
    """

    repository: str = "vllm"
    tags: tuple[TagRule, ...] = ()
    registries: tuple[str, ...] = ()
    on_failure: OnFailure = "none"
    attach: bool = True


@dataclass(frozen=True, kw_only=True, slots=True)
class ImageSpec:
    """What becomes of the wheels in the image.

    `slim` is whether GPU code for other GPUs is left out; None: if the cell names the GPUs of its image.
    `slim_packages` decides for single packages (globs), the first match before `slim` and before jbuild's own table.
    `precompile` is which kernels the build compiles that a board would compile from PTX: those that the model needs,
    or all; None is `off`. `exclude_files` are the files (globs) of packages (globs) that the image does not get.
    With `warm`, a smoke run makes a second image with the files that the server's start compiled.
    """

    slim: bool | None = None
    slim_packages: tuple[tuple[str, bool], ...] = ()
    precompile: Precompile | None = field(default=None, metadata={"json": "optional"})
    exclude_files: tuple[tuple[str, tuple[str, ...]], ...] | None = field(default=None, metadata={"json": "optional"})
    warm: bool | None = field(default=None, metadata={"json": "optional"})

    @property
    def compiles(self) -> bool:
        """Whether the build compiles kernels, on a platform with a GPU."""
        return self.precompile in ("needed", "all")


@dataclass(frozen=True, kw_only=True, slots=True)
class Waiver:
    """Findings of the audit that do not stop a cell: a rule, globs on wheel and file, and why."""

    rule: str
    reason: str
    wheel: str = "*"
    file: str = "*"


@dataclass(frozen=True, kw_only=True, slots=True)
class PackageSource:
    """The source of a package: a commit of a Git repository, or a folder of the project."""

    git: str | None = None
    commit: str | None = None
    folder: str | None = None


@dataclass(frozen=True, kw_only=True, slots=True)
class InputSource:
    """The source of an input: as that of a package, or the archive at an address, with its sha256."""

    git: str | None = None
    commit: str | None = None
    folder: str | None = None
    archive: str | None = None
    sha256: str | None = None


@dataclass(frozen=True, kw_only=True, slots=True)
class PackageInput:
    """A source that a build finds in the folder that an environment variable names."""

    variable: str
    source: InputSource
    patches: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True, slots=True)
class PackageBuild:
    """A package to build from source.

    `source` is None for the index's source archive. `patches` are files relative to the recipe. `version` and
    `requires` replace what the source's own metadata states; `build_requires` are more build requirements, and `inputs`
    other sources.
    """

    name: str
    source: PackageSource | None = None
    patches: tuple[str, ...] = ()
    environment: Pairs = ()
    version: str | None = None
    requires: tuple[str, ...] | None = None
    build_requires: tuple[str, ...] = ()
    inputs: tuple[PackageInput, ...] | None = field(default=None, metadata={"json": "optional"})

    @property
    def all_patches(self) -> tuple[str, ...]:
        """The patches of the source and of the inputs."""
        return (*self.patches, *(patch for entry in self.inputs or () for patch in entry.patches))


@dataclass(frozen=True, kw_only=True, slots=True)
class PackageBuilds:
    """The packages to build from source: these, or with `missing` all without a wheel that fits the cell."""

    packages: tuple[PackageBuild, ...] = ()
    missing: bool = False

    def named(self, name: str) -> PackageBuild | None:
        """Return the build of a package by its normalised name, or None if it is not listed."""
        return next((build for build in self.packages if build.name == name), None)


@dataclass(frozen=True, kw_only=True, slots=True)
class Spec:
    """The content of a cell. Strings of a recipe's spec may have `{axis}` placeholders, those of a cell's have none.

    `constraints` narrow the requirements of packages; `replace` replaces all requirements of a name (uv's overrides),
    for impossible or wrong pins. `indexes` are the package indexes (names or families) that packages are pinned to,
    None for the platform's usual ones; `sources` are the indexes of single packages; files that were released later
    than `released_before` (a date, YYYY-MM-DD) are ignored.

    Merge rules when an override applies: `requires`, `constraints`, `replace`, `apt`, `server.arguments` are appended
    to; environments and sources are merged key by key, sources of the override first; builds are merged by package;
    every other value is replaced.
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
    image: ImageSpec = field(default_factory=ImageSpec)
    models: tuple[Model, ...] = ()
    server: ServerSpec = field(default_factory=ServerSpec)
    smoke: SmokeSpec = field(default_factory=SmokeSpec)
    publish: PublishSpec = field(default_factory=PublishSpec)
    labels: Pairs = ()
    template: str = "Dockerfile.j2"
    waivers: tuple[Waiver, ...] = ()
    kernels: KernelDemand = "any"
    builds: PackageBuilds | None = field(default=None, metadata={"json": "optional"})


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
    slim: bool | None = None
    precompile: Precompile | None = None
    arguments: tuple[str, ...] = ()
    environment: Pairs = ()
    builds: PackageBuilds | None = None


@dataclass(frozen=True, kw_only=True, slots=True)
class Runners:
    """Labels of CI runners, with placeholders: one that builds, one on a board with the GPU."""

    build: str | None = None
    smoke: str | None = None


@dataclass(frozen=True, kw_only=True, slots=True)
class Recipe:
    """A recipe file. `architecture` is that of its images; `boards` are boards whose memory must suffice."""

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
    """A cell of the matrix; `impossible` is the reason why it cannot be built, `note` a remark about it."""

    id: str
    recipe: str
    values: Pairs
    impossible: str | None = None
    note: str | None = None

    def value(self, axis: str) -> str | None:
        """Return the cell's value on an axis, or None if the matrix has no such axis."""
        return dict(self.values).get(axis)

    @property
    def names_sms(self) -> bool:
        """Whether the cell names the GPUs of its image; otherwise the image serves all GPUs of the platform."""
        return self.value("sm") is not None
