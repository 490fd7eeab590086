"""The cache: what it holds, what goes, and what stays beside other processes."""

from __future__ import annotations

import json
import multiprocessing
import os
import time
from contextlib import contextmanager
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import pytest
from factories import locked, make_job, make_lock, make_locked_wheel, make_model, make_wheel
from filelock import FileLock
from image_factory import LAYERS, ONE, build
from layer_files import wheels_layer

from builder.errors import JbuildError, LockError
from builder.host import records, tarball
from builder.host.file_locks import alone, in_use
from builder.host.files import mark_used
from builder.host.paths import Workspace
from builder.image.layers.pack_layers import pack_layers
from builder.image.oci import virtual_blob
from builder.image.oci.layout import blob
from builder.image.oci.pack import Packed
from builder.lock import lockfile
from builder.model.model_files import ModelFile
from builder.models import model_store
from builder.pipeline import runner
from builder.pipeline.cell import start
from builder.pipeline.order import RunOptions
from builder.project.cache import contents, prune
from builder.project.cache.contents import References, entries, measure, references, summarise

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence
    from pathlib import Path

    from builder.host.session import Session
    from builder.model.images import Image
    from builder.model.locks import Lock
    from builder.model.wheels import LockedWheel
    from builder.project.cache.prune import PruneResult

DAY = 86_400.0
NEEDED, OTHER = make_locked_wheel("needed"), make_locked_wheel("other")
FILE, OTHER_FILE = (
    ModelFile(path="model.safetensors", sha256=letter * 64, size=size) for letter, size in (("d", 70), ("e", 30))
)
LOCK = make_lock(NEEDED, models=(make_model(files=(FILE,)),))


@pytest.fixture
def later(monkeypatch: pytest.MonkeyPatch) -> Callable[[float], None]:
    """Let days pass: ctimes cannot be set, so the clock is."""
    offset = 0.0
    real = time.time

    def move(days: float) -> None:
        nonlocal offset
        offset += days * DAY

    monkeypatch.setattr("builder.project.cache.prune.time.time", lambda: real() + offset)
    return move


@pytest.fixture
def full(session: Session) -> Workspace:
    """A cache with one of everything that a lock of the project needs, and one that none does."""
    workspace = session.workspace
    for wheel in (NEEDED, OTHER):
        path = workspace.wheel(wheel.sha256, wheel.filename)
        path.parent.mkdir(parents=True)
        path.write_bytes(b"w" * 100)
        (path.parent / "lock").touch()
        facts = workspace.cache / "facts" / wheel.sha256[:2] / f"{wheel.sha256}-1"
        facts.parent.mkdir(parents=True)
        facts.write_bytes(b"f" * 9)
    for file in (FILE, OTHER_FILE):
        blob = model_store.blob(workspace.models, file.sha256)
        blob.parent.mkdir(parents=True)
        blob.write_bytes(b"m" * file.size)
    model_store.remember(workspace.models, "a" * 64, "b" * 64)
    (workspace.models / "partial").mkdir()
    (workspace.models / "partial" / ("9" * 64)).write_bytes(b"p" * 7)
    (workspace.models / "partial" / f"{'9' * 64}.lock").touch()
    for name in ("engine", "stand-in", "test"):
        (workspace.cache / name / "deep").mkdir(parents=True)
        (workspace.cache / name / "deep" / "file").write_bytes(b"x" * 1000)
    lockfile.write(workspace.lock("demo", "one"), LOCK)
    return workspace


def run(
    session: Session,
    days: float = 30,
    *,
    keep_locked: bool = False,
    dry_run: bool = False,
    only: Sequence[str] = prune.PRUNABLE,
) -> PruneResult:
    return prune.prune(session, older_than_s=days * DAY, keep_locked=keep_locked, dry_run=dry_run, only=only)


def files(folder: Path) -> set[str]:
    return {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()}


def counts(result: PruneResult) -> dict[str, int]:
    return {kind.kind: kind.entries for kind in result.kinds if kind.entries}


def test_what_there_is_and_what_the_project_needs(full: Workspace) -> None:
    kinds = {kind.kind: kind for kind in summarise(entries(full, references(full)), full)}
    wheels, models = kinds["wheels"], kinds["models"]
    assert (wheels.entries, wheels.size, wheels.locked_entries, wheels.locked_size) == (2, 200, 1, 100)
    assert (models.entries, models.size, models.locked_size) == (2, 100, 70)
    assert (kinds["facts"].locked_entries, kinds["known hashes"].locked_entries) == (1, 0)
    assert (kinds["model downloads"].entries, kinds["model downloads"].size) == (1, 7)
    assert "engine" not in kinds


def test_what_is_fresh_stays(session: Session, full: Workspace) -> None:
    before = files(full.cache)
    assert counts(run(session)) == {}
    assert files(full.cache) - before == {"run/cache-in-use"}


def test_what_a_killed_second_build_left_goes(
    session: Session, full: Workspace, monkeypatch: pytest.MonkeyPatch
) -> None:
    left = full.cache / "scratch-abc"
    left.mkdir()
    (left / "held").touch()
    (left / "layer").write_bytes(b"l" * 300)
    assert "scratch" not in counts(run(session))
    monkeypatch.setattr("builder.host.file_locks._SOON_S", 0.0)
    assert counts(run(session, dry_run=True)) == {"scratch": 1}
    assert left.is_dir()
    (found,) = [kind for kind in run(session).kinds if kind.kind == "scratch"]
    assert (found.entries, found.size, found.frees) == (1, 300, 300)
    assert not left.exists()


def test_what_is_old_goes_and_what_is_not_jbuilds_stays(
    session: Session, full: Workspace, later: Callable[[float], None]
) -> None:
    later(31)
    result = run(session)
    assert counts(result) == {
        "wheels": 2,
        "facts": 2,
        "models": 2,
        "model downloads": 1,
        "known hashes": 1,
    }
    assert sum(kind.frees for kind in result.kinds) == 200 + 18 + 100 + 7 + 65
    assert files(full.cache) == {"run/cache-in-use", *(f"{name}/deep/file" for name in ("engine", "stand-in", "test"))}


def test_what_the_project_needs_stays_if_asked(
    session: Session, full: Workspace, later: Callable[[float], None]
) -> None:
    later(31)
    run(session, keep_locked=True)
    left = files(full.cache)
    assert {path for path in left if path.startswith("wheels")} == {
        f"wheels/{NEEDED.sha256[:2]}/{NEEDED.sha256}/{NEEDED.filename}",
        f"wheels/{NEEDED.sha256[:2]}/{NEEDED.sha256}/lock",
    }
    assert [path.partition("/")[0] for path in sorted(left) if path.startswith("facts")] == [
        "facts",
    ]
    assert model_store.has(full.models, FILE)
    assert not model_store.has(full.models, OTHER_FILE)


def test_the_records_of_what_the_project_needs_stay_too(
    session: Session, workspace: Workspace, later: Callable[[float], None]
) -> None:
    image = build(session, ONE, LAYERS)
    lockfile.write(workspace.lock("demo", "one"), replace(LOCK, compiler="3.11.7"))
    layer = image.layers[0]
    elsewhere = replace(layer, digest="sha256:" + "0" * 64)
    records_of: dict[str, object] = {
        "packed/aa/mine": Packed(blob=layer, diff_id=layer.digest),
        "packed/aa/other": Packed(blob=elsewhere, diff_id=layer.digest),
        "systems/mine.json": replace(image, layers=(layer,)),
        "systems/other.json": replace(image, layers=(layer, elsewhere)),
        "systems/damaged.json": {},
        f"verdicts/{image.digest.removeprefix('sha256:')}/gpu.json": {},
        f"verdicts/{'0' * 64}/gpu.json": {},
        "model-infos/any.json": {},
        "interpreters/cpython-3.11.7-linux-x86_64-gnu/bin/python": {},
        "interpreters/cpython-3.11.2-linux-x86_64-gnu/bin/python": {},
    }
    for name, record in records_of.items():
        records.write(workspace.cache / name, "", record)
    later(31)
    run(session, keep_locked=True)
    left = {name for name in records_of if (workspace.cache / name).exists()}
    assert left == {
        "packed/aa/mine",
        "systems/mine.json",
        f"verdicts/{image.digest.removeprefix('sha256:')}/gpu.json",
        "model-infos/any.json",
        "interpreters/cpython-3.11.7-linux-x86_64-gnu/bin/python",
    }
    (workspace.cell("demo", "one").record("build")).unlink()
    run(session, keep_locked=True)
    assert not (workspace.cache / "model-infos" / "any.json").exists()


def test_a_dry_run_removes_nothing_and_says_the_same(
    session: Session, full: Workspace, later: Callable[[float], None]
) -> None:
    later(31)
    before = files(full.cache)
    told = run(session, dry_run=True)
    assert files(full.cache) == {*before, "run/cache-in-use"}
    assert {kind.kind: kind.frees for kind in told.kinds} == {
        kind.kind: kind.frees for kind in run(session).kinds if kind.kind != "uv"
    }


def test_the_unpacked_wheels_of_earlier_releases_go(session: Session, full: Workspace) -> None:
    tree = full.cache / "trees" / "aa" / f"{'a' * 64}-3-py3.11"
    tree.mkdir(parents=True)
    (tree / "file").touch()
    run(session, dry_run=True)
    assert tree.is_dir()
    with in_use(full):
        run(session)
    assert tree.is_dir(), "an earlier release may be running"
    run(session)
    assert not (full.cache / "trees").exists()


def test_what_was_used_lately_stays(session: Session, full: Workspace, later: Callable[[float], None]) -> None:
    facts = full.facts / OTHER.sha256[:2] / f"{OTHER.sha256}-1"
    os.utime(facts, (315532800, 315532800))
    later(29)
    assert counts(run(session)) == {}, "its mtime is from 1980, its ctime is not"
    before = facts.lstat().st_ctime_ns
    time.sleep(0.02)
    assert mark_used(facts)
    assert facts.lstat().st_ctime_ns > before
    assert facts.stat().st_mtime == 315532800
    assert not mark_used(facts / "gone")


def test_what_is_used_while_the_prune_runs_stays(
    session: Session, full: Workspace, later: Callable[[float], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    later(31)
    facts = full.facts / OTHER.sha256[:2] / f"{OTHER.sha256}-1"
    monkeypatch.setattr(prune, "_last_use", lambda path: float("inf") if path == facts else 0.0)
    result = run(session)
    assert facts.is_file()
    assert (counts(result)["facts"], result.skipped) == (1, 1)


def test_what_another_process_holds_stays(session: Session, full: Workspace, later: Callable[[float], None]) -> None:
    later(31)
    wheel = full.wheel(OTHER.sha256, OTHER.filename)
    partial = full.models / "partial" / OTHER_FILE.sha256
    with FileLock(wheel.parent / "lock"), FileLock(f"{partial}.lock"):
        result = run(session)
        assert wheel.is_file()
        assert model_store.has(full.models, OTHER_FILE)
    assert result.skipped == 2
    assert run(session).skipped == 0
    assert not wheel.exists()


def _use(project: Path, cache: Path, ready: Any, done: Any) -> None:
    with in_use(Workspace(project=project, cache=cache)):
        ready.set()
        done.wait(30)


def test_beside_another_jbuild(session: Session, full: Workspace, later: Callable[[float], None]) -> None:
    """Images stay, what is a day old at most stays, and the locks inside wheel folders stay."""
    build(session, ONE, LAYERS)
    (full.project / "build").rename(full.project / "elsewhere")
    context = multiprocessing.get_context("spawn")
    ready, done = context.Event(), context.Event()
    other = context.Process(target=_use, args=(full.project, full.cache, ready, done), daemon=True)
    other.start()
    try:
        assert ready.wait(30)
        with alone(full) as unwatched:
            assert not unwatched
        assert counts(run(session, 0)) == {}
        later(2)
        result = run(session, 0)
        assert result.busy
        assert "images" not in counts(result)
        assert counts(result)["wheels"] == 2
        assert (full.wheel(OTHER.sha256, OTHER.filename).parent / "lock").is_file()
    finally:
        done.set()
        other.join(100)
    result = run(session, 0)
    assert not result.busy
    assert counts(result)["images"] == 1
    assert files(full.cache / "images") == set()
    assert files(full.wheels) == set()


def test_a_run_keeps_the_cache_in_use(session: Session, monkeypatch: pytest.MonkeyPatch) -> None:
    seen = []

    job = make_job()

    def run_cell(*_: object) -> runner.CellResult:
        with alone(session.workspace) as unwatched:
            seen.append(unwatched)
        return runner.CellResult(run=start(job, session), error=JbuildError("no"))

    monkeypatch.setattr(runner, "run_cell", run_cell)
    runner.run_cells([job], session, RunOptions())
    runner.run_cells([job, job], session, RunOptions(), at_once=2)
    assert seen == [False, False, False]
    with alone(session.workspace) as unwatched:
        assert unwatched


def test_images_go_with_the_blobs_that_only_they_have(
    session: Session, workspace: Workspace, later: Callable[[float], None]
) -> None:
    kept = build(session, ONE, LAYERS)
    gone = build(session, make_lock(make_locked_wheel(), cell="two"), {**LAYERS, "COPY layers/z-1/ /": b"z" * 90})
    (workspace.cell("demo", "two").record("build")).unlink()
    index = workspace.images / "index.json"
    listed = [{"digest": image.digest} for image in (kept, gone)]
    index.write_text(json.dumps({"schemaVersion": 2, "manifests": listed}))
    (workspace.images / "blobs" / "sha256" / "orphan").write_bytes(b"o" * 5)
    images = {entry.content: entry for entry in entries(workspace, references(workspace))}
    assert images[kept.digest].locked
    assert images[gone.digest].size == 90 + gone.config.size + gone.manifest.size
    later(31)
    result = run(session, keep_locked=True)
    (pruned,) = [kind for kind in result.kinds if kind.kind == "images"]
    assert (pruned.entries, pruned.size) == (2, 90 + gone.config.size + gone.manifest.size + 5)
    left = {path.name for path in (workspace.images / "blobs" / "sha256").iterdir()}
    assert left == {part.digest.partition(":")[2] for part in (kept.manifest, kept.config, *kept.layers)}
    assert json.loads(index.read_text())["manifests"] == [{"digest": kept.digest}]


def test_only_the_kinds_that_are_named_go(
    session: Session, workspace: Workspace, later: Callable[[float], None]
) -> None:
    image = build(session, ONE, LAYERS)
    workspace.wheel(OTHER.sha256, OTHER.filename).parent.mkdir(parents=True)
    workspace.wheel(OTHER.sha256, OTHER.filename).write_bytes(b"wheel")
    (workspace.cache / "uv").mkdir()
    later(31)
    told = run(session, only=("images",), dry_run=True)
    assert counts(told) == {"images": 1}
    result = run(session, only=("images",))
    assert counts(result) == {"images": 1}
    assert not any(kind.kind == "uv" for kind in result.kinds)
    assert not blob(workspace.images, image.layers[0].digest).exists()
    assert workspace.wheel(OTHER.sha256, OTHER.filename).is_file()


def build_borrowing(session: Session, lock: Lock, file: ModelFile) -> Image:
    """Build an image whose layer consists of a model's file."""
    content = b"0" * 512
    image = build(session, lock, {"COPY layers/model-1/ /": content})
    layer, layout = image.layers[0], session.workspace.images
    blob(layout, layer.digest).unlink()
    virtual_blob.write(
        layout, layer.digest, [tarball.Content(str(model_store.blob(session.workspace.models, file.sha256)), 30)]
    )
    return image


def test_the_files_that_images_consist_of_stay_with_them(
    session: Session, full: Workspace, later: Callable[[float], None]
) -> None:
    borrowed = make_lock(make_locked_wheel(), cell="two")
    build_borrowing(session, borrowed, OTHER_FILE)
    later(31)
    run(session, keep_locked=True)
    assert model_store.has(full.models, OTHER_FILE), "no lock names it, but the image of a cell needs it"
    (full.cell("demo", "two").record("build")).unlink()
    run(session, keep_locked=True)
    assert not model_store.has(full.models, OTHER_FILE)
    assert files(full.images) == set()


def test_files_are_as_old_as_the_use_of_the_image(session: Session, full: Workspace) -> None:
    build_borrowing(session, make_lock(make_locked_wheel(), cell="two"), OTHER_FILE)
    found = {entry.content: entry for entry in entries(full, References())}
    note = next((full.images / "pieces" / "sha256").iterdir())
    assert found[OTHER_FILE.sha256].used == note.stat().st_ctime
    assert found[FILE.sha256].used == model_store.blob(full.models, FILE.sha256).stat().st_ctime


def test_beside_another_jbuild_the_files_of_images_stay(
    session: Session, full: Workspace, later: Callable[[float], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    @contextmanager
    def watched(_: Workspace) -> Iterator[bool]:
        yield False

    build_borrowing(session, make_lock(make_locked_wheel(), cell="two"), OTHER_FILE)
    monkeypatch.setattr(prune, "alone", watched)
    later(31)
    run(session)
    assert model_store.has(full.models, OTHER_FILE)
    assert not model_store.has(full.models, FILE)


def test_bytes_that_others_link_to_are_not_freed(tmp_path: Path) -> None:
    (tmp_path / "tree").mkdir()
    (tmp_path / "tree" / "file").write_bytes(b"x" * 40)
    (tmp_path / "tree" / "own").write_bytes(b"x" * 2)
    (tmp_path / "layer").hardlink_to(tmp_path / "tree" / "file")
    assert measure(tmp_path / "tree")[:2] == (42, 2)
    assert measure(tmp_path / "layer")[:2] == (40, 0)
    assert measure(tmp_path / "gone") == (0, 0, 0.0)


def test_a_link_in_the_cache_is_removed_and_not_followed(
    session: Session, workspace: Workspace, tmp_path: Path, later: Callable[[float], None]
) -> None:
    (tmp_path / "precious").mkdir()
    (tmp_path / "precious" / "file").write_bytes(b"x")
    folder = workspace.facts / "aa"
    folder.mkdir(parents=True)
    (folder / f"{'a' * 64}-1").symlink_to(tmp_path / "precious")
    later(31)
    assert counts(run(session)) == {"facts": 1}
    assert (tmp_path / "precious" / "file").is_file()


def test_what_a_killed_process_left_goes(
    session: Session, workspace: Workspace, later: Callable[[float], None]
) -> None:
    left = workspace.facts / "aa" / f".{'a' * 64}-1.k3j2"
    left.parent.mkdir(parents=True)
    left.write_bytes(b"x")
    assert counts(run(session)) == {}
    later(31)
    assert counts(run(session, keep_locked=True)) == {"facts": 1}
    assert not left.exists()


def test_an_empty_cache(session: Session) -> None:
    assert counts(run(session, 0)) == {}
    assert sum(kind.size for kind in summarise(entries(session.workspace, References()), session.workspace)) == 0


def test_a_damaged_lock_stops_a_prune_that_must_keep_what_is_locked(session: Session, full: Workspace) -> None:
    path = full.lock("demo", "one")
    path.write_text(path.read_text().replace(NEEDED.sha256, "0" * 64))
    with pytest.raises(LockError):
        run(session, 0, keep_locked=True)
    assert full.wheel(OTHER.sha256, OTHER.filename).is_file()
    told: list[LockError] = []
    assert references(full, told.append).wheels == frozenset()
    assert [error.where for error in told] == [str(path)]


def test_uv_prunes_its_own(session: Session, workspace: Workspace) -> None:
    folder = workspace.cache / "uv"
    folder.mkdir(parents=True)
    (folder / "stale").mkdir()
    (folder / "stale" / "file").write_bytes(b"x" * 1000)
    (uv,) = [kind for kind in run(session, 0).kinds if kind.kind == "uv"]
    assert (uv.size, (folder / "stale").exists()) == (1000, False)
    assert not [kind for kind in run(session, 0, dry_run=True).kinds if kind.kind == "uv"]


def test_a_pruned_wheel_is_fetched_again(session: Session, tmp_path: Path, later: Callable[[float], None]) -> None:
    wheel: LockedWheel = locked(make_wheel(tmp_path / "index"))
    layer = wheels_layer([wheel], session)
    (first,) = pack_layers([layer], None, "one", session)
    path = session.workspace.wheel(wheel.sha256, wheel.filename)
    before = path.parent.lstat().st_ctime
    time.sleep(0.02)
    pack_layers([layer], None, "one", session)
    assert path.parent.lstat().st_ctime > before, "using it makes it young"
    later(31)
    assert counts(run(session)) == {"wheels": 1, "packed layers": 1, "images": 1}
    assert not path.exists()
    assert pack_layers([layer], None, "one", session) == (first,)
    assert path.is_file()


def test_the_commands(
    session: Session,
    full: Workspace,
    monkeypatch: pytest.MonkeyPatch,
    command_line: Callable[..., tuple[int, str, str]],
) -> None:
    monkeypatch.chdir(full.project)
    monkeypatch.setenv("JBUILD_CACHE", str(full.cache))
    code, out, err = command_line("cache", "info")
    assert (code, err) == (0, "")
    assert out.splitlines()[0] == str(full.cache)
    assert [line.split() for line in out.splitlines() if line.startswith("models ")] == [
        ["models", "2", "0.1", "kB", "1", "0.1", "kB"]
    ]
    found = json.loads(command_line("cache", "info", "--json")[1])
    assert {kind["kind"]: kind["locked_size"] for kind in found["kinds"]}["models"] == 70
    code, out, _ = command_line("cache", "prune", "--dry-run")
    assert (code, out) == (0, "there is nothing to remove\n")
    code, out, _ = command_line("cache", "prune", "--older-than", "0s", "--keep-locked", "--dry-run", "--json")
    told = json.loads(out)
    assert (code, told["dry_run"], told["busy"], told["frees"]) == (0, True, False, 100 + 9 + 30 + 7 + 65)
    code, out, _ = command_line("cache", "prune", "--older-than", "0s", "--keep-locked")
    assert (code, out.splitlines()[-1]) == (0, "freed 0.2 kB")
    assert not full.wheel(OTHER.sha256, OTHER.filename).exists()
    assert full.wheel(NEEDED.sha256, NEEDED.filename).is_file()
    for age in ("30", "d", "-1d", "1y", "1.5d", ""):
        code, _, err = command_line("cache", "prune", "--older-than", age)
        assert (code, "is not an age: write a number and s, m, h, d or w" in err) == (2, True), age
    code, _, err = command_line("cache", "prune", "--only", "layers")
    assert (code, err) == (
        2,
        "error: 'layers' is not a kind of entries\n  where: --only\n  next: did you mean `packed layers`?\n",
    )
    code, out, _ = command_line("cache", "prune", "--older-than", "0s", "--only", "models", "--dry-run")
    assert (code, [line.split()[0] for line in out.splitlines()]) == (0, ["would", "models", "it"])
    for arguments in ((), ("--help",)):
        code, out, _ = command_line("cache", *arguments)
        assert (code, "prune" in out, "info" in out, "--json" in out) == (0, True, True, True)


def test_another_jbuild_is_mentioned(
    full: Workspace, monkeypatch: pytest.MonkeyPatch, command_line: Callable[..., tuple[int, str, str]]
) -> None:
    monkeypatch.chdir(full.project)
    monkeypatch.setenv("JBUILD_CACHE", str(full.cache))
    with in_use(full):
        code, out, _ = command_line("cache", "prune", "--older-than", "0s")
    assert code == 0
    assert out.splitlines() == [
        "there is nothing to remove",
        "another jbuild process runs: all images stay, and so do other entries used within a day",
    ]


def test_every_kind_is_a_folder_that_jbuild_made() -> None:
    names = {kind.folder.partition("/")[0] for kind in contents.KINDS}
    assert names == {
        "wheels",
        "tools",
        "cubins",
        "facts",
        "metadata",
        "interpreters",
        "models",
        "advised",
        "indexes",
        "signatures",
        "verdicts",
        "bundle-runs",
        "programs",
        "packed",
        "systems",
        "model-infos",
        "foundry",
        "built",
    }
