"""Ties as the real uv sees them: what comes from where, and what stays as the user has it."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

import pytest
from factories import make_job, make_spec, make_wheel
from tiny_index import Answer, TinyIndex, tiny_index

from builder.errors import IntegrityError, LockError, NetworkError, NoWheelsError
from builder.host.config import Config
from builder.host.index_mirrors import IndexMirror
from builder.host.index_rows import IndexRow
from builder.host.session import Session
from builder.lock.resolve import solve_only
from builder.remote.http import Retry
from builder.remote.index import index_proxy
from builder.remote.index.index_client import IndexClient, failing_since

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from builder.model.locks import LockedWheel

pytestmark = pytest.mark.usefixtures("quick_uv")


@pytest.fixture
def public(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[TinyIndex]:
    """The index that uv asks by default: it has everything, in newer versions."""
    with tiny_index() as index:
        for name, version in (("jetty", "1.0"), ("jetty", "3.0"), ("jetonly", "9.0"), ("helper", "1.0")):
            index.add(make_wheel(tmp_path / "public", name, version))
        index.add(make_wheel(tmp_path / "public", "app", "1.0", requires=("jetty", "helper")))
        monkeypatch.setenv("UV_DEFAULT_INDEX", index.url)
        monkeypatch.setenv("UV_CONFIG_FILE", str(empty(tmp_path / "uv.toml")))
        monkeypatch.setenv("UV_HTTP_RETRIES", "0")
        yield index


@pytest.fixture
def jet(tmp_path: Path) -> Iterator[TinyIndex]:
    """The index that packages are tied to: older versions, as devpi shows them."""
    with tiny_index() as index:
        index.html = True
        for version in ("1.0", "2.0"):
            index.add(make_wheel(tmp_path / "jet", "jetty", version, tag="cp311-cp311-linux_aarch64"))
        yield index


def empty(path: Path) -> Path:
    path.write_text("")
    return path


def row(jet: TinyIndex, **more: Any) -> IndexRow:
    facts: dict[str, Any] = {"name": "jet", "url": jet.url, "packages": ("jet*",), "upload_times": False}
    return IndexRow(**(facts | more))


def solved(session: Session, jet: TinyIndex, *requires: str, **more: Any) -> dict[str, LockedWheel]:
    settings = {"indexes": (row(jet),)} | more.pop("settings", {})
    session = Session(workspace=session.workspace, config=Config(**settings), console=session.console)
    client = IndexClient(config=session.config, states=session.workspace.index_states, retry=Retry(tries=1))
    job = make_job(spec=make_spec(requires=requires, **more))
    return {wheel.name: wheel for wheel in solve_only(job, session, client).wheels}


def test_a_tied_package_comes_from_its_index_and_all_others_do_not(
    public: TinyIndex, jet: TinyIndex, session: Session
) -> None:
    found = solved(session, jet, "app")
    assert {name: wheel.version for name, wheel in found.items()} == {"app": "1.0", "jetty": "2.0", "helper": "1.0"}
    assert found["jetty"].index == "jet"
    assert found["jetty"].url == f"http://{jet.host}/files/jetty-2.0-cp311-cp311-linux_aarch64.whl"
    assert (found["app"].index, found["helper"].index) == (None, None)
    assert public.count("jetty") == 0
    assert jet.count("helper") + jet.count("app") == 0


def test_a_tied_package_that_its_index_lacks_is_not_taken_from_elsewhere(
    public: TinyIndex, jet: TinyIndex, session: Session
) -> None:
    with pytest.raises(NoWheelsError):
        solved(session, jet, "jetonly")
    with pytest.raises(NoWheelsError) as caught:
        solved(session, jet, "jetty==3.0")
    assert public.count("jet") == 0
    # uv's advice is to mix indexes.
    assert "index-strategy" not in (caught.value.log or "")
    assert "there is no version of jetty==3.0" in (caught.value.log or "")
    assert "127.0.0.1" not in (caught.value.log or "")


def test_a_recipe_can_untie_a_package(public: TinyIndex, jet: TinyIndex, session: Session) -> None:
    assert solved(session, jet, "jetty", sources=(("jetty", "default"),))["jetty"].version == "3.0"
    assert solved(session, jet, "jetty", indexes=())["jetty"].version == "3.0"
    assert jet.asked == []


@pytest.mark.parametrize("variable", ["UV_INDEX", "UV_EXTRA_INDEX_URL"])
def test_own_indexes_of_the_user_stay_in_force_behind_the_front(
    public: TinyIndex,
    jet: TinyIndex,
    session: Session,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    variable: str,
) -> None:
    with tiny_index() as own:
        own.add(make_wheel(tmp_path / "own", "helper", "7.0"))
        own.add(make_wheel(tmp_path / "own", "jetty", "7.0"))
        monkeypatch.setenv(variable, f"mine={own.url}" if variable == "UV_INDEX" else own.url)
        found = solved(session, jet, "app")
        assert (found["helper"].version, found["jetty"].version) == ("7.0", "2.0")
        assert own.count("jetty") == 0


@pytest.mark.parametrize("name", ["HTTP_PROXY", "http_proxy", "ALL_PROXY"])
def test_a_proxy_of_the_user_stays_in_force_but_for_the_front(
    public: TinyIndex, jet: TinyIndex, session: Session, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    monkeypatch.setenv(name, f"http://{public.host}")
    monkeypatch.setenv("no_proxy", "other.example")
    monkeypatch.setenv("UV_DEFAULT_INDEX", "http://index.invalid/simple/")
    with pytest.raises((NetworkError, NoWheelsError)):
        solved(session, jet, "app")
    assert any(path.startswith("http://index.invalid/") for path in public.asked)
    assert not any("127.0.0.1" in path for path in public.asked)


def test_hosts_without_a_proxy_stay_so(session: Session, monkeypatch: pytest.MonkeyPatch) -> None:
    from builder.lock.solve import uv_environment  # noqa: PLC0415

    def without(**variables: str) -> set[str]:
        for name in ("NO_PROXY", "no_proxy"):
            monkeypatch.delenv(name, raising=False)
        for name, value in variables.items():
            monkeypatch.setenv(name, value)
        own = uv_environment(Config(), session.workspace.cache, front="http://127.0.0.1:1/x/simple/")
        return {own["NO_PROXY"], own["no_proxy"]}

    assert without() == {"127.0.0.1"}
    assert without(no_proxy="a.example") == {"a.example,127.0.0.1"}
    assert without(NO_PROXY="b.example,.c") == {"b.example,.c,127.0.0.1"}
    assert without(NO_PROXY="b.example", no_proxy="a.example") == {"b.example,127.0.0.1"}


@pytest.mark.parametrize("alone", [True, False])
def test_a_folder_of_the_user_does_not_break_a_tie_silently(
    public: TinyIndex,
    jet: TinyIndex,
    session: Session,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    alone: bool,
) -> None:
    make_wheel(tmp_path / "folder", "jetty", "8.0")
    monkeypatch.setenv("UV_FIND_LINKS", str(tmp_path / "folder"))
    if alone:
        monkeypatch.setenv("UV_NO_INDEX", "1")
    with pytest.raises(LockError, match="jetty is pinned to index jet") as caught:
        solved(session, jet, "jetty")
    assert "UV_FIND_LINKS" in (caught.value.hint or "")
    assert solved(session, jet, "jetty", sources=(("jetty", "default"),))["jetty"].version == "8.0"


def test_nothing_of_the_front_stays_in_uvs_cache(public: TinyIndex, jet: TinyIndex, session: Session) -> None:
    solved(session, jet, "app")
    kept = [path for path in (session.workspace.cache / "uv").rglob("*") if path.is_file()]
    assert any("app" in path.name for path in kept)
    assert not any("jetty" in str(path) or b"jetty-2.0" in path.read_bytes() for path in kept)


def test_the_date_of_a_recipe_is_the_beginning_of_that_day_everywhere(
    public: TinyIndex, jet: TinyIndex, session: Session, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for day, version in (
        ("2026-10-31T23:59:59Z", "1.0"),
        ("2026-11-01T00:00:00Z", "2.0"),
        ("2026-11-02T00:00:00Z", "3.0"),
    ):
        public.add(make_wheel(tmp_path / "dated", "dated", version), **{"upload-time": day})
    for zone in ("America/New_York", "Asia/Tokyo"):
        monkeypatch.setenv("TZ", zone)
        assert solved(session, jet, "dated", released_before="2026-11-01")["dated"].version == "1.0"


def test_a_date_says_nothing_about_an_index_without_upload_times(
    public: TinyIndex, jet: TinyIndex, session: Session
) -> None:
    assert solved(session, jet, "jetty", released_before="2020-01-01")["jetty"].version == "2.0"
    jet.html = False
    jet.pages["jetty"][1]["upload-time"] = "2026-01-01T00:00:00Z"
    assert solved(session, jet, "jetty", released_before="2025-01-01")["jetty"].version == "1.0"


def test_a_tied_index_that_is_down_is_the_error(public: TinyIndex, jet: TinyIndex, session: Session) -> None:
    jet.faults["*"] = [Answer(status=503)]
    fallback = IndexMirror(prefix="default", mirror=public.url, fallback=True)
    with pytest.raises(NetworkError, match="the index jet does not answer for jetty") as caught:
        solved(session, jet, "app", settings={"index_mirrors": (fallback,)})
    assert (caught.value.where, caught.value.exit_code) == (f"{jet.url}jetty/", 5)
    states = session.workspace.index_states
    assert failing_since(states, "jet")
    assert failing_since(states, "default") is None


def test_a_wheel_that_cannot_be_read_is_the_error_and_not_the_default_indexs(
    public: TinyIndex, jet: TinyIndex, session: Session
) -> None:
    jet.faults["/files/jetty-2.0-cp311-cp311-linux_aarch64.whl"] = [Answer(status=404)]
    with pytest.raises(NetworkError, match=r"jetty-2.0\S+ cannot be read"):
        solved(session, jet, "app")
    assert failing_since(session.workspace.index_states, "default") is None


def test_a_wheel_whose_metadata_disagrees_with_its_name_is_the_error(
    public: TinyIndex, jet: TinyIndex, session: Session, tmp_path: Path
) -> None:
    wrong = make_wheel(tmp_path / "wrong", "other", "1.0")
    jet.add(wrong.rename(tmp_path / "wrong" / "jetty-2.5-py3-none-any.whl"))
    with pytest.raises(IntegrityError, match=r"its METADATA is of other 1\.0") as caught:
        solved(session, jet, "app")
    assert "jetty!=2.5" in (caught.value.hint or "")
    assert solved(session, jet, "app", constraints=("jetty!=2.5",))["jetty"].version == "2.0"


def test_an_index_slower_than_uv_waits_is_waited_for(
    public: TinyIndex, jet: TinyIndex, session: Session, monkeypatch: pytest.MonkeyPatch
) -> None:
    import time  # noqa: PLC0415

    monkeypatch.setattr(index_proxy, "_QUIET_S", 0.3)
    monkeypatch.setenv("UV_HTTP_TIMEOUT", "1")
    path = "/files/jetty-2.0-cp311-cp311-linux_aarch64.whl"
    jet.faults[path] = [Answer(status=307, headers=(("Location", path),), after=lambda: time.sleep(1.4))]
    assert solved(session, jet, "jetty")["jetty"].version == "2.0"
    assert jet.count(path) == 2


def test_the_default_index_that_is_down_is_asked_at_its_fallbacks(
    public: TinyIndex, jet: TinyIndex, session: Session, monkeypatch: pytest.MonkeyPatch
) -> None:
    with tiny_index() as down:
        down.faults["*"] = [Answer(status=503)]
        monkeypatch.setenv("UV_DEFAULT_INDEX", down.url)
        with pytest.raises(NetworkError, match=r"^a package index did not answer$"):
            solved(session, jet, "app")
        states = session.workspace.index_states
        since = failing_since(states, "default")
        assert since
        fallbacks = tuple(IndexMirror(prefix="default", mirror=url, fallback=True) for url in (down.url, public.url))
        found = solved(session, jet, "app", settings={"index_mirrors": fallbacks})
        assert found["app"].url.startswith(f"http://{public.host}/")
        assert failing_since(states, "default") is None


def test_a_conflict_means_that_the_default_index_answers(
    public: TinyIndex, jet: TinyIndex, session: Session, monkeypatch: pytest.MonkeyPatch
) -> None:
    failing_since(session.workspace.index_states, "default", note=True)
    with pytest.raises(NoWheelsError):
        solved(session, jet, "helper==99")
    assert failing_since(session.workspace.index_states, "default") is None


def test_uvs_own_trouble_is_not_the_cells(
    public: TinyIndex, jet: TinyIndex, session: Session, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (tmp_path / "uv.toml").write_text("[[[")
    with pytest.raises(LockError, match="uv cannot solve") as caught:
        solved(session, jet, "app")
    assert not isinstance(caught.value, NoWheelsError)


def test_no_run_leaves_the_fronts_address_behind(public: TinyIndex, jet: TinyIndex, session: Session) -> None:
    found = solved(session, jet, "app")
    assert not any(re.search(r"/[0-9a-f]{16}/", wheel.url) for wheel in found.values())
