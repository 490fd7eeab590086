"""Explaining cells with the real solver: what is wanting and where, or who wants what."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
from factories import DIGEST, make_job, make_spec, make_wheel
from tiny_index import Answer, TinyIndex, tiny_index

from builder.cli.verbs.why import ExplainedCell, UnexplainedCell, text
from builder.errors import NetworkError, NoWheelsError
from builder.host.config import Config
from builder.host.index_rows import IndexRow
from builder.host.session import Session
from builder.lock import alternatives, resolve
from builder.lock import explanation as module
from builder.lock.explanation import Why, why
from builder.lock.stage import lock_cell
from builder.model.locks import LockedBase
from builder.recipe.matrix import job_of
from builder.remote.index.index_client import client_of

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from builder.model.locks import Job

pytestmark = pytest.mark.usefixtures("quick_uv")


@pytest.fixture
def public(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[TinyIndex]:
    """The index that uv asks by default."""
    monkeypatch.setattr(
        resolve, "resolve_digest", lambda name, *_, **__: LockedBase(name=name, used=name, digest=DIGEST)
    )
    monkeypatch.setattr(resolve, "compiler_of", lambda *_: "3.11.7")
    monkeypatch.setenv("UV_HTTP_RETRIES", "0")
    monkeypatch.setattr(alternatives, "_CELLS", 1)
    (tmp_path / "uv.toml").write_text("")
    monkeypatch.setenv("UV_CONFIG_FILE", str(tmp_path / "uv.toml"))
    with tiny_index() as index:
        folder = tmp_path / "public"
        index.add(make_wheel(folder, "transformers", "4.50.0", requires=("numpy<3",)))
        index.add(make_wheel(folder, "transformers", "5.0.0", requires=("numpy",)))
        index.add(make_wheel(folder, "numpy", "1.26.0"))
        index.add(make_wheel(folder, "numpy", "2.0.0"))
        monkeypatch.setenv("UV_DEFAULT_INDEX", index.url)
        yield index


@pytest.fixture
def jet(tmp_path: Path) -> Iterator[TinyIndex]:
    """The index that vllm is tied to."""
    with tiny_index() as index:
        folder = tmp_path / "jet"
        index.add(make_wheel(folder, "vllm", "0.10.2", requires=("transformers<5", "numpy<2")))
        index.add(make_wheel(folder, "vllm", "0.20.0", "cp312-cp312-linux_aarch64"))
        yield index


@pytest.fixture
def tied(session: Session, public: TinyIndex, jet: TinyIndex) -> Session:
    """A session with that tie."""
    row = IndexRow(name="jet", url=jet.url, packages=("vllm",))
    return Session(workspace=session.workspace, config=Config(indexes=(row,)), console=session.console)


def cell(*requires: str, **spec: Any) -> Job:
    made = make_job(spec=make_spec(requires=requires, models=(), **spec))
    return job_of(made.recipe, made.cell)


def explain(job: Job, session: Session) -> tuple[Why, str]:
    client_of.cache_clear()
    said = why(job, session)
    return said, text(ExplainedCell(cell=job.cell.id, why=said))


def test_a_version_that_nobody_released_and_what_is_near(tied: Session, jet: TinyIndex) -> None:
    said, text = explain(cell("vllm==0.9.3"), tied)
    assert not said.resolves
    assert "vllm 0.9.3 was never released by its authors" in text
    assert f"vllm==0.9.3: asked jet ({jet.url})" in text
    assert "has no wheels of such versions" in text
    assert "has wheels of other versions for this cell: 0.10.2" in text
    assert "the solver says:" in text
    assert "similar cells that resolve:" in text
    assert "vllm 0.10.2 instead of 0.9.3: vllm 0.10.2; 3 wheels" in text
    assert "127.0.0.1" not in text.replace(jet.url, "")


def test_wheels_for_another_python(tied: Session) -> None:
    _, text = explain(cell("vllm==0.20.0"), tied)
    assert "vllm-0.20.0-cp312-cp312-linux_aarch64.whl: it is for cp312-cp312, the cell has cp311" in text


def test_a_date_that_hides_what_is_wanted(tied: Session, public: TinyIndex, tmp_path: Path) -> None:
    public.add(make_wheel(tmp_path / "more", "late", "1.0"), **{"upload-time": "2026-02-03T04:05:06Z"})
    job = cell("late", released_before="2026-02-01")
    _, text = explain(job, tied)
    assert "late-1.0-py3-none-any.whl: it was uploaded on 2026-02-03, the recipe excludes files from" in text
    assert "  similar cells that resolve:\n    released-before 2026-02-04 instead of 2026-02-01: 1 wheel\n" in text
    with pytest.raises(NoWheelsError) as caught:
        lock_cell(job, tied)
    hint = caught.value.hint or ""
    assert hint.startswith("files uploaded on or after 2026-02-01 are excluded (`released-before` under [packages])")
    assert "Consider using" not in (caught.value.log or "")


def test_an_index_of_the_users_own_is_asked_before_uvs_default_one(
    session: Session, public: TinyIndex, jet: TinyIndex, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("UV_INDEX", f"/a/folder mine={jet.url}")
    said, text = explain(cell("vllm", "numpy", "transformers"), session)
    assert said.resolves
    assert "  vllm 0.10.2 from mine (the newest)" in text.splitlines()
    assert "  transformers 4.50.0 from default (the newest is 5.0.0)" in text.splitlines()
    _, text = explain(cell("vllm==0.11"), session)
    assert f"vllm==0.11: asked mine ({jet.url})" in text
    monkeypatch.setenv("UV_INDEX", jet.url.replace("http://", "http://me:secret@"))
    _, text = explain(cell("vllm==0.11"), session)
    assert f"vllm==0.11: asked {jet.host} ({jet.url})" in text


def test_the_culprit_may_be_further_down(tied: Session, jet: TinyIndex, tmp_path: Path) -> None:
    jet.add(make_wheel(tmp_path / "more", "vllm", "0.11.0", requires=("transformers>=4.56,<5",)))
    said, text = explain(cell("vllm==0.11.0"), tied)
    assert [each.requirement for each in said.examined] == ["transformers<5,>=4.56"]
    assert "asked default" in text
    assert "has wheels of other versions for this cell: 5.0.0, 4.50.0" in text


def test_a_package_on_no_index(tied: Session, jet: TinyIndex, tmp_path: Path) -> None:
    jet.add(make_wheel(tmp_path / "more", "vllm", "0.11.0", requires=("nowhere",)))
    _, text = explain(cell("vllm==0.11.0"), tied)
    assert "nowhere: asked default" in text
    assert "it does not have nowhere" in text


def test_pins_that_contradict_each_other_are_all_shown(tied: Session) -> None:
    said, text = explain(cell("numpy==1.26.0", "transformers", constraints=("numpy>=2",)), tied)
    assert not said.resolves
    assert "has wheels for this cell: 1.26.0" in text
    assert "numpy 2.0.0 instead of 1.26.0: 2 wheels" in text


def test_a_cell_that_resolves_says_who_wants_what(tied: Session) -> None:
    said, text = explain(cell("vllm", "numpy", constraints=("transformers>4",)), tied)
    assert said.resolves
    lines = text.splitlines()
    assert lines[0] == "one"
    assert "  vllm 0.10.2 from jet (the newest)" in lines
    assert "    the recipe asks for vllm" in lines
    at = lines.index("  transformers 4.50.0 from default (the newest is 5.0.0)")
    assert lines[at + 1] == "    vllm 0.10.2 asks for transformers<5  <- this excludes the newest"
    assert "    the recipe's constraints: transformers>4" in lines
    at = lines.index("  numpy 1.26.0 from default (the newest is 2.0.0)")
    assert lines[at + 1] == "    vllm 0.10.2 asks for numpy<2  <- this excludes the newest"


def test_an_advisory_that_keeps_a_package_is_named_with_and_without_a_lock(
    tied: Session, public: TinyIndex, tmp_path: Path
) -> None:
    for name, versions in {"torch": ("2.10.0",), "torchvision": ("0.25.0", "0.26.0")}.items():
        for version in versions:
            public.add(make_wheel(tmp_path / "more", name, version))
    wanted = "advisory torch-2.10-companions: torchvision==0.25.*  <- this excludes the newest"
    assert wanted in explain(cell("torch", "torchvision"), tied)[1]
    lock_cell(cell("torch", "torchvision"), tied)
    assert wanted in explain(cell("torch", "torchvision"), tied)[1]


def test_a_locked_cell_is_explained_from_its_lock(tied: Session, jet: TinyIndex, tmp_path: Path) -> None:
    lock_cell(cell("vllm"), tied)
    jet.add(make_wheel(tmp_path / "more", "vllm", "0.11.0"))
    said, text = explain(cell("vllm"), tied)
    assert "vllm 0.10.2 from jet (the newest is 0.11.0)" in text
    assert "no requirement excludes the newest" in text
    assert said.rules == ("vllm from the index jet only (usual for debian-12)",)


def test_a_server_that_lost_a_file_costs_a_reason_only(tied: Session, public: TinyIndex) -> None:
    lock_cell(cell("vllm"), tied)
    public.files.clear()
    _, text = explain(cell("vllm"), tied)
    assert "the metadata of numpy, transformers could not be read" in text


def test_an_index_that_is_down_is_an_error_and_not_an_explanation(tied: Session, jet: TinyIndex) -> None:
    jet.faults["*"] = [Answer(status=400)]
    with pytest.raises(NetworkError):
        explain(cell("vllm"), tied)


def test_an_impossible_cell_has_its_reason() -> None:
    assert text(UnexplainedCell(cell="two", impossible="no such Python")) == "two\n  impossible: no such Python"


def test_long_lists_are_cut_short(tied: Session, public: TinyIndex, tmp_path: Path) -> None:
    for n in range(12):
        public.add(make_wheel(tmp_path / "more", "many", f"1.{n}", "cp312-cp312-linux_aarch64"))
        public.add(make_wheel(tmp_path / "more", "many", f"2.{n}"))
    _, text = explain(cell("many<2"), tied)
    assert "many-1.0-cp312-cp312-linux_aarch64.whl and 11 more: it is for cp312-cp312, the cell has cp311" in text
    assert "of other versions for this cell: 2.11, 2.10, 2.9, 2.8, 2.7, 2.6 and 6 more" in text


def test_no_more_is_looked_at_than_helps(tied: Session, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_EXAMINED", 2)
    said, _ = explain(cell("a==1", "b==1", "c==1"), tied)
    assert len(said.examined) == 2
