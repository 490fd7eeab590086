"""What an image of ours runs: scripts copied to `/opt/jbuild`, and the settings file that they read.

The scripts need nothing but a Python from 3.8 on. An image starts them as
`/opt/venv/bin/python -SE /opt/jbuild/entrypoint.py` (`-S`: nothing of the wheels is imported before the server is).
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING

from builder.model.images import ENVIRONMENT

if TYPE_CHECKING:
    from builder.model.recipes import Model, Spec

FOLDER = "/opt/jbuild"
MODELS = "/models"
# -S: the scripts need nothing of the wheels, and start faster without looking at them.
_PYTHON = (f"{ENVIRONMENT}/bin/python", "-SE")
ENTRYPOINT = (*_PYTHON, f"{FOLDER}/entrypoint.py")
HEALTHCHECK = (*_PYTHON, f"{FOLDER}/healthcheck.py")
# Prints the conditions that compiled files depend on.
CONDITIONS = (*_PYTHON, f"{FOLDER}/warm_start.py")
_NAMES = ("entrypoint.py", "healthcheck.py", "settings.py", "warm_start.py")


def scripts() -> tuple[Path, ...]:
    """Return the files to copy into an image's `FOLDER`, beside `server.json`."""
    return tuple(Path(__file__).with_name(name) for name in _NAMES)


def served_model(spec: Spec) -> Model | None:
    """Return the baked model that the server serves: the one named, else the first."""
    return next((model for model in spec.models if spec.server.model in (None, model.name)), None)


def served_name(spec: Spec) -> str | None:
    """Return the name that clients ask for, or None where no model is baked in."""
    model = served_model(spec)
    return spec.server.served_name or (model.name if model else None)


def server_json(spec: Spec) -> str:
    """Return the text of an image's `server.json`."""
    model, server = served_model(spec), spec.server
    settings = {
        "model": f"{MODELS}/{model.name}" if model else None,
        "served_name": served_name(spec),
        "port": server.port,
        "max_model_len": server.max_model_len,
        "dtype": server.dtype,
        "quantization": server.quantization,
        "arguments": list(server.arguments),
    }
    return json.dumps(settings, indent=2) + "\n"
