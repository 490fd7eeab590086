"""Compiles sources for an image; run by a Python of the image's version, without other modules of jbuild.

A request on standard input is the number of sources, then the path in the image and the content of each. The answer
has a `.pyc` with an unchecked hash for each; empty, if this version cannot compile the source, such as a template.
Numbers have eight bytes; paths and contents follow their length.

Each request is compiled in a fork: what `marshal` writes depends on the strings that a process knows already, so the
bytes may not depend on the requests before.
"""

import gc
import os
import sys
import warnings
from importlib.util import MAGIC_NUMBER, source_hash
from marshal import dumps

_WORD = 8
# The first bit marks a hash-based file; the second, not set, would have Python check the hash (PEP 552).
_UNCHECKED_HASH = (1).to_bytes(4, "little")


def answer_requests() -> None:
    """Answer requests until standard input ends."""
    while head := sys.stdin.buffer.read(_WORD):
        request = [(_block(), _block()) for _ in range(int.from_bytes(head, "little"))]
        child = os.fork()
        if not child:
            for path, source in request:
                compiled = _compile(path.decode("utf-8", "surrogateescape"), source)
                sys.stdout.buffer.write(len(compiled).to_bytes(_WORD, "little") + compiled)
            sys.stdout.buffer.flush()
            os._exit(0)
        _, status = os.waitpid(child, 0)
        if status:
            sys.exit(f"a compiler ended with status {status}; its first source is {request[0][0]!r}")


def _block() -> bytes:
    size = int.from_bytes(sys.stdin.buffer.read(_WORD), "little")
    return sys.stdin.buffer.read(size)


def _compile(path: str, source: bytes) -> bytes:
    try:
        code = compile(source, path, "exec", dont_inherit=True)
    except Exception:  # noqa: BLE001  # an import of the source reports the error
        return b""
    return MAGIC_NUMBER + _UNCHECKED_HASH + source_hash(source) + dumps(code)


if __name__ == "__main__":
    warnings.simplefilter("ignore")
    gc.disable()
    answer_requests()
