"""Compiles the sources below a folder for an image; run by a Python of the image's version, without other modules.

Like `compileall` with unchecked hashes, but faster: it writes each file once and skips test suites, which no server
imports, and sources that this version cannot compile, such as templates.
"""

import gc
import os
import sys
import warnings
from importlib.util import MAGIC_NUMBER, source_hash
from marshal import dumps

_TESTS = frozenset({"test", "tests"})
# The first bit marks a hash-based file; the second, not set, would have Python check the hash (PEP 552).
_UNCHECKED_HASH = (1).to_bytes(4, "little")


def compile_below(root: str) -> None:
    """Compile the sources below a folder that becomes `/`."""
    for base, folders, files in os.walk(root):
        folders[:] = sorted(name for name in folders if name not in _TESTS and name != "__pycache__")
        for name in sorted(files):
            if name.endswith(".py"):
                _compile(root, base, name)


def _compile(root: str, base: str, name: str) -> None:
    path = f"{base}/{name}"
    with open(path, "rb") as file:  # noqa: PTH123  # there may be 30,000
        source = file.read()
    try:
        code = compile(source, path[len(root) :], "exec", dont_inherit=True)
    except Exception:  # noqa: BLE001  # an import of the source reports the error
        return
    cache = f"{base}/__pycache__"
    os.makedirs(cache, exist_ok=True)  # noqa: PTH103  # as above
    with open(f"{cache}/{name[:-3]}.{sys.implementation.cache_tag}.pyc", "wb") as file:  # noqa: PTH123
        file.write(MAGIC_NUMBER + _UNCHECKED_HASH + source_hash(source) + dumps(code))


if __name__ == "__main__":
    warnings.simplefilter("ignore")
    gc.disable()
    compile_below(sys.argv[1].rstrip("/"))
