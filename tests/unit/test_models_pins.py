"""Models that all cells of a recipe share: the file, and what it means to locks."""

from __future__ import annotations

import json
import struct
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import pytest
from factories import make_job, make_lock, make_model, make_spec
from recipe_factory import ten_cells

from builder.errors import LockError
from builder.lock import index_sources, lockfile, resolve, stage
from builder.lock.recipe_models import fetch_models, lock_models, locked_models, used_models, verify_models
from builder.lock.resolve import lock_one
from builder.model.locks import LOCK_FORMAT
from builder.model.recipes import Model, ServerSpec
from builder.models import model_lock as locking_models
from builder.models import model_pins, model_store
from builder.models.model_pins import Pin
from builder.pipeline.order import RunOptions

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from builder.host.session import Session
    from builder.model.locks import Job
    from builder.model.model_files import LockedModel

MODEL = Model(name="tiny", source="hf://org/tiny@main")
ASKED = model_pins.reference_of(MODEL)
LOCKED = make_model()


def write_model(folder: Path, fill: bytes = b"w") -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.json").write_text('{"model_type": "llama"}')
    (folder / "tokenizer.json").write_text("{}")
    header = json.dumps({"w": {"dtype": "U8", "shape": [3000], "data_offsets": [0, 3000]}}).encode()
    (folder / "model.safetensors").write_bytes(struct.pack("<Q", len(header)) + header + fill * 3000)
    return folder


def ten_jobs(*models: Model) -> list[Job]:
    spec = make_spec(models=models, server=ServerSpec(model=models[0].name))
    job = make_job(spec=spec)
    return [replace(job, cell=replace(job.cell, id=f"c{number}")) for number in range(10)]


def test_what_is_written_reads_back(tmp_path: Path) -> None:
    path = tmp_path / "locks" / "demo" / "models.toml"
    assert model_pins.read(path) == ()
    other = Pin(
        reference="x", model=make_model("another", revision=None, origin="folder", licence=None, stand_in="why")
    )
    model_pins.write(path, [Pin(reference=ASKED, model=LOCKED), other])
    assert model_pins.read(path) == (other, Pin(reference=ASKED, model=LOCKED))
    assert model_pins.find(path, MODEL) == LOCKED
    assert model_pins.find(path, replace(MODEL, formats=("gguf",))) is None


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("size = 1000", "size = 1001", "edited by hand"),
        ("a" * 64, "A" * 64, "damaged: 'config.json' has no valid sha256"),
        ('path = "config.json"', 'path = "../config.json"', "damaged: '../config.json' is not a plain relative path"),
        ("format = 1", "format = 2", "format 2 is not 1"),
        ("format = 1", "", "damaged: 'format'"),
        ('origin = "hub"', 'origin = "cloud"', "damaged"),
        ("[[models]]", "[[models", "damaged"),
    ],
)
def test_a_file_that_was_changed_is_refused(tmp_path: Path, old: str, new: str, message: str) -> None:
    path = tmp_path / "demo" / "models.toml"
    model_pins.write(path, [Pin(reference=ASKED, model=LOCKED)])
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new, 1))
    with pytest.raises(LockError, match=message.replace("[", "\\[")) as caught:
        model_pins.read(path)
    assert (caught.value.where, caught.value.hint) == (
        str(path),
        "run `jbuild models lock demo` after deleting it",
    )


def test_a_lock_takes_the_shared_model(session: Session, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(resolve, "lock_model", lambda *_: pytest.fail("the hub was asked"))
    model_pins.write(session.workspace.model_lock("demo"), [Pin(reference=ASKED, model=LOCKED)])
    assert lock_one(MODEL, make_job(), session) == LOCKED


def test_a_folder_is_followed_whatever_is_shared(session: Session, tmp_path: Path) -> None:
    model = Model(name="tiny", source=str(write_model(tmp_path / "model")))
    stale = make_model(source=model.source, origin="folder")
    model_pins.write(session.workspace.model_lock("demo"), [Pin(reference=model_pins.reference_of(model), model=stale)])
    assert lock_one(model, make_job(), session).files != stale.files


def test_a_lock_with_another_revision_is_stale(session: Session) -> None:
    job = make_job(spec=make_spec(models=(MODEL,)))
    lock = make_lock(models=(LOCKED,))
    assert not stage._pinned_otherwise(LOCKED, MODEL, job, session)
    model_pins.write(session.workspace.model_lock("demo"), [Pin(reference=ASKED, model=LOCKED)])
    assert not stage._pinned_otherwise(LOCKED, MODEL, job, session)
    model_pins.write(
        session.workspace.model_lock("demo"), [Pin(reference=ASKED, model=replace(LOCKED, revision="1" * 40))]
    )
    assert stage._pinned_otherwise(LOCKED, MODEL, job, session)
    fresh = replace(lock, inputs=index_sources.lock_inputs(job, session.config))
    assert stage._stale(fresh, job, session, RunOptions()) == "the recipe's model lock has another tiny"


def test_ten_cells_lock_fetch_and_verify_one_model_once(
    session: Session, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = Model(name="tiny", source=str(write_model(tmp_path / "model")), licence="MIT")
    jobs = ten_jobs(model)
    asked: list[str] = []
    real = locking_models.lock_model

    def noted(model: Model, *rest: Any) -> LockedModel:
        asked.append(model.name)
        return real(model, *rest)

    monkeypatch.setattr("builder.lock.recipe_models.lock_model", noted)
    (used,) = lock_models(jobs, jobs, session)
    assert (asked, len(used.cells)) == (["tiny"], 10)
    assert used_models(jobs, session) == (used,)
    fetch_models([used], tmp_path, session)
    blobs = sorted(path.name for path in (session.workspace.models / "sha256").glob("??/*"))
    assert blobs == sorted(file.sha256 for file in used.model.files)
    (found,) = verify_models([used], session)
    assert (found.missing, found.damaged) == ((), ())


def test_verifying_takes_away_what_is_damaged(session: Session, tmp_path: Path) -> None:
    model = Model(name="tiny", source=str(write_model(tmp_path / "model")))
    jobs = ten_jobs(model)
    used = lock_models(jobs, jobs, session)
    fetch_models(used, tmp_path, session)
    weights = next(file for file in used[0].model.files if file.path == "model.safetensors")
    blob = model_store.blob(session.workspace.models, weights.sha256)
    blob.write_bytes(blob.read_bytes()[:-1] + b"!")
    assert model_store.has(session.workspace.models, weights), "its size is right"
    (found,) = verify_models(used, session)
    assert (found.missing, found.damaged) == ((), ("model.safetensors",))
    (found,) = verify_models(used, session)
    assert (found.missing, found.damaged) == (("model.safetensors",), ())
    fetch_models(used, tmp_path, session)
    (found,) = verify_models(used, session)
    assert (found.missing, found.damaged) == ((), ())


def test_a_cells_own_lock_comes_first(session: Session) -> None:
    job = make_job(spec=make_spec(models=(MODEL,)))
    assert locked_models(job, session) is None
    with pytest.raises(LockError, match="one: its models are not locked") as caught:
        used_models([job], session)
    assert caught.value.hint == "run `jbuild models lock demo`, or `jbuild lock demo` for the wheels too"
    model_pins.write(session.workspace.model_lock("demo"), [Pin(reference=ASKED, model=LOCKED)])
    assert locked_models(job, session) == (LOCKED,)
    own = replace(LOCKED, revision="2" * 40)
    path = session.workspace.lock("demo", "one")
    lockfile.write(path, make_lock(models=(own,)))
    assert locked_models(job, session) == (own,)
    path.write_text(path.read_text().replace(f"format = {LOCK_FORMAT}", "format = 1"))
    assert locked_models(job, session) == (LOCKED,), "an older lock is as good as none"


def test_what_other_cells_ask_for_stays(session: Session, tmp_path: Path) -> None:
    one, two, gone = (Model(name=name, source=str(write_model(tmp_path / name))) for name in ("one", "two", "gone"))
    path = session.workspace.model_lock("demo")
    jobs = [*ten_jobs(one)[:1], *ten_jobs(two)[1:2]]
    lock_models(ten_jobs(gone), ten_jobs(gone), session)
    lock_models(jobs[:1], jobs, session)
    assert [pin.model.name for pin in model_pins.read(path)] == ["one"]
    lock_models(jobs[1:], jobs, session)
    assert [pin.model.name for pin in model_pins.read(path)] == ["one", "two"]


RECIPE = ten_cells('source = "../model"\nlicence = "Apache-2.0"')


@pytest.fixture
def jbuild(
    session: Session, monkeypatch: pytest.MonkeyPatch, command_line: Callable[..., tuple[int, str, str]]
) -> Callable[..., tuple[int, str, str]]:
    project = session.workspace.project
    (project / "recipes" / "demo.toml").write_text(RECIPE)
    write_model(project / "model")
    monkeypatch.chdir(project)
    monkeypatch.setenv("JBUILD_CACHE", str(session.workspace.cache))
    return command_line


def test_the_commands(jbuild: Any, session: Session) -> None:
    code, _, err = jbuild("models", "fetch", "demo")
    assert (code, "its models are not locked" in err) == (4, True)
    code, out, _ = jbuild("models", "lock", "demo")
    path = session.workspace.model_lock("demo")
    assert (code, out.splitlines()[-1]) == (0, str(path))
    assert out.startswith("tiny: ../model: 3 files, 0.0 MB, for 10 cells, Apache-2.0\n")
    code, out, _ = jbuild("models", "verify", "demo")
    assert (code, out.splitlines()) == (
        9,
        [
            "tiny: 0 of 3 files are as locked",
            "  missing  config.json",
            "  missing  model.safetensors",
            "  missing  tokenizer.json",
            "next: `jbuild models fetch demo` fetches them",
        ],
    )
    code, out, _ = jbuild("models", "fetch", "demo", "--json")
    (model,) = json.loads(out)["models"]
    assert (code, model["name"], len(model["cells"]), len(model["files"])) == (0, "tiny", 10, 3)
    assert jbuild("models", "verify", "demo")[:2] == (0, "tiny: 3 of 3 files are as locked\n")
    blob = model_store.blob(session.workspace.models, model["files"][1]["sha256"])
    blob.write_bytes(b"x" * blob.stat().st_size)
    code, out, _ = jbuild("models", "verify", "demo", "--json")
    found = json.loads(out)
    assert (code, found["whole"], found["models"][0]["damaged"]) == (6, False, ["model.safetensors"])


def test_cells_and_mistakes(jbuild: Any) -> None:
    code, out, _ = jbuild("models", "lock", "demo", "--cell", "vllm=1*", "--json")
    assert (code, json.loads(out)["models"][0]["cells"]) == (0, ["v1-debian12", "v10-debian12"])
    assert jbuild("models", "lock", "demmo")[0] == 2
    assert jbuild("models", "lock", "demo", "--cell", "vllm=11")[0] == 2
    code, out, _ = jbuild("models")
    assert (code, "fetch" in out, "verify" in out) == (0, True, True)


def test_fit_reads_the_shared_lock(jbuild: Any, session: Session) -> None:
    """With the folder gone, only the store can tell."""
    assert jbuild("models", "lock", "demo")[0] == 0
    assert jbuild("models", "fetch", "demo")[0] == 0
    (session.workspace.project / "model").rename(session.workspace.project / "elsewhere")
    code, out, _ = jbuild("fit", "demo", "--cell", "vllm=1")
    assert (code, "exact" in out) == (0, True)
