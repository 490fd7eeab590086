"""Isolates measured builds: a separate engine, registry, cache and project, which are emptied between runs."""

from __future__ import annotations

import json
import math
import os
import shutil
import signal
import struct
import subprocess
import sys
import tempfile
import time
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, cast

from measure import installed
from sections import CHECKOUT

sys.path.insert(0, str(CHECKOUT / "tests" / "integration"))
sys.path.insert(0, str(CHECKOUT))

from second_engine import SecondEngine, running_engine
from servers import Registry, running_registry

from builder.host import config, records
from builder.host.console import Console
from builder.host.paths import Workspace, cache_folder
from builder.model.images import Image
from builder.model.recipes import TagRule
from builder.publish.image_source import from_layout
from builder.publish.push import PublishOptions, publish

if TYPE_CHECKING:
    from collections.abc import Iterator

    from builder.image.layers.layer_blobs import LayerBlobs

BASE = "docker.io/library/debian:bookworm-slim"
_MIRROR = "stand-in/debian"
RECIPE = "bench"
# Incompressible bytes, or normally distributed numbers in bf16.
Weights = Literal["noise", "bf16"]
# The typical standard deviation of a model's weights.
_SPREAD = 0.02


class _Published:
    """Layers that an earlier push removed from the cache: the registry has them, so that nobody opens them."""

    def missing(self, _: Image) -> frozenset[str]:
        return frozenset()

    def make(self, _: object) -> None:
        pass


@dataclass(kw_only=True)
class Workshop:
    """The engine, the registry, the folder of project and cache, and the address of the engine with a network."""

    folder: Path
    engines: ExitStack
    engine: SecondEngine
    registry: Registry
    apt: tuple[str, ...]
    networked: str
    environment: dict[str, str] = field(default_factory=dict)

    @property
    def project(self) -> Path:
        """The project's folder."""
        return self.folder / "project"

    @property
    def workspace(self) -> Workspace:
        """The paths of the project and the cache."""
        return Workspace(project=self.project, cache=self.folder / "cache")

    def write(self, cells: dict[str, tuple[str, ...]], model: Path) -> None:
        """Write the recipe: cells by name with their requirements, and the model."""
        first = next(iter(cells.values()))
        common = [package for package in first if all(package in requires for requires in cells.values())]
        overriding = {name: [p for p in requires if p not in common] for name, requires in cells.items()}
        overrides = "".join(
            f'[[overrides]]\nwhen = {{ v = "{name}" }}\nrequires = {json.dumps(requires)}\n'
            for name, requires in overriding.items()
            if requires
        )
        text = f"""description = "For a benchmark"
architecture = "arm64"
[matrix]
v = {json.dumps(list(cells))}
distribution = ["debian-12"]
[base]
image = "{BASE}"
apt = {json.dumps(list(self.apt))}
[packages]
requires = {json.dumps(common)}
[[models]]
name = "model"
source = "{model}"
[[audit.waive]]
rule = "model-class"
reason = "no server starts"
[[smoke.questions]]
ask = "Is this ever asked?"
expect = "No"
[publish]
repository = "jbuild"
tags = ["{{cell}}"]
{overrides}"""
        (self.project / "recipes").mkdir(parents=True, exist_ok=True)
        (self.project / "recipes" / f"{RECIPE}.toml").write_text(text, encoding="utf-8")

    def jbuild(self, verb: str, *arguments: str, **environment: str) -> float:
        """Run a verb on the recipe and return the seconds."""
        argv = [sys.executable, "-m", "builder", verb, RECIPE, *arguments]
        return self.timed(argv, self.project, **environment)

    def docker(self, *arguments: str, folder: Path) -> float:
        """Run docker on the engine of the workshop and return the seconds."""
        return self.timed(["docker", *arguments], folder)

    def timed(self, argv: list[str], folder: Path, **environment: str) -> float:
        """Run a program to its end and return the seconds."""
        start = time.monotonic()
        variables = installed({**os.environ, **self.environment, **environment})
        done = subprocess.run(argv, cwd=folder, env=variables, capture_output=True, text=True, check=False)
        if done.returncode:
            raise SystemExit(f"{' '.join(argv)} ended with {done.returncode}:\n{done.stdout}\n{done.stderr}")
        return time.monotonic() - start

    def push(self, cell: str) -> tuple[float, int]:
        """Push a built cell as `recipe --push` does after the build, and return the seconds and the uploaded bytes."""
        path = self.workspace.cell(RECIPE, cell).record("build")
        image = records.read(path, None, Image)
        if image is None:
            raise SystemExit(f"{path} is not a record of an image")
        start = time.monotonic()
        source = from_layout(image, self.workspace.images, cast("LayerBlobs", _Published()))
        options = PublishOptions(repository="jbuild", tags=(TagRule(name=cell),), building_block=True)
        target = f"{self.registry.host}/ours"
        outcome = publish(source, (target,), options, config=config.Config(), console=Console(quiet=True))
        return time.monotonic() - start, sum(registry.bytes_sent for registry in outcome.registries)

    def drop(self) -> None:
        """Remove the layers that the registry has from the cache, as every push does: this one sends nothing more."""
        self.jbuild("promote", "--to", f"{self.registry.host}/ours")

    def stored(self) -> int:
        """Return the bytes of images and their records in the cache."""
        files = (path for folder in (self.workspace.images, *self._records) for path in folder.rglob("*"))
        return sum(path.stat().st_size for path in files if path.is_file())

    @property
    def _records(self) -> tuple[Path, Path]:
        """The folders of the records of packed layers and of system images."""
        return self.workspace.packed("00").parent.parent, self.workspace.system("0").parent

    def lock(self, cell: str) -> dict[str, Any]:
        """Return the wheels of a cell's lock: file name, sha256 and size by distribution."""
        from builder.lock import lockfile  # noqa: PLC0415

        lock = lockfile.read(self.workspace.lock(RECIPE, cell), recipe=RECIPE, cell=cell)
        return {wheel.name: wheel for wheel in lock.wheels} if lock else {}

    def cold(self) -> None:
        """Start over with a new engine, without rendered files, images and pushed images."""
        self._move_away(self.workspace.images, self.project / "build", *self._records)
        self.engine.signal(signal.SIGKILL)
        self._empty(self.engine.folder / "data")
        self.engine = self.engines.enter_context(running_engine())
        self.environment["DOCKER_HOST"] = self.engine.host
        # The system layer stays in the registry: all builds use it as their base.
        repositories = self.registry.storage / "docker" / "registry" / "v2" / "repositories"
        for name in ("ours", "theirs"):
            shutil.rmtree(repositories / name, ignore_errors=True)

    def _move_away(self, *folders: Path) -> None:
        """Move folders away without removing their files.

        For some minutes after the removal of many files, ext4 searches long for space for new files. The next
        measurement would include this time, although users do not experience it.
        """
        target = Path(tempfile.mkdtemp(prefix="moved-", dir=self.folder))
        for folder in folders:
            if folder.exists():
                folder.rename(target / folder.name)
        for folder in folders[:1]:
            self._empty(target / folder.name)

    @staticmethod
    def _empty(folder: Path) -> None:
        """Truncate all files, which frees their disk space but not the files."""
        for base, _, names in os.walk(folder):
            for name in names:
                path = Path(base, name)
                if path.is_file() and not path.is_symlink():
                    os.truncate(path, 0)


@contextmanager
def running_workshop(apt: tuple[str, ...]) -> Iterator[Workshop]:
    """Set up a workshop and remove it at the end; it shares the wheels and the metadata of the user's cache."""
    recorded = json.loads((cache_folder() / "engine" / "engine.json").read_text(encoding="utf-8"))
    with tempfile.TemporaryDirectory(prefix="jbuild-bench-") as name, ExitStack() as engines:
        folder, engine = Path(name), engines.enter_context(running_engine())
        (folder / "cache").mkdir()
        (folder / "project").mkdir()
        for shared in ("wheels", "uv", "metadata"):
            (cache_folder() / shared).mkdir(exist_ok=True)
            (folder / "cache" / shared).symlink_to(cache_folder() / shared)
        with running_registry(folder / "registry") as registry:
            mirror = f'prefix = "docker.io/library/debian"\nmirror = "{recorded["registry"]}/{_MIRROR}"\n'
            (folder / "project" / "jbuild.toml").write_text(f"[[registry-mirrors]]\n{mirror}", encoding="utf-8")
            environment = {
                "PYTHONPATH": str(CHECKOUT),
                "JBUILD_CACHE": str(folder / "cache"),
                "DOCKER_HOST": engine.host,
            }
            networked = os.environ.get("DOCKER_HOST") or recorded["docker_host"] or ""
            yield Workshop(
                folder=folder,
                engines=engines,
                engine=engine,
                registry=registry,
                apt=apt,
                networked=networked,
                environment=environment,
            )


def make_model(folder: Path, size: int, seed: int, kind: Weights = "noise", named: str = "NoModelOfVllm") -> Path:
    """Write a model folder with `size` bytes of weights, in shards of at most 1 GB.

    `named` is the name of its class: if vLLM has it, a build lets it inspect the class, as no Dockerfile does.
    """
    folder.mkdir(parents=True)
    (folder / "config.json").write_text(json.dumps({"model_type": "llama", "architectures": [named]}))
    (folder / "tokenizer.json").write_text('{"version": "1.0"}')
    (folder / "tokenizer_config.json").write_text('{"chat_template": "{{ messages[0].content }}"}')
    shards = [min(10**9, size - at) for at in range(0, size, 10**9)]
    names = [f"model-{i + 1:05}-of-{len(shards):05}.safetensors" for i in range(len(shards))]
    for index, (name, length) in enumerate(zip(names, shards, strict=True)):
        tensor = {"dtype": "U8", "shape": [length], "data_offsets": [0, length]}
        header = json.dumps({f"w{index}": tensor}).encode()
        with (folder / name).open("wb") as file:
            file.write(struct.pack("<Q", len(header)) + header + bytes([seed]))
            left = length - 1
            while left:
                file.write(_weights(min(left, 1 << 24), kind))
                left -= min(left, 1 << 24)
    weights = {f"w{index}": name for index, name in enumerate(names)}
    index_file = {"metadata": {"total_size": size}, "weight_map": weights}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index_file))
    return folder


def _weights(size: int, kind: Weights) -> bytes:
    if kind == "noise":
        return os.urandom(size)
    pairs = bytearray(size + size % 2)
    # Low bytes contain the last bit of the exponent and the mantissa, which resemble noise; high bytes contain the sign
    # and the exponent.
    pairs[0::2] = os.urandom(len(pairs) // 2)
    pairs[1::2] = os.urandom(len(pairs) // 2).translate(_high_bytes())
    return bytes(pairs[:size])


@cache
def _high_bytes() -> bytes:
    """Return a table that maps uniform bytes to the high bytes of normally distributed numbers in bf16."""
    table = bytearray()
    for sign in (0, 128):
        for half in range(128):
            low, high = (min(2.0 ** (2 * half - 127 + step), 1e3) for step in (0, 2))
            share = math.erf(high / _SPREAD / math.sqrt(2)) - math.erf(low / _SPREAD / math.sqrt(2))
            table += bytes([sign + half]) * round(share * 128)
    return bytes(table[:256]).ljust(256, b"\x3c")
