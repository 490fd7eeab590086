"""Which machine is meant, and which of several images is the best for it; no registry is asked."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, get_args

import pytest
from factories import make_jetson, make_job

from builder.device import image_choice as picking
from builder.device.image_choice import host_of, pick
from builder.device.service import Memory
from builder.errors import UsageError
from builder.host.config import Config
from builder.host.console import Console
from builder.host.paths import Workspace
from builder.host.session import Session
from builder.jetson.boards import board
from builder.jetson.device import Device, TargetHost, cannot_run
from builder.models.fit.memory_estimate import Verdict
from builder.publish.tag_status import TagState

if TYPE_CHECKING:
    from builder.model.locks import Job

SESSION = Session(
    workspace=Workspace(project=Path("/nowhere"), cache=Path("/nowhere")), config=Config(), console=Console(quiet=True)
)
NX = TargetHost(name="orin-nx-16", architecture="arm64", is_jetson=True, l4t="36.4.3", board=board("orin-nx-16"))
DEVICE = Device(model="NVIDIA Jetson Orin NX", board="orin-nx-16", l4t="36.4.3")


@pytest.fixture
def device(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(picking, "this_device", lambda: DEVICE)


@pytest.fixture
def no_device(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(picking, "this_device", lambda: None)


def test_a_jetson_is_its_own_host(device: None) -> None:
    found = host_of(None, None)
    assert (found.name, found.l4t, found.board, found.is_jetson) == (DEVICE.model, "36.4.3", board("orin-nx-16"), True)


def test_another_board_does_not_have_this_ones_release(device: None) -> None:
    assert host_of("orin-nx-16", None).l4t == "36.4.3"
    assert host_of("agx-thor-128", None).l4t is None
    assert host_of("agx-thor-128", "39.2.0").l4t == "39.2.0"
    assert host_of(None, "36.5.0").l4t == "36.5.0"


def test_a_machine_that_is_no_jetson(no_device: None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("platform.machine", lambda: "x86_64")
    assert host_of(None, None) == TargetHost(name="this machine (amd64)", architecture="amd64", is_jetson=False)
    monkeypatch.setattr("platform.machine", lambda: "aarch64")
    assert host_of(None, None).architecture == "arm64"
    some = host_of(None, "36.4.3")
    assert (some.is_jetson, some.board, some.l4t) == (True, None, "36.4.3")


def test_a_board_that_is_unknown_to_us(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(picking, "this_device", lambda: Device(model="Acme", board=None, l4t=None))
    assert host_of(None, None) == TargetHost(name="Acme", architecture="arm64", is_jetson=True)
    with pytest.raises(UsageError, match="no board `orin`"):
        host_of("orin", None)
    with pytest.raises(UsageError, match=r"unknown L4T release `36\.9`"):
        host_of(None, "36.9")


def make(cell: str, *, vllm: str = "0.20.2", gpu: bool = True, **platform: Any) -> Job:
    job = make_job(platform=make_jetson(**platform) if gpu else None)
    return replace(job, cell=replace(job.cell, id=cell, values=(("vllm", vllm),)))


def state(cell: str, level: str | None = "gpu", repository: str = "r.example/vllm") -> TagState:
    return TagState(repository=repository, tag=f"{cell}-tag", state="other", cell=cell, digest="sha256:x", level=level)


class Shelf:
    """What registries and estimates say."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.rows: list[TagState] = []
        monkeypatch.setattr(picking, "overview", lambda *_: tuple(self.rows))
        monkeypatch.setattr(picking, "memory_of", lambda *_: Memory(fit=None, unknown="x"))

    def order(self, *jobs: Job, host: TargetHost = NX) -> list[str]:
        return [row.cell for row in pick(jobs, host, ("r.example",), SESSION) if not row.out]


@pytest.fixture
def shelf(monkeypatch: pytest.MonkeyPatch) -> Shelf:
    return Shelf(monkeypatch)


def test_the_gpu_goes_before_the_cpu_whatever_the_level(shelf: Shelf) -> None:
    shelf.rows = [state("cpu", "cpu"), state("gpu", "emulated-forward")]
    assert shelf.order(make("cpu", gpu=False), make("gpu")) == ["gpu", "cpu"]


def test_then_the_level_then_the_version(shelf: Shelf) -> None:
    shelf.rows = [state("old"), state("new"), state("newest", "emulated")]
    jobs = (make("old", vllm="0.9.3"), make("newest", vllm="0.33.0"), make("new", vllm="0.10.2"))
    assert shelf.order(*jobs) == ["new", "old", "newest"]


def test_of_the_same_version_the_newer_release_and_cuda(shelf: Shelf) -> None:
    shelf.rows = [state("a"), state("b"), state("c")]
    jobs = (make("a", l4t="36.4.0"), make("b", l4t="36.5.0"), make("c", l4t="36.5.0", cuda="12.9"))
    assert shelf.order(*jobs) == ["c", "b", "a"]


def test_a_version_that_is_none_does_not_stand_in_the_way(shelf: Shelf) -> None:
    shelf.rows = [state("odd"), state("plain")]
    assert shelf.order(make("odd", vllm="main"), make("plain")) == ["plain", "odd"]


def test_an_image_for_the_cpu_runs_on_every_arm64_machine(shelf: Shelf) -> None:
    shelf.rows = [state("cpu", "cpu"), state("gpu")]
    pi = TargetHost(name="a Pi", architecture="arm64", is_jetson=False)
    assert shelf.order(make("cpu", gpu=False), make("gpu"), host=pi) == ["cpu"]
    (gpu,) = pick((make("gpu"),), pi, ("r.example",), SESSION)
    assert gpu.out == ("it is for a Jetson with L4T 36.4.0, and a Pi is not a Jetson",)


def test_of_several_registries_the_one_with_the_best_verdict(shelf: Shelf) -> None:
    shelf.rows = [state("a", None, "one/vllm"), state("a", "cpu", "two/vllm"), state("a", "gpu", "three/vllm")]
    (row,) = pick((make("a"),), NX, ("one", "two", "three"), SESSION)
    assert (row.image, row.level) == ("three/vllm@sha256:x", "gpu")


def test_all_that_stands_against_an_image_is_said(shelf: Shelf) -> None:
    shelf.rows = [state("a", None)]
    own = board("agx-xavier-32")
    xavier = TargetHost(name=own.name, architecture="arm64", is_jetson=True, l4t="35.4.1", board=own)
    (row,) = pick((make("a"),), xavier, ("r.example",), SESSION)
    driver, sm, verdict = row.out
    assert "a device with L4T 35.4.1 runs images for L4T 35 up to 36, not for 36.4.0" in driver
    assert sm == "its kernels are for SM 8.7, and agx-xavier-32's GPU is SM 7.2"
    assert verdict == "it has no accepted verdict"


def test_what_memory_means_is_said(shelf: Shelf) -> None:
    shelf.rows = [state("a")]
    (row,) = pick((make("a"),), NX, ("r.example",), SESSION)
    assert (row.out, row.notes, row.fit) == ((), ("the needs of its model are unknown: x",), "unknown")
    (nobody,) = pick((make("a"),), replace(NX, board=None), ("r.example",), SESSION)
    assert (nobody.notes, nobody.fit) == ((), "unknown")


def test_a_board_whose_release_nobody_knows(shelf: Shelf) -> None:
    shelf.rows = [state("a")]
    thor = TargetHost(name="agx-thor-128", architecture="arm64", is_jetson=True, board=board("agx-thor-128"))
    (row,) = pick((make("a"),), thor, ("r.example",), SESSION)
    release, sm = row.out
    assert release == "it is for L4T 36.4.0, and agx-thor-128 runs 38, 39"
    assert sm == "its kernels are for SM 8.7, and agx-thor-128's GPU is SM 11.0"
    nobody = TargetHost(name="a Jetson with L4T 36.3.0", architecture="arm64", is_jetson=True, l4t="36.3.0")
    (row,) = pick((make("a"),), nobody, ("r.example",), SESSION)
    (driver,) = row.out
    assert "runs images for L4T 36.2 up to 36.4, not for 36.4.0" in driver


def test_a_machine_of_another_architecture_is_named_once() -> None:
    host = TargetHost(name="this machine (amd64)", architecture="amd64", is_jetson=False)
    assert cannot_run(make_job(), host) == ["it is for arm64, not for this machine (amd64)"]


THOR = TargetHost(name="agx-thor-128", architecture="arm64", is_jetson=True, l4t="39.2.0", board=board("agx-thor-128"))


def test_of_equal_images_the_one_for_this_gpu_alone(shelf: Shelf) -> None:
    shelf.rows = [state("both"), state("orin"), state("thor")]
    release: dict[str, Any] = {"l4t": "39.2.0", "cuda": "13.0"}
    jobs = (
        make("both", sms=("8.7", "11.0"), **release),
        make("orin", sms=("8.7",), **release),
        make("thor", sms=("11.0",), **release),
    )
    assert shelf.order(*jobs, host=replace(NX, l4t="39.2.0")) == ["orin", "both"]
    assert shelf.order(*jobs, host=THOR) == ["thor", "both"]
    shelf.rows = [state("both"), state("orin", "emulated")]
    assert shelf.order(*jobs, host=replace(NX, l4t="39.2.0")) == ["both", "orin"]


def test_a_machine_with_a_gpu_runs_images_for_it(shelf: Shelf) -> None:
    host = host_of("h100-80", None)
    assert (host.architecture, host.is_jetson) == ("amd64", False)
    machine: dict[str, Any] = {"architecture": "amd64", "l4t": None, "cuda": "13.0"}
    shelf.rows = [state("hopper"), state("ada"), state("orin")]
    jobs = (make("hopper", sms=("9.0",), **machine), make("ada", sms=("8.9",), **machine), make("orin"))
    assert shelf.order(*jobs, host=host) == ["hopper"]


def test_every_verdict_on_memory_has_a_rank() -> None:
    assert set(picking._FITS) == set(get_args(Verdict))
