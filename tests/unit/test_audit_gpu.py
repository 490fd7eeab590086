"""GPU code against the platform's GPUs and driver."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

import pytest
from elf_files import make_case, make_fatbin
from factories import make_jetson

from builder.audit.stage import judge

if TYPE_CHECKING:
    from pathlib import Path

    from builder.model.audits import Audit, Finding

ORIN, THOR = "8.7", "11.0"


def audit(folder: Path, wheels: dict[str, dict[str, Any]], *, torch_cuda: str | None = None, **platform: Any) -> Audit:
    case = make_case(folder, wheels, platform=make_jetson(**{"python": "3.11", **platform}), torch_cuda=torch_cuda)
    return judge(case, "one", "base", (), time.monotonic())


def library(*targets: tuple[str, int | str], isa: tuple[int, int] = (8, 4), **what: Any) -> dict[str, Any]:
    return {"demo": {"demo/_C.so": {"defined": ["PyInit__C"], "fatbin": make_fatbin(*targets, isa=isa), **what}}}


def found(outcome: Audit, rule: str = "gpu-code") -> list[Finding]:
    return [finding for finding in outcome.findings if finding.rule == rule]


@pytest.mark.parametrize(
    ("targets", "isa", "platform", "verdict"),
    [
        ([("sass", 87)], (8, 4), {}, "native"),
        ([("sass", 80)], (8, 4), {}, "same-major-refused"),
        ([("sass", 80)], (9, 0), {"l4t": "39.2.0", "cuda": "13.2"}, "same-major"),
        ([("sass", 89)], (8, 4), {"l4t": "39.2.0"}, "none"),
        ([("sass", 80), ("ptx", 80)], (8, 4), {}, "ptx"),
        ([("ptx", 80)], (8, 7), {}, "ptx-too-new"),
        ([("ptx", 90)], (8, 4), {}, "none"),
        ([("sass", 90)], (8, 4), {}, "none"),
        ([("ptx", 80)], (8, 7), {"l4t": None, "cuda": None}, "ptx"),
        ([("ptx", 80)], (8, 7), {"l4t": None, "cuda": "13.0", "sms": ("9.0",)}, "ptx"),
        ([("ptx", 80)], (9, 1), {"l4t": None, "cuda": "13.0", "sms": ("9.0",)}, "ptx-too-new"),
        ([("sass", 80)], (9, 0), {"l4t": None, "cuda": "13.0", "sms": ("8.6",)}, "same-major"),
        ([("sass", 80)], (8, 7), {"l4t": None, "sms": ("8.9",)}, "same-major"),
        ([("sass", 110)], (9, 0), {"l4t": "38.4.0", "sms": (THOR,)}, "native"),
        ([("sass", 100)], (9, 0), {"l4t": "38.4.0", "sms": (THOR,)}, "none"),
        ([("ptx", 90)], (9, 0), {"l4t": "38.4.0", "sms": (THOR,)}, "ptx"),
        ([("ptx", 90)], (9, 2), {"l4t": "38.4.0", "sms": (THOR,)}, "ptx-too-new"),
        ([("ptx", 90)], (99, 0), {"l4t": "38.4.0", "sms": (THOR,)}, "ptx-too-new"),
        # Code of a variant: exactly one GPU (a), or its family (f).
        ([("sass", "110a")], (9, 0), {"l4t": "38.4.0", "sms": (THOR,)}, "native"),
        ([("sass", "110f")], (9, 0), {"l4t": "38.4.0", "sms": (THOR,)}, "native"),
        ([("sass", "100f")], (9, 0), {"l4t": "38.4.0", "sms": (THOR,)}, "none"),
        ([("ptx", "90a")], (9, 0), {"l4t": "38.4.0", "sms": (THOR,)}, "none"),
        ([("ptx", "100f")], (9, 0), {"l4t": "38.4.0", "sms": (THOR,)}, "none"),
        ([("ptx", "110a")], (9, 0), {"l4t": "38.4.0", "sms": (THOR,)}, "ptx"),
        ([("ptx", "110f")], (9, 2), {"l4t": "38.4.0", "sms": (THOR,)}, "ptx-too-new"),
        ([("sass", "100a")], (9, 0), {"l4t": None, "sms": ("10.3",)}, "none"),
        ([("sass", 100)], (9, 0), {"l4t": None, "sms": ("10.3",)}, "same-major"),
        ([("sass", "100f")], (9, 0), {"l4t": None, "sms": ("10.3",)}, "native"),
        ([("sass", "103f")], (9, 0), {"l4t": None, "sms": ("10.0",)}, "none"),
        ([("ptx", "100a")], (9, 0), {"l4t": None, "sms": ("10.3",)}, "none"),
        ([("ptx", "100f")], (9, 0), {"l4t": None, "cuda": "13.0", "sms": ("10.3",)}, "ptx"),
        ([("ptx", "120f")], (9, 0), {"l4t": None, "cuda": "13.0", "sms": ("12.1",)}, "ptx"),
    ],
)
def test_verdicts(
    tmp_path: Path, targets: list[tuple[str, int | str]], isa: tuple[int, int], platform: dict[str, Any], verdict: str
) -> None:
    outcome = audit(tmp_path, library(*targets, isa=isa), **platform)
    ((sm, libraries),) = outcome.gpu.items()
    assert sm == platform.get("sms", (ORIN,))[0]
    assert libraries["demo 1.0/demo/_C.so"].verdict == verdict
    assert bool(found(outcome)) is (verdict in {"same-major-refused", "ptx-too-new", "none"})


@pytest.mark.parametrize(
    ("targets", "isa", "said"),
    [
        ([("sass", 80)], (8, 4), "for SM 8.7: has SASS for 8.0 only, which this platform is known not to run"),
        ([("ptx", 80)], (8, 7), "for SM 8.7: has only PTX of CUDA 12.8, which the driver (CUDA 12.6) cannot compile"),
        ([("sass", 90)], (8, 4), "for SM 8.7: has no code that runs there (SASS 9.0; PTX none)"),
        (
            [("sass", "90a"), ("sass", 90), ("sass", "90a"), ("ptx", "100f")],
            (8, 4),
            "for SM 8.7: has no code that runs there (SASS 9.0, 9.0a; PTX 10.0f)",
        ),
        (
            [("sass", 80), ("sass", "86a")],
            (8, 4),
            "for SM 8.7: has SASS for 8.0 only, which this platform is known not to run",
        ),
        (
            [("ptx", 80), ("ptx", "90a")],
            (8, 8),
            "for SM 8.7: has only PTX of CUDA 12.9, which the driver (CUDA 12.6) cannot compile",
        ),
    ],
)
def test_what_is_said(tmp_path: Path, targets: list[tuple[str, int | str]], isa: tuple[int, int], said: str) -> None:
    (finding,) = found(audit(tmp_path, library(*targets, isa=isa)))
    assert (finding.severity, finding.detail) == ("error", said)
    assert "a build with SM 8.7" in finding.fix


def test_every_gpu_of_a_platform_is_looked_at(tmp_path: Path) -> None:
    outcome = audit(tmp_path, library(("sass", 87)), l4t="39.2.0", sms=(ORIN, THOR))
    assert {sm: libs["demo 1.0/demo/_C.so"].verdict for sm, libs in outcome.gpu.items()} == {
        ORIN: "native",
        THOR: "none",
    }


def test_libraries_made_for_other_gpus_are_told_apart(tmp_path: Path) -> None:
    files = {
        "vllm/vllm_flash_attn/_vllm_fa3_C.abi3.so": {"defined": ["PyInit__C"], "fatbin": make_fatbin(("sass", 90))}
    }
    outcome = audit(tmp_path, {"vllm": files})
    (finding,) = found(outcome)
    assert (finding.severity, "FlashAttention 3 is for Hopper only" in finding.detail) == ("info", True)
    assert not outcome.gpu[ORIN]["vllm 1.0/vllm/vllm_flash_attn/_vllm_fa3_C.abi3.so"].meant


def test_code_that_cannot_be_seen_is_not_judged(tmp_path: Path) -> None:
    files = {"nvidia/cu13/lib/libcufft.so.12": {"soname": "libcufft.so.12", "fatbin": make_fatbin(("sass", 75))}}
    outcome = audit(tmp_path, {"nvidia-cufft": files})
    assert [v.verdict for v in outcome.gpu[ORIN].values()] == ["unknown"]
    assert found(outcome) == []


def test_a_platform_without_a_gpu_asks_for_none(tmp_path: Path) -> None:
    outcome = audit(tmp_path, library(("sass", 90)), sms=(), l4t=None)
    assert (outcome.gpu, found(outcome)) == ({}, [])


def runtime(version: str, major: int) -> dict[str, dict[str, Any]]:
    return {
        f"nvidia-cuda-runtime-cu{major}": {
            f"nvidia/cuda_runtime/lib/libcudart.so.{major}": {"soname": f"libcudart.so.{major}"}
        }
    }


def test_a_cuda_of_a_newer_major_than_the_driver(tmp_path: Path) -> None:
    (finding,) = found(audit(tmp_path, runtime("13.0.96", 13)), "toolkit-newer")
    assert (finding.severity, finding.wheel) == ("error", "nvidia-cuda-runtime-cu13 1.0")
    assert finding.detail == "needs CUDA 13.0; the driver of L4T 36.4.0 has 12.6 and refuses a newer major"


def test_a_module_that_asks_for_a_newer_cuda(tmp_path: Path) -> None:
    outcome = audit(tmp_path, library(("sass", 87), needed=["libcudart.so.13"]))
    assert [f.severity for f in found(outcome, "toolkit-newer")] == ["error"]


def test_a_cuda_that_fits_the_driver(tmp_path: Path) -> None:
    assert found(audit(tmp_path, runtime("12.6.77", 12)), "toolkit-newer") == []
    assert found(audit(tmp_path, runtime("13.0.96", 13), l4t="38.4.0"), "toolkit-newer") == []


def test_libraries_of_which_there_is_one_for_every_cuda(tmp_path: Path) -> None:
    name = "bitsandbytes/libbitsandbytes_cuda{}.so"
    files = {name.format(version * 10): {"needed": [f"libcudart.so.{version}"]} for version in (12, 13)}
    outcome = audit(tmp_path, {"bitsandbytes": files})
    assert {finding.severity for finding in outcome.findings} == {"info"}


@pytest.mark.parametrize(
    ("sms", "torch_cuda", "severities"),
    [
        ({118: 80, 126: 80}, None, ["error"]),
        ({118: 80, 126: 87}, None, []),
        ({118: 87, 126: 80}, "12.6", ["error"]),
        ({118: 80, 126: 87}, "12.6", []),
        # No file is for this CUDA: any may be taken.
        ({118: 87, 126: 80}, "13.0", []),
    ],
)
def test_one_of_several_libraries_must_run_on_the_gpu(
    tmp_path: Path, sms: dict[int, int], torch_cuda: str | None, severities: list[str]
) -> None:
    name = "bitsandbytes/libbitsandbytes_cuda{}.so"
    files: dict[str, Any] = {name.format(cuda): {"fatbin": make_fatbin(("sass", sm))} for cuda, sm in sms.items()}
    files["bitsandbytes/libbitsandbytes_cpu.so"] = {}
    outcome = found(audit(tmp_path, {"bitsandbytes": files}, torch_cuda=torch_cuda))
    assert [finding.severity for finding in outcome] == severities
    assert all("runs on this GPU" in finding.detail for finding in outcome)


def test_one_of_several_libraries_must_load(tmp_path: Path) -> None:
    pools = {f"numba/np/ufunc/{name}pool.cpython-311.so": {"needed": ["libnone.so"]} for name in ("omp", "tbb")}
    torch = {"torch/__init__.py": b""}
    (finding,) = found(audit(tmp_path, {"numba": pools, "torch": torch}), "missing-library")[:1]
    assert (finding.severity, "none of the 2 loads" in finding.detail) == ("error", True)
    pools["numba/np/ufunc/workqueuepool.cpython-311.so"] = {}
    severities = {finding.severity for finding in audit(tmp_path, {"numba": pools, "torch": torch}).findings}
    assert severities == {"info"}


def test_two_cudas(tmp_path: Path) -> None:
    wheels = {**library(("sass", 87), needed=["libcudart.so.12"]), **runtime("12.6.77", 12)}
    assert found(audit(tmp_path, wheels), "two-cudas") == []
    wheels["other"] = {"other/_C.so": {"defined": ["PyInit__C"], "needed": ["libcudart.so.11.0"]}}
    assert found(audit(tmp_path, wheels), "two-cudas") == []
    wheels["other"] = {"other/_C.so": {"defined": ["PyInit__C"], "needed": ["libcudart.so.11"]}}
    (finding,) = found(audit(tmp_path, wheels), "two-cudas")
    assert (finding.severity, finding.wheel) == ("warning", "other 1.0")
    assert "is of CUDA 11, others of CUDA 12" in finding.detail
