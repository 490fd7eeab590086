"""The files of a model that are on this machine, and the memory that its weights need.

That memory follows from the safetensors headers or, without them, from the sizes of the files.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from typing import TYPE_CHECKING

from builder.errors import ModelError
from builder.model.model_files import suffix_of
from builder.models import model_store
from builder.models.adapters import refuse_adapter
from builder.models.config_json import CONFIG
from builder.models.fit.kv_cache import element_bytes
from builder.models.fit.memory_estimate import MemoryItem
from builder.models.fit.quantisation import SEPARATE_FILE, with_separate
from builder.models.folder import list_folder, readable
from builder.models.mistral_format import PARAMS
from builder.models.model_checks import check_whole
from builder.models.safetensors import HeaderError, read_header
from builder.models.selection import is_weight, select
from builder.remote.model_sources import FolderSource, locate

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from builder.host.config import Config
    from builder.host.session import Session
    from builder.model.model_files import LockedModel
    from builder.model.recipes import Model
    from builder.models.fit.memory_estimate import Shape
    from builder.models.safetensors import Tensor

_FLOATS = {"F64": 8, "F32": 4, "F16": 2, "BF16": 2}


@dataclass(frozen=True, kw_only=True, slots=True)
class ModelFiles:
    """A model's files: sizes in bytes by path; `find` returns a file's path on this machine, or None."""

    name: str
    source: str
    sizes: dict[str, int]
    find: Callable[[str], Path | None]

    def config(self) -> tuple[str, bytes]:
        """Return the path and the bytes of config.json, or of params.json in a model of Mistral's own format.

        As in vLLM, a quantisation in a separate file (hf_quant_config.json) is part of it.

        Raises:
            ModelError: it is not on this machine.
        """
        name = CONFIG if CONFIG in self.sizes or PARAMS not in self.sizes else PARAMS
        path = self.find(name)
        if path is None:
            hint = "download it with `jbuild models fetch`"
            raise ModelError(f"{name} of model {self.name} is not on this machine", where=self.source, hint=hint)
        separate = self.find(SEPARATE_FILE) if SEPARATE_FILE in self.sizes else None
        text = path.read_bytes()
        return str(path), with_separate(text, separate.read_bytes()) if separate else text


def locked_files(locked: LockedModel, recipe_folder: Path, session: Session) -> ModelFiles:
    """Return the files of a locked model, from the store or the folder that it was locked from."""
    source, models = locate(locked.source, recipe_folder, session.config), session.workspace.models
    by_path = {file.path: file for file in locked.files}

    def find(path: str) -> Path | None:
        file = by_path.get(path)
        if file is None:
            return None
        if model_store.has(models, file):
            return model_store.blob(models, file.sha256)
        local = source.path / path if isinstance(source, FolderSource) else None
        return local if local and local.is_file() and local.stat().st_size == file.size else None

    sizes = {file.path: file.size for file in locked.files}
    return ModelFiles(name=locked.name, source=locked.source, sizes=sizes, find=find)


def local_files(model: Model, recipe_folder: Path, config: Config) -> ModelFiles:
    """Return the files of a model without a lock, from its folder.

    Raises:
        ModelError: the source is not a folder, or the folder's model is incomplete.
    """
    source = locate(model.source, recipe_folder, config)
    if not isinstance(source, FolderSource):
        hint = "lock the recipe's models first: `jbuild models lock RECIPE`, or `jbuild lock RECIPE`"
        raise ModelError(
            f"model {model.name} is not locked, and its source is not a folder", where=model.source, hint=hint
        )
    files, folder = list_folder(model.name, source), source.path
    with readable(model.name):
        refuse_adapter(model, files, lambda path: (folder / path).read_bytes())
    selection = select(files, model)
    with readable(model.name):
        # An incomplete model would give too small an estimate.
        check_whole(model, selection, folder.joinpath, str(folder))
    sizes = {path: files[path].st_size for path in selection.paths}
    return ModelFiles(
        name=model.name,
        source=model.source,
        sizes=sizes,
        find=lambda path: folder / path if path in sizes else None,
    )


def weigh(files: ModelFiles, shape: Shape, dtype: str) -> MemoryItem:
    """Return the memory of the weights when the server runs them as `dtype`.

    Raises:
        ModelError: a weight file is damaged.
    """
    stored, loaded, unread = _read(files, shape, dtype)
    size = sum(loaded.values())
    if unread:
        # Without headers, all numbers of a file are assumed to have the configuration's type.
        size += unread if shape.quantised else unread * element_bytes(dtype) // element_bytes(shape.dtype)
        why = "sizes of the locked files; download them with `jbuild models fetch` for an exact figure"
        return MemoryItem(name="weights", size=size, basis="estimate", why=why)
    kinds = ", ".join(f"{kind} {amount / 1e9:.3f} GB" for kind, amount in sorted(stored.items()))
    run = "" if loaded == stored else f", run as {dtype}"
    quantised = f" ({shape.quantised})" if shape.quantised else ""
    return MemoryItem(name="weights", size=size, basis="exact", why=f"safetensors headers: {kinds}{quantised}{run}")


def _read(files: ModelFiles, shape: Shape, dtype: str) -> tuple[Counter[str], Counter[str], int]:
    """Return the bytes on disk and in memory by type, from the headers, and the size of files without a header."""
    stored: Counter[str] = Counter()
    loaded: Counter[str] = Counter()
    unread = 0
    for path, size in sorted(files.sizes.items()):
        if not is_weight(path):
            continue
        local = files.find(path) if suffix_of(path) == "safetensors" else None
        if local is None:
            unread += size
            continue
        try:
            tensors = read_header(local)
        except HeaderError as error:
            hint = "fetch or copy the model again"
            raise ModelError(f"model {files.name}: {path} {error}", where=str(local), hint=hint) from error
        for tensor in tensors:
            # A tied output layer is the input layer; servers load it once.
            if not (shape.tied and tensor.name.endswith("lm_head.weight")):
                stored[tensor.dtype] += tensor.size
                loaded[tensor.dtype] += _loaded(tensor, shape, dtype)
    return stored, loaded, unread


def _loaded(tensor: Tensor, shape: Shape, dtype: str) -> int:
    if shape.quantised or tensor.dtype not in _FLOATS:
        return tensor.size
    return tensor.size // _FLOATS[tensor.dtype] * element_bytes(dtype)
