"""Logs are read for known troubles."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from builder.errors import DocumentError
from builder.jetson.symptoms import find, symptoms

if TYPE_CHECKING:
    from pathlib import Path

# A line as programs really print it, and a word of what it means.
LINES = [
    ("exec /opt/venv/bin/python: exec format error", "architecture"),
    ("qemu: uncaught target signal 11 (Segmentation fault) - core dumped", "emulator"),
    ("ImportError: libnuma.so.1: cannot open shared object file: No such file or directory", "libnuma"),
    ("OSError: libcuda.so.1: cannot open shared object file: No such file or directory", "GPU driver"),
    ("ImportError: libgomp.so.1: cannot open shared object file: No such file or directory", "shared library"),
    ("ImportError: /lib/libstdc++.so.6: version `GLIBCXX_3.4.32' not found (required by _C.so)", "newer C"),
    ("ImportError: flash_attn_2_cuda.so: undefined symbol: _ZN3c105ErrorC2ENS_14SourceLocationE", "another torch"),
    ("RuntimeError: CUDA error: no kernel image is available for execution on the device", "machine code"),
    ("RuntimeError: CUDA driver version is insufficient for CUDA runtime version", "driver"),
    ("ValueError: 'aimv2' is already used by a Transformers config, pick another name.", "vllm-0.9-aimv2"),
    ("AttributeError: Qwen2Tokenizer has no attribute 'all_special_tokens_extended'", "vllm-0.11-transformers-5"),
    ("ImportError: Numba needs NumPy 2.2 or less. Got NumPy 2.3.", "numba-0.61-numpy"),
    ("A module that was compiled using NumPy 1.x cannot be run in NumPy 2.2.6", "jetson-torch-numpy-1"),
    ("torch._inductor.exc.InductorError: InvalidCxxCompiler: No working C++ compiler found", "compile"),
    ("torch.OutOfMemoryError: CUDA out of memory. Tried to allocate 2.00 GiB.", "GPU's memory"),
    ("ValueError: No available memory for the cache blocks. Try increasing", "KV cache"),
    (
        "ValueError: Free memory on device cuda:0 (3.1/7.4 GiB) on startup is less than desired GPU memory utilization",
        "hold",
    ),
    ("vllm: error: unrecognized arguments: --warmup", "argument"),
    ("huggingface_hub.errors.OfflineModeIsEnabled: Cannot reach the hub", "not in the image"),
    ("OSError: /models/tiny does not appear to have a file named config.json.", "model server needs"),
    ("FileNotFoundError: No such file or directory: /models/tiny/model.safetensors", "may not read"),
    ("safetensors_rust.SafetensorError: Error while deserializing header: HeaderTooLarge", "damaged"),
    ("PermissionError: [Errno 13] Permission denied: '/home/x/.cache'", "write"),
    ("OSError: [Errno 28] No space left on device", "full"),
    ("OSError: [Errno 98] Address already in use", "port"),
    ("RuntimeError: flashinfer-cubin version (0.6.12) does not match flashinfer version (0.6.13)", "flashinfer-cubin"),
    ("ptxas fatal   : Value 'sm_110a' is not defined for option 'gpu-name'", "thor-ptxas"),
    ("OSError: libcudss.so.0: cannot open shared object file: No such file or directory", "jetson-torch-cudss"),
    ("ModuleNotFoundError: No module named 'pkg_resources'", "setuptools-82"),
    ("importlib.metadata.PackageNotFoundError: No package metadata was found for vllm", "registers itself"),
]


@pytest.mark.parametrize(("line", "meaning"), LINES)
def test_each_line_is_understood_in_one_way(line: str, meaning: str) -> None:
    (symptom,) = find(["INFO all is well", line, "bye"])
    assert meaning in symptom.says


def test_every_symptom_has_a_line_here() -> None:
    assert {symptom.says for line, _ in LINES for symptom in find([line])} == {s.says for s in symptoms()}


@pytest.mark.parametrize("symptom", symptoms(), ids=lambda s: s.says[:30])
def test_every_symptom_is_complete(symptom: object) -> None:
    for name in ("says", "hint", "source"):
        assert len(getattr(symptom, name)) >= 6


def test_a_healthy_log_has_no_symptoms() -> None:
    healthy = [
        "INFO 11-22 16:42:22 [importing.py:68] Triton not installed or not compatible",
        "WARNING [system_utils.py:266] Found ulimit of 20000 and failed to automatically increase with error",
        "util_impl_linux.h, 444: Can't open MIDR_EL1 sysfs entry",
        "(APIServer pid=1) INFO:     Application startup complete.",
    ]
    assert find(healthy) == ()


def test_symptoms_come_in_the_tables_order_and_once() -> None:
    lines = ["No space left on device", "exec format error", "No space left on device"]
    assert [s.pattern.pattern for s in find(lines)] == ["exec format error", "No space left on device"]


def test_a_broken_table_is_told_with_its_line(tmp_path: Path) -> None:
    path = tmp_path / "symptoms.toml"
    path.write_text('[[symptoms]]\npattern = "("\nsays = "x"\nhint = "y"\nwhy = "z"\n')
    with pytest.raises(DocumentError) as caught:
        symptoms(path)
    messages = " ".join(problem.message for problem in caught.value.problems)
    assert "not a regular expression" in messages
    assert "`source` is missing" in messages
    assert "unknown key `why`" in messages
