"""How containers get the GPU, by an engine's answer to `/info`: the answers are those of real engines, shortened."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from builder.host.engine.gpu_access import CDI_DEVICE, GpuAccess, gpu_access, uses_gpu

if TYPE_CHECKING:
    from pathlib import Path

DOCKER_28 = {
    "CDISpecDirs": ["/etc/cdi", "/var/run/cdi"],
    "DiscoveredDevices": [{"Source": "cdi", "ID": "nvidia.com/gpu=0"}, {"Source": "cdi", "ID": "nvidia.com/gpu=all"}],
    "Runtimes": {"runc": {}, "nvidia": {}},
}
JETPACK_6 = {"CDISpecDirs": [], "Runtimes": {"runc": {}, "nvidia": {}}}
WITHOUT = {"CDISpecDirs": ["/nowhere/cdi"], "Runtimes": {"runc": {}}}


@pytest.mark.parametrize(
    ("info", "options"),
    [
        (DOCKER_28, "--device nvidia.com/gpu=all"),
        (JETPACK_6, "--runtime nvidia"),
        (DOCKER_28 | {"DiscoveredDevices": [{"Source": "cdi", "ID": "vendor.example/x=all"}]}, "--runtime nvidia"),
    ],
)
def test_what_the_engine_states_decides(info: dict[str, Any], options: str) -> None:
    access = gpu_access(info, is_local=True)
    assert access is not None
    assert access.options == options
    assert access.described.startswith(f"{access} (the engine ")


def test_an_engine_without_a_way() -> None:
    assert gpu_access(WITHOUT, is_local=True) is None
    assert gpu_access({}, is_local=False) is None


@pytest.mark.parametrize("name", ["nvidia.yaml", "nvidia.json"])
def test_a_specification_of_an_engine_that_lists_no_devices(tmp_path: Path, name: str) -> None:
    """Docker 25 to 27 with the feature `cdi` name their folders only."""
    info = {"CDISpecDirs": [str(tmp_path)], "Runtimes": {"runc": {}}}
    assert gpu_access(info, is_local=True) is None
    (tmp_path / name).write_text('{"cdiVersion": "0.5.0", "kind": "nvidia.com/gpu", "devices": []}')
    access = gpu_access(info, is_local=True)
    assert access == GpuAccess(method="cdi")
    assert access is not None
    assert access.described == f"CDI device nvidia.com/gpu=all ({tmp_path / name} describes it)"
    assert gpu_access(info, is_local=False) is None, "the folder is on another machine"


def test_a_setting_overrides_what_the_engine_states() -> None:
    access = gpu_access(DOCKER_28, is_local=True, setting="runtime")
    assert access == GpuAccess(method="runtime")
    assert access is not None
    assert access.described == "runtime nvidia (set by `run.gpu`)"
    assert gpu_access(WITHOUT, is_local=True, setting="cdi") == GpuAccess(method="cdi")


def test_the_words_for_engine_and_compose() -> None:
    cdi, runtime = GpuAccess(method="cdi"), GpuAccess(method="runtime")
    assert cdi.arguments() == {"device_requests": [{"driver": "cdi", "device_ids": [CDI_DEVICE]}]}
    assert (cdi.compose(), runtime.compose()) == ({"devices": [CDI_DEVICE]}, {"runtime": "nvidia"})
    assert (str(cdi), str(runtime)) == ("CDI device nvidia.com/gpu=all", "runtime nvidia")


def test_whether_a_container_has_the_gpu() -> None:
    assert uses_gpu({"Runtime": "nvidia", "DeviceRequests": None})
    assert uses_gpu({"Runtime": "runc", "DeviceRequests": [{"Driver": "cdi", "DeviceIDs": [CDI_DEVICE]}]})
    assert not uses_gpu({"Runtime": "runc", "DeviceRequests": [{"Driver": "cdi", "DeviceIDs": ["vendor.example/x=1"]}]})
    assert not uses_gpu({"Runtime": "runc"})
