"""Layers of wheels for tests, as folders: what an image has of them."""

from __future__ import annotations

import platform
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from builder.host import tarball
from builder.host.files import temp_folder
from builder.host.interpreters import Compiler
from builder.image.layers.cell_layers import CellLayers
from builder.image.layers.layer import FilesLayer, LayerWork, ModelLayer, WheelsLayer
from builder.image.layers.standalone import extract, link_model
from builder.image.wheels.bytecode import bytecode_pool
from builder.model.images import site_packages
from builder.remote.wheelhouse import fetch

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from builder.host.session import Session
    from builder.image.layers.layer import LayerSource
    from builder.model.images import SlimmedWheel
    from builder.model.model_files import LockedModel
    from builder.model.precompiled import CompiledWheel
    from builder.model.slimming import SlimRules
    from builder.model.wheels import LockedWheel

PYTHON = f"{sys.version_info[0]}.{sys.version_info[1]}"
COMPILER = Compiler(path=sys.executable, version=platform.python_version())
PACKAGES = site_packages(PYTHON).lstrip("/")


@dataclass(frozen=True)
class Made:
    """A layer's tar, and what was taken out of its wheels."""

    tar: bytes
    slimmed: tuple[SlimmedWheel, ...]
    place: Path

    @property
    def folder(self) -> Path:
        """A new folder with its files."""
        target = Path(tempfile.mkdtemp(dir=self.place))
        extract([self.tar], target)
        return target

    @property
    def packages(self) -> Path:
        """The site-packages of a new folder with its files."""
        return self.folder / PACKAGES


def wheels_layer(
    wheels: Sequence[LockedWheel],
    session: Session,
    slim: Mapping[str, SlimRules] | None = None,
    compiled: Mapping[str, CompiledWheel] | None = None,
    python: str = PYTHON,
) -> WheelsLayer:
    """Return the layer of wheels."""
    return WheelsLayer(
        name="libraries-0123456789ab",
        wheels=tuple(wheels),
        python=python,
        session=session,
        slim=slim or {},
        compiled=compiled or {},
    )


def make(layer: LayerSource, session: Session, compiler: Compiler | None = None) -> Made:
    """Fetch the wheels of a layer, and make it."""
    fetch(layer.wheels, session)
    slimmed: list[SlimmedWheel] = []
    with temp_folder(session.workspace.cache) as scratch, bytecode_pool(compiler) as pool:
        work = LayerWork(pool=pool, scratch=scratch, advance=lambda _: None, slimmed=slimmed)
        tar = b"".join(tarball.blocks(layer.segments(work)))
    return Made(tar, tuple(slimmed), session.workspace.cache.parent)


def named_layers(python: Sequence[str], models: Sequence[str], runtime: str) -> CellLayers:
    """Return layers of a cell that have nothing but names."""
    of_python, of_models = (tuple(FilesLayer(name=name, entries=()) for name in names) for names in (python, models))
    last = FilesLayer(name=runtime, entries=())
    return CellLayers(python=of_python, models=of_models, runtime=last, compiler=None, compiled={})


def bake(locked: LockedModel, models: Path, folder: Path) -> None:
    """Link the files of a model from a store into a folder, as for a standalone plan."""
    link_model(ModelLayer(name="model-0", model=locked, models=models), folder)


def installed(
    wheel: LockedWheel, session: Session, rules: SlimRules | None = None, compiler: Compiler | None = None
) -> Made:
    """Make the layer of one wheel."""
    return make(wheels_layer([wheel], session, {wheel.sha256: rules} if rules else {}), session, compiler)
