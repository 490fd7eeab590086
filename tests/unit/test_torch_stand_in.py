"""The torch of a build: what it answers, and how it refuses."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from typing import TYPE_CHECKING

import pytest

from builder.foundry.torch_tree import _STAND_IN

if TYPE_CHECKING:
    from pathlib import Path


@pytest.fixture
def site(tmp_path: Path) -> Path:
    """A folder with the stand-in, as the sandbox has it, and empty modules in place of the wheel's."""
    package = tmp_path / "torch"
    (package / "utils").mkdir(parents=True)
    shutil.copyfile(_STAND_IN, package / "__init__.py")
    (package / "utils/__init__.py").touch()
    (package / "version.py").write_text("cuda = '13.0'\n")
    (package / "stand_in.json").write_text(json.dumps({"version": "2.11.0", "cuda": "13.0", "cxx11_abi": True}))
    return tmp_path


def _run(site: Path, program: str) -> subprocess.CompletedProcess[str]:
    environment = {"PYTHONPATH": str(site), "PYTHONDONTWRITEBYTECODE": "1"}
    return subprocess.run([sys.executable, "-c", program], env=environment, check=False, capture_output=True, text=True)


@pytest.mark.parametrize(
    ("expression", "answer"),
    [
        ("torch.__version__", "2.11.0"),
        ("torch.version.cuda", "13.0"),
        ("torch.cuda.is_available()", "False"),
        ("torch.cuda.device_count()", "0"),
        ("torch.compiled_with_cxx11_abi()", "True"),
        ("torch._C._GLIBCXX_USE_CXX11_ABI", "True"),
        ("torch.backends.mps.is_available()", "False"),
        ("hasattr(torch, 'nn')", "False"),
        ("hasattr(torch, '__path__')", "True"),
        ("torch.cuda._is_compiled()", "True"),
    ],
)
def test_builds_get_answers(site: Path, expression: str, answer: str) -> None:
    assert _run(site, f"import torch; print({expression})").stdout.strip() == answer


@pytest.mark.parametrize(
    ("program", "name"),
    [
        ("torch.cuda.get_device_capability()", "torch.cuda.get_device_capability()"),
        ("torch.cuda.get_device_properties(0).major", "torch.cuda.get_device_properties()"),
        ("torch.zeros(3)", "torch.zeros"),
        ("torch.backends.cuda.matmul()", "torch.backends.cuda.matmul()"),
    ],
)
def test_target_code_is_refused_with_one_sentence(site: Path, program: str, name: str) -> None:
    done = _run(site, f"import torch; {program}")
    last = done.stderr.strip().splitlines()[-1]
    assert done.returncode == 1
    assert f"jbuild: the build of this package runs {name} on the machine that builds" in last
    assert "`environment`" in last
