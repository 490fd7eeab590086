"""What runs inside an image under test: files that stand alone, standard library only, Python 3.8 and later.

Each prints one line of JSON, behind `MARK`, and its progress to standard error. They can be run by hand:
`python builder/smoke/probe/gpu.py --sms 8.7`.
"""

from __future__ import annotations

from pathlib import Path

MARK = "jbuild-probe: "


def script(name: str) -> Path:
    """Return the file of a probe."""
    return Path(__file__).with_name(f"{name}.py")
