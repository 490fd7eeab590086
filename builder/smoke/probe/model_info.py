"""Lets vLLM inspect the class of a model and keep the result in its cache, as a server does at its first start.

Runs inside images on Python 3.8 and later, with only the standard library and vLLM. The argument is the model's folder.
A server inspects the class in another process, which imports everything again; this process runs the same function.
If vLLM keeps no results, it is not imported: nothing would be gained.
"""

from __future__ import annotations

import importlib
import importlib.util
import json
import sys
from pathlib import Path
from typing import Any

_REGISTRY = "model_executor/models/registry.py"
_KEEPS, _STARTS_PROCESS = "_save_modelinfo_to_cache", "_run_in_subprocess"


# The exit code if there is nothing to keep.
_NOTHING = 3


def main() -> None:
    """Inspect the model's classes and print their names."""
    inspected = inspect(Path(sys.argv[1])) if keeps_results() else []
    sys.stdout.write(f"jbuild-probe: {json.dumps({'inspected': inspected})}\n")
    sys.exit(0 if inspected else _NOTHING)


def keeps_results() -> bool:
    """Return whether the installed vLLM keeps the results of inspections."""
    spec = importlib.util.find_spec("vllm")
    for folder in (spec and spec.submodule_search_locations) or ():
        path = Path(folder, _REGISTRY)
        if path.is_file():
            text = path.read_text(encoding="utf-8")
            return all(f"def {name}(" in text for name in (_KEEPS, _STARTS_PROCESS))
    return False


def inspect(model: Path) -> list[str]:
    """Inspect the classes that a model names, as far as vLLM has them."""
    registry = importlib.import_module("vllm.model_executor.models.registry")
    importlib.import_module("vllm.plugins").load_general_plugins()
    setattr(registry, _STARTS_PROCESS, run_here)
    classes = registry.ModelRegistry.models
    names = [name for name in architectures(model) if name in classes]
    for name in names:
        classes[name].inspect_model_cls()
    return names


def architectures(model: Path) -> list[str]:
    """Return the names of the classes in a model's configuration."""
    config = json.loads((model / "config.json").read_text(encoding="utf-8"))
    return [str(name) for name in config.get("architectures") or ()]


def run_here(function: Any) -> Any:
    """Return a function's result: this process is the one that vLLM would start."""
    return function()


if __name__ == "__main__":
    main()
