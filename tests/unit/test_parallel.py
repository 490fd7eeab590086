"""Threads that wait for servers."""

from __future__ import annotations

import subprocess
import sys

_CODE = """
import sysconfig
from builder.parallel import Threads
sysconfig._CONFIG_VARS = None
Threads(1)
print("EXE" in (sysconfig._CONFIG_VARS or ()))
"""


def test_no_thread_sees_half_of_pythons_configuration() -> None:
    """Before Python 3.13 `sysconfig` fills what it knows while others read it; `uv` finds itself by that."""
    done = subprocess.run([sys.executable, "-c", _CODE], capture_output=True, text=True, check=True)
    assert done.stdout == "True\n"
