"""Programs, disk, the project's rules, and a Jetson: files of a machine that is not there."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import pytest
from doctor_parts import jetson as make_jetson_files
from doctor_parts import make_case, named, program, zone
from engine_factory import make_engine
from factories import make_job, make_lock, make_locked_wheel

from builder.errors import EngineError
from builder.host import records
from builder.host.config import Config, ModelMirror, RegistryMirror
from builder.host.index_mirrors import IndexMirror
from builder.host.session import Session
from builder.lock import lockfile
from builder.model.images import Descriptor, Image
from builder.project.doctor import disk_check, jetson_check, network_check, tools_check
from builder.recipe.load import load

if TYPE_CHECKING:
    from collections.abc import Callable

    from builder.model.locks import Lock
    from builder.project.doctor.check_table import Check, DoctorContext

GB = 1_000_000_000
RECIPE = """
description = "For several releases"
architecture = "arm64"
[matrix]
vllm = ["0.15.1"]
l4t = ["36.4.0", "38.4.0"]
[packages]
requires = ["vllm=={vllm}"]
[[models]]
name = "tiny"
source = "hf://org/tiny@main"
[[smoke.questions]]
ask = "What?"
expect = "That"
"""


def with_config(session: Session, **settings: Any) -> Session:
    return Session(workspace=session.workspace, config=Config(**settings), console=session.console)


@pytest.fixture
def programs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("PATH", str(tmp_path / "bin"))
    (tmp_path / "bin").mkdir()
    return tmp_path / "bin"


@pytest.mark.parametrize(
    ("said", "state"), [("uv 0.13.9 (x86_64)", "ok"), ("uv 0.7.2", "error"), ("nonsense", "error")]
)
def test_uv(session: Session, programs: Path, monkeypatch: pytest.MonkeyPatch, said: str, state: str) -> None:
    path = program(programs, "uv", f"echo '{said}'")
    monkeypatch.setattr("builder.lock.solve.uv", lambda: str(path))
    (found,) = tools_check.check(make_case(session))
    assert found.state == state
    assert said in found.found
    assert bool(found.fix) is (state != "ok")


def test_no_uv(session: Session, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("builder.lock.solve.uv", lambda: "/nowhere/uv")
    (found,) = tools_check.check(make_case(session))
    assert found.state == "error"
    assert "uv>=0.8" in found.fix


def test_cosign_only_where_something_is_signed(session: Session, programs: Path) -> None:
    assert all(check.name != "cosign" for check in tools_check.check(make_case(session)))
    signing = with_config(session, cosign_key=Path("cosign.key"))
    assert named(list(tools_check.check(make_case(signing))), "cosign").state == "error"
    program(programs, "cosign", "exit 0")
    assert named(list(tools_check.check(make_case(signing))), "cosign").state == "ok"


def test_every_stand_in_is_named(session: Session) -> None:
    own = with_config(
        session,
        registry_mirrors=(RegistryMirror(prefix="a", mirror="b"), RegistryMirror(prefix="c", mirror="d", stand_in="x")),
        index_mirrors=(IndexMirror(prefix="https://i", mirror="https://j", stand_in="y"),),
        model_mirrors=(ModelMirror(source="hf://o/m", folder=Path("/m"), stand_in="z"),),
    )
    found = list(network_check.stand_ins(make_case(own)))
    assert [check.found for check in found] == [
        "c is taken from d: x",
        "https://i is taken from https://j: y",
        "hf://o/m is taken from /m: z",
    ]
    assert {check.state for check in found} == {"warning"}


@pytest.fixture
def free(monkeypatch: pytest.MonkeyPatch) -> Callable[[float], None]:
    def have(size: float) -> None:
        monkeypatch.setattr("builder.project.doctor.disk_check.shutil.disk_usage", lambda _: SimpleNamespace(free=size))

    return have


def locked_case(session: Session, *locks: Lock) -> DoctorContext:
    job = make_job()
    session.workspace.cache.mkdir()
    for lock in locks:
        lockfile.write(session.workspace.lock("demo", lock.cell), lock)
    jobs = tuple(replace(job, cell=replace(job.cell, id=name)) for name in ("one", "two"))
    return make_case(session, engine=None, recipe=job.recipe, jobs=jobs)


def test_without_a_recipe_the_usual_size_counts(session: Session, free: Callable[[float], None]) -> None:
    free(30 * GB)
    assert next(disk_check.check(make_case(session, engine=None))).state == "ok"
    free(10 * GB)
    (found,) = disk_check.check(make_case(session, engine=None))
    assert found.state == "warning"
    assert found.fix[1:] == ("-m", "builder", "cache", "prune", "--keep-locked")


def test_a_recipe_that_is_not_locked_tells_no_size(session: Session, free: Callable[[float], None]) -> None:
    free(10 * GB)
    (found,) = disk_check.check(locked_case(session))
    assert (found.state, "no cell is locked" in found.found) == ("warning", True)


def test_what_is_needed_is_the_sum_of_the_locks(session: Session, free: Callable[[float], None]) -> None:
    wheel = make_locked_wheel("torch", size=GB)
    locks = [make_lock(wheel, models=(), cell=cell) for cell in ("one", "two")]
    case = locked_case(session, *locks)
    need = disk_check.needed(case)
    # The wheel and its layer; the engine's packed and unpacked copies. Two cells share all of it.
    assert need == disk_check.Need(cache=(1 + 1) * GB, engine=(1 + 4.1) * GB)
    free(7 * GB)
    assert next(disk_check.check(case)).state == "error"
    free(8 * GB)
    assert next(disk_check.check(case)).state == "warning"
    free(12 * GB)
    assert next(disk_check.check(case)).state == "ok"


def test_what_is_in_the_cache_needs_no_more_room(session: Session) -> None:
    wheel = make_locked_wheel("torch", size=GB)
    case = locked_case(session, make_lock(wheel, models=()))
    path = session.workspace.wheel(wheel.sha256, wheel.filename)
    path.parent.mkdir(parents=True)
    path.touch()
    assert disk_check.needed(case).cache == pytest.approx(GB)
    assert disk_check.needed(case).unknown == ("two",)


def test_a_cell_whose_image_is_built_needs_nothing(session: Session) -> None:
    lock = make_lock(make_locked_wheel("torch", size=GB), models=())
    case = locked_case(session, lock)
    part = Descriptor(media_type="m", digest="sha256:" + "0" * 64, size=1)
    path = session.workspace.lock("demo", "one")
    written = lockfile.read(path, recipe="demo", cell="one")
    assert written
    labels = (("io.jbuild.lock", lockfile.content(written)),)
    image = Image(platform="linux/arm64", manifest=part, config=part, layers=(), labels=labels)
    records.write(session.workspace.cell("demo", "one").record("build"), "f", image)
    assert disk_check.needed(case) == disk_check.Need(unknown=("two",))


def test_an_engine_on_another_disk_is_judged_by_itself(
    session: Session, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    case = replace(
        locked_case(session, make_lock(make_locked_wheel("torch", size=GB), models=())), engine=make_engine()
    )
    elsewhere = SimpleNamespace(stat=lambda: SimpleNamespace(st_dev=-1), __str__=lambda: "/data")
    monkeypatch.setattr(disk_check, "data_folder", lambda _: elsewhere)
    monkeypatch.setattr(
        "builder.project.doctor.disk_check.shutil.disk_usage",
        lambda path: SimpleNamespace(free=GB if path is elsewhere else 50 * GB),
    )
    assert [check.state for check in disk_check.check(case)] == ["ok", "error"]


def test_an_engine_that_goes_away_is_told_elsewhere(session: Session, monkeypatch: pytest.MonkeyPatch) -> None:
    def gone(_: object) -> Path:
        raise EngineError("gone")

    monkeypatch.setattr(disk_check, "data_folder", gone)
    assert len(list(disk_check.check(make_case(session)))) == 1


def examine(session: Session, root: Path, **changes: Any) -> list[Check]:
    return list(jetson_check.check(make_case(session, root=root, **changes)))


def test_no_jetson(session: Session, tmp_path: Path) -> None:
    (found,) = examine(session, tmp_path)
    assert (found.name, found.state) == ("device", "not applicable")


@pytest.mark.parametrize(
    ("files", "state", "said"),
    [
        ({}, "ok", "L4T 36.4.3 (JetPack 6.2), orin-nx-16"),
        ({"l4t": "R36 (release), REVISION: 9.9"}, "warning", "L4T 36.9.9"),
        ({"l4t": "something else"}, "warning", "unknown release"),
        ({"parts": "nvidia,p9999-0000"}, "warning", "L4T 36.4.3"),
    ],
)
def test_release_and_board(
    session: Session, programs: Path, tmp_path: Path, files: dict[str, str], state: str, said: str
) -> None:
    root = make_jetson_files(tmp_path / "root", **files)
    found = named(examine(session, root), "device")
    assert (found.state, said in found.found) == (state, True)


@pytest.mark.parametrize(
    ("script", "state", "said"),
    [
        ("echo 'NV Power Mode: MAXN'; echo 0", "ok", "MAXN"),
        ("echo 'NV Power Mode: 15W'; echo 2", "ok", "15W (modes: MAXN, 10W, 15W, 25W); MAXN is faster"),
        ("echo 'NV Power Mode: 10W'; echo 1", "warning", "10W"),
        ("echo 'no permission' >&2; exit 1", "not applicable", "no permission"),
        ("echo what", "not applicable", "no mode"),
    ],
)
def test_power(session: Session, programs: Path, tmp_path: Path, script: str, state: str, said: str) -> None:
    program(programs, "nvpmodel", script)
    found = named(examine(session, make_jetson_files(tmp_path / "root")), "power")
    assert (found.state, said in found.found) == (state, True)


def test_in_a_container_the_mode_cannot_be_seen(session: Session, programs: Path, tmp_path: Path) -> None:
    assert named(examine(session, make_jetson_files(tmp_path / "root")), "power").state == "not applicable"


def test_heat(session: Session, programs: Path, tmp_path: Path) -> None:
    root = make_jetson_files(tmp_path / "root")
    assert named(examine(session, root), "heat").state == "not applicable"
    zone(root, 0, "cpu-thermal", 61_500, {"passive": 99_000, "critical": 104_500})
    zone(root, 1, "gpu-thermal", 72_000, {"critical": 60_000})
    found = named(examine(session, root), "heat")
    assert (found.state, found.found) == ("ok", "gpu-thermal 72 °C is the hottest")
    zone(root, 2, "soc", 99_500, {"passive": 99_000})
    found = named(examine(session, root), "heat")
    assert (found.state, found.found) == ("warning", "soc 100 °C (limit 99 °C)")


def test_memory_that_others_hold(session: Session, programs: Path, tmp_path: Path) -> None:
    root = make_jetson_files(tmp_path / "root")
    assert named(examine(session, root), "memory").found == "11.4 of 15.3 GiB are free"
    (root / "proc" / "meminfo").write_text("MemTotal: 16031744 kB\nMemAvailable: 4000000 kB\n")
    assert named(examine(session, root), "memory").state == "warning"
    (root / "proc" / "meminfo").unlink()
    assert named(examine(session, root), "memory").state == "not applicable"


@pytest.fixture
def several(session: Session) -> Path:
    path = session.workspace.project / "recipes" / "several.toml"
    path.write_text(RECIPE)
    return path


def test_which_images_a_device_runs_and_why_not_the_others(
    session: Session, programs: Path, several: Path, tmp_path: Path
) -> None:
    root = make_jetson_files(tmp_path / "root")
    found = named(examine(session, root, recipe=load(several)), "images")
    assert found.state == "ok"
    assert found.found.startswith(
        "several: v0_15_1-r36_4_0; not v0_15_1-r38_4_0: JetPack 6's driver (540) refuses CUDA"
    )
    shutil.rmtree(root)
    make_jetson_files(root, l4t="R35 (release), REVISION: 4.1")
    found = named(examine(session, root, recipe=load(several)), "images")
    assert found.state == "warning"
    assert 'l4t = ["35.4.1"]' in (found.mend or "")


def test_a_gpu_that_the_image_has_no_code_for(session: Session, programs: Path, several: Path, tmp_path: Path) -> None:
    several.write_text(RECIPE.replace('"36.4.0", "38.4.0"', '"38.4.0"'))
    root = make_jetson_files(tmp_path / "root", l4t="R38 (release), REVISION: 4.0")
    found = named(examine(session, root, recipe=load(several)), "images")
    assert "its kernels are for SM 11.0, and orin-nx-16's GPU is SM 8.7" in found.found


def test_without_a_recipe_all_are_looked_at_but_those_with_mistakes(
    session: Session, programs: Path, several: Path, tmp_path: Path
) -> None:
    (several.parent / "broken.toml").write_text("nonsense")
    checks = examine(session, make_jetson_files(tmp_path / "root"))
    told = [check.found.partition(":")[0] for check in checks if check.name == "images"]
    assert "several" in told
    assert "broken" not in told


def test_without_a_release_nothing_is_told_of_images(session: Session, programs: Path, tmp_path: Path) -> None:
    root = make_jetson_files(tmp_path / "root", l4t="what")
    assert named(examine(session, root), "images").state == "not applicable"
