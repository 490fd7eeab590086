"""vLLM's model infos of an image's models, as the last layer of the image.

At its first start, a server waits for another process that imports vLLM again, only to inspect the model's class, and
keeps the result in its cache: a model info. The build lets vLLM's own function inspect the classes of the baked models
in a container of the image, without GPU and network. The infos depend on vLLM and the class only, so that the cache
keeps them for all images with both.
"""

from __future__ import annotations

import json
import time
import zipfile
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from docker.errors import DockerException
from requests import RequestException

from builder.errors import BuildError, EngineError
from builder.host import records, tarball
from builder.host.engine.container import temporary_container
from builder.host.engine.emulation import emulator_settings
from builder.host.engine.sdk_errors import reason_of
from builder.host.files import disk_errors, mark_used
from builder.host.tarball import file_of
from builder.image.layers.layer_blobs import blobs_of
from builder.image.oci.assemble import add_layer
from builder.image.oci.engine_load import loaded
from builder.image.oci.layout import read_config
from builder.image.oci.pack import pack
from builder.image.runtime import FOLDER
from builder.image.runtime.warm_start import ALWAYS, CACHE
from builder.image.runtime.warm_start import FOLDER as WARM
from builder.model.images import ENVIRONMENT
from builder.models import model_store
from builder.models.config_json import CONFIG, architectures_of
from builder.models.preflight.vllm_source import REGISTRY
from builder.remote.wheelhouse import fetch

if TYPE_CHECKING:
    from collections.abc import Iterator

    from builder.host.engine.container import WatchedContainer
    from builder.host.engine.docker import Engine
    from builder.model.images import Image
    from builder.model.model_files import LockedModel
    from builder.model.recipes import Architecture
    from builder.model.wheels import LockedWheel
    from builder.pipeline.cell import CellRun

# vLLM 0.15 and 0.20, in the registry of models: a class is inspected in a process of its own, unless the cache has a
# result for the source of its module.
_KEEPS = ("def _save_modelinfo_to_cache(", "def _run_in_subprocess(")
_INFOS = "vllm/modelinfos"
_SCRIPT = Path(__file__).with_name("inspect_models.py")
_POLL_S = 0.2
_LARGEST_INFO = 1 << 16


@dataclass(frozen=True, kw_only=True, slots=True)
class ModelInfos:
    """The files of vLLM's model infos: their names and texts."""

    files: tuple[tuple[str, str], ...]


class _InspectionError(BuildError):
    """vLLM did not inspect the classes."""


@dataclass(frozen=True, kw_only=True, slots=True)
class _Subject:
    """The classes of the models of an image that its vLLM can inspect, and the sha256 of vLLM's wheel."""

    vllm: str
    classes: tuple[str, ...]

    @property
    def key(self) -> str:
        return records.fingerprint(self.vllm, self.classes, _SCRIPT.read_text(encoding="utf-8"))[:32]


def with_model_infos(run: CellRun, image: Image, engine: Engine) -> Image:
    """Return an image with the model infos of its models; the image itself if there are none.

    They are made on the engine unless the cache has them. If the engine or vLLM fails, a warning says so: the image's
    first start then inspects the class.

    Raises:
        NetworkError: the cache lacks vLLM's wheel, and it cannot be fetched.
        IntegrityError: a blob of the image is missing or truncated, or the wheel is not the locked one.
        DiskError: the disk is full or cannot be written.
    """
    subject = _subject(run)
    if subject is None:
        return image
    workspace = run.session.workspace
    path = workspace.model_infos(subject.key)
    # Cells with the same vLLM build at the same time.
    with workspace.file_lock(f"infos-{subject.key[:16]}"):
        infos = records.read(path, subject.key, ModelInfos)
        if infos is None:
            try:
                infos = _inspected(run, image, engine, subject)
            except (EngineError, _InspectionError) as error:
                run.session.console.warn(f"{run.job.cell.id}: no model infos: {error.message}")
                return image
            records.write(path, subject.key, infos)
    mark_used(path)
    if not infos.files:
        return image
    run.session.console.say(f"{run.job.cell.id}: the image has the model infos of {', '.join(subject.classes)}")
    return _with_layer(run, image, infos)


def _subject(run: CellRun) -> _Subject | None:
    """Return what to inspect; None if vLLM keeps no results, or has none of the classes."""
    classes = sorted({name for model in run.lock.models for name in _classes(model, run.session.workspace.models)})
    if not classes:
        return None
    found = _registry(run)
    if found is None:
        return None
    wheel, text = found
    known = tuple(name for name in classes if f'"{name}"' in text)
    keeps = all(words in text for words in _KEEPS)
    return _Subject(vllm=wheel.sha256, classes=known) if keeps and known else None


def _classes(model: LockedModel, models: Path) -> Iterator[str]:
    """Yield the names of the classes that a model's configuration names."""
    file = next((file for file in model.files if file.path == CONFIG), None)
    if file is None or not model_store.has(models, file):
        return
    try:
        config = json.loads(model_store.blob(models, file.sha256).read_bytes())
    except ValueError:
        return
    yield from (name for name in architectures_of(config) if name.isidentifier())


def _registry(run: CellRun) -> tuple[LockedWheel, str] | None:
    """Return vLLM's wheel and the source of its registry of models."""
    for wheel in run.lock.wheels:
        if wheel.name.startswith("vllm"):
            # The cache may have lost it since its layer was packed.
            fetch((wheel,), run.session)
            with zipfile.ZipFile(run.session.workspace.wheel(wheel.sha256, wheel.filename)) as archive:
                if REGISTRY in archive.namelist():
                    return wheel, archive.read(REGISTRY).decode(errors="replace")
    return None


def _inspected(run: CellRun, image: Image, engine: Engine, subject: _Subject) -> ModelInfos:
    """Return the model infos that vLLM makes in a container of the image.

    Raises:
        EngineError: the engine cannot run the image, or stopped responding.
        _InspectionError: vLLM failed, or did not end in time.
    """
    architecture, layout = run.lock.platform.architecture, run.session.workspace.images
    engine.require(architecture)
    slow = "; under emulation this takes a minute or two" if architecture != engine.architecture else ""
    names = ", ".join(subject.classes)
    run.session.console.say(f"{run.job.cell.id}: vLLM inspects {names} for the image's model infos{slow}")
    with loaded(image, layout, engine, run.session.console, make=blobs_of(run).make) as reference:
        arguments = _arguments(image, reference, engine, architecture, subject.classes)
        try:
            with (
                closing(engine.client()) as client,
                temporary_container(client, arguments, run.folder.inspection_log, (_SCRIPT,)) as container,
            ):
                _wait(run, container, subject)
                return _read(container)
        except (DockerException, RequestException) as error:
            raise EngineError(f"the engine could not start vLLM's inspection: {reason_of(error)}") from error


def _arguments(
    image: Image, reference: str, engine: Engine, architecture: Architecture, classes: tuple[str, ...]
) -> dict[str, Any]:
    emulated = architecture != engine.architecture
    return {
        "image": reference,
        "platform": image.platform,
        "entrypoint": [f"{ENVIRONMENT}/bin/python", f"/{_SCRIPT.name}", *classes],
        "command": [],
        "environment": dict(emulator_settings(architecture)) if emulated else {},
        "healthcheck": {"test": ["NONE"]},
        "network_mode": "none",
        "use_config_proxy": False,
    }


def _wait(run: CellRun, container: WatchedContainer, subject: _Subject) -> None:
    """Wait until the container has ended well."""
    began, within_s = time.monotonic(), run.job.spec.smoke.ready_within_s
    names, log = ", ".join(subject.classes), run.folder.inspection_log
    with run.session.console.task(f"{run.job.cell.id}: inspecting {names}", unit="") as task:
        while (state := container.state()).running:
            if time.monotonic() - began > within_s:
                raise _InspectionError(f"vLLM did not inspect {names} within {within_s:.0f} s; the log is in {log}")
            if container.log.last_line:
                task.note(container.log.last_line)
            time.sleep(_POLL_S)
    container.settle()
    if state.code != 0:
        cause = "out of memory" if state.out_of_memory else container.log.last_line
        message = f"vLLM's inspection of {names} ended with exit code {state.code}: {cause}; the log is in {log}"
        raise _InspectionError(message)


def _read(container: WatchedContainer) -> ModelInfos:
    files = []
    for name, _, content in container.files_below(f"{CACHE}/{_INFOS}"):
        text = content.read(_LARGEST_INFO)
        if "/" not in name and name.endswith(".json"):
            files.append((name, text.decode()))
    return ModelInfos(files=tuple(sorted(files)))


def _with_layer(run: CellRun, image: Image, infos: ModelInfos) -> Image:
    layout = run.session.workspace.images
    folder = f"{FOLDER.lstrip('/')}/{WARM}/{ALWAYS}/{_INFOS}"
    entries = [file_of(f"{folder}/{name}", text.encode()) for name, text in infos.files]
    with disk_errors(layout):
        stream = tarball.blocks(tarball.segments(entries))
        packed = pack(stream, run.session.config.layers, layout, lambda _: None)
    return add_layer(image, read_config(layout, image), packed, f"COPY model-infos/ /{folder}/", layout)
