"""Lets vLLM inspect classes of models and keep the results in its cache, as a server does at its first start.

Runs inside images on Python 3.8 and later, with only the standard library and vLLM. The arguments are names of classes.
A server inspects a class in another process, which imports everything again; this process runs the same function.
"""

from __future__ import annotations

import importlib
import sys
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Sequence


def main() -> None:
    """Inspect the classes, and print the names of those that this vLLM has."""
    inspected = inspect(sys.argv[1:])
    sys.stdout.write(f"inspected: {', '.join(inspected) or 'nothing'}\n")


def inspect(names: Sequence[str]) -> list[str]:
    """Let vLLM inspect the classes that it has, and return their names."""
    registry = importlib.import_module("vllm.model_executor.models.registry")
    importlib.import_module("vllm.plugins").load_general_plugins()
    setattr(registry, "_run_in_subprocess", run_here)  # noqa: B010  # the module is not known to mypy
    classes = registry.ModelRegistry.models
    inspected = [name for name in names if name in classes]
    for name in inspected:
        classes[name].inspect_model_cls()
    return inspected


def run_here(function: Any) -> Any:
    """Return a function's result: this process is the one that vLLM would start."""
    return function()


if __name__ == "__main__":
    main()
