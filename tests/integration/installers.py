"""The real uv and pip, with no indexes but those that a test names."""

from __future__ import annotations

import importlib.util
import os
import re
import subprocess
import sys
from typing import TYPE_CHECKING

import pytest

from builder.lock.solve import uv

if TYPE_CHECKING:
    from pathlib import Path

needs_pip = pytest.mark.skipif(not importlib.util.find_spec("pip"), reason="pip is not installed beside jbuild")


def clean(**more: str) -> dict[str, str]:
    """Return an environment without this machine's indexes."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("UV_", "PIP_"))}
    own = {"UV_PYTHON_DOWNLOADS": "never", "UV_HTTP_RETRIES": "0", "UV_NO_CONFIG": "1", "PIP_CONFIG_FILE": os.devnull}
    return {**kept, **own, **more}


def compile_with_uv(cache: Path, requires: str, *flags: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """Solve for JetPack 6 as jbuild does; only the indexes are given by `flags`."""
    # Its own interpreter spares uv the search for a 3.10, a second each time.
    interpreter = ["--python", sys.executable, "--cache-dir", str(cache)]
    target = "--python-version 3.10 --python-platform aarch64-manylinux_2_35 --only-binary :all:"
    output = "--format pylock.toml --no-header"
    argv = [uv(), "pip", "compile", "-", *interpreter, *target.split(), *output.split(), *flags]
    return subprocess.run(argv, input=requires, text=True, capture_output=True, check=False, env=clean(**environment))


def locked_urls(done: subprocess.CompletedProcess[str]) -> dict[str, list[str]]:
    """Return the addresses that uv locked, by distribution."""
    assert done.returncode == 0, done.stderr
    packages = done.stdout.split("[[packages]]")[1:]
    name = re.compile(r'name = "(.*)"')
    return {name.search(text)[1]: re.findall(r'url = "([^"]+)"', text) for text in packages}  # type: ignore[index]


def run_pip(*arguments: str) -> subprocess.CompletedProcess[str]:
    argv = [sys.executable, "-m", "pip", "--no-cache-dir", "--disable-pip-version-check", *arguments]
    return subprocess.run(argv, text=True, capture_output=True, check=False, env=clean())
