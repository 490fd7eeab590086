"""Probes that run inside an image under test: standalone files, standard library only, Python 3.8 and later.

Every probe prints `MARK` with a line of JSON, and its progress to standard error. By hand:
`python builder/smoke/probe/gpu.py --sms 8.7`.
"""

from __future__ import annotations

from pathlib import Path

MARK = "jbuild-probe: "


def script(name: str) -> Path:
    """Return the file of a probe."""
    return Path(__file__).with_name(f"{name}.py")
