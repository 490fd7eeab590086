"""Puts an image together from a system image and packed layers: a configuration and a manifest, nothing is run."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from builder.host.files import disk_errors
from builder.host.records import as_bytes
from builder.image.oci.layout import layer_content, put_image, read_config
from builder.image.oci.pack import Packed, pack

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from builder.host.session import Session
    from builder.model.images import Image, ImageSettings, Plan
    from builder.model.recipes import Pairs

# What SOURCE_DATE_EPOCH makes BuildKit write: `EPOCH` in words.
CREATED = "1980-01-01T00:00:00Z"
_SECOND = 1_000_000_000
_HEALTH = {"Interval": 30 * _SECOND, "Timeout": 20 * _SECOND, "Retries": 3}


def assemble(plan: Plan, packed: Sequence[Packed], system: Image, layout: Path) -> Image:
    """Put a plan's packed layers on a system image, and its settings into the configuration; return the image.

    Raises:
        BuildError: the system image is not whole.
        DiskError: the disk is full or cannot be written.
    """
    config = _config(read_config(layout, system), packed, plan)
    layers_above = (layer.blob for layer in packed)
    return put_image(layout, as_bytes(config), (*system.layers, *layers_above), plan.platform)


def add_layer(
    image: Image, config: dict[str, Any], layer: Packed, created_by: str, layout: Path, labels: Pairs = ()
) -> Image:
    """Write the configuration and the manifest of an image with one more layer, and return the image.

    `config` is the image's configuration, and `labels` are added to its labels.

    Raises:
        DiskError: they cannot be written.
    """
    run_config = config["config"]
    added = {**(run_config.get("Labels") or {}), **dict(labels)}
    above = {
        **config,
        "config": {**run_config, "Labels": added},
        "rootfs": {**config["rootfs"], "diff_ids": [*config["rootfs"]["diff_ids"], layer.diff_id]},
        "history": [
            *(config.get("history") or ()),
            {"created": CREATED, "created_by": created_by, "comment": "jbuild"},
        ],
    }
    return put_image(layout, as_bytes(above), (*image.layers, layer.blob), image.platform)


def own_layers(system: Image, base: Image, cell: str, session: Session) -> Image:
    """Return a system image with the layers of its base as they are there, and those above packed by us.

    BuildKit's compressor differs from release to release, and it gives a layer as it happens to have it. What is in
    the layers does not differ. Whoever has the base has its layers in our images, too.

    Raises:
        BuildError: a blob is not in the layout.
        DiskError: the disk is full or cannot be written.
    """
    layout, compression = session.workspace.images, session.config.layers
    config, below = read_config(layout, system), read_config(layout, base)["rootfs"]["diff_ids"]
    shared = len(below) if config["rootfs"]["diff_ids"][: len(below)] == below else 0
    with session.console.task(f"{cell}: packing the system layer", unit="B") as task, disk_errors(layout):
        packed = [
            pack(layer_content(layer, layout), compression, layout, task.advance).blob
            for layer in system.layers[shared:]
        ]
    return put_image(layout, as_bytes(config), [*base.layers[:shared], *packed], system.platform)


def _config(system: dict[str, Any], packed: Sequence[Packed], plan: Plan) -> dict[str, Any]:
    """Return the configuration that the instructions of the Dockerfile would give."""
    history = [
        {"created": CREATED, "created_by": f"COPY layers/{name}/ /", "comment": "jbuild"} for name in plan.layers
    ]
    last = {"created": CREATED, "created_by": "settings", "comment": "jbuild", "empty_layer": True}
    diff_ids = [*system["rootfs"]["diff_ids"], *(layer.diff_id for layer in packed)]
    return {
        **system,
        "created": CREATED,
        "config": _run_config(system.get("config") or {}, plan.settings),
        "rootfs": {"type": "layers", "diff_ids": diff_ids},
        "history": [*(system.get("history") or ()), *history, last],
    }


def _run_config(before: dict[str, Any], settings: ImageSettings) -> dict[str, Any]:
    variables = dict(variable.partition("=")[::2] for variable in before.get("Env") or ()) | dict(settings.environment)
    health = {"Test": ["CMD", *settings.healthcheck], "StartPeriod": settings.start_period_s * _SECOND, **_HEALTH}
    # A base's command would become arguments of our entrypoint.
    inherited = {key: value for key, value in before.items() if key not in ("Cmd", "ArgsEscaped")}
    return inherited | {
        "Env": [f"{name}={value}" for name, value in variables.items()],
        "Labels": {**(before.get("Labels") or {}), **dict(settings.labels)},
        "WorkingDir": settings.workdir,
        "User": settings.user,
        "ExposedPorts": {**(before.get("ExposedPorts") or {}), f"{settings.port}/tcp": {}},
        "StopSignal": "SIGTERM",
        "Healthcheck": health,
        "Entrypoint": list(settings.entrypoint),
    }
