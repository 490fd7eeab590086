"""Checks that this image's torch computes the same numbers on this machine's GPU as on the CPU.

Runs inside images on Python 3.8 and later, with only the standard library and torch; by hand:
`python gpu.py --sms 8.7`. Exits with 1 if a check fails.

`torch.cuda.is_available()` is true even for wheels without machine code for the GPU, so the probe computes.
"""

from __future__ import annotations

import argparse
import ctypes
import importlib
import json
import re
import sys
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

_SIZE = 512
_HEADS = 8
# The largest norm of the difference to the CPU's float64 result, relative to the norm of the result. Rounding gives
# about 1e-6 (4e-4 where the environment forces TF32), 1e-3 and 4e-3 for normal deviates; garbage is off by 1.
_TOLERANCES = {"float32": 2e-3, "float16": 5e-3, "bfloat16": 3e-2}


def main() -> int:
    """Check the GPU, print the report, and return the exit code."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--sms", default="", help="the image's compute capabilities, such as 8.7,11.0; default: any")
    sms = tuple(sm for sm in parser.parse_args().sms.split(",") if sm)
    report = examine(importlib.import_module("torch"), sms)
    sys.stdout.write(f"jbuild-probe: {json.dumps(report)}\n")
    return 1 if report["problems"] else 0


def examine(torch: Any, sms: Sequence[str]) -> dict[str, Any]:
    """Return the device, torch's architectures, the computations and all problems."""
    report: dict[str, Any] = {"torch": torch.__version__, "cuda": torch.version.cuda, "checks": [], "problems": []}
    if not torch.cuda.is_available():
        report["problems"].append(f"torch sees no GPU: {why_none(torch)}")
        return report
    capability = torch.cuda.get_device_capability(0)
    report["device"] = torch.cuda.get_device_name(0)
    report["sm"] = f"{capability[0]}.{capability[1]}"
    report["arch_list"] = torch.cuda.get_arch_list()
    if sms and report["sm"] not in sms:
        # Its machine code is for other GPUs: all computations would fail, for this reason.
        report["problems"].append(f"the GPU has SM {report['sm']}, but the image is for {', '.join(sms)}")
        return report
    if not runs_on(report["arch_list"], capability):
        built = " ".join(report["arch_list"])
        report["problems"].append(f"torch has no machine code for SM {report['sm']}: it was built for {built}")
    torch.manual_seed(0)
    torch.backends.cuda.matmul.allow_tf32 = False
    for name, compute in _COMPUTATIONS.items():
        for kind, tolerance in _TOLERANCES.items():
            report["checks"].append(_check(torch, f"{name} {kind}", compute, getattr(torch, kind), tolerance))
    report["problems"] += [check["problem"] for check in report["checks"] if check["problem"]]
    return report


def why_none(torch: Any) -> str:
    """Return why torch sees no GPU, in the words of the loader, the driver or torch."""
    if not torch.version.cuda:
        return "it was built without CUDA"
    try:
        ctypes.CDLL("libcuda.so.1")
    except OSError as failure:
        return str(failure)
    try:
        torch.cuda.init()
    except (AssertionError, RuntimeError) as failure:
        return str(failure).splitlines()[0]
    return "the driver counts no GPU"


def runs_on(built: Sequence[str], capability: tuple[int, int]) -> bool:
    """Return whether code built for these architectures runs on a GPU.

    Machine code (`sm_`) runs on its major version from its minor on, PTX (`compute_`) on all newer GPUs (CUDA C++
    programming guide, "Binary Compatibility" and "PTX Compatibility"); with a suffix, only on exactly that GPU.
    """
    for name in built:
        match = re.fullmatch(r"(sm|compute)_(\d+)(\d)([a-z]?)", name)
        if not match:
            continue
        kind, version, suffix = match.group(1), (int(match.group(2)), int(match.group(3))), match.group(4)
        newer = version[0] == capability[0] and version <= capability
        if version == capability or (not suffix and (newer or (kind == "compute" and version <= capability))):
            return True
    return False


def _check(torch: Any, name: str, compute: Callable[..., Any], kind: Any, tolerance: float) -> dict[str, Any]:
    inputs = [torch.randn(_SIZE, _SIZE).to(kind) for _ in range(3)]
    expected = compute(torch, *[tensor.double() for tensor in inputs])
    error, problem = None, None
    try:
        result = compute(torch, *[tensor.cuda() for tensor in inputs]).cpu().double()
        error = float((result - expected).norm() / expected.norm())
        # NaN is not below the tolerance.
        if not error <= tolerance:
            problem = f"{name}: the GPU's numbers differ from the CPU's by {error:.2g}, allowed {tolerance:.2g}"
    except RuntimeError as failure:
        problem = f"{name}: {str(failure).splitlines()[0]}"
    return {"name": name, "error": error, "tolerance": tolerance, "problem": problem}


def _matmul(_: Any, one: Any, two: Any, __: Any) -> Any:
    return one @ two


def _attention(torch: Any, *inputs: Any) -> Any:
    tensors = [tensor.reshape(1, _SIZE, _HEADS, _SIZE // _HEADS).transpose(1, 2) for tensor in inputs]
    return torch.nn.functional.scaled_dot_product_attention(*tensors)


_COMPUTATIONS: dict[str, Callable[..., Any]] = {"matmul": _matmul, "attention": _attention}


if __name__ == "__main__":
    raise SystemExit(main())
