"""How a container gets the GPU: as a CDI device or by NVIDIA's container runtime, by what the engine states."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, get_args

if TYPE_CHECKING:
    from collections.abc import Mapping

GpuMethod = Literal["cdi", "runtime"]
GPU_METHODS: tuple[GpuMethod, ...] = get_args(GpuMethod)
# Container Device Interface: the vendor's class and the device's name in NVIDIA's specifications.
CDI_DEVICE = "nvidia.com/gpu=all"
RUNTIME = "nvidia"
_CDI_KIND = "nvidia.com/gpu"


@dataclass(frozen=True, kw_only=True, slots=True)
class GpuAccess:
    """A way to give containers the GPU, and the reason for the choice."""

    method: GpuMethod
    reason: str = field(default="", compare=False)

    def arguments(self) -> dict[str, Any]:
        """Return the arguments of the engine's API that create a container with the GPU."""
        if self.method == "cdi":
            return {"device_requests": [{"driver": "cdi", "device_ids": [CDI_DEVICE]}]}
        return {"runtime": RUNTIME}

    @property
    def options(self) -> str:
        """The options of `docker run`."""
        return f"--device {CDI_DEVICE}" if self.method == "cdi" else f"--runtime {RUNTIME}"

    def compose(self) -> dict[str, Any]:
        """Return the keys of a service in a compose file."""
        return {"devices": [CDI_DEVICE]} if self.method == "cdi" else {"runtime": RUNTIME}

    @property
    def described(self) -> str:
        """It in words, with the reason for the choice."""
        return f"{self} ({self.reason})" if self.reason else str(self)

    def __str__(self) -> str:
        """Return it in words."""
        return f"CDI device {CDI_DEVICE}" if self.method == "cdi" else f"runtime {RUNTIME}"


BY_RUNTIME = GpuAccess(method="runtime")


def gpu_access(info: Mapping[str, Any], *, is_local: bool, setting: GpuMethod | None = None) -> GpuAccess | None:
    """Return how an engine gives containers the GPU, None if it has no way; `info` is its answer to `/info`.

    A setting overrides what the engine states. Docker 28 and later list the devices of CDI specifications, older
    releases only the folders of the specifications.
    """
    if setting:
        return GpuAccess(method=setting, reason="set by `run.gpu`")
    if _lists_device(info):
        return GpuAccess(method="cdi", reason="the engine lists it")
    if RUNTIME in (info.get("Runtimes") or {}):
        return GpuAccess(method="runtime", reason="the engine has it, and lists no CDI device of a GPU")
    specification = _specification(info) if is_local else None
    return GpuAccess(method="cdi", reason=f"{specification} describes it") if specification else None


def uses_gpu(host_config: Mapping[str, Any]) -> bool:
    """Return whether a created container has the GPU, by the engine's own record of it."""
    requests = host_config.get("DeviceRequests") or ()
    devices = [name for request in requests for name in request.get("DeviceIDs") or ()]
    return host_config.get("Runtime") == RUNTIME or any(name.startswith(_CDI_KIND) for name in devices)


def _lists_device(info: Mapping[str, Any]) -> bool:
    devices = info.get("DiscoveredDevices") or ()
    return any(device.get("Source") == "cdi" and device.get("ID") == CDI_DEVICE for device in devices)


def _specification(info: Mapping[str, Any]) -> Path | None:
    """Return the CDI specification of NVIDIA's GPUs in the engine's folders, or None; the files are YAML or JSON."""
    folders = [Path(folder) for folder in info.get("CDISpecDirs") or ()]
    files = (path for folder in folders for path in _specifications(folder))
    return next((path for path in files if _CDI_KIND in path.read_text(encoding="utf-8", errors="replace")), None)


def _specifications(folder: Path) -> list[Path]:
    try:
        return [
            path for path in sorted(folder.iterdir()) if path.suffix in {".json", ".yaml", ".yml"} and path.is_file()
        ]
    except OSError:
        return []
