"""Makes `platform` and `os.uname` answer for the target's architecture: builds choose sources and options by it."""

from __future__ import annotations

import os
import platform


def _install(machine: str) -> None:
    if os.uname().machine == machine:
        return
    real = os.uname()
    answer = os.uname_result((real.sysname, real.nodename, real.release, real.version, machine))
    os.uname = lambda: answer
    platform.machine = lambda: machine
    platform.processor = lambda: ""


_install(os.environ.get("JBUILD_TARGET_MACHINE") or os.uname().machine)
