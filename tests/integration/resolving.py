"""A project whose packages are tied to the stand-in for the Jetson AI Lab index; it needs no engine."""

from __future__ import annotations

import gzip
import re
import sys
import tarfile
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import tomli_w
from project import Done, Running, clean_environment, make_model

from builder.host.config import Config
from builder.host.console import Console
from builder.model.recipes import TagRule
from builder.publish.image_source import from_layout
from builder.publish.push import PublishOptions, publish

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

if TYPE_CHECKING:
    from pathlib import Path

    from servers import Registry

REAL = "https://pypi.jetson-ai-lab.io/"
CELL = "r36_4_0-cu126-py310"


@dataclass(kw_only=True)
class Resolving:
    """A recipe for JetPack 6, one that says little: the rest comes from what is known of the platform."""

    folder: Path
    public: str
    jetson: str
    base: str
    recipe: dict[str, Any] = field(default_factory=dict)
    settings: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        make_model(self.folder / "models" / "tiny")
        self.recipe = {
            "description": "A torch for JetPack 6",
            "matrix": {"l4t": ["36.4.0"], "cuda": ["12.6"], "python": ["3.10"]},
            "base": {"image": self.base},
            "packages": {"requires": ["torch==2.8.0", "torchvision"]},
            "models": [{"name": "tiny", "source": "../models/tiny"}],
            "smoke": {"questions": [{"ask": "Anything?", "expect": "Yes"}]},
            "publish": {"repository": "vllm", "tags": ["{cell}"]},
        }
        self.settings = {"index-mirrors": [{"prefix": REAL, "mirror": self.jetson, "stand-in": "generated wheels"}]}

    @property
    def cache(self) -> Path:
        """The project's own cache."""
        return self.folder / "cache"

    def lock(self, *arguments: str, **environment: str) -> Done:
        """Run `jbuild lock`."""
        return self.jbuild("lock", "jetson", *arguments, **environment)

    def jbuild(self, *arguments: str, **environment: str) -> Done:
        """Write recipe and settings, and run jbuild."""
        return self.start(*arguments, **environment).wait()

    def start(self, *arguments: str, **environment: str) -> Running:
        """Write recipe and settings, and start jbuild."""
        path = self.folder / "recipes" / "jetson.toml"
        path.parent.mkdir(exist_ok=True)
        path.write_text(tomli_w.dumps(self.recipe))
        (self.folder / "jbuild.toml").write_text(tomli_w.dumps(self.settings))
        given = clean_environment(self.folder / "home", None) | {
            "JBUILD_CACHE": str(self.cache),
            "UV_DEFAULT_INDEX": self.public,
            **environment,
        }
        return Running([sys.executable, "-m", "builder", *arguments], self.folder, given)

    def locked(self, cell: str = CELL) -> dict[str, dict[str, Any]]:
        """Return the packages of a cell's lock by name."""
        return {package["name"]: package for package in self.document(cell)["packages"]}

    def document(self, cell: str = CELL) -> dict[str, Any]:
        """Return a cell's lock."""
        return tomllib.loads((self.folder / "locks" / "jetson" / f"pylock.{cell}.toml").read_text())

    def own(self, cell: str = CELL) -> dict[str, Any]:
        """Return jbuild's table of a cell's lock."""
        return dict(self.document(cell)["tool"]["jbuild"])


def push_base(registry: Registry, layout: Path, tags: tuple[str, ...] = ("1",)) -> str:
    """Put an arm64 image without a system, one empty layer, into a registry; return its first name."""
    from servers import make_image  # noqa: PLC0415  # tests collect its fixtures

    empty = gzip.compress(bytes(2 * tarfile.BLOCKSIZE), mtime=0)
    image = make_image(layout, contents=(empty,))
    console = Console(quiet=True)
    wish = PublishOptions(repository="base", tags=tuple(TagRule(name=tag) for tag in tags), building_block=True)
    publish(from_layout(image, layout), (registry.host,), wish, config=Config(), console=console)
    return f"{registry.host}/base:{tags[0]}"


def words(done: Done) -> str:
    """Return what a run said on standard error, in one line."""
    return re.sub(r"\s+", " ", done.stderr)
