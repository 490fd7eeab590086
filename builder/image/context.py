"""The trees of a plan's layers that do not come from wheels: the virtual environment itself, models, the runtime."""

from __future__ import annotations

import hashlib
import json
import shutil
from pathlib import Path
from typing import TYPE_CHECKING, Any

from builder import records
from builder.models.bake import bake
from builder.wheels.tree import ENVIRONMENT, EPOCH, normalise
from builder.workspace import disk_errors, folder_aside

if TYPE_CHECKING:
    from collections.abc import Callable

    from builder.models.model import LockedModel
    from builder.resolve.model import Job, Lock

RUNTIME = Path(__file__).with_name("runtime")
RUNTIME_FOLDER = "/opt/jbuild"


def make_layer(layers: Path, name: str, fill: Callable[[Path], None]) -> str:
    """Make a layer's folder, unless it is there: its name stands for its content. Return the name.

    Raises:
        DiskError: the disk is full or cannot be written.
    """
    target = layers / name
    if not target.is_dir():
        with disk_errors(target), folder_aside(target) as folder:
            fill(folder)
    return name


def environment_layer(layers: Path, python: str) -> str:
    """Make the layer with the bare virtual environment, as `python -m venv` would lay it out."""

    def fill(folder: Path) -> None:
        root = folder / ENVIRONMENT.lstrip("/")
        (root / "bin").mkdir(parents=True)
        (root / "lib" / f"python{python}" / "site-packages").mkdir(parents=True)
        (root / "lib64").symlink_to("lib")
        (root / "bin" / "python").symlink_to(f"/usr/bin/python{python}")
        for name in ("python3", f"python{python}"):
            (root / "bin" / name).symlink_to("python")
        text = f"home = /usr/bin\ninclude-system-site-packages = false\nversion = {python}\n"
        (root / "pyvenv.cfg").write_text(text, encoding="utf-8")
        normalise(folder)

    return make_layer(layers, f"environment-py{python}-1", fill)


def model_layer(layers: Path, model: LockedModel, blobs: Path) -> str:
    """Make the layer of one model."""
    content = records.fingerprint(model.name, model.files)[:12]
    return make_layer(layers, f"model-{model.name}-{content}", lambda folder: bake(model, blobs, folder, EPOCH))


def runtime_layer(layers: Path, job: Job, lock: Lock) -> str:
    """Make the layer with what runs in the image: entrypoint, health check, and the server's settings."""
    settings = json.dumps(server_settings(job, lock), indent=2, sort_keys=True) + "\n"
    scripts = sorted(path for path in RUNTIME.glob("*.py") if path.name != "__init__.py")
    content = hashlib.sha256(settings.encode())
    for path in scripts:
        content.update(path.name.encode() + path.read_bytes())

    def fill(folder: Path) -> None:
        root = folder / RUNTIME_FOLDER.lstrip("/")
        root.mkdir(parents=True)
        for path in scripts:
            shutil.copyfile(path, root / path.name)
        (root / "server.json").write_text(settings, encoding="utf-8")
        normalise(folder)

    return make_layer(layers, f"runtime-{content.hexdigest()[:12]}", fill)


def server_settings(job: Job, lock: Lock) -> dict[str, Any]:
    """Return what the entrypoint is told: the recipe's server, with the model's path in the image."""
    server = job.spec.server
    name = server.model or (lock.models[0].name if lock.models else None)
    return {
        "model": f"/models/{name}" if name else None,
        "served_name": server.served_name or name,
        "port": server.port,
        "max_model_len": server.max_model_len,
        "dtype": server.dtype,
        "quantization": server.quantization,
        "arguments": list(server.arguments),
    }
