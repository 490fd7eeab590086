"""Writes a new recipe as a commented file, checks it first, and lists what is left to do."""

from __future__ import annotations

import json
import re
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from builder.errors import DocumentError, JbuildError, UsageError
from builder.host.config import Config
from builder.host.files import work_folder, write_text
from builder.host.paths import shipped
from builder.host.wording import printable
from builder.model import patterns
from builder.model.recipes import Question
from builder.models.config_json import CONFIG
from builder.models.mistral_format import PARAMS
from builder.project.init.proposals import NO_BOARD
from builder.recipe.find import recipe_paths
from builder.recipe.load import load, recipe_schema
from builder.recipe.matrix import expand, specify
from builder.remote.model_sources import FolderSource, locate

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from builder.project.init.proposals import Proposal

_TEMPLATE = Path(__file__).with_name("recipe.toml.j2")
_QUESTION = Question(ask="What is the capital of France?", expect="Paris")
# The template's first line for readers.
_FIRST_WORDS = "# A recipe of jbuild"
# The column of the comments.
_COLUMN = 52
# Most names in a remark.
_FEW = 3


def write(proposal: Proposal, folder: Path) -> Path:
    """Write a recipe into a folder, and the schema of recipes beside the folder; return the recipe's path.

    Raises:
        UsageError: a recipe of that name exists, or the answers make a recipe that cannot be built.
        DiskError: a file cannot be written.
    """
    name = proposal.answers.name or ""
    if not re.fullmatch(patterns.RECIPE_NAME, name):
        hint = "lower-case letters, digits, `.`, `_` and `-`"
        raise UsageError(f"`{printable(name)}` is not a recipe name", hint=hint)
    path = folder / f"{name}.toml"
    if path.exists():
        hint = "choose another name: `jbuild init NAME`"
        raise UsageError(f"the recipe `{name}` exists already", where=str(path), hint=hint)
    text = render(proposal)
    _check(name, text)
    write_text(path, text)
    # The recipe's first line names it for editors. It replaces one of an older jbuild.
    write_text(folder.parent / "schemas" / "recipe.schema.json", json.dumps(recipe_schema(), indent=2) + "\n")
    return path


def render(proposal: Proposal) -> str:
    """Return the text of a recipe."""
    from jinja2 import Environment, StrictUndefined  # noqa: PLC0415  # slow to import

    environment = Environment(  # noqa: S701  # TOML, not HTML; values go through the filter `toml`
        undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True, keep_trailing_newline=True
    )
    # JSON's strings, numbers and lists of them are valid TOML.
    environment.filters["toml"] = partial(json.dumps, ensure_ascii=False)
    answers, spec = proposal.answers, proposal.spec
    model = spec.models[0] if spec.models and spec.models[0].source == answers.model else None
    text = environment.from_string(_TEMPLATE.read_text(encoding="utf-8")).render(
        answers=answers,
        axes=dict(proposal.axes),
        spec=spec,
        question=next((item for item in spec.smoke.questions if item.ask and item.expect), _QUESTION),
        like=proposal.like.name if proposal.like else None,
        for_board=answers.board != NO_BOARD,
        model_name=model.name if model else _model_name(answers.model or ""),
        licence=model.licence if model else None,
        package=re.split(r"[^a-z0-9-]", spec.requires[0])[0],
    )
    reasons = _reasons(proposal.like.path) if proposal.like else {}
    lines = (line for row in text.splitlines() for line in (*reasons.get(_code(row), ()), _aligned(row)))
    return "".join(f"{line}\n" for line in lines)


def _reasons(path: Path) -> dict[str, list[str]]:
    """Return the comments above each line of a recipe: they hold for a new recipe that has the same line."""
    reasons: dict[str, list[str]] = {}
    comments: list[str] = []
    for line in path.read_text(encoding="utf-8").splitlines():
        if line.startswith("#"):
            comments.append(line)
            continue
        if comments and " = " in line:
            reasons[line] = comments
        comments = []
    return reasons


def _code(line: str) -> str:
    return line.partition("  ## ")[0].rstrip()


def remarks(path: Path) -> Iterator[str]:
    """Yield what is left to do for a new recipe: models to fetch, tags that other recipes of its folder have, too."""
    yield from _absent_models(path)
    planned = _tags(path)
    siblings = {name: sibling for name, sibling in recipe_paths([path.parent]).items() if sibling != path}
    by_recipe = {name: _tags(sibling) for name, sibling in siblings.items() if not _is_shipped(sibling)}
    shared = {name: planned & tags for name, tags in by_recipe.items() if planned & tags}
    if shared:
        repository, tag = min(min(tags) for tags in shared.values())
        yield (
            f"the tag {repository}:{tag} belongs to {_names(sorted(shared))}, too: "
            "change `publish.repository` or `publish.tags` of one"
        )


def _check(name: str, text: str) -> None:
    """Check that the recipe can be read, and that its cell can be built."""
    with work_folder("jbuild-init") as folder:
        path = folder / f"{name}.toml"
        path.write_text(text, encoding="utf-8")
        try:
            (cell,) = expand(load(path))
        except DocumentError as error:
            first = error.problems[0]
            message = f"these answers do not make a recipe: {first.key}: {first.message}"
            raise UsageError(message, hint=first.hint or "`jbuild init --help` shows the options") from error
    if cell.impossible:
        hint = "choose another --vllm, --python, --cuda or --l4t"
        raise UsageError(f"this cannot be built: {cell.impossible}", hint=hint)


def _model_name(source: str) -> str:
    last = source.partition("@")[0].rstrip("/").rpartition("/")[2].partition(":")[0].lower()
    return re.sub(r"[^a-z0-9._-]", "-", last).strip("._-") or "model"


def _aligned(line: str) -> str:
    """Move a key's comment into its column."""
    _, mark, comment = line.partition("  ## ")
    return f"{_code(line).ljust(_COLUMN - 2)}  # {comment}" if mark else line


def _names(names: Sequence[str]) -> str:
    if len(names) <= _FEW:
        return f"recipe{'s' if names[1:] else ''} {', '.join(names)}"
    return f"recipes {', '.join(names[:_FEW])} and {len(names) - _FEW} more"


def _absent_models(path: Path) -> Iterator[str]:
    for model in load(path).spec.models:
        source = locate(model.source, path.parent, Config())
        problem = _folder_problem(source) if isinstance(source, FolderSource) else None
        if problem:
            yield problem


def _folder_problem(source: FolderSource) -> str | None:
    subject = f"the model's folder {source.path.resolve()}"
    try:
        if not source.path.is_dir():
            return f"{subject} does not exist: {source.hint}"
        if not any((source.path / name).is_file() for name in (CONFIG, PARAMS)):
            return f"{subject} has no {CONFIG}"
    except OSError as error:
        return f"{subject} cannot be read: {error.strerror}"
    return None


def _is_shipped(path: Path) -> bool:
    """Return whether a recipe is one of jbuild's own: in a checkout, the user's are beside them."""
    return path.parent == shipped("recipes") and _FIRST_WORDS not in path.read_text(encoding="utf-8", errors="replace")


def _tags(path: Path) -> frozenset[tuple[str, str]]:
    """Return repositories and tags of a recipe's images; none if the recipe has mistakes."""
    try:
        recipe = load(path)
        published = [specify(recipe, cell).publish for cell in expand(recipe) if not cell.impossible]
    except JbuildError:
        return frozenset()
    return frozenset((spec.repository, rule.name) for spec in published for rule in spec.tags)
