"""A project in which a cell's image has been built and proved, for verbs that publish it."""

from __future__ import annotations

import sys
from dataclasses import replace
from typing import TYPE_CHECKING

import tomli_w
from project import Done, Running, clean_environment
from proofs import LOCK, PASSWORD, PLAN, labels, make_verdict
from servers import make_image

from builder.host import records
from builder.host.paths import Workspace
from builder.lock import lockfile

if TYPE_CHECKING:
    from pathlib import Path

    from builder.model.images import Image
    from builder.model.verdicts import Level

CELL = "v0_15_1-debian12"
OWN = replace(LOCK, cell=CELL)


class Folder:
    """A project in which a cell's image has been built and proved; nothing of it is in an engine."""

    def __init__(self, root: Path, level: Level = "emulated", *, image: Image | None = None, **publish: object) -> None:
        self.root = root / "work"
        self.workspace = Workspace(project=self.root, cache=root / "cache")
        self.environment = clean_environment(root / "home", None) | {"JBUILD_CACHE": str(root / "cache")}
        self.environment |= {"COSIGN_PASSWORD": PASSWORD}
        self.image = image or make_image(self.workspace.images, labels=labels(OWN))
        self.write(**publish)
        folder = self.workspace.cell("demo", CELL)
        for stage, record in (("build", self.image), ("render", PLAN), ("smoke", make_verdict(self.image, level))):
            records.write(folder.record(stage), "x", record)
        lockfile.write(self.workspace.lock("demo", CELL), OWN)

    def write(self, **publish: object) -> None:
        """Write the recipe."""
        recipe = {
            "description": "A demonstration",
            "matrix": {"vllm": ["0.15.1"], "distribution": ["debian-12"]},
            "packages": {"requires": ["vllm=={vllm}"]},
            "models": [{"name": "tiny", "source": "hf://org/tiny@main"}],
            "smoke": {"questions": [{"ask": "Capital?", "expect": "Paris"}]},
            "publish": {"tags": ["rc", {"tag": "{vllm}", "level": "gpu", "immutable": True}], **publish},
        }
        path = self.root / "recipes" / "demo.toml"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(tomli_w.dumps(recipe))

    def settings(self, text: str) -> None:
        """Write jbuild.toml."""
        (self.root / "jbuild.toml").write_text(text)

    def start(self, *arguments: str) -> Running:
        """Start jbuild."""
        return Running([sys.executable, "-m", "builder", *arguments], self.root, self.environment)

    def run(self, *arguments: str) -> Done:
        """Run jbuild to its end."""
        return self.start(*arguments).wait()
