"""Locking packages that are built from source: what uv solves with, what the lock has, and what makes it stale."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import pytest
from build_factory import make_build, make_tool
from cell_builds import lock_on_paper
from factories import DIGEST, make_job, make_lock, make_locked_wheel, make_spec, make_wheel
from packaging.requirements import Requirement
from sources import make_sdist
from tiny_index import TinyIndex, tiny_index

from builder.errors import IntegrityError, LockError, NoWheelsError
from builder.host.config import Config
from builder.host.index_rows import IndexRow
from builder.host.session import Session
from builder.lock import locked_builds, lockfile, resolve
from builder.lock.explanation import why
from builder.lock.graph import unmet_requirements
from builder.lock.lock_check import check_lock
from builder.lock.single_build import index_with_wheel, single_build
from builder.lock.stage import current_lock, lock_cell
from builder.model.builds import BuiltWheel, BuiltWheels
from builder.model.locks import LockedBase
from builder.model.recipes import InputSource, PackageBuild, PackageBuilds, PackageInput, PackageSource
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
MISSING = PackageBuilds(missing=True)


@pytest.fixture
def public(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[TinyIndex]:
    """The index that uv asks by default: `ext` has source archives only."""
    monkeypatch.setattr(
        resolve, "resolve_digest", lambda name, *_, **__: LockedBase(name=name, used=name, digest=DIGEST)
    )
    monkeypatch.setattr(resolve, "compiler_of", lambda *_: "3.11.7")
    monkeypatch.setattr(locked_builds, "build_locker", lambda: lock_on_paper)
    (tmp_path / "uv.toml").write_text("")
    monkeypatch.setenv("UV_CONFIG_FILE", str(tmp_path / "uv.toml"))
    monkeypatch.setenv("UV_HTTP_RETRIES", "0")
    with tiny_index() as index:
        index.add(make_wheel(tmp_path / "public", "app", "1.0", requires=("ext",)))
        index.add(make_wheel(tmp_path / "public", "helper", "1.0"))
        index.add(make_sdist(tmp_path / "public", "ext", "1.0", requires=("helper",)))
        index.add(make_sdist(tmp_path / "public", "ext", "1.1", requires=("helper",)))
        monkeypatch.setenv("UV_DEFAULT_INDEX", index.url)
        yield index


def listed(**build: Any) -> PackageBuilds:
    return PackageBuilds(packages=(PackageBuild(name="ext", **build),))


def cell(builds: PackageBuilds | None, path: Path | None = None, **spec: Any) -> Job:
    made = make_job(spec=make_spec(**({"requires": ("app",), "models": (), "builds": builds} | spec)), path=path)
    return job_of(made.recipe, made.cell)


def lock(job: Job, session: Session, **options: Any) -> Locked:
    # As in another run: nothing is remembered of what indexes said.
    client_of.cache_clear()
    return lock_cell(job, session, RunOptions(until="lock", **options))


def document(session: Session) -> dict[str, Any]:
    return tomllib.loads(session.workspace.lock("demo", "one").read_text())


def test_a_listed_package_is_locked_with_its_source_archive(session: Session, public: TinyIndex) -> None:
    made = lock(cell(listed(environment=(("A", "1"),))), session).lock
    assert made.versions == {"app": "1.0", "ext": "1.1", "helper": "1.0"}
    assert [wheel.name for wheel in made.wheels] == ["app", "helper"]
    assert made.builds
    (build,) = made.builds
    entry = public.pages["ext"][1]
    assert (build.source.kind, build.source.sha256) == ("sdist", entry["hashes"]["sha256"])
    assert build.source.location == f"http://{public.host}/files/ext-1.1.tar.gz"
    assert build.environment == (("A", "1"),)
    package = next(package for package in document(session)["packages"] if package["name"] == "ext")
    assert package["sdist"]["name"] == "ext-1.1.tar.gz"
    assert package["sdist"]["hashes"] == {"sha256": build.source.sha256}
    assert "wheels" not in package
    assert ("ext 1.1 built from the source archive", "`build` of the recipe") in [(r.rule, r.why) for r in made.rules]
    assert lockfile.read(session.workspace.lock("demo", "one"), recipe="demo", cell="one") == made


def test_what_lacks_a_wheel_is_built(session: Session, public: TinyIndex, capsys: pytest.CaptureFixture[str]) -> None:
    made = lock(cell(MISSING), session).lock
    assert [build.name for build in made.builds or ()] == ["ext"]
    assert ("ext 1.1 built from the source archive", "no wheel fits the cell") in [(r.rule, r.why) for r in made.rules]
    assert "helper" in made.versions


def test_a_version_without_a_source_names_the_versions_with_one(
    session: Session, public: TinyIndex, tmp_path: Path
) -> None:
    with pytest.raises(NoWheelsError, match=r"has no source of ext 9\.9") as caught:
        single_build(Requirement("ext==9.9"), cell(None), make_lock(), session)
    assert caught.value.hint == "there are sources of 1.1, 1.0"
    client_of.cache_clear()
    for version in ("2.0", "3.0", "4.0"):
        public.add(make_sdist(tmp_path / "newer", "ext", version))
    with pytest.raises(NoWheelsError) as caught:
        single_build(Requirement("ext==1.0.5"), cell(None), make_lock(), session)
    assert caught.value.hint == "there are sources of 1.1, 1.0, 2.0; the newest is 4.0"


def test_an_index_that_has_a_wheel_of_a_package_is_named(session: Session, public: TinyIndex, tmp_path: Path) -> None:
    client_of.cache_clear()
    public.add(make_wheel(tmp_path / "public", "app", "2.0", tag="cp39-cp39-win_amd64"))
    found = {
        text: index_with_wheel(Requirement(text), cell(None), session)
        for text in ("app==1.0", "app==2.0", "app==3.0", "ext==1.0", "absent==1.0")
    }
    assert found.pop("app==1.0") == "uv's default index"
    assert set(found.values()) == {None}


def test_without_builds_it_is_a_conflict(session: Session, public: TinyIndex) -> None:
    with pytest.raises(NoWheelsError):
        lock(cell(None), session)


def test_versions_are_kept_and_upgraded(session: Session, public: TinyIndex, tmp_path: Path) -> None:
    lock(cell(listed()), session)
    public.add(make_sdist(tmp_path / "newer", "ext", "2.0", requires=("helper",)))
    again = lock(cell(listed(), requires=("app", "helper")), session)
    assert again.lock.versions["ext"] == "1.1"
    upgraded = lock(cell(listed(), requires=("app", "helper")), session, upgrade=("ext",))
    assert [change.words for change in upgraded.changes] == ["ext 1.1 → 2.0 because its upgrade was requested"]


def test_a_lock_with_builds_is_current(session: Session, public: TinyIndex) -> None:
    first = lock(cell(listed()), session)
    asked = len(public.asked)
    again = lock(cell(listed()), session)
    assert (again.made, again.lock) == (False, first.lock)
    assert len(public.asked) == asked
    assert current_lock(cell(listed()), session) == first.lock
    check = check_lock(cell(listed()), session)
    assert (check.error, check.findings) == (None, ())


def test_a_package_that_no_longer_needs_a_build_changes(session: Session, public: TinyIndex, tmp_path: Path) -> None:
    lock(cell(listed()), session)
    public.add(make_wheel(tmp_path / "newer", "ext", "1.1"))
    again = lock(cell(None), session)
    assert again.lock.builds is None
    (change, gone) = again.changes
    assert (change.name, change.before, change.after) == ("ext", "1.1", "1.1")
    assert change.words.startswith("ext 1.1: a wheel of the index in place of a build")
    assert gone.words == "helper 1.0 removed because nothing requires it any more"


def test_the_recipe_may_state_what_a_source_requires(session: Session, public: TinyIndex) -> None:
    made = lock(cell(listed(requires=())), session).lock
    assert made.versions == {"app": "1.0", "ext": "1.1"}


def test_a_source_archive_with_other_bytes_is_refused(session: Session, public: TinyIndex, tmp_path: Path) -> None:
    lock(cell(listed()), session)
    public.pages["ext"].pop()
    public.add(make_sdist(tmp_path / "other", "ext", "1.1", requires=("helper",), files={"setup.py": "x = 1\n"}))
    with pytest.raises(IntegrityError, match=r"serves another source archive of ext 1\.1") as caught:
        lock(cell(listed(), requires=("app", "helper")), session)
    assert "--upgrade ext" in (caught.value.hint or "")
    changes = lock(cell(listed(), requires=("app", "helper")), session, upgrade=("ext",)).changes
    assert [change.words for change in changes] == ["ext 1.1: another source because its upgrade was requested"]


def test_a_damaged_source_archive_is_refused(session: Session, public: TinyIndex) -> None:
    public.files["ext-1.1.tar.gz"] = b"no archive"
    with pytest.raises(IntegrityError, match=r"ext-1\.1\.tar\.gz is not the file that its index states"):
        lock(cell(listed()), session)


def test_why_a_built_package_has_its_version(session: Session, public: TinyIndex) -> None:
    lock(cell(listed()), session)
    (reason,) = why(cell(listed()), session).reasons
    assert (reason.name, reason.version, reason.built) == ("ext", "1.1", "the source archive")
    assert reason.asks == ("app 1.0 asks for ext",)


def test_what_a_wheel_requires_is_compared_with_the_lock(session: Session, public: TinyIndex) -> None:
    made = lock(cell(listed()), session).lock
    requires = ("helper>=1", "helper>=2", "other", 'windows; sys_platform == "win32"', 'more; extra == "x"')
    assert list(unmet_requirements(requires, made)) == ["helper>=2", "other"]


def test_an_index_without_source_archives(session: Session, public: TinyIndex) -> None:
    builds = PackageBuilds(packages=(PackageBuild(name="helper"),))
    with pytest.raises(NoWheelsError, match="has no source archive of helper"):
        lock(cell(builds, requires=("helper",)), session)


def test_a_pinned_package_is_built_from_the_default_index(session: Session, public: TinyIndex, tmp_path: Path) -> None:
    with tiny_index() as jet:
        jet.add(make_wheel(tmp_path / "jet", "ext", "0.9", "cp310-cp310-linux_x86_64"))
        row = IndexRow(name="jet", url=jet.url, packages=("ext",))
        tied = Session(workspace=session.workspace, config=Config(indexes=(row,)), console=session.console)
        (build,) = lock(cell(MISSING), tied).lock.builds or ()
        assert (build.version, build.source.index) == ("1.1", None)
        jet.add(make_sdist(tmp_path / "jet", "ext", "0.9"))
        job = cell(MISSING, sources=(("ext", "jet"),))
        (build,) = lock(job, tied).lock.builds or ()
        assert (build.version, build.source.index) == ("0.9", "jet")
        assert check_lock(job, tied).findings == ()
        jet.pages["ext"].pop()
        client_of.cache_clear()
        (finding,) = check_lock(job, tied).findings
        assert (finding.filename, finding.kept, finding.changed) == ("ext-0.9.tar.gz", True, False)
        assert finding.says == "the index jet no longer has it; the cache has the locked file"


def folder(
    session: Session, text: str = '[project]\nname = "ext"\nversion = "3.0"\ndependencies = ["helper"]\n'
) -> None:
    path = session.workspace.project / "native" / "ext"
    path.mkdir(parents=True, exist_ok=True)
    (path / "pyproject.toml").write_text(text)


def test_a_folder_of_the_project(session: Session, public: TinyIndex) -> None:
    folder(session)
    job = cell(listed(source=PackageSource(folder="native/ext")))
    made = lock(job, session).lock
    (build,) = made.builds or ()
    assert (build.version, build.source.kind, build.source.location) == ("3.0", "folder", "native/ext")
    assert {"name": "ext", "version": "3.0", "directory": {"path": "../../native/ext"}} in document(session)["packages"]
    assert current_lock(job, session) == made
    (session.workspace.project / "native" / "ext" / "new.c").write_text("int x;\n")
    assert current_lock(job, session) is None
    (changed,) = lock(job, session).changes
    assert changed.words.startswith("ext 3.0: another source")


def test_an_input_is_locked_and_a_change_of_its_folder_locks_again(session: Session, public: TinyIndex) -> None:
    vendor = session.workspace.project / "vendor"
    vendor.mkdir(parents=True)
    (vendor / "lib.h").write_text("int x;\n")
    entry = PackageInput(variable="LIB_DIR", source=InputSource(folder="vendor"))
    job = cell(listed(inputs=(entry,)))
    made = lock(job, session).lock
    (build,) = made.builds or ()
    assert [found.words for found in build.inputs or ()] == ["LIB_DIR: the folder vendor"]
    assert current_lock(job, session) == made
    (vendor / "lib.h").write_text("int y;\n")
    assert current_lock(job, session) is None
    (changed,) = lock(job, session).changes
    assert changed.words == "ext 1.1: other inputs of its build because its inputs changed"
    assert current_lock(cell(listed()), session) is None


def test_a_folder_must_state_version_and_requirements(session: Session, public: TinyIndex) -> None:
    source = PackageSource(folder="native/ext")
    with pytest.raises(LockError, match="the source of ext, folder native/ext, does not exist"):
        lock(cell(listed(source=source)), session)
    folder(session, '[project]\nname = "ext"\ndynamic = ["version", "dependencies"]\n')
    with pytest.raises(LockError, match="the source of ext states no version"):
        lock(cell(listed(source=source)), session)
    with pytest.raises(LockError, match="the source of ext states no requirements"):
        lock(cell(listed(source=source, version="1.0")), session)
    assert lock(cell(listed(source=source, version="1.0", requires=())), session).lock.versions["ext"] == "1.0"


def test_a_link_out_of_the_project_is_refused(session: Session, public: TinyIndex, tmp_path: Path) -> None:
    (tmp_path / "elsewhere").mkdir()
    session.workspace.project.mkdir(parents=True, exist_ok=True)
    (session.workspace.project / "ext").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(LockError, match="the source of ext, folder ext, is a link out of the project"):
        lock(cell(listed(source=PackageSource(folder="ext"))), session)


def git(folder: Path, *words: str) -> str:
    options = ["-c", "user.name=a", "-c", "user.email=a@example.com", "-c", "init.defaultBranch=main"]
    done = subprocess.run(["git", *options, *words], cwd=folder, check=True, capture_output=True, text=True)
    return done.stdout.strip()


def test_a_commit_of_a_repository(session: Session, public: TinyIndex, tmp_path: Path) -> None:
    repository = tmp_path / "repository"
    repository.mkdir()
    git(repository, "init", "--quiet")
    (repository / "pyproject.toml").write_text('[project]\nname = "ext"\nversion = "4.0"\n')
    git(repository, "add", ".")
    git(repository, "commit", "--quiet", "-m", "one")
    commit = git(repository, "rev-parse", "HEAD")
    source = PackageSource(git=repository.as_uri(), commit=commit)
    (build,) = lock(cell(listed(source=source)), session).lock.builds or ()
    assert (build.version, build.source.kind, build.source.commit) == ("4.0", "git", commit)
    package = {"name": "ext", "version": "4.0", "vcs": {"type": "git", "url": repository.as_uri(), "commit-id": commit}}
    assert package in document(session)["packages"]
    with pytest.raises(LockError, match="git cannot fetch 0000"):
        lock(cell(listed(source=PackageSource(git=repository.as_uri(), commit="0" * 40))), session)


def test_a_changed_patch_makes_the_lock_stale(session: Session, public: TinyIndex, tmp_path: Path) -> None:
    patch = tmp_path / "a.patch"
    patch.write_text("one\n")
    job = cell(listed(patches=("a.patch",)), tmp_path / "demo.toml")
    made = lock(job, session).lock
    (build,) = made.builds or ()
    assert [(patch.name, len(patch.sha256)) for patch in build.patches] == [("a.patch", 64)]
    assert current_lock(job, session) == made
    patch.write_text("two\n")
    assert current_lock(job, session) is None
    again = lock(job, session)
    assert [change.words for change in again.changes] == [
        "ext 1.1: other inputs of its build because its patches changed"
    ]


def test_a_source_that_the_lock_names_twice_is_damage(session: Session, public: TinyIndex) -> None:
    lock(cell(listed()), session)
    path = session.workspace.lock("demo", "one")
    path.write_text(path.read_text().replace("files/ext-1.1.tar.gz", "files/evil-1.1.tar.gz", 1))
    with pytest.raises(LockError, match="its packages to build are not those of"):
        lockfile.read(path, recipe="demo", cell="one")
    lock_cell(cell(None, requires=("helper",)), session, RunOptions(until="lock", again="lock"))
    assert "builds" not in document(session)["tool"]["jbuild"]


def test_wheels_that_were_built_leave_the_checksum(session: Session, public: TinyIndex) -> None:
    made: Lock = lock(cell(listed()), session).lock
    wheel = make_locked_wheel("ext", "1.1+jbuild.1")
    (build,) = made.builds or ()
    built = BuiltWheel(fingerprint=build.fingerprint, wheel=wheel, origin="built")
    whole = made.with_built(BuiltWheels(wheels=(built, replace(built, fingerprint="0" * 64))))
    assert [found.name for found in whole.wheels] == ["app", "ext", "helper"]
    assert whole.versions["ext"] == "1.1+jbuild.1"
    assert (whole.built_wheels, whole.as_written) == ((wheel,), made)
    assert lockfile.content(whole) == lockfile.content(made)


def test_the_bases_c_library_of_the_lock_before_is_at_hand_for_the_same_base() -> None:
    library = make_tool("libc6-dev_2.36_arm64.deb", "sysroot")
    before = make_lock(builds=(make_build(tools=(make_tool(), library)),))
    assert locked_builds._sysroot("demo", before.base, before) == (library,)
    assert locked_builds._sysroot("demo", replace(before.base, name="ubuntu:24.04"), before) == ()
    assert locked_builds._sysroot("demo", before.base, None) == ()
