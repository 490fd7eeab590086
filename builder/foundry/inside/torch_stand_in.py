"""`torch` of a build: answers what builds ask, with the target's headers and version, and loads nothing.

Copied as `torch/__init__.py` beside the target wheel's `utils/cpp_extension.py`, headers and version.
"""

from __future__ import annotations

import json
import types
from pathlib import Path
from typing import Any, NoReturn

_FACTS = json.loads(Path(__file__).with_name("stand_in.json").read_text(encoding="utf-8"))
_ADVICE = (
    "the build of this package runs torch.{name} on the machine that builds, which has neither the target's GPU nor "
    "its torch: set the variable that states the answer (`environment`), or remove the call with a patch"
)


class TargetCodeError(AttributeError):
    """The build asked for something that only the target can answer."""


def _refuse(name: str) -> NoReturn:
    raise TargetCodeError("jbuild: " + _ADVICE.format(name=name))


class _Namespace(types.ModuleType):
    """A module of torch with a few answers; calling anything else refuses."""

    def __init__(self, name: str, **answers: Any) -> None:
        super().__init__(f"torch.{name}")
        self.__dict__.update(answers)

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        path = f"{self.__name__.partition('.')[2]}.{name}"
        return lambda *_args, **_options: _refuse(f"{path}()")


__version__ = str(_FACTS["version"])
cuda = _Namespace(
    "cuda",
    is_available=lambda: False,
    _is_compiled=lambda: bool(_FACTS["cuda"]),
    device_count=lambda: 0,
    get_arch_list=list,
)
xpu = _Namespace("xpu", _is_compiled=lambda: False, is_available=lambda: False)
mps = _Namespace("mps", is_available=lambda: False)
backends = _Namespace(
    "backends",
    mps=_Namespace("backends.mps", is_built=lambda: False, is_available=lambda: False),
    cuda=_Namespace("backends.cuda", is_built=lambda: bool(_FACTS["cuda"])),
)
distributed = _Namespace("distributed", is_available=lambda: False)
_C = _Namespace("_C", _GLIBCXX_USE_CXX11_ABI=_FACTS["cxx11_abi"])

from torch import utils, version  # noqa: E402  # the target's; they import this module


def compiled_with_cxx11_abi() -> bool:
    """Return whether the target's torch uses the present ABI of libstdc++."""
    return bool(_FACTS["cxx11_abi"])


def __getattr__(name: str) -> Any:
    if name.startswith("__"):
        raise AttributeError(name)
    _refuse(name)


__all__ = [
    "__version__",
    "backends",
    "compiled_with_cxx11_abi",
    "cuda",
    "distributed",
    "mps",
    "utils",
    "version",
    "xpu",
]
