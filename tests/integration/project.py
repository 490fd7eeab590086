"""A project for tests of the whole command line: recipe, package index, model, and jbuild as its users start it."""

from __future__ import annotations

import base64
import copy
import json
import os
import re
import shutil
import signal
import struct
import subprocess
import sys
import threading
import time
import uuid
from contextlib import suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import tomli_w
from factories import make_wheel

from builder.host import owner
from builder.host.engine.temporary import LABEL

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from docker import DockerClient

CHECKOUT = Path(__file__).parents[2]
STAND_IN = Path(__file__).with_name("smoke_stand_in.py")
REGISTRY = Path(__file__).with_name("registry_stand_in.py")
BASE = "docker.io/library/debian:bookworm-slim"
CELL = "v1_0-debian12"
QUESTION = {"ask": "What is the capital of France?", "expect": "Paris"}
# What of the machine that runs the tests must not reach jbuild.
_FOREIGN = re.compile(r"CI|GITHUB_.*|NO_COLOR|FORCE_COLOR|TERM|NETRC|JBUILD_.*|UV_.*|HF_.*|DOCKER_.*|BUILDX_.*")
_ENDS_WITHIN_S = 250.0


@dataclass(frozen=True, kw_only=True)
class Done:
    """A run of jbuild that has ended."""

    code: int
    stdout: str
    stderr: str
    seconds: float
    process: int

    @property
    def json(self) -> Any:
        """Its result: one object, and nothing beside it."""
        return json.loads(self.stdout)

    @property
    def cells(self) -> dict[str, dict[str, Any]]:
        """The cells of its result by their ids."""
        return {cell["cell"]: cell for cell in self.json["cells"]}

    def ran(self, cell: str = CELL) -> list[str]:
        """Return the stages that it ran."""
        return [name for name, stage in self.cells[cell]["stages"].items() if stage["ran"]]


def make_wheels(folder: Path) -> None:
    """Make two releases of a `vllm` that needs no GPU and no time, what it depends on, and one with a registry."""
    for version in ("1.0", "1.1"):
        files = {"vllm/__init__.py": f"__version__ = {version!r}\n", "vllm/stand_in.py": STAND_IN.read_text()}
        make_wheel(folder, "vllm", version, files=files, scripts={"vllm": "vllm.stand_in:main"}, requires=("ballast",))
    files |= {f"vllm/{path}/__init__.py": "" for path in ("model_executor", "model_executor/models", "plugins")}
    files["vllm/plugins/__init__.py"] = "def load_general_plugins():\n    pass\n"
    files["vllm/model_executor/models/registry.py"] = REGISTRY.read_text()
    make_wheel(folder, "vllm-inspecting", files=files, scripts={"vllm": "vllm.stand_in:main"}, requires=("ballast",))
    make_wheel(folder, "ballast", files={"ballast/data.bin": bytes(200_000), "ballast/__init__.py": ""})


def make_model(folder: Path, seed: int = 0) -> Path:
    """Make a model's folder as `save_pretrained` writes it."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.json").write_text(json.dumps({"model_type": "llama", "architectures": ["LlamaForCausalLM"]}))
    (folder / "tokenizer.json").write_text('{"version": "1.0"}')
    (folder / "tokenizer_config.json").write_text('{"chat_template": "{{ messages }}"}')
    header = json.dumps({"w": {"dtype": "U8", "shape": [64], "data_offsets": [0, 64]}}).encode()
    (folder / "model.safetensors").write_bytes(struct.pack("<Q", len(header)) + header + bytes([seed]) * 64)
    return folder


@dataclass(kw_only=True)
class Project:
    """A folder that a user works in. Its recipe has a name of its own, for the engine is shared."""

    folder: Path
    cache: Path
    index: str
    registry: str
    environment: dict[str, str]
    client: DockerClient
    recipe: dict[str, Any]
    name: str = field(default_factory=lambda: f"tiny-{uuid.uuid4().hex[:8]}")

    @property
    def cell(self) -> Path:
        """The folder of the first cell."""
        return self.folder / "build" / self.name / CELL

    @property
    def lock(self) -> Path:
        """The lock of the first cell."""
        return self.folder / "locks" / self.name / f"pylock.{CELL}.toml"

    @property
    def model(self) -> Path:
        """The model's folder."""
        return self.folder / "models" / "tiny"

    @property
    def repository(self) -> str:
        """Where images go in the registry, without its host."""
        return f"{self.name}/vllm"

    def write(self) -> None:
        """Write the recipe."""
        path = self.folder / "recipes" / f"{self.name}.toml"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(tomli_w.dumps(self.recipe))

    def misbehave(self, fault: str) -> None:
        """Make the server fail in the smoke run, without changing the image."""
        self.recipe["smoke"]["environment"] = {"STAND_IN_FAULT": fault}
        self.write()

    def override(self, template: str) -> None:
        """Put a template into the project's own folder."""
        path = self.folder / "dockerfiles" / "Dockerfile.j2"
        path.parent.mkdir(exist_ok=True)
        path.write_text('{% extends "builtin/Dockerfile.j2" %}\n' + template)

    def copy(self, folder: Path) -> Project:
        """Return the same project in another folder, as far as it has come."""
        shutil.copytree(self.folder, folder, symlinks=True)
        return replace(self, folder=folder, recipe=copy.deepcopy(self.recipe), environment=dict(self.environment))

    def run(self, verb: str, *arguments: str, timeout_s: float = _ENDS_WITHIN_S, **environment: str) -> Done:
        """Run a verb on the recipe to its end."""
        return self.jbuild(verb, self.name, *arguments, timeout_s=timeout_s, **environment)

    def jbuild(self, *arguments: str, timeout_s: float = _ENDS_WITHIN_S, **environment: str) -> Done:
        """Run jbuild to its end."""
        return self.start(*arguments, **environment).wait(timeout_s)

    def start(self, *arguments: str, **environment: str) -> Running:
        """Start jbuild."""
        return Running([sys.executable, "-m", "builder", *arguments], self.folder, {**self.environment, **environment})

    def record(self, stage: str) -> dict[str, Any]:
        """Return a stage's record of the first cell."""
        return dict(json.loads((self.cell / f"{stage}.json").read_text())["record"])

    def temporary_names(self) -> list[str]:
        """Return what the engine holds for images of this project that are being asked, or were."""
        own = {"label": f"io.jbuild.recipe={self.name}"}
        tags = [tag for image in self.client.images.list(filters=own) for tag in image.tags]
        return [tag for tag in tags if tag.startswith("jbuild-smoke:")]

    def containers(self, process: int) -> list[str]:
        """Return the containers that a process left."""
        labelled = self.client.containers.list(all=True, filters={"label": LABEL}, ignore_removed=True)
        owners = [(str(container.name), owner.parse(container.labels[LABEL])) for container in labelled]
        return [name for name, owned_by in owners if owned_by and owned_by.process == process]

    def processes(self) -> list[str]:
        """Return what still runs of this project's runs, and of whatever they started."""
        found = []
        for path in Path("/proc").glob("[0-9]*"):
            with suppress(OSError):
                if f"JBUILD_CACHE={self.cache}".encode() in (path / "environ").read_bytes().split(b"\0"):
                    found.append((path / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace"))
        return found

    def half_written(self) -> list[str]:
        """Return what was written aside and never renamed, and records that cannot be read."""
        found = [str(p) for p in self.folder.rglob(".*") if p.name not in (".dockerignore", ".gitignore")]
        for path in [*self.folder.glob("build/*/*/*.json"), *self.folder.glob("build/*/*/layers/*/opt/jbuild/*.json")]:
            with suppress(ValueError):
                json.loads(path.read_text())
                continue
            found.append(str(path))
        return found

    def forget(self, *prefixes: str) -> None:
        """Take the project's images out of the engine."""
        for prefix in prefixes or ("jbuild",):
            for image in self.client.images.list(name=f"{prefix}/{self.name}"):
                for tag in image.tags:
                    if tag.startswith(f"{prefix}/"):
                        self.client.images.remove(tag, force=True)
        # What a rebuild has taken the name from.
        for image in self.client.images.list(filters={"dangling": True, "label": f"io.jbuild.recipe={self.name}"}):
            self.client.images.remove(str(image.id), force=True)


class Running:
    """A jbuild that runs, in a process group of its own."""

    def __init__(self, argv: list[str], folder: Path, environment: Mapping[str, str]) -> None:
        self.began = time.monotonic()
        self.child = subprocess.Popen(
            argv,
            cwd=folder,
            env=dict(environment),
            text=True,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            start_new_session=True,
        )
        self.out: list[str] = []
        self.err: list[str] = []
        self.readers = [self._follow(self.child.stdout, self.out), self._follow(self.child.stderr, self.err)]

    def wait(self, timeout_s: float = _ENDS_WITHIN_S) -> Done:
        """Wait for its end; what takes too long is killed."""
        try:
            self.child.wait(timeout_s)
        except subprocess.TimeoutExpired:
            self.signal(signal.SIGABRT)
            raise AssertionError(f"jbuild still runs after {timeout_s:.0f} s:\n{''.join(self.err)}") from None
        for reader in self.readers:
            reader.join(10)
        return Done(
            code=self.child.returncode,
            stdout="".join(self.out),
            stderr="".join(self.err),
            seconds=time.monotonic() - self.began,
            process=self.child.pid,
        )

    def until(self, condition: Callable[[], object], timeout_s: float = 60.0) -> None:
        """Wait until something is so."""
        ends_at = time.monotonic() + timeout_s
        while not condition():
            assert self.child.poll() is None, "jbuild ended early:\n" + "".join(self.err)
            assert time.monotonic() < ends_at, "it did not come to that:\n" + "".join(self.err)
            time.sleep(0.03)

    def interrupt(self) -> None:
        """Press Ctrl-C: the terminal tells the whole group."""
        self.signal(signal.SIGINT)

    def terminate(self) -> None:
        """Ask the process to end, as a service manager does."""
        self.child.terminate()

    def kill(self) -> None:
        """End the process without a chance to tidy up."""
        self.child.kill()

    def signal(self, number: signal.Signals) -> None:
        """Send a signal to the group."""
        os.killpg(self.child.pid, number)

    def _follow(self, pipe: Any, lines: list[str]) -> threading.Thread:
        thread = threading.Thread(target=lambda: lines.extend(iter(pipe.readline, "")), daemon=True)
        thread.start()
        return thread


def new_recipe(**changes: Any) -> dict[str, Any]:
    """Return a recipe for this machine's own architecture; `changes` replace its tables."""
    return {
        "description": "A stand-in server on Debian",
        "architecture": "amd64",
        "matrix": {"vllm": ["1.0"], "distribution": ["debian-12"]},
        "base": {"image": BASE},
        "packages": {"requires": ["vllm=={vllm}"]},
        "models": [{"name": "tiny", "source": "../models/tiny", "licence": "Apache-2.0"}],
        "smoke": {"questions": [QUESTION], "ready-within-s": 60, "answer-within-s": 60, "stop-within-s": 5},
        **changes,
    }


def clean_environment(home: Path, docker_host: str | None) -> dict[str, str]:
    """Return an environment in which jbuild sees nothing of this machine's settings but its certificates."""
    kept = {name: value for name, value in os.environ.items() if not _FOREIGN.fullmatch(name)}
    own = {
        "HOME": str(home),
        "XDG_CONFIG_HOME": str(home / "config"),
        "DOCKER_CONFIG": str(home / "docker"),
        "PYTHONPATH": str(CHECKOUT),
        # A second try costs seconds and finds the same.
        "UV_HTTP_RETRIES": "0",
    }
    return {**kept, **own} | ({"DOCKER_HOST": docker_host} if docker_host else {})


def assert_refused(done: Done, code: int, *said: str, placed: bool = True) -> None:
    """Check that a run ended with one error that says what, where and what to do next, and nothing worse.

    `placed` false: the command line itself is the place.
    """
    assert done.code == code, done.stdout + done.stderr
    # Lines of a log that is shown begin with a bar.
    assert not re.search(r"^(?!  \|).*Traceback", done.stderr, re.MULTILINE), done.stderr
    errors = [line for line in done.stderr.splitlines() if line.startswith("error: ")]
    assert len(errors) == 1, done.stderr
    assert not placed or re.search(r"^  (where|[^ ].*:\d+): ", done.stderr, re.MULTILINE), done.stderr
    # A mistake in a file is shown with its place, and says itself what should stand there.
    assert re.search(r"^  next: .|^  .*\.toml:\d+: .", done.stderr, re.MULTILINE), done.stderr
    for text in said:
        assert re.search(text, done.stderr), done.stderr


def assert_interrupted(done: Done) -> None:
    """Check that a run ended as one does that was told to, and soon."""
    assert done.code == 130, f"{done.code}\n{done.stdout}{done.stderr}"
    assert "Traceback" not in done.stderr, done.stderr
    assert "error:" not in done.stderr, done.stderr
    (said,) = [line for line in done.stderr.splitlines() if line.startswith("interrupted")]
    assert "the same command resumes from there" in said


def log_in(environment: Mapping[str, str], host: str, user: str, password: str) -> None:
    """Write what `docker login` writes."""
    path = Path(environment["DOCKER_CONFIG"]) / "config.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps({"auths": {host: {"auth": base64.b64encode(f"{user}:{password}".encode()).decode()}}}))


def programs_running(pattern: str) -> list[int]:
    """Return the processes of this machine whose command line matches: an engine's build steps are among them."""
    found = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        with suppress(OSError):
            words = path.read_bytes().replace(b"\0", b" ").decode(errors="replace")
            if re.search(pattern, words):
                found.append(int(path.parent.name))
    return found
