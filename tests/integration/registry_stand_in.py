"""A stand-in for vLLM's registry of models: it inspects a class once, and keeps the result as vLLM does."""

from __future__ import annotations

import json
import os
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar

if TYPE_CHECKING:
    from collections.abc import Callable


class LazyModel:
    """A class of a model that is not imported yet."""

    def __init__(self, name: str) -> None:
        self.name = name

    def inspect_model_cls(self) -> dict[str, str]:
        """Return what is known about the class."""
        path = Path(os.environ["VLLM_CACHE_ROOT"], "modelinfos", f"vllm-{self.name}.json")
        if path.exists():
            return dict(json.loads(path.read_text()))
        return _save_modelinfo_to_cache(path, _run_in_subprocess(self.load))

    def load(self) -> dict[str, str]:
        """Import the class."""
        if self.name == "BrokenForCausalLM":
            raise ImportError("libcuda.so.1: cannot open shared object file")
        if self.name == "SlowForCausalLM":
            time.sleep(60)
        return {"architecture": self.name}


def _run_in_subprocess(function: Callable[[], dict[str, str]]) -> dict[str, str]:
    sys.stderr.write("everything is imported again\n")
    return function()


def _save_modelinfo_to_cache(path: Path, info: dict[str, str]) -> dict[str, str]:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(info))
    return info


class ModelRegistry:
    """The classes by name."""

    models: ClassVar = {name: LazyModel(name) for name in ("LlamaForCausalLM", "BrokenForCausalLM", "SlowForCausalLM")}
