"""The carried jbuild refuses machines that its compiled wheels are not for."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from typing import TYPE_CHECKING

from builder.publish import bundle

if TYPE_CHECKING:
    from pathlib import Path


def test_another_architecture_is_refused_by_name(tmp_path: Path) -> None:
    other = "aarch64" if os.uname().machine == "x86_64" else "x86_64"
    wheels = {f"lz4-1-cp311-cp311-manylinux2014_{other}.whl": "0" * 64, "demo-1-py3-none-any.whl": "0" * 64}
    version = f"{sys.version_info.major}.{sys.version_info.minor}"
    (tmp_path / "wheels.json").write_text(json.dumps({version: wheels}))
    shutil.copy(f"{bundle.__path__[0]}/unpack_jbuild.py", tmp_path / "unpack.py")
    argv = [sys.executable, "-I", "-S", str(tmp_path / "unpack.py")]
    done = subprocess.run(argv, capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert f"error: this bundle has jbuild for {other}, and this machine is {os.uname().machine}" in done.stderr
    assert "sh load.sh" in done.stderr
