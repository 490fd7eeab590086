"""Locking a cell: what makes a lock stale, what is kept, what changed, and what is remembered."""

from __future__ import annotations

import os
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any

import pytest
import tomli_w
from factories import DIGEST, make_job, make_spec, make_wheel
from tiny_index import Answer, TinyIndex, tiny_index

from builder.errors import IntegrityError, LockError, NetworkError, NoWheelsError
from builder.host import records
from builder.host.config import Config
from builder.host.index_rows import IndexRow
from builder.host.session import Session
from builder.lock import advisory_solve, lockfile, resolve, unresolved
from builder.lock.lock_check import CellCheck, check_lock
from builder.lock.stage import current_lock, lock_cell
from builder.model.locks import LockedBase
from builder.pipeline.order import RunOptions
from builder.recipe.matrix import job_of
from builder.remote.index.index_client import client_of

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from builder.model.locks import Job, Lock, Locked

pytestmark = pytest.mark.usefixtures("quick_uv")


@pytest.fixture
def public(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[TinyIndex]:
    """The index that uv asks by default."""
    monkeypatch.setattr(
        resolve, "resolve_digest", lambda name, *_, **__: LockedBase(name=name, used=name, digest=DIGEST)
    )
    monkeypatch.setattr(resolve, "compiler_of", lambda *_: "3.11.7")
    (tmp_path / "uv.toml").write_text("")
    monkeypatch.setenv("UV_CONFIG_FILE", str(tmp_path / "uv.toml"))
    monkeypatch.setenv("UV_HTTP_RETRIES", "0")
    with tiny_index() as index:
        index.add(make_wheel(tmp_path / "public", "app", "1.0", requires=("jetty", "helper")))
        index.add(make_wheel(tmp_path / "public", "helper", "1.0"))
        index.add(make_wheel(tmp_path / "public", "jetty", "9.0"))
        monkeypatch.setenv("UV_DEFAULT_INDEX", index.url)
        yield index


@pytest.fixture
def jet(tmp_path: Path) -> Iterator[TinyIndex]:
    """The index that jetty is tied to."""
    with tiny_index() as index:
        index.add(make_wheel(tmp_path / "jet", "jetty", "1.0"))
        yield index


@pytest.fixture
def tied(session: Session, public: TinyIndex, jet: TinyIndex) -> Session:
    """A session with that tie."""
    row = IndexRow(name="jet", url=jet.url, packages=("jetty",))
    return Session(workspace=session.workspace, config=Config(indexes=(row,)), console=session.console)


def cell(**spec: Any) -> Job:
    made = make_job(spec=make_spec(**({"requires": ("app",), "models": ()} | spec)))
    return job_of(made.recipe, made.cell)


def lock(job: Job, session: Session, **options: Any) -> Locked:
    # As in another run: nothing is remembered of what indexes said.
    client_of.cache_clear()
    return lock_cell(job, session, RunOptions(until="lock", **options))


def path_of(session: Session) -> Path:
    return session.workspace.lock("demo", "one")


def words(locked: Locked) -> list[str]:
    return [change.words for change in locked.changes]


def keep(session: Session, server: TinyIndex, made: Lock, name: str) -> None:
    """Put a locked wheel into the wheelhouse."""
    wheel = next(wheel for wheel in made.wheels if wheel.name == name)
    place = session.workspace.wheel(wheel.sha256, wheel.filename)
    place.parent.mkdir(parents=True)
    place.write_bytes(server.files[wheel.filename])


def swap(server: TinyIndex, folder: Path, name: str, version: str) -> None:
    """Serve other bytes under a wheel's name."""
    server.pages[name] = [entry for entry in server.pages[name] if f"-{version}-" not in entry["filename"]]
    server.add(make_wheel(folder / "swapped", name, version, files={"other.py": "x = 1\n"}))


def test_a_lock_says_what_was_applied(tied: Session, jet: TinyIndex) -> None:
    made = lock(cell(released_before="2030-01-01", requires=("jetty",)), tied).lock
    assert made.versions == {"jetty": "1.0"}
    assert made.sources == {"jetty": "jet"}
    assert [(index.name, index.url) for index in made.indexes] == [("jet", jet.url)]
    assert [(rule.rule, rule.why) for rule in made.rules] == [
        ("jetty from the index jet only", "usual for debian-12"),
        ("nothing released from 2030-01-01 on", "`released-before` of the recipe"),
        ("no cut-off by date for the index jet", "its pages have no upload times, so the date says nothing about it"),
    ]


def test_an_index_that_has_upload_times_is_cut_off(tied: Session, jet: TinyIndex) -> None:
    jet.pages["jetty"][0]["upload-time"] = "2026-01-01T00:00:00Z"
    made = lock(cell(released_before="2030-01-01", requires=("jetty",)), tied).lock
    assert not any("no cut-off" in rule.rule for rule in made.rules)


def test_a_lock_that_is_current_asks_nobody(tied: Session, public: TinyIndex, jet: TinyIndex) -> None:
    first = lock(cell(), tied)
    assert first.made
    asked = len(public.asked), len(jet.asked)
    again = lock(cell(), tied)
    assert (again.made, again.lock, again.changes) == (False, first.lock, ())
    assert (len(public.asked), len(jet.asked)) == asked
    assert current_lock(cell(), tied) == first.lock


def test_versions_are_kept_where_they_fit(tied: Session, public: TinyIndex, jet: TinyIndex, tmp_path: Path) -> None:
    lock(cell(), tied)
    public.add(make_wheel(tmp_path / "newer", "helper", "2.0"))
    jet.add(make_wheel(tmp_path / "newer", "jetty", "2.0"))
    public.add(make_wheel(tmp_path / "newer", "extra", "1.0"))
    again = lock(cell(requires=("app", "extra")), tied)
    assert again.lock.versions == {"app": "1.0", "extra": "1.0", "helper": "1.0", "jetty": "1.0"}
    assert words(again) == ["extra 1.0 added because the recipe asks for extra"]


def test_one_package_is_upgraded_or_all(
    tied: Session, public: TinyIndex, jet: TinyIndex, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    lock(cell(), tied)
    public.add(make_wheel(tmp_path / "newer", "helper", "2.0"))
    jet.add(make_wheel(tmp_path / "newer", "jetty", "2.0"))
    one = lock(cell(), tied, upgrade=("jetty",))
    assert words(one) == ["jetty 1.0 → 2.0 because its upgrade was requested"]
    assert one.lock.versions["helper"] == "1.0"
    rest = lock(cell(), tied, upgrade=("*",))
    assert words(rest) == ["helper 1.0 → 2.0 because its upgrade was requested"]
    assert lock(cell(), tied, upgrade=("nope",)).changes == ()
    assert "warning: one: there is no nope to upgrade" in capsys.readouterr().err


def test_a_tie_that_changed_makes_a_lock_stale(
    tied: Session, capsys: pytest.CaptureFixture[str], session: Session
) -> None:
    lock(cell(), tied)
    tied.console.quiet = False
    assert current_lock(cell(), session) is None
    with pytest.raises(LockError, match="the lock is stale: jetty comes from the default index now"):
        lock(cell(), session, locked_only=True)
    again = lock(cell(), session)
    # The version before is not on the default index.
    assert words(again) == ["jetty 1.0 → 9.0 because it comes from the default index now"]
    assert again.lock.sources == {}
    with pytest.raises(LockError, match="the lock is stale: jetty comes from jet now"):
        lock(cell(), tied, locked_only=True)
    assert "the lock is stale (jetty comes from the default index now); locking anew" in capsys.readouterr().err


def test_a_changed_recipe_makes_a_lock_stale(tied: Session) -> None:
    lock(cell(), tied)
    for spec in ({"constraints": ("helper<9",)}, {"released_before": "2030-01-01"}, {"requires": ("app", "helper")}):
        with pytest.raises(LockError, match="the recipe or its platform changed"):
            lock(cell(**spec), tied, locked_only=True)


def test_a_missing_lock_is_an_error_where_only_locked_cells_count(tied: Session) -> None:
    with pytest.raises(LockError, match="there is no lock") as caught:
        lock(cell(), tied, locked_only=True)
    assert caught.value.hint == "run `jbuild lock demo --cell one`"


def test_force_starts_from_nothing(tied: Session, jet: TinyIndex, tmp_path: Path) -> None:
    lock(cell(), tied)
    jet.add(make_wheel(tmp_path / "newer", "jetty", "2.0"))
    again = lock(cell(), tied, again="lock")
    assert again.lock.versions["jetty"] == "2.0"
    assert again.changes == ()


@pytest.mark.parametrize("number", [2, 3])
def test_a_lock_of_an_older_format_is_made_anew_with_its_versions(
    tied: Session, public: TinyIndex, jet: TinyIndex, tmp_path: Path, number: int
) -> None:
    before = lock(cell(), tied).lock
    older(path_of(tied), number)
    public.add(make_wheel(tmp_path / "newer", "helper", "2.0"))
    jet.add(make_wheel(tmp_path / "newer", "jetty", "2.0"))
    with pytest.raises(LockError, match=f"the lock is stale: lock format {number} is not"):
        lock(cell(), tied, locked_only=True)
    again = lock(cell(), tied)
    assert again.made
    assert again.lock == before
    assert again.changes == ()


def older(path: Path, number: int) -> None:
    """Write a lock as earlier formats were: without what they did not know."""
    data = tomllib.loads(path.read_text())
    own = data["tool"]["jbuild"]
    own["format"] = number
    del own["sources"]
    if number < 3:
        for key in ("indexes", "rules", "warnings"):
            del own[key]
        for package in data["packages"]:
            package.pop("index", None)
    path.write_text(tomli_w.dumps(data))


def test_an_older_lock_that_is_damaged_is_started_from_nothing(tied: Session) -> None:
    lock(cell(), tied)
    older(path_of(tied), 2)
    data = tomllib.loads(path_of(tied).read_text())
    del data["tool"]["jbuild"]["base"]
    path_of(tied).write_text(tomli_w.dumps(data))
    assert lockfile.read_old_format(path_of(tied)) is None
    assert lock(cell(), tied).made


def test_two_indexes_at_one_address_are_told_apart(session: Session, public: TinyIndex, jet: TinyIndex) -> None:
    rows = (
        IndexRow(name="first", url=jet.url, packages=("jetty",)),
        IndexRow(name="second", url=jet.url, packages=("other",)),
    )
    jet.pages["other"] = public.pages["helper"]
    jet.files |= public.files
    made = Session(workspace=session.workspace, config=Config(indexes=rows), console=session.console)
    jet.add(make_wheel(session.workspace.cache / "w", "other", "1.0"))
    found = lock(cell(requires=("jetty", "other")), made).lock
    assert found.sources == {"jetty": "first", "other": "second"}
    assert lock(cell(requires=("jetty", "other")), made).lock == found


def test_a_locked_file_that_changed_is_taken_from_the_wheelhouse(
    tied: Session, jet: TinyIndex, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = lock(cell(), tied).lock
    keep(tied, jet, before, "jetty")
    swap(jet, tmp_path, "jetty", "1.0")
    again = lock(cell(constraints=("helper<9",)), tied)
    assert again.changes == ()
    assert again.lock.wheels == before.wheels
    (rule,) = [rule for rule in again.lock.rules if "wheelhouse" in rule.rule]
    assert rule.rule == "jetty-1.0-py3-none-any.whl from the wheelhouse, as it was locked"
    assert "the index jet serves another jetty-1.0-py3-none-any.whl now" in rule.why
    assert f"warning: one: {rule.why}" in capsys.readouterr().err


def test_a_locked_file_that_changed_and_is_not_here_is_an_error(tied: Session, jet: TinyIndex, tmp_path: Path) -> None:
    before = lock(cell(), tied).lock
    content = path_of(tied).read_bytes()
    swap(jet, tmp_path, "jetty", "1.0")
    with pytest.raises(IntegrityError, match="the index jet serves another jetty") as caught:
        lock(cell(constraints=("helper<9",)), tied)
    assert before.wheels[2].sha256 in caught.value.message
    assert "--upgrade jetty" in (caught.value.hint or "")
    assert path_of(tied).read_bytes() == content


@pytest.mark.parametrize(("kept", "upgrade"), [(True, "jetty"), (False, "*")])
def test_an_upgrade_takes_the_changed_file(
    tied: Session, jet: TinyIndex, tmp_path: Path, kept: bool, upgrade: str
) -> None:
    before = lock(cell(), tied).lock
    if kept:
        keep(tied, jet, before, "jetty")
    swap(jet, tmp_path, "jetty", "1.0")
    again = lock(cell(), tied, upgrade=(upgrade,))
    assert words(again) == ["jetty 1.0: another file because its upgrade was requested"]
    assert again.lock.wheels[2].sha256 == jet.pages["jetty"][0]["hashes"]["sha256"]
    assert not any("wheelhouse" in rule.rule for rule in again.lock.rules)


def test_two_locks_at_once_are_one(tied: Session, public: TinyIndex, jet: TinyIndex) -> None:
    client_of.cache_clear()
    begun = threading.Barrier(2)

    def one(_: int) -> Locked:
        begun.wait(100)
        return lock_cell(cell(), tied)

    with ThreadPoolExecutor(2) as pool:
        first, second = pool.map(one, range(2))
    assert first.lock == second.lock
    assert {first.made, second.made} == {True, False}
    assert jet.count("/simple/jetty/") == 1


def test_a_cell_without_wheels_is_remembered_until_it_has_some_or_its_inputs_change(
    tied: Session, public: TinyIndex, jet: TinyIndex, tmp_path: Path
) -> None:
    wanting = cell(requires=("jetty==2.0",))
    with pytest.raises(NoWheelsError) as caught:
        lock(wanting, tied)
    assert "`jbuild why demo --cell one` tells more" in (caught.value.hint or "")
    assert reason(wanting, tied) == "no wheels work together for debian-12: arm64, Python 3.11, glibc 2.36"
    assert reason(cell(), tied) is None
    assert not path_of(tied).exists()
    jet.add(make_wheel(tmp_path / "newer", "jetty", "2.0"))
    lock(wanting, tied)
    assert reason(wanting, tied) is None
    assert unresolved.cells("demo", tied.workspace) == set()


def reason(job: Job, session: Session) -> str | None:
    return unresolved.reasons(job.recipe, (job.cell,), session.workspace, lambda: session.config).get("one")


def test_failures_of_the_network_or_of_uv_are_not_remembered_as_the_cells(
    tied: Session, public: TinyIndex, jet: TinyIndex, tmp_path: Path
) -> None:
    jet.faults["*"] = [Answer(status=400)]
    with pytest.raises(NetworkError):
        lock(cell(), tied)
    del jet.faults["*"]
    (tmp_path / "uv.toml").write_text("[[[")
    with pytest.raises(LockError):
        lock(cell(), tied)
    assert unresolved.cells("demo", tied.workspace) == set()


def test_what_is_remembered_of_a_recipe_that_names_a_lost_index_is_left_out(tied: Session, session: Session) -> None:
    with pytest.raises(NoWheelsError):
        lock(cell(requires=("jetty==2.0",)), tied)
    lost = cell(indexes=("jet",))
    assert unresolved.reasons(lost.recipe, (lost.cell,), session.workspace, lambda: session.config) == {}


def test_settings_are_read_only_where_something_is_remembered(session: Session) -> None:
    job = cell()
    assert unresolved.reasons(job.recipe, (job.cell,), session.workspace, lambda: 1 / 0) == {}  # type: ignore[arg-type,return-value]


def checked(job: Job, session: Session) -> CellCheck:
    client_of.cache_clear()
    return check_lock(job, session)


def test_a_check_of_a_current_lock(tied: Session, public: TinyIndex) -> None:
    lock(cell(), tied)
    asked = len(public.asked)
    found = checked(cell(), tied)
    assert (found.error, found.findings) == (None, ())
    # Only indexes that packages are tied to can change what they serve.
    assert len(public.asked) == asked


@pytest.mark.parametrize("kept", [True, False])
def test_a_check_finds_files_that_changed(tied: Session, jet: TinyIndex, tmp_path: Path, kept: bool) -> None:
    before = lock(cell(), tied).lock
    if kept:
        keep(tied, jet, before, "jetty")
    swap(jet, tmp_path, "jetty", "1.0")
    (finding,) = checked(cell(), tied).findings
    assert (finding.filename, finding.index, finding.changed, finding.kept) == (
        "jetty-1.0-py3-none-any.whl",
        "jet",
        True,
        kept,
    )
    assert jet.pages["jetty"][0]["hashes"]["sha256"] in finding.says


@pytest.mark.parametrize("pages", [{}, {"jetty": []}])
def test_a_check_finds_files_that_are_gone(tied: Session, jet: TinyIndex, pages: dict[str, Any]) -> None:
    lock(cell(), tied)
    jet.pages = pages
    (finding,) = checked(cell(), tied).findings
    assert (finding.changed, finding.kept) == (False, False)
    assert finding.says == "the index jet no longer has it; the wheelhouse does not have the locked file"


def test_a_check_tells_what_it_cannot_check(tied: Session, jet: TinyIndex) -> None:
    assert "there is no lock" in str(checked(cell(), tied).error)
    lock(cell(), tied)
    jet.faults["*"] = [Answer(status=400)]
    assert isinstance(checked(cell(), tied).error, NetworkError)
    assert "stale" in str(checked(cell(requires=("helper",)), tied).error)


def test_a_lock_is_there_before_its_reasons_are(tied: Session, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(*_: Any, **__: Any) -> Any:
        raise KeyboardInterrupt

    monkeypatch.setattr(resolve, "changes_of", interrupted)
    with pytest.raises(KeyboardInterrupt):
        lock(cell(), tied)
    assert current_lock(cell(), tied)


def test_what_an_advisory_led_to_is_forgotten_after_a_day(session: Session) -> None:
    memory = session.workspace.advised("x")
    records.write(memory, "", {"vllm-0.9-aimv2": ("transformers<4.54",)})
    assert [each.id for each in advisory_solve._recalled(memory)] == ["vllm-0.9-aimv2"]
    yesterday = memory.stat().st_mtime - 86_500
    os.utime(memory, (yesterday, yesterday))
    assert advisory_solve._recalled(memory) == {}
    assert advisory_solve._recalled(session.workspace.advised("absent")) == {}
