"""What tests of evidence share: records of a cell, key pairs, and the programs that others read evidence with."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from factories import make_lock, make_locked_wheel, make_plan, make_run

from builder.host.config import Config
from builder.host.console import Console
from builder.host.paths import Workspace
from builder.host.session import Session
from builder.host.signing import Signer
from builder.lock import lockfile
from builder.model.verdicts import Answer, Verdict
from builder.publish.evidence import evidence

if TYPE_CHECKING:
    from builder.model.audits import Audit
    from builder.model.images import Image
    from builder.model.locks import Lock
    from builder.model.verdicts import Level
    from builder.publish.evidence import Evidence

PASSWORD = "hush"
# The images of these tests have three layers, all of them jbuild's own: their bytes are random, not packages.
PLAN = make_plan(layers=("x", "y", "z"), system="FROM debian")
LOCK = make_lock(make_locked_wheel("vllm", "0.15.1"), make_locked_wheel("torch", "2.10.0+cpu"))


def require(program: str) -> str:
    """Return the path of a program, or skip the test where it is not installed."""
    found = shutil.which(program)
    if not found:
        pytest.skip(f"{program} is not installed")
    return found


def call(*argv: str, folder: Path, check: bool = True) -> subprocess.CompletedProcess[str]:
    """Run another program, with nobody's credentials and the test's password."""
    require(argv[0])
    environment = {**os.environ, "DOCKER_CONFIG": str(folder / "docker"), "COSIGN_PASSWORD": PASSWORD}
    done = subprocess.run(argv, env=environment, capture_output=True, text=True, check=False, timeout=60)
    assert not check or done.returncode == 0, done.stdout + done.stderr
    return done


@dataclass(frozen=True, kw_only=True)
class Keys:
    """A key pair of cosign's."""

    private: Path
    public: Path
    folder: Path

    @property
    def signer(self) -> Signer:
        """What signs with it."""
        return Signer(key=self.private, cache=self.folder / "signatures")


def make_keys(folder: Path, name: str = "own") -> Keys:
    """Make a key pair."""
    folder.mkdir(parents=True, exist_ok=True)
    call("cosign", "generate-key-pair", f"--output-key-prefix={folder / name}", folder=folder)
    return Keys(private=folder / f"{name}.key", public=folder / f"{name}.pub", folder=folder)


@pytest.fixture(scope="session")
def key_pairs(tmp_path_factory: pytest.TempPathFactory) -> tuple[Keys, Keys]:
    """Our own key pair, and one that nobody here trusts."""
    folder = tmp_path_factory.mktemp("keys")
    return make_keys(folder), make_keys(folder, "stranger")


@pytest.fixture
def keys(key_pairs: tuple[Keys, Keys], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Keys:
    """Our own key pair, its password in the environment."""
    monkeypatch.setenv("COSIGN_PASSWORD", PASSWORD)
    return replace(key_pairs[0], folder=tmp_path / "signed")


@pytest.fixture
def stranger(key_pairs: tuple[Keys, Keys], keys: Keys) -> Keys:
    """A key pair that nobody here trusts."""
    return replace(key_pairs[1], folder=keys.folder)


def make_verdict(image: Image, level: Level = "emulated", **changes: Any) -> Verdict:
    """Return the verdict of an image that answered."""
    facts: dict[str, Any] = {
        "level": level,
        "digest": image.digest,
        "passed": True,
        "when": "2026-01-02T03:04:05+00:00",
        "log": Path("/home/somebody/smoke.log"),
        "answers": (Answer(question="Capital of France?", text="Paris", seconds=1.0, tokens=3),),
        "ready_s": 9.5,
    }
    return Verdict(**(facts | changes))


def labels(of: Lock = LOCK, **more: str) -> tuple[tuple[str, str], ...]:
    """Return the labels that an image of a lock has."""
    facts = {
        "recipe": of.recipe,
        "cell": of.cell,
        "lock": lockfile.content(of),
        "vllm": of.version_of("vllm") or "",
        "torch": of.version_of("torch") or "",
        **more,
    }
    return tuple((f"io.jbuild.{name}", value) for name, value in facts.items())


def make_evidence(
    image: Image,
    folder: Path,
    signer: Signer | None = None,
    *,
    lock: Lock = LOCK,
    level: Level = "emulated",
    audit: Audit | None = None,
) -> Evidence:
    """Return what goes along with an image."""
    workspace = Workspace(project=folder, cache=folder / "cache")
    session = Session(workspace=workspace, config=Config(), console=Console(quiet=True))
    plan = replace(PLAN, layers=tuple(layer.digest for layer in image.layers))
    run = make_run(session, lock, plan, image, make_verdict(image, level))
    return evidence(run.with_records(audit) if audit else run, signer)


def oras_discover(place: str, folder: Path) -> list[dict[str, Any]]:
    """Return what oras finds beside an image."""
    done = call("oras", "discover", "--plain-http", "--format=json", place, folder=folder)
    return list(json.loads(done.stdout)["manifests"] or ())
