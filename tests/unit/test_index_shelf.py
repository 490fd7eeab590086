"""What a cell may take from the indexes that its packages are tied to, and what wheels say of themselves."""

from __future__ import annotations

import hashlib
import threading
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any

import pytest
from factories import make_wheel
from tiny_index import Answer, TinyIndex, tiny_index

from builder.errors import IntegrityError, JbuildError, NetworkError
from builder.host.config import Config
from builder.host.index_rows import DEFAULT
from builder.remote import http
from builder.remote.http import Retry
from builder.remote.index import remote_wheel
from builder.remote.index.index_client import IndexClient
from builder.remote.index.index_view import IndexView, own_wheels, read_wheel, wheel_metadata
from builder.remote.index.listing import Address, Index, IndexFile, IndexPin, IndexPins
from builder.remote.index.remote_wheel import metadata_of

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from builder.host.paths import Workspace

JET = Index(name="jet", addresses=(Address(url="http://127.0.0.1:9/"),), foreign_files=("/root/pypi/",))
SHA = "a" * 64


@pytest.fixture(autouse=True)
def _no_waiting(monkeypatch: pytest.MonkeyPatch) -> None:
    def quick(**options: Any) -> Retry:
        return Retry(**options, sleep=lambda _: None)

    monkeypatch.setattr(http, "Retry", quick)
    monkeypatch.setattr(remote_wheel, "Retry", quick)


@pytest.fixture
def server() -> Iterator[TinyIndex]:
    """An empty index."""
    with tiny_index() as index:
        yield index


def client(workspace: Workspace) -> IndexClient:
    return IndexClient(config=Config(), states=workspace.index_states, retry=Retry(tries=1))


def shelf(server: TinyIndex, workspace: Workspace, packages: str = "torch", **more: Any) -> IndexView:
    jet = Index(name="jet", addresses=(Address(url=server.url),), foreign_files=("/root/pypi/",))
    pins = IndexPins(pins=(IndexPin(packages=packages, index="jet", why="told"),), indexes=(jet,))
    return IndexView(pins=pins, client=client(workspace), workspace=workspace, **more)


def torch(folder: Path, version: str = "2.8.0", **more: Any) -> Path:
    return make_wheel(folder, "torch", version, **more)


def file_of(shelf: IndexView, project: str = "torch") -> IndexFile:
    (file,) = shelf.files(project) or ()
    return file


def refused(shelf: IndexView, sha256: str) -> JbuildError:
    with pytest.raises(JbuildError) as caught:
        shelf.metadata(sha256)
    return caught.value


def test_ties_are_globs_of_which_the_first_counts() -> None:
    pins = IndexPins(
        pins=(
            IndexPin(packages="torch", index=DEFAULT, why="a"),
            IndexPin(packages="torch*", index="jet", why="b"),
            IndexPin(packages="*", index="other", why="c"),
        ),
        indexes=(JET, Index(name="other", addresses=())),
    )
    assert pins.of("torch") is None
    assert pins.index("torchvision") == JET
    assert (pins.of("numpy") or pins.pins[0]).why == "c"
    assert pins
    assert not IndexPins(pins=pins.pins[:1])
    assert not IndexPins()


def test_a_package_that_is_not_tied_is_not_asked_for(server: TinyIndex, workspace: Workspace) -> None:
    assert shelf(server, workspace).files("numpy") is None
    assert server.asked == []


def test_a_package_that_its_index_does_not_know_has_no_files(server: TinyIndex, workspace: Workspace) -> None:
    assert shelf(server, workspace).files("torch") == ()


def test_only_own_wheels_with_a_hash_are_offered(server: TinyIndex, workspace: Workspace, tmp_path: Path) -> None:
    own = server.add(torch(tmp_path))
    foreign = server.add(torch(tmp_path, "2.9.0"))
    foreign["url"] = f"../../root/pypi/+f/{foreign['filename']}"
    without = server.add(torch(tmp_path, "2.10.0"))
    without["hashes"] = {"md5": "0"}
    archive_ = server.add(torch(tmp_path, "2.11.0"))
    archive_["filename"] = "torch-2.11.0.tar.gz"
    made = shelf(server, workspace)
    assert [file.filename for file in made.files("torch") or ()] == [own["filename"]]
    assert made.pages["torch"].project == "torch"
    assert list(made.candidates) == [own["hashes"]["sha256"]]


@pytest.mark.parametrize(
    ("url", "fits"),
    [
        ("https://host/jp6/+f/012/x.whl", True),
        ("https://host/root/pypi/+f/012/x.whl", False),
        ("https://root/pypi.whl", True),
        ("https://host/x.whl?from=/root/pypi/", True),
    ],
)
def test_files_of_other_indexes_are_told_by_their_path(url: str, fits: bool) -> None:
    assert bool(own_wheels(JET, [IndexFile(filename="x.whl", url=url, sha256=SHA)])) is fits


def test_metadata_is_read_once_for_all(server: TinyIndex, workspace: Workspace, tmp_path: Path) -> None:
    server.add(torch(tmp_path, requires=("numpy<2",)))
    made = shelf(server, workspace)
    sha256 = file_of(made).sha256 or ""
    assert b"Requires-Dist: numpy<2" in made.metadata(sha256)
    asked = len(server.asked)
    again = shelf(server, workspace)
    again.files("torch")
    assert again.metadata(sha256) == made.metadata(sha256)
    assert len(server.asked) == asked + 1


def test_metadata_beside_a_wheel_saves_reading_it(server: TinyIndex, workspace: Workspace, tmp_path: Path) -> None:
    wheel = torch(tmp_path)
    with wheel.open("rb") as file:
        content = remote_wheel.with_archive(file, metadata_of)
    server.add(wheel, **{"core-metadata": {"sha256": hashlib.sha256(content).hexdigest()}})
    server.files[f"{wheel.name}.metadata"] = content
    made = shelf(server, workspace)
    assert made.metadata(file_of(made).sha256 or "") == content
    assert server.count(".whl") == 1


@pytest.mark.parametrize("beside", [None, b"", b"Name: torch\nVersion: 6.6.6\n"])
def test_metadata_beside_a_wheel_that_is_not_what_it_should_be(
    server: TinyIndex, workspace: Workspace, tmp_path: Path, beside: bytes | None
) -> None:
    wheel = torch(tmp_path)
    server.add(wheel, **{"core-metadata": {"sha256": SHA}})
    if beside is not None:
        server.files[f"{wheel.name}.metadata"] = beside
    made = shelf(server, workspace)
    assert b"Version: 2.8.0" in made.metadata(file_of(made).sha256 or "")


@pytest.mark.parametrize("inside", [("other", "2.8.0"), ("torch", "2.9.0"), ("torch", "2.8.0+cu126")])
def test_metadata_of_another_wheel_is_refused(
    server: TinyIndex, workspace: Workspace, tmp_path: Path, inside: tuple[str, str]
) -> None:
    wheel = make_wheel(tmp_path, *inside).rename(tmp_path / "torch-2.8.0-py3-none-any.whl")
    server.add(wheel)
    made = shelf(server, workspace)
    error = refused(made, file_of(made).sha256 or "")
    assert isinstance(error, IntegrityError)
    assert f"its METADATA is of {' '.join(inside)}" in error.message
    assert 'constraints = ["torch!=2.8.0"]' in (error.hint or "")
    assert not workspace.metadata(file_of(made).sha256 or "").exists()


@pytest.mark.parametrize("ranges", [True, False])
@pytest.mark.parametrize("keep", [0, 10, 200, -30])
def test_a_truncated_wheel_is_refused(
    server: TinyIndex, workspace: Workspace, tmp_path: Path, ranges: bool, keep: int
) -> None:
    server.ranges = ranges
    wheel = torch(tmp_path)
    wheel.write_bytes(wheel.read_bytes()[:keep])
    server.add(wheel)
    made = shelf(server, workspace)
    error = refused(made, file_of(made).sha256 or "")
    assert isinstance(error, IntegrityError)
    assert "torch-2.8.0-py3-none-any.whl of the index jet cannot be used: it is not a valid wheel" in error.message


def test_without_ranges_the_whole_wheel_goes_to_the_wheelhouse(
    server: TinyIndex, workspace: Workspace, tmp_path: Path
) -> None:
    server.ranges = False
    wheel = torch(tmp_path)
    server.add(wheel)
    made = shelf(server, workspace)
    file = file_of(made)
    assert b"Name: torch" in made.metadata(file.sha256 or "")
    kept = workspace.wheel(file.sha256 or "", file.filename)
    assert kept.read_bytes() == wheel.read_bytes()
    # One request to find out, one for the file.
    assert server.count(".whl") == 2


def test_a_whole_wheel_with_other_bytes_is_refused_and_not_kept(
    server: TinyIndex, workspace: Workspace, tmp_path: Path
) -> None:
    server.ranges = False
    server.add(torch(tmp_path))["hashes"]["sha256"] = SHA
    made = shelf(server, workspace)
    file_of(made)
    error = refused(made, SHA)
    assert isinstance(error, IntegrityError)
    assert "do not have the index's sha256" in error.message
    assert [path.name for path in workspace.wheels.rglob("*") if path.is_file()] == ["lock"]


def test_a_wheel_of_the_wheelhouse_is_not_asked_for(server: TinyIndex, workspace: Workspace, tmp_path: Path) -> None:
    wheel = torch(tmp_path)
    server.add(wheel)
    made = shelf(server, workspace)
    file = file_of(made)
    kept = workspace.wheel(file.sha256 or "", file.filename)
    kept.parent.mkdir(parents=True)
    kept.write_bytes(wheel.read_bytes())
    assert b"Name: torch" in made.metadata(file.sha256 or "")
    assert server.count(".whl") == 0


def test_many_who_need_a_whole_wheel_fetch_it_once(server: TinyIndex, workspace: Workspace, tmp_path: Path) -> None:
    server.ranges = False
    server.add(torch(tmp_path))
    made = shelf(server, workspace)
    file = file_of(made)
    begun = threading.Barrier(4)

    def read(_: int) -> bytes:
        begun.wait(100)
        return read_wheel(JET, file, made.client, workspace, metadata_of)

    with ThreadPoolExecutor(4) as pool:
        assert len(set(pool.map(read, range(4)))) == 1
    # Each finds out for itself that there are no ranges, one fetches.
    assert server.count(".whl") <= 5


@pytest.mark.parametrize("ranges", [True, False])
def test_a_wheel_that_is_gone_is_a_failure_of_the_network(
    server: TinyIndex, workspace: Workspace, tmp_path: Path, ranges: bool
) -> None:
    server.ranges = ranges
    entry = server.add(torch(tmp_path))
    server.files.clear()
    made = shelf(server, workspace)
    file_of(made)
    error = refused(made, entry["hashes"]["sha256"])
    assert isinstance(error, NetworkError)
    assert "cannot be read: the server answers 404" in error.message
    assert error.where == f"http://{server.host}/files/{entry['filename']}"


def test_an_address_that_is_none_is_no_fault_of_the_wheel(server: TinyIndex, workspace: Workspace) -> None:
    file = IndexFile(filename="x-1.0-py3-none-any.whl", url="http://", sha256=SHA)
    with pytest.raises(NetworkError):
        wheel_metadata(JET, file, client(workspace), workspace)


def test_what_could_not_be_read_is_not_fetched_again_for_the_same_cell(
    server: TinyIndex, workspace: Workspace, tmp_path: Path
) -> None:
    entry = server.add(torch(tmp_path))
    server.faults[f"/files/{entry['filename']}"] = [Answer(status=404)]
    made = shelf(server, workspace)
    file_of(made)
    assert refused(made, entry["hashes"]["sha256"]) is refused(made, entry["hashes"]["sha256"])
    assert server.count(".whl") == 1


def locked_then_changed(
    server: TinyIndex, workspace: Workspace, tmp_path: Path, *, kept: bool
) -> tuple[dict[str, tuple[str, str]], str, str]:
    """Serve other bytes under the name of a locked file; return what was locked, and both hashes."""
    wheel = torch(tmp_path / "old")
    content = wheel.read_bytes()
    locked, url = hashlib.sha256(content).hexdigest(), "https://jet.example/old.whl"
    if kept:
        place = workspace.wheel(locked, wheel.name)
        place.parent.mkdir(parents=True)
        place.write_bytes(content)
    entry = server.add(torch(tmp_path / "new", requires=("numpy",)))
    return {wheel.name: (locked, url)}, locked, entry["hashes"]["sha256"]


def test_a_locked_file_is_offered_from_the_wheelhouse_when_the_index_changed(
    server: TinyIndex, workspace: Workspace, tmp_path: Path
) -> None:
    before, locked, served = locked_then_changed(server, workspace, tmp_path, kept=True)
    made = shelf(server, workspace, locked=before)
    file = file_of(made)
    assert (file.sha256, file.url) == (locked, "https://jet.example/old.whl")
    assert b"Requires-Dist" not in made.metadata(locked)
    (changed,) = made.changed.values()
    assert (changed.index, changed.locked, changed.served, changed.in_wheelhouse) == ("jet", locked, served, True)


def test_a_locked_file_that_is_not_in_the_wheelhouse_is_told_of(
    server: TinyIndex, workspace: Workspace, tmp_path: Path
) -> None:
    before, locked, served = locked_then_changed(server, workspace, tmp_path, kept=False)
    made = shelf(server, workspace, locked=before)
    assert file_of(made).sha256 == served
    (changed,) = made.changed.values()
    assert (changed.locked, changed.in_wheelhouse) == (locked, False)


def test_a_locked_file_that_is_unchanged_is_no_news(server: TinyIndex, workspace: Workspace, tmp_path: Path) -> None:
    entry = server.add(torch(tmp_path))
    made = shelf(server, workspace, locked={entry["filename"]: (entry["hashes"]["sha256"], "https://x/")})
    assert file_of(made).url == f"http://{server.host}/files/{entry['filename']}"
    assert made.changed == {}


def test_an_index_that_is_down_is_a_failure_of_the_network(server: TinyIndex, workspace: Workspace) -> None:
    server.faults["*"] = [Answer(status=503)]
    with pytest.raises(NetworkError):
        shelf(server, workspace).files("torch")


def without_hash(server: TinyIndex, path: Path) -> dict[str, Any]:
    entry = server.add(path)
    entry["hashes"] = {}
    return entry


@pytest.mark.parametrize("ranges", [True, False])
def test_a_file_of_an_index_without_hashes_is_hashed_once_it_is_fetched(
    server: TinyIndex, workspace: Workspace, tmp_path: Path, ranges: bool
) -> None:
    server.ranges = ranges
    path = torch(tmp_path, requires=("numpy<2",))
    without_hash(server, path)
    without_hash(server, torch(tmp_path, "2.9.0"))
    made = shelf(server, workspace)
    older, _ = made.files("torch") or ()
    key = older.sha256 or ""
    assert b"Requires-Dist: numpy<2" in made.metadata(key)
    assert not workspace.metadata(key).exists()
    found = made.hashed(key)
    own = hashlib.sha256(path.read_bytes()).hexdigest()
    assert (found.sha256, found.size, found.url) == (own, path.stat().st_size, older.url)
    assert workspace.wheel(own, path.name).read_bytes() == path.read_bytes()
    assert made.candidates[own].file == found
    assert made.hashed(key) is found
    assert b"Requires-Dist: numpy<2" in made.metadata(own)
    assert list(workspace.cache.glob("scratch-*")) == []


def test_a_file_without_a_hash_stays_as_it_was_locked(server: TinyIndex, workspace: Workspace, tmp_path: Path) -> None:
    entry = without_hash(server, torch(tmp_path))
    made = shelf(server, workspace, locked={entry["filename"]: (SHA, "https://old/x.whl")})
    file = file_of(made)
    assert file.sha256 == SHA
    assert file.url.startswith(f"http://{server.host}/")
    assert made.hashed(SHA) == file
    assert made.changed == {}


def test_a_broken_file_without_a_hash_is_refused(server: TinyIndex, workspace: Workspace, tmp_path: Path) -> None:
    entry = without_hash(server, torch(tmp_path))
    server.files[entry["filename"]] = b"no wheel"
    made = shelf(server, workspace)
    key = file_of(made).sha256 or ""
    assert "cannot be used" in refused(made, key).message
    del server.files[entry["filename"]]
    with pytest.raises(NetworkError, match="cannot be downloaded"):
        made.hashed(key)
