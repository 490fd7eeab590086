"""Compiles the sources below a folder, as they will lie in an image; run by that image's Python, with nothing else.

As `compileall` does with hashes that are never checked, in less time: files are written once, and the sources of test
suites, which no server imports, stay sources. So do those that this version cannot compile, templates for example.
"""

import gc
import os
import sys
import warnings
from importlib.util import MAGIC_NUMBER, source_hash
from marshal import dumps

_TESTS = frozenset({"test", "tests"})
# The first bit says that a hash follows, the second, which is not set, that it is to be checked (PEP 552).
_UNCHECKED_HASH = (1).to_bytes(4, "little")


def compile_below(root: str) -> None:
    """Compile what lies below a folder that stands for `/`."""
    for base, folders, files in os.walk(root):
        folders[:] = sorted(name for name in folders if name not in _TESTS and name != "__pycache__")
        sources = sorted(name for name in files if name.endswith(".py"))
        for name in sources:
            _compile(root, base, name)


def _compile(root: str, base: str, name: str) -> None:
    path = f"{base}/{name}"
    with open(path, "rb") as file:  # noqa: PTH123  # there may be 30,000
        source = file.read()
    try:
        code = compile(source, path[len(root) :], "exec", dont_inherit=True)
    except Exception:  # noqa: BLE001  # whatever it is, Python will say so to whoever imports it
        return
    cache = f"{base}/__pycache__"
    os.makedirs(cache, exist_ok=True)  # noqa: PTH103  # as above
    with open(f"{cache}/{name[:-3]}.{sys.implementation.cache_tag}.pyc", "wb") as file:  # noqa: PTH123
        file.write(MAGIC_NUMBER + _UNCHECKED_HASH + source_hash(source) + dumps(code))


if __name__ == "__main__":
    warnings.simplefilter("ignore")
    gc.disable()
    compile_below(sys.argv[1].rstrip("/"))
