"""From a cell to its estimate, and to the warning that a lock gives."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from builder.errors import ModelError
from builder.jetson.boards import boards_for
from builder.models.fit.estimate import estimate
from builder.models.fit.memory_estimate import CellFit
from builder.models.fit.model_config import ModelFiles, local_files, locked_files
from builder.models.fit.model_shape import read_shape
from builder.models.fit.server_options import pinned_version

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from builder.host.config import Config
    from builder.jetson.boards import Board
    from builder.model.model_files import LockedModel
    from builder.model.platforms import Platform
    from builder.model.recipes import Recipe, Spec
    from builder.models.fit.memory_estimate import BoardFit


def fit_cell(
    recipe: Recipe,
    cell: str,
    spec: Spec,
    platform: Platform,
    models: Sequence[LockedModel] | None,
    boards: Sequence[str],
    config: Config,
    store: Path,
) -> CellFit:
    """Return the estimate for the model that a cell serves, for these boards, else the recipe's, else all that suit.

    `models` are the lock's, None without a lock; `store` is `Workspace.models`.

    Raises:
        ModelError: the model's config.json or its weights are not here, or damaged.
        UsageError: there is no such board.
    """
    files = _files(recipe, spec, models, config, store)
    shape = read_shape(files.name, *files.config())
    machines = boards_for(platform, boards or recipe.boards)
    vllm, gpu = pinned_version(spec.requires), bool(platform.l4t)
    rows = tuple(
        _of_platform(estimate(spec.server, shape, files, board, gpu=gpu, vllm=vllm), board, platform)
        for board in machines or (None,)
    )
    return CellFit(cell=cell, model=files.name, shape=shape, boards=rows)


def warning(fit: CellFit, *, named: bool) -> str | None:
    """Return what a lock says about boards that the model is too large for, or None.

    With `named` boards it tells too when the server would not start as the recipe has it.
    """
    too_small = [board_fit.machine.board for board_fit in fit.boards if board_fit.machine and board_fit.verdict == "no"]
    phrases = [f"it does not fit {', '.join(too_small)}"] if too_small else []
    phrases += [
        f"on {board_fit.machine.board} the server starts with --gpu-memory-utilization {board_fit.lower_to:g}"
        for board_fit in fit.boards
        if named and board_fit.machine and board_fit.lower_to is not None
    ]
    if not phrases:
        return None
    return f"model {fit.model}: by estimate, {'; '.join(phrases)}; `jbuild fit` shows the sum"


def _of_platform(fit: BoardFit, board: Board | None, platform: Platform) -> BoardFit:
    """Note a board that the platform's images do not run on, whatever its memory."""
    if board is None or not platform.l4t or board.suits(platform):
        return fit
    message = f"images for {platform.name} (SM {', '.join(platform.sms)}) do not run on {board.name} (SM {board.sm})"
    return replace(fit, remarks=(*fit.remarks, message))


def _files(recipe: Recipe, spec: Spec, models: Sequence[LockedModel] | None, config: Config, store: Path) -> ModelFiles:
    folder, served = recipe.path.parent, spec.server.model
    if models is None:
        model = next((candidate for candidate in spec.models if candidate.name == served), None)
        if model:
            return local_files(model, folder, config)
    locked = next((candidate for candidate in models or () if candidate.name == served), None)
    if locked is None:
        raise ModelError(f"the server's model {served} is not one of the cell's", where=str(recipe.path))
    return locked_files(locked, folder, config, store)
