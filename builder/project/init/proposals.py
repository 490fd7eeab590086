"""Proposals for a new recipe: releases from the tables, everything else from the most similar recipe."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from packaging.version import InvalidVersion, Version

from builder.errors import JbuildError, UsageError
from builder.host.wording import printable
from builder.jetson.boards import board, boards
from builder.jetson.distributions import platforms
from builder.jetson.platform import ImpossibleError, check_value, platform_for
from builder.model.recipes import Spec
from builder.recipe.find import recipe_paths
from builder.recipe.load import load_valid

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator
    from pathlib import Path

    from builder.jetson.boards import Board
    from builder.model.recipes import Recipe

NO_BOARD = "none"
_GENERIC = Spec(requires=("vllm=={vllm}",))
_NONE = Version("0")
_AXES = ("l4t", "distribution", "ubuntu", "cuda", "python", "sm")


@dataclass(frozen=True, kw_only=True, slots=True)
class Answers:
    """A user's answers; None means "propose one". `board` is `none` for the CPU of any arm64 machine."""

    board: str
    name: str | None = None
    l4t: str | None = None
    vllm: str | None = None
    cuda: str | None = None
    python: str | None = None
    model: str | None = None
    registry: str | None = None


@dataclass(frozen=True, kw_only=True, slots=True)
class Proposal:
    """Complete answers, the axes of the platform, and the recipe with the other values.

    `like` is None if no recipe is for such a machine; `spec` is then a generic one.
    """

    answers: Answers
    axes: tuple[tuple[str, str], ...]
    spec: Spec
    like: Recipe | None


def board_choices() -> dict[str, str]:
    """Return the machines that a recipe can be for, each with a description."""
    modules = {row.name: f"{row.module}, SM {row.sm}, L4T {', '.join(row.l4t)}" for row in boards()}
    return {**modules, NO_BOARD: "the CPU of any arm64 machine"}


def l4t_choices(name: str) -> tuple[str, ...]:
    """Return the L4T releases for a board, the newest first.

    Raises:
        UsageError: unknown board.
    """
    row = board(name)
    releases = [p.l4t for p in platforms() if p.l4t.split(".")[0] in row.l4t and row.sm in p.sms]
    return tuple(sorted(releases, key=Version, reverse=True))


def propose(answers: Answers, folders: tuple[Path, ...]) -> Proposal:
    """Return a proposal for a new recipe that keeps all answers.

    Raises:
        UsageError: an answer is unknown, or the board has no L4T release.
    """
    if answers.board == NO_BOARD:
        if answers.l4t or answers.cuda:
            raise UsageError("--l4t and --cuda need a board", hint="name it with --board")
    elif (row := board(answers.board, board_choices())).is_jetson:
        answers = replace(answers, l4t=_release(answers, folders))
    else:
        raise _no_jetson(row, folders)
    like = _most_similar(answers, _shipped_recipes(folders))
    values = {axis.name: axis.values[0] for axis in like.matrix.axes} if like else {}
    if answers.vllm is None:
        if "vllm" not in values:
            raise UsageError(
                f"no recipe is for L4T {answers.l4t}, so no vLLM can be proposed", hint="name a release with --vllm"
            )
        answers = replace(answers, vllm=values["vllm"])
    spec = like.spec if like else _GENERIC
    if answers.vllm != values.get("vllm"):
        # Pins are for the release that they were tested with.
        spec = replace(spec, constraints=(), replace=())
    model = answers.model or (spec.models[0].source if spec.models else None)
    if model is None:
        raise UsageError("no model can be proposed", hint="name one with --model hf://ORGANISATION/NAME@REVISION")
    answers = replace(answers, model=model, name=answers.name or _name(answers))
    return Proposal(answers=answers, axes=_axes(answers, values), spec=spec, like=like)


def _no_jetson(row: Board, folders: tuple[Path, ...]) -> UsageError:
    alike = (recipe for recipe in _shipped_recipes(folders) if recipe.architecture == "amd64")
    copy = next((f"copy {recipe.path}" for recipe in alike), "write one")
    hint = f'{copy}, with `sm = ["{row.sm}"]` under [matrix]; `jbuild init --help` shows the Jetsons'
    return UsageError(f"jbuild init writes recipes for Jetsons and for the CPU, not for {row.name}", hint=hint)


def _release(answers: Answers, folders: tuple[Path, ...]) -> str:
    """Return the user's L4T release, else the newest with a recipe, preferably of the user's vLLM, else the newest."""
    releases = l4t_choices(answers.board)
    if answers.l4t:
        if mistake := check_value("l4t", answers.l4t):
            raise UsageError(mistake[0], hint=mistake[1])
        if answers.l4t not in releases:
            hint = f"these do: {', '.join(releases)}"
            raise UsageError(f"L4T {answers.l4t} does not run on {answers.board}", hint=hint)
        return answers.l4t
    if not releases:
        raise UsageError(f"no L4T release is known for {answers.board}", hint="`jbuild init --help` shows the boards")
    axes = [recipe.matrix.all_values() for recipe in _shipped_recipes(folders)]
    same_vllm = [values for values in axes if answers.vllm in values.get("vllm", ())]
    used = [{release for values in some for release in values.get("l4t", ())} for some in (same_vllm, axes)]
    return next((release for those in used for release in releases if release in those), releases[0])


def _shipped_recipes(folders: tuple[Path, ...]) -> Iterator[Recipe]:
    """Yield the recipes that ship with jbuild, whose folder is the last: only these are known to work.

    Recipes with packages to build are variants of others, for hours of work.
    """
    yield from (recipe for recipe in load_valid(recipe_paths(folders[-1:]).values()) if recipe.spec.builds is None)


def _most_similar(answers: Answers, recipes: Iterable[Recipe]) -> Recipe | None:
    """Return the recipe for the same kind of machine: of the same vLLM, else L4T release, else with the newest vLLM."""

    def similarity(recipe: Recipe) -> tuple[bool, bool, Version]:
        values = recipe.matrix.all_values()
        versions = values.get("vllm", ())
        return (
            answers.vllm in versions,
            answers.l4t in values.get("l4t", ()),
            _NONE if answers.vllm in versions else max(map(_version, versions), default=_NONE),
        )

    alike = [recipe for recipe in recipes if recipe.architecture == "arm64" and _same_kind(answers, recipe)]
    return max(alike, key=similarity, default=None)


def _version(text: str) -> Version:
    try:
        return Version(text)
    except InvalidVersion:
        return _NONE


def _same_kind(answers: Answers, recipe: Recipe) -> bool:
    releases = recipe.matrix.all_values().get("l4t", ())
    if answers.l4t is None:
        return not releases
    return any(release.split(".")[0] == answers.l4t.split(".")[0] for release in releases)


def _axes(answers: Answers, values: dict[str, str]) -> tuple[tuple[str, str], ...]:
    """Return the axes of the platform: the answers, and the similar recipe's values if such a platform exists."""
    system = {"l4t": answers.l4t} if answers.l4t else {"distribution": values.get("distribution", "debian-12")}
    versions = {"cuda": answers.cuda, "python": answers.python}
    fixed = {**system, **{name: value for name, value in versions.items() if value}}
    proposed = {name: values[name] for name in ("ubuntu", "cuda", "python") if name in values} | fixed
    if "sm" in values and answers.board != NO_BOARD:
        proposed["sm"] = board(answers.board).sm
    try:
        platform_for(proposed.items(), "arm64")
    except JbuildError:
        proposed = fixed
    try:
        platform = platform_for(proposed.items(), "arm64")
    except ImpossibleError as error:
        hint = "name other versions with --cuda, --python or --l4t, or leave the options out"
        raise UsageError(error.message, hint=hint) from error
    except JbuildError as error:
        raise UsageError(error.message, hint=error.hint) from error
    axes = {"python": platform.python, **({"cuda": platform.cuda} if platform.cuda else {}), **proposed}
    return tuple((name, axes[name]) for name in _AXES if name in axes)


def _name(answers: Answers) -> str:
    kind = "cpu" if answers.board == NO_BOARD else answers.board
    return printable(f"vllm-{answers.vllm}-{kind}").lower().replace("+", "-")
