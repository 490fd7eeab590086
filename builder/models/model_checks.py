"""Checks a model's config.json, weight indexes and headers of weights."""

from __future__ import annotations

import json
from pathlib import PurePosixPath
from typing import TYPE_CHECKING, Any

from builder.errors import ModelError
from builder.model.model_files import suffix_of
from builder.models.safetensors import HeaderError, read_header
from builder.models.selection import CONFIG

if TYPE_CHECKING:
    from pathlib import Path

    from builder.host.console import Console
    from builder.model.recipes import Model
    from builder.models.selection import Selection

_DAMAGED = "copy or download the model again"


def check_small_files(model: Model, selection: Selection, read: dict[str, bytes], console: Console) -> None:
    """Check config.json and the weight indexes, whose bytes are in `read`; warn of missing files that a server needs.

    Raises:
        ModelError: one of them is damaged, or a shard is missing.
    """
    config = check_whole(model, selection, read)
    if not selection.has_tokenizer:
        console.warn(f"model {model.name} has no tokenizer files: the server cannot answer with text")
    if config.get("auto_map") and not any(suffix_of(path) == "py" for path in selection.paths):
        console.warn(
            f"model {model.name} refers to its own code (`auto_map` in {CONFIG}), which is not baked in: "
            'if the server needs it, read the code, then list `files` with "*.py"'
        )


def check_whole(model: Model, selection: Selection, read: dict[str, bytes]) -> dict[str, Any]:
    """Check that all shards of the indexes are selected, and return config.json; `read` as above.

    Raises:
        ModelError: a file is damaged, or a shard is missing.
    """
    for path in selection.indexes:
        _check_index(model, path, read[path], selection)
    return _object(model, CONFIG, read[CONFIG])


def check_weights(name: str, path: str, file: Path) -> None:
    """Check that a weight file is complete, as far as its format allows.

    Raises:
        ModelError: it is truncated or damaged.
    """
    if suffix_of(path) != "safetensors":
        return
    try:
        read_header(file)
    except HeaderError as error:
        raise ModelError(f"model {name}: {path} {error}", where=str(file), hint=_DAMAGED) from error


def _object(model: Model, path: str, data: bytes) -> dict[str, Any]:
    try:
        value = json.loads(data)
    except (ValueError, RecursionError) as error:
        reason = str(error) if isinstance(error, json.JSONDecodeError) else "it cannot be decoded"
        raise _damaged(model, path, f"is not JSON: {reason}") from error
    if not isinstance(value, dict):
        raise _damaged(model, path, "is not a JSON object")
    return value


def _damaged(model: Model, path: str, flaw: str) -> ModelError:
    return ModelError(f"model {model.name}: {path} {flaw}", where=model.source, hint=_DAMAGED)


def _check_index(model: Model, path: str, data: bytes, selection: Selection) -> None:
    shards = _object(model, path, data).get("weight_map")
    if not isinstance(shards, dict) or not all(isinstance(shard, str) for shard in shards.values()):
        raise _damaged(model, path, "has no `weight_map` of file names")
    folder = PurePosixPath(path).parent
    missing = sorted({shard for shard in shards.values() if str(folder / shard) not in selection.paths})
    if missing:
        more = f" and {len(missing) - 1} more" if len(missing) > 1 else ""
        raise ModelError(
            f"model {model.name}: shard {missing[0]!r}{more} named in {path} is missing",
            where=model.source,
            hint="copy the missing files too, or extend `files` in the recipe if it excludes them",
        )
