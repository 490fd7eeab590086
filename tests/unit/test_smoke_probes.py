"""The probes as programs on their own: real extension modules, whole, damaged and without what they need."""

from __future__ import annotations

import json
import math
import shutil
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from builder.model.recipes import Waiver
from builder.smoke.probe import MARK, script
from builder.smoke.probe.extensions import needed_driver
from builder.smoke.probe.gpu import examine, runs_on
from builder.smoke.probe_runs import _may_fail


def a_module() -> Path:
    """Return a small extension module of the packages that are installed for the tests."""
    import charset_normalizer  # noqa: PLC0415

    found = sorted(Path(charset_normalizer.__file__).parent.glob("*.so"), key=lambda path: path.stat().st_size)
    if not found or b"libc.so.6\0" not in found[0].read_bytes():
        pytest.skip("no extension module that needs the C library by its usual name")
    return found[0]


def probe(folder: Path, *arguments: str) -> Any:
    argv = [sys.executable, str(script("extensions")), *arguments, str(folder)]
    done = subprocess.run(argv, capture_output=True, text=True, timeout=60, check=True)
    (line,) = [line for line in done.stdout.splitlines() if line.startswith(MARK)]
    return json.loads(line[len(MARK) :])


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    shutil.copy(a_module(), tmp_path / a_module().name)
    return tmp_path


def put(folder: Path, name: str, content: bytes) -> str:
    path = folder / "pack" / f"{name}.{a_module().name.partition('.')[2]}"
    path.parent.mkdir(exist_ok=True)
    path.write_bytes(content)
    return f"pack/{path.name}"


def test_what_loads_is_counted(folder: Path) -> None:
    assert probe(folder) == {"loaded": 1, "driver": [], "broken": []}


def test_what_is_no_extension_module_is_left_alone(folder: Path) -> None:
    (folder / "libplain.so").write_bytes(b"\x7fELF")
    (folder / "data.so").write_text("no library at all")
    assert probe(folder)["loaded"] == 1


def test_a_module_that_lacks_a_library_of_the_driver_is_told_apart(folder: Path) -> None:
    lacking = put(folder, "gpu", a_module().read_bytes().replace(b"libc.so.6\0", b"libX.so.6\0"))
    other = put(folder, "other", a_module().read_bytes().replace(b"libc.so.6\0", b"libY.so.6\0"))
    report = probe(folder, "--driver", "libX.so*")
    assert report["loaded"] == 1
    assert report["driver"] == [{"file": lacking, "library": "libX.so.6"}]
    (broken,) = report["broken"]
    assert broken["file"] == other
    assert broken["error"].startswith("libY.so.6: cannot open shared object file")


def test_a_damaged_module_ends_its_own_process_only(folder: Path) -> None:
    content = a_module().read_bytes()
    cut = put(folder, "cut", content[: len(content) // 2])
    empty = put(folder, "empty", b"")
    report = probe(folder)
    assert report["loaded"] == 1
    errors = {each["file"]: each["error"] for each in report["broken"]}
    assert set(errors) == {cut, empty}
    assert "file too short" in errors[empty]
    assert errors[cut]


def test_a_module_whose_package_prepares_its_libraries_loads(folder: Path) -> None:
    content = a_module().read_bytes().replace(b"libc.so.6\0", b"libZ.so.6\0")
    put(folder, "late", content)
    prepared = 'import sys, types\nsys.modules["pack.late"] = types.ModuleType("pack.late")\n'
    (folder / "pack" / "__init__.py").write_text(prepared)
    assert probe(folder) == {"loaded": 2, "driver": [], "broken": []}


def test_a_torch_that_cannot_be_imported_is_broken(folder: Path) -> None:
    (folder / "torch.py").write_text("raise ImportError('libtorch_cpu.so: undefined symbol: x')")
    (broken,) = probe(folder)["broken"]
    assert broken["file"] == "import torch"
    assert "undefined symbol" in broken["error"]


@pytest.mark.parametrize(
    ("error", "library"),
    [
        ("libcuda.so.1: cannot open shared object file: No such file or directory", "libcuda.so.1"),
        ("/opt/x/libcuda.so.1: cannot open shared object file: No such file", "libcuda.so.1"),
        ("libnuma.so.1: cannot open shared object file: No such file or directory", None),
        ("/opt/_C.so: undefined symbol: cuInit", None),
        ("", None),
    ],
)
def test_the_drivers_libraries(error: str, library: str | None) -> None:
    assert (needed_driver(error, ["libcuda.so*", "libnvidia-ml.so.1"]) or None) == library


@pytest.mark.parametrize(
    ("built", "capability", "runs"),
    [
        (["sm_87"], (8, 7), True),
        (["sm_80"], (8, 7), True),
        (["sm_90"], (8, 7), False),
        (["sm_75"], (8, 7), False),
        (["sm_80", "compute_80"], (9, 0), True),
        (["sm_80"], (9, 0), False),
        (["compute_90"], (8, 7), False),
        (["sm_110"], (11, 0), True),
        (["sm_90a"], (9, 0), True),
        (["sm_100a"], (10, 3), False),
        (["compute_90a"], (10, 0), False),
        (["gfx90a", ""], (9, 0), False),
        ([], (9, 0), False),
    ],
)
def test_what_was_built_for_what_runs_where(built: list[str], capability: tuple[int, int], runs: bool) -> None:
    assert runs_on(built, capability) is runs


class Numbers:
    """A stand-in for a matrix of torch's: one number, which a broken GPU gets wrong."""

    def __init__(self, value: float, fault: float = 0.0) -> None:
        self.value, self.fault = value, fault

    def __matmul__(self, other: Numbers) -> Numbers:
        return Numbers(self.value * other.value + self.fault, self.fault)

    def __sub__(self, other: Numbers) -> Numbers:
        return Numbers(self.value - other.value)

    def reshape(self, *_: int) -> Numbers:
        return self

    def transpose(self, *_: int) -> Numbers:
        return self

    def to(self, _: object) -> Numbers:
        return self

    def double(self) -> Numbers:
        return Numbers(self.value)

    def cpu(self) -> Numbers:
        return self

    def norm(self) -> float:
        return abs(self.value)

    def cuda(self) -> Numbers:
        if FAULT[0] is None:
            raise RuntimeError("CUDA error: no kernel image is available for execution on the device\nmore")
        return Numbers(self.value, FAULT[0])


FAULT: list[float | None] = [0.0]


def torch(*, available: bool = True, built: tuple[str, ...] = ("sm_87",)) -> Any:
    cuda = SimpleNamespace(
        is_available=lambda: available,
        get_device_capability=lambda _: (8, 7),
        get_device_name=lambda _: "Orin",
        get_arch_list=lambda: list(built),
    )
    return SimpleNamespace(
        __version__="2.8.0",
        version=SimpleNamespace(cuda="12.6"),
        cuda=cuda,
        manual_seed=lambda _: None,
        backends=SimpleNamespace(cuda=SimpleNamespace(matmul=SimpleNamespace(allow_tf32=True))),
        randn=lambda *_: Numbers(2.0),
        nn=SimpleNamespace(functional=SimpleNamespace(scaled_dot_product_attention=lambda a, b, _: a @ b)),
        **{name: name for name in ("float32", "float16", "bfloat16")},
    )


@pytest.fixture(autouse=True)
def sound() -> None:
    FAULT[0] = 0.0


def test_a_gpu_that_computes_what_the_cpu_does() -> None:
    report = examine(torch(), ("8.7", "11.0"))
    assert report["problems"] == []
    assert (report["device"], report["sm"], report["arch_list"]) == ("Orin", "8.7", ["sm_87"])
    assert [check["name"] for check in report["checks"]] == [
        f"{what} {kind}" for what in ("matmul", "attention") for kind in ("float32", "float16", "bfloat16")
    ]


@pytest.mark.parametrize("fault", [1.0, 0.01, math.nan, math.inf])
def test_a_gpu_that_computes_something_else(fault: float) -> None:
    FAULT[0] = fault
    problems = examine(torch(), ())["problems"]
    assert "matmul float32: the GPU's numbers differ from the CPU's" in problems[0]


def test_a_gpu_without_kernels() -> None:
    FAULT[0] = None
    problems = examine(torch(), ())["problems"]
    assert problems[0] == "matmul float32: CUDA error: no kernel image is available for execution on the device"
    assert len(problems) == 6


def test_another_gpu_than_the_images() -> None:
    report = examine(torch(), ("11.0",))
    assert report["problems"] == ["the GPU has SM 8.7, but the image is for 11.0"]
    assert report["checks"] == [], "its code would only fail"
    (problem,) = examine(torch(built=("sm_90", "sm_110")), ())["problems"]
    assert problem == "torch has no machine code for SM 8.7: it was built for sm_90 sm_110"


def test_no_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    def init() -> None:
        raise RuntimeError("Error 802: system not yet initialized\nmore")

    blind = torch(available=False)
    blind.cuda.init = init
    (problem,) = examine(blind, ())["problems"]
    assert problem.startswith("torch sees no GPU: libcuda.so.1: cannot open shared object file")
    monkeypatch.setattr("builder.smoke.probe.gpu.ctypes.CDLL", lambda _: None)
    assert examine(blind, ())["problems"] == ["torch sees no GPU: Error 802: system not yet initialized"]
    blind.cuda.init = lambda: None
    assert examine(blind, ())["problems"] == ["torch sees no GPU: the driver counts no GPU"]
    blind.version.cuda = None
    assert examine(blind, ())["problems"] == ["torch sees no GPU: it was built without CUDA"]


@pytest.mark.parametrize("name", ["gpu", "extensions", "forward"])
def test_probes_stand_alone(name: str, tmp_path: Path) -> None:
    alone = shutil.copy(script(name), tmp_path)
    code = f"import runpy; runpy.run_path({str(alone)!r})"
    subprocess.run([sys.executable, "-ISc", code], check=True, timeout=100, cwd=tmp_path)


def test_a_module_that_nobody_needs_may_fail() -> None:
    waived = Waiver(rule="missing-library", reason="not used", file="ours/plugin*.so")
    other = Waiver(rule="gpu-code", reason="not used", file="ours/*.so")
    everything = Waiver(rule="missing-library", reason="says nothing of a file")
    assert _may_fail("numba/np/ufunc/tbbpool.cpython-312-x86_64-linux-gnu.so", ())
    assert _may_fail("cuda/core/cu13/_tensor_bridge.cpython-312-x86_64-linux-gnu.so", ())
    assert not _may_fail("vllm/_C.abi3.so", (waived, other, everything))
    assert _may_fail("ours/plugin_a.so", (waived,))
    assert not _may_fail("ours/plugin_a.so", (other, everything))
    assert not _may_fail("import torch", (everything,))
