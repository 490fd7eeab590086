"""Wheels that a cell has built, in what later stages and verbs make of its lock: bills, provenance, lists, bundles."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import pytest
from build_factory import make_build
from cell_builds import SOURCE, make_built, wheel_of
from factories import make_image, make_job, make_lock, make_locked_wheel, make_plan, make_run, make_spec
from report_parts import Made
from result_factory import result

from builder.cli.run_view import summary
from builder.cli.verbs.show import _lock
from builder.foundry.earlier_builds import earlier_cost
from builder.host import records
from builder.lock import lockfile
from builder.model.builds import BuildPatch, BuiltWheel, BuiltWheels
from builder.model.locks import Locked
from builder.model.recipes import Cell, PackageBuild, PackageBuilds
from builder.pipeline.cell import CellRecords
from builder.pipeline.order import STAGES, RunOptions, stages_of
from builder.project.cache.contents import references
from builder.project.diff.subject import fields_of
from builder.project.page.cell_view import cell_view
from builder.publish.bundle.carried_project import project_members
from builder.publish.statements import provenance_predicate

if TYPE_CHECKING:
    from pathlib import Path

    from builder.host.session import Session
    from builder.model.locks import Lock

PATCH = BuildPatch(name="patches/a.patch", sha256="a" * 64)
BUILD = make_build(name="ext", source=SOURCE, patches=(PATCH,), environment=())
BUILT = make_built(BUILD)
BUILDS = PackageBuilds(packages=(PackageBuild(name="ext", patches=("patches/a.patch",)),))


def built_lock() -> Lock:
    return make_lock(make_locked_wheel("app"), make_locked_wheel("zoo"), builds=(BUILD,))


def write_wheels(session: Session, *wheels: object) -> None:
    records.write(session.workspace.cell("demo", "one").record("wheel"), "f", BuiltWheels(wheels=wheels))  # type: ignore[arg-type]


def test_only_cells_with_builds_have_the_stage() -> None:
    assert stages_of(make_spec()) == tuple(stage for stage in STAGES if stage != "wheel")
    assert stages_of(make_spec(builds=PackageBuilds(missing=True))) == STAGES
    assert STAGES[:3] == ("lock", "wheel", "audit")


def test_a_run_sees_built_wheels_among_the_others(session: Session) -> None:
    run = make_run(session, built_lock())
    assert [wheel.name for wheel in run.lock.wheels] == ["app", "zoo"]
    run = run.with_records(BuiltWheels(wheels=(BUILT,)))
    assert [wheel.name for wheel in run.lock.wheels] == ["app", "ext", "zoo"]
    assert run.lock.versions["ext"] == "1.0+jbuild.1"
    assert lockfile.content(run.lock) == lockfile.content(built_lock())
    assert run.get(Locked).lock.as_written == built_lock()


def test_the_records_of_a_cell_give_its_wheels(session: Session) -> None:
    folder = CellRecords(session.workspace.cell("demo", "one"))
    assert folder.with_built(built_lock()) == built_lock()
    write_wheels(session, replace(BUILT, fingerprint="0" * 64))
    # Those of other inputs do not count.
    assert folder.with_built(built_lock()) == built_lock()
    write_wheels(session, BUILT)
    assert folder.with_built(built_lock()).built_wheels == (wheel_of(BUILD),)
    assert folder.with_built(make_lock()) == make_lock()


def test_a_commit_is_named_in_the_provenance() -> None:
    source = replace(SOURCE, kind="git", location="https://example.com/x.git", commit="1" * 40, size=None)
    build = make_build(name="ext", source=source)
    lock = make_lock(make_locked_wheel("app"), builds=(build,))
    materials = provenance_predicate(make_job(), lock, make_plan(), "c" * 64, make_image())["buildDefinition"][
        "resolvedDependencies"
    ]
    entry = next(entry for entry in materials if entry["name"] == "source of ext 1.0")
    assert entry["uri"] == f"git+https://example.com/x.git@{'1' * 40}"
    assert entry["digest"]["gitCommit"] == "1" * 40


def test_the_provenance_has_source_and_patches_as_materials() -> None:
    lock = built_lock().with_built(BuiltWheels(wheels=(BUILT,)))
    predicate = provenance_predicate(make_job(), lock, make_plan(), "c" * 64, make_image())
    materials = {entry["name"]: entry for entry in predicate["buildDefinition"]["resolvedDependencies"]}
    assert materials[BUILT.wheel.filename]["digest"] == {"sha256": BUILT.wheel.sha256}
    assert materials["source of ext 1.0"]["uri"] == SOURCE.location
    assert materials["patch of ext 1.0"]["digest"] == {"sha256": "a" * 64}
    plain = provenance_predicate(make_job(), make_lock(), make_plan(), "c" * 64, make_image())
    assert all("source of" not in entry["name"] for entry in plain["buildDefinition"]["resolvedDependencies"])


def test_a_difference_compares_builds_by_their_inputs() -> None:
    before, after = (
        built_lock(),
        replace(built_lock(), builds=(make_build(name="ext", source=SOURCE, environment=(("A", "1"),)),)),
    )
    one, two = ({part.name: part for part in fields_of(lock)["packages"]} for lock in (before, after))
    assert (one["ext"].version, one["ext"].content) == ("1.0", BUILD.fingerprint)
    assert one["ext"].content != two["ext"].content
    # With the wheel, the same.
    assert fields_of(before.with_built(BuiltWheels(wheels=(BUILT,)))) == fields_of(before)


def test_the_estimate_is_what_the_longest_build_of_the_version_took_here(session: Session) -> None:
    assert earlier_cost(BUILD, session) is None
    others: list[BuiltWheel] = [
        make_built(make_build(name="ext", environment=(("GPU", "1"),)), seconds=3700.0, units=48, peak_memory=5 << 30),
        make_built(make_build(name="ext", version="1.1"), seconds=9000.0),
        make_built(make_build(name="other"), seconds=9000.0),
        make_built(BUILD, seconds=None, origin="registry:x"),
    ]
    for built in others:
        records.write(session.workspace.built(built.fingerprint), built.fingerprint, built)
    expected = "ext 1.0 was built before, in 61 min 40 s, 48 compiled files, 5.00 GiB in the largest process"
    assert earlier_cost(BUILD, session) == expected


def test_show_lists_builds(session: Session) -> None:
    path = session.workspace.lock("demo", "one")
    shown = _lock(built_lock(), path)
    assert shown.packages == {"app": "1.0", "ext": "1.0", "zoo": "1.0"}
    assert shown.builds
    assert (shown.builds[0].wheel, shown.builds[0].patches) == (None, ("patches/a.patch",))
    shown = _lock(built_lock().with_built(BuiltWheels(wheels=(BUILT,))), path)
    assert shown.builds
    assert (shown.packages["ext"], shown.builds[0].wheel) == ("1.0+jbuild.1", BUILT.wheel.filename)
    assert "builds" not in records.to_json(_lock(make_lock(), path))


def test_the_summary_names_the_wheels(session: Session) -> None:
    finished = result(session)
    run = finished.run.with_records(Locked(lock=built_lock()), BuiltWheels(wheels=(BUILT,)))
    text = summary([replace(finished, run=run)], 1.0)
    assert "(2 wheels, 1 to build)" in text
    assert f"  wheel     {BUILT.wheel.filename} (built in 1 min 1 s)" in text
    cached = run.with_records(BuiltWheels(wheels=(replace(BUILT, origin="cache"),)))
    assert f"{BUILT.wheel.filename} (from the cache)" in summary([replace(finished, run=cached)], 1.0)


def test_the_report_has_the_stage_of_cells_with_builds(session: Session) -> None:
    made = Made(workspace=session.workspace, recipe="demo", cell="one")
    cell = Cell(id="one", recipe="demo", values=())
    lock = made.lock()
    assert "wheel" not in [step.name for step in cell_view(cell, session, None).steps]
    lock = made.lock(builds=(BUILD,))
    view = cell_view(cell, session, None)
    assert [(step.name, step.state) for step in view.steps][:3] == [
        ("lock", "done"),
        ("wheel", "to do"),
        ("audit", "to do"),
    ]
    write_wheels(session, BUILT)
    made.audit()
    view = cell_view(cell, session, None)
    assert (view.state, view.steps[1].state) == ("audited", "done")
    assert view.lock == lock.with_built(BuiltWheels(wheels=(BUILT,)))


def test_prunes_keep_what_builds_need(session: Session) -> None:
    lockfile.write(session.workspace.lock("demo", "one"), built_lock())
    write_wheels(session, BUILT)
    needed = references(session.workspace).wheels
    assert {SOURCE.sha256, BUILT.wheel.sha256} <= needed


def test_a_bundle_carries_patches_and_the_record(session: Session, tmp_path: Path) -> None:
    recipes = session.workspace.project / "recipes"
    (recipes / "patches").mkdir(parents=True)
    (recipes / "patches" / "a.patch").write_text("diff\n")
    (recipes / "demo.toml").write_text("x = 1\n")
    job = make_job(spec=make_spec(builds=BUILDS), path=recipes / "demo.toml")
    write_wheels(session, BUILT)
    paths = {member.path.partition("/")[2] for member in project_members(job, session, proven=False)}
    assert {"recipes/patches/a.patch", "build/demo/one/wheel.json"} <= paths


@pytest.mark.parametrize("again", ["lock", "wheel", None])
def test_the_stage_runs_again_on_request(again: str | None) -> None:
    assert RunOptions(again=again).forces("wheel") is (again is not None)
