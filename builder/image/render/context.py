"""The layer folders of a plan that do not come from wheels: the virtual environment, models and the runtime."""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING

from builder.host import records
from builder.host.files import atomic_folder, disk_errors
from builder.image import runtime
from builder.image.render.link_tree import link_tree
from builder.image.render.model_layer import bake
from builder.image.wheels.tree import EPOCH, normalise
from builder.model.images import ENVIRONMENT

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from builder.model.locks import LockedInterpreter
    from builder.model.model_files import LockedModel
    from builder.model.recipes import Spec

# The folder of a distribution's own interpreter.
SYSTEM_HOME = "/usr/bin"


def make_layer(layers: Path, name: str, fill: Callable[[Path], None]) -> str:
    """Make a layer's folder, unless it exists: its name identifies its content. Return the name.

    Raises:
        DiskError: the disk is full or cannot be written.
    """
    target = layers / name
    if not target.is_dir():
        with disk_errors(target), atomic_folder(target) as folder:
            fill(folder)
    return name


def interpreter_layer(layers: Path, interpreter: LockedInterpreter, tree: Path) -> str:
    """Make the layer of an interpreter that the distribution does not package."""
    content = hashlib.sha256(tree.name.encode()).hexdigest()
    return make_layer(
        layers, f"interpreter-{interpreter.version}-{content[:12]}", lambda folder: link_tree([tree], folder)
    )


def environment_layer(layers: Path, python: str, home: str) -> str:
    """Make the layer of the empty virtual environment, in the layout of `python -m venv`.

    `home` is the folder of the interpreter's executable in the image.
    """

    def fill(folder: Path) -> None:
        root = folder / ENVIRONMENT.lstrip("/")
        (root / "bin").mkdir(parents=True)
        (root / "lib" / f"python{python}" / "site-packages").mkdir(parents=True)
        (root / "lib64").symlink_to("lib")
        (root / "bin" / "python").symlink_to(f"{home}/python{python}")
        for name in ("python3", f"python{python}"):
            (root / "bin" / name).symlink_to("python")
        text = f"home = {home}\ninclude-system-site-packages = false\nversion = {python}\n"
        (root / "pyvenv.cfg").write_text(text, encoding="utf-8")
        normalise(folder)

    suffix = "" if home == SYSTEM_HOME else f"-{home.strip('/').replace('/', '-')}"
    return make_layer(layers, f"environment-py{python}{suffix}-1", fill)


def model_layer(layers: Path, model: LockedModel, blobs: Path) -> str:
    """Make the layer of one model."""
    content = records.fingerprint(model.name, model.files)[:12]
    return make_layer(layers, f"model-{model.name}-{content}", lambda folder: bake(model, blobs, folder, EPOCH))


def runtime_layer(layers: Path, spec: Spec) -> str:
    """Make the layer of the image's runtime: entrypoint, health check and server settings."""
    files = {path.name: path.read_bytes() for path in runtime.scripts()}
    files["server.json"] = runtime.server_json(spec).encode()
    content = records.fingerprint({name: hashlib.sha256(data).hexdigest() for name, data in files.items()})

    def fill(folder: Path) -> None:
        root = folder / runtime.FOLDER.lstrip("/")
        root.mkdir(parents=True)
        for name, data in files.items():
            (root / name).write_bytes(data)
        normalise(folder)

    return make_layer(layers, f"runtime-{content[:12]}", fill)
