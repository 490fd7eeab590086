"""Checks a model as a whole: its configuration, the content of its files, weight indexes and headers of weights."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from builder.errors import ModelError
from builder.model.model_files import suffix_of
from builder.models.content_flaws import DAMAGED, parse_json, refuse_other_content
from builder.models.mistral_format import PARAMS, is_consolidated
from builder.models.safetensors import HeaderError, read_header
from builder.models.selection import is_weight
from builder.models.shards import absent_numbers, check_tensors, cover_of, index_of

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
    from pathlib import Path

    from builder.host.console import Console
    from builder.model.recipes import Model
    from builder.models.selection import Selection
    from builder.models.shards import ShardIndex

_COPY_MISSING = "copy the missing files too, or extend `files` in the recipe if it excludes them"


@dataclass(frozen=True, kw_only=True, slots=True)
class WholeModel:
    """The configuration of a model whose files agree, and the warnings about them."""

    config: dict[str, Any]
    warnings: tuple[str, ...]


def check_selected(
    model: Model,
    selection: Selection,
    find: Callable[[str], Path | None],
    where: str,
    console: Console,
    *,
    tensors: Mapping[str, frozenset[str]] | None = None,
) -> None:
    """Check the selected files as `check_whole` does; warn of missing files that a server needs.

    `tensors` are those of weights that are not on this machine.

    Raises:
        ModelError: a file is damaged or something else than its name says, or a shard or tensor is missing.
    """
    checked = check_whole(model, selection, find, where, tensors)
    if not selection.has_tokenizer:
        console.warn(f"model {model.name} has no tokenizer files: the server cannot answer with text")
    if checked.config.get("auto_map") and not any(suffix_of(path) == "py" for path in selection.paths):
        console.warn(
            f"model {model.name} refers to its own code (`auto_map` in {selection.config}), which is not baked in: "
            'if the server needs it, read the code, then list `files` with "*.py"'
        )
    if selection.is_mistral:
        console.note(
            f"model {model.name} is in Mistral's own format ({PARAMS}, consolidated*.safetensors), which vLLM reads "
            "by default (--config-format auto); transformers does not read it"
        )
    for warning in checked.warnings:
        console.warn(warning)


def check_whole(
    model: Model,
    selection: Selection,
    find: Callable[[str], Path | None],
    where: str,
    tensors: Mapping[str, frozenset[str]] | None = None,
) -> WholeModel:
    """Check the selected files that are on this machine, and that all shards are selected.

    `find` returns a file's path on this machine, or None. The configuration and the indexes must be there.

    Raises:
        ModelError: a file is damaged or something else than its name says, or a shard or tensor is missing.
    """
    local = {path: file for path in selection.paths if (file := find(path))}
    refuse_other_content(model.name, local, where)
    config = _object(model, selection.config, local[selection.config])
    indexes = [_index(model, path, local[path]) for path in selection.indexes]
    _check_shards(model, indexes, selection)
    headers = {**(tensors or {}), **_headers(model.name, local)}
    unnamed = tuple(_unnamed_files(model.name, indexes, selection))
    return WholeModel(config=config, warnings=(*unnamed, *_agreement(model.name, indexes, headers, where)))


def check_file(name: str, path: str, file: Path, where: str) -> None:
    """Check one file of a model that has arrived.

    Raises:
        ModelError: it is damaged, or something else than its name says.
    """
    refuse_other_content(name, {path: file}, where)
    check_weights(name, path, file, where)


def check_fetched(name: str, files: Mapping[str, Path], where: str) -> tuple[str, ...]:
    """Compare the indexes among a model's files with the headers of their shards, and return warnings.

    Raises:
        ModelError: an index puts a tensor into a shard whose header lacks it.
    """
    documents = {path: parse_json(name, path, files[path].read_bytes(), where) for path in files if _is_index(path)}
    indexes = [index for path, document in documents.items() if (index := index_of(path, document))]
    shards = {shard for index in indexes for shard in index.shards.values()} & set(files)
    headers = _headers(name, {path: files[path] for path in shards}, where)
    return _agreement(name, indexes, headers, where)


def check_weights(name: str, path: str, file: Path, where: str | None = None) -> frozenset[str] | None:
    """Check that a weight file is complete, as far as its format allows, and return the tensors that its header names.

    Raises:
        ModelError: it is truncated or damaged.
    """
    if suffix_of(path) != "safetensors":
        return None
    try:
        return frozenset(tensor.name for tensor in read_header(file))
    except HeaderError as error:
        raise ModelError(f"model {name}: {path} {error}", where=where or str(file), hint=DAMAGED) from error


def _headers(name: str, files: Mapping[str, Path], where: str | None = None) -> dict[str, frozenset[str]]:
    by_path = {path: check_weights(name, path, file, where) for path, file in files.items()}
    return {path: tensors for path, tensors in by_path.items() if tensors is not None}


def _agreement(
    name: str, indexes: Iterable[ShardIndex], headers: Mapping[str, frozenset[str]], where: str
) -> tuple[str, ...]:
    return tuple(warning for index in indexes for warning in check_tensors(name, index, headers, where))


def _object(model: Model, path: str, file: Path) -> dict[str, Any]:
    value = parse_json(model.name, path, file.read_bytes(), model.source)
    if not isinstance(value, dict):
        raise _damaged(model, path, "is not a JSON object")
    return value


def _damaged(model: Model, path: str, flaw: str) -> ModelError:
    return ModelError(f"model {model.name}: {path} {flaw}", where=model.source, hint=DAMAGED)


def _is_index(path: str) -> bool:
    return path.endswith(".safetensors.index.json")


def _index(model: Model, path: str, file: Path) -> ShardIndex:
    index = index_of(path, _object(model, path, file))
    if index is None:
        raise _damaged(model, path, "has no `weight_map` of file names")
    return index


def _check_shards(model: Model, indexes: Iterable[ShardIndex], selection: Selection) -> None:
    """Check that the shards of indexes are selected, and so are those that numbered names count without an index."""
    covered = set()
    for index in indexes:
        covered.add(index.covered)
        missing = sorted(set(index.shards.values()) - set(selection.paths))
        if missing:
            raise _missing_shards(model, missing, f"named in {index.path}")
    counted = [path for path in selection.paths if is_weight(path) and cover_of(path) not in covered]
    if missing := list(absent_numbers(counted)):
        raise _missing_shards(model, missing, "of the numbered weight files")


def _unnamed_files(name: str, indexes: Sequence[ShardIndex], selection: Selection) -> Iterator[str]:
    """Yield warnings about weights beside an index that does not name them."""
    covers = {index.covered: index.path for index in indexes}
    named = {shard for index in indexes for shard in index.shards.values()}
    for path in selection.paths:
        index = covers.get(cover_of(path)) if suffix_of(path) == "safetensors" else None
        if index and path not in named and not is_consolidated(path):
            yield f"model {name}: {index} does not name {path}: servers that follow the index do not load it"


def _missing_shards(model: Model, missing: list[str], which: str) -> ModelError:
    more = f" and {len(missing) - 1} more" if len(missing) > 1 else ""
    message = f"model {model.name}: shard {missing[0]!r}{more} {which} is missing"
    return ModelError(message, where=model.source, hint=_COPY_MISSING)
