"""`jbuild models` as its users start it, against a hub on loopback: ten cells, kills, full disks, refusals."""

from __future__ import annotations

import hashlib
import json
import os
import signal
import subprocess
import sys
import time
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from hub_stand_in import HubStandIn, small_model, weights
from project import clean_environment
from recipe_factory import ten_cells

if TYPE_CHECKING:
    from collections.abc import Iterator

SHARD = "model-00002-of-00002.safetensors"
BIG = 10_000_000
CHECKOUT = Path(__file__).parents[2]
RECIPE = ten_cells('source = "hf://org/tiny@main"')


@dataclass(frozen=True, kw_only=True)
class Place:
    """A project, its cache, and the environment that jbuild is started in."""

    folder: Path
    cache: Path
    environment: dict[str, str]

    @property
    def models(self) -> Path:
        return self.cache / "models"

    def start(self, *arguments: str) -> subprocess.Popen[str]:
        return subprocess.Popen(
            [sys.executable, "-m", "builder", "models", *arguments],
            cwd=self.folder,
            env=self.environment,
            text=True,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            start_new_session=True,
        )

    def run(self, *arguments: str) -> tuple[int, Any, str]:
        """Return exit code, the JSON result and standard error; there is never a traceback."""
        child = self.start(*arguments, "--json")
        out, err = child.communicate(timeout=60)
        assert "Traceback" not in err
        assert not list(self.cache.glob("crash.log"))
        return child.returncode, json.loads(out), err

    def blobs(self) -> list[str]:
        return sorted(path.name for path in (self.models / "sha256").glob("??/*"))

    def partial(self, content: bytes) -> Path:
        return self.models / "partial" / hashlib.sha256(content).hexdigest()

    def unfinished(self) -> list[str]:
        return [path.name for path in (self.models / "partial").iterdir() if not path.name.endswith(".lock")]


@pytest.fixture
def hub() -> Iterator[HubStandIn]:
    with HubStandIn({**small_model(), SHARD: weights(BIG)}).running() as running:
        yield running


@pytest.fixture
def place(tmp_path: Path, hub: HubStandIn) -> Place:
    folder = tmp_path / "work"
    (folder / "recipes").mkdir(parents=True)
    (folder / "recipes" / "demo.toml").write_text(RECIPE)
    environment = clean_environment(tmp_path / "home", "unix:///nowhere")
    cache = tmp_path / "cache"
    environment |= {"JBUILD_CACHE": str(cache), "HF_ENDPOINT": hub.endpoint, "PYTHONPATH": str(CHECKOUT)}
    return Place(folder=folder, cache=cache, environment=environment)


def test_one_model_of_ten_cells_is_listed_fetched_and_stored_once(hub: HubStandIn, place: Place) -> None:
    code, found, _ = place.run("lock", "demo")
    (model,) = found["models"]
    assert (code, len(model["cells"]), model["revision"]) == (0, 10, "0123456789abcdef0123456789abcdef01234567")
    assert len(hub.requests("/api/models/")) == 1
    # The lock reads the headers of weights only.
    assert all(asked.headers["Range"] == "bytes=0-65535" for asked in hub.requests("/cdn/"))
    hub.asked.clear()
    assert place.run("fetch", "demo")[0] == 0
    fetched = Counter(asked.path for asked in hub.requests("/cdn/"))
    assert set(fetched.values()) == {1}
    taken = [file["sha256"] for file in model["files"]]
    assert place.blobs() == sorted(taken)
    hub.asked.clear()
    assert place.run("fetch", "demo")[0] == 0
    code, found, _ = place.run("verify", "demo")
    assert (code, found["whole"]) == (0, True)
    assert hub.asked == []


def test_a_killed_run_is_gone_on_with(hub: HubStandIn, place: Place) -> None:
    assert place.run("lock", "demo")[0] == 0
    hub.asked.clear()
    hub.fails(f"/cdn/{SHARD}", cut_at=0.9, times=1)
    hub.fails(f"/cdn/{SHARD}", status=503, headers={"Retry-After": "30"})
    child = place.start("fetch", "demo")
    kept = place.partial(hub.files[SHARD])
    _await(lambda: len(hub.requests(f"/cdn/{SHARD}")) == 2, child)
    os.killpg(child.pid, signal.SIGKILL)
    child.communicate(timeout=30)
    assert child.returncode == -signal.SIGKILL
    assert BIG // 2 < kept.stat().st_size < BIG
    assert hashlib.sha256(hub.files[SHARD]).hexdigest() not in place.blobs()
    hub.faults.clear()
    hub.asked.clear()
    assert place.run("fetch", "demo")[0] == 0
    (again,) = hub.requests(f"/cdn/{SHARD}")
    assert int(again.headers["Range"][len("bytes=") : -1]) > BIG // 2
    assert place.unfinished() == []
    assert place.run("verify", "demo")[0] == 0


def test_a_disk_that_fills_up(hub: HubStandIn, place: Place) -> None:
    place.cache.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=6m", "tmpfs", str(place.cache)]
    if subprocess.run(mount, capture_output=True, check=False).returncode:
        pytest.skip("no file system can be mounted here")
    try:
        assert place.run("lock", "demo")[0] == 0
        code, found, _ = place.run("fetch", "demo")
        assert (code, found["error"], found["message"]) == (12, "DiskError", "the disk is full")
        assert "it resumes from here" in found["hint"]
        assert 0 < place.partial(hub.files[SHARD]).stat().st_size < BIG
        assert place.run("verify", "demo")[0] == 9
        subprocess.run(["mount", "-o", "remount,size=60m", str(place.cache)], check=True, capture_output=True)
        hub.asked.clear()
        assert place.run("fetch", "demo")[0] == 0
        assert [bool(asked.headers.get("Range")) for asked in hub.requests(f"/cdn/{SHARD}")] == [True]
        assert place.run("verify", "demo")[0] == 0
    finally:
        subprocess.run(["umount", str(place.cache)], check=True, capture_output=True)


def test_two_runs_race_for_one_file(hub: HubStandIn, place: Place) -> None:
    assert place.run("lock", "demo")[0] == 0
    hub.asked.clear()
    both = [place.start("fetch", "demo") for _ in "ab"]
    for child in both:
        _, err = child.communicate(timeout=60)
        assert (child.returncode, "Traceback" in err) == (0, False), err
    assert len(hub.requests(f"/cdn/{SHARD}")) == 1
    assert place.run("verify", "demo")[0] == 0


@pytest.mark.parametrize(
    ("status", "code", "error"),
    [
        *((status, 9, "ModelError") for status in (401, 403, 404)),
        *((status, 5, "NetworkError") for status in (429, 503)),
    ],
)
def test_a_hub_that_refuses(hub: HubStandIn, place: Place, status: int, code: int, error: str) -> None:
    hub.fails("/api/", status=status, headers={"Retry-After": "3600"} if status in (429, 503) else {})
    found = place.run("lock", "demo")
    assert (found[0], found[1]["error"], bool(found[1]["hint"])) == (code, error, True)
    assert not (place.folder / "locks").exists()


@pytest.mark.parametrize(
    ("path", "content", "message"),
    [
        ("model.safetensors.index.json", b'{"weight_map": ', "is not JSON"),
        ("model.safetensors.index.json", b'{"weight_map": 5}', "has no `weight_map` of file names"),
        ("model.safetensors.index.json", b'{"weight_map": {"a": "model-7.safetensors"}}', "is missing"),
        ("config.json", b"", "config.json is empty"),
        ("config.json", b"[", "config.json is not JSON"),
        ("../outside.json", b"{}", "is not a plain relative path"),
    ],
)
def test_a_model_that_is_none(hub: HubStandIn, place: Place, path: str, content: bytes, message: str) -> None:
    hub.files[path] = content
    code, found, _ = place.run("lock", "demo")
    assert (code, message in found["message"]) == (9, True), found
    assert not (place.folder / "locks").exists()


def test_bytes_that_are_not_the_locked_ones(hub: HubStandIn, place: Place) -> None:
    assert place.run("lock", "demo")[0] == 0
    hub.fails(f"/cdn/{SHARD}", corrupt=True)
    code, found, _ = place.run("fetch", "demo")
    assert (code, found["error"]) == (6, "IntegrityError")
    assert hashlib.sha256(hub.files[SHARD]).hexdigest() not in place.blobs()
    assert place.partial(hub.files[SHARD]).name not in place.unfinished()


def _await(condition: Any, child: subprocess.Popen[str]) -> None:
    until = time.monotonic() + 30
    while not condition():
        assert child.poll() is None, child.communicate()
        assert time.monotonic() < until
        time.sleep(0.02)
