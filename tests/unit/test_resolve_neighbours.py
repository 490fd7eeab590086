"""What is tried near a cell that does not resolve."""

from __future__ import annotations

import threading
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from factories import make_locked_wheel, make_spec
from hypothesis import given
from hypothesis import strategies as st
from packaging.version import Version

from builder.errors import NetworkError, NoWheelsError
from builder.host import process
from builder.host.config import Config
from builder.host.console import Console
from builder.lock import alternatives as module
from builder.lock.advisory_solve import Solution
from builder.lock.alternatives import Alternative, alternatives_of, nearest_versions
from builder.lock.inspect_index import IndexContents, UnfitWheel
from builder.model.recipes import Axis, Exclusion, Matrix, Recipe
from builder.recipe.matrix import expand, job_of
from builder.remote.index.index_client import IndexClient

if TYPE_CHECKING:
    from builder.host.session import Session
    from builder.model.locks import Job

EXPLAINED = (
    "error: No solution found when resolving dependencies\n  cause: Because vllm==0.9.3 was not found in the package\n"
    "         registry and you require vllm==0.9.3, we can conclude that your requirements are unsatisfiable.\n"
)


def job(*requires: str, exclude: tuple[Exclusion, ...] = (), **axes: tuple[str, ...]) -> Job:
    matrix = Matrix(axes=tuple(Axis(name=name, values=values) for name, values in axes.items()), exclude=exclude)
    recipe = Recipe(
        name="demo",
        path=Path("recipes/demo.toml"),
        description="A demonstration",
        architecture="arm64",
        matrix=matrix,
        spec=make_spec(requires=requires),
    )
    return job_of(recipe, expand(recipe)[0])


def culprit(requirement: str, *others: str) -> IndexContents:
    return IndexContents(requirement=requirement, index="jet", url="", others=others)


@pytest.fixture
def tried(monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """Stand in for the solver: what fits is decided by the versions and platforms asked for, in `fits`."""
    state: dict[str, Any] = {"asked": [], "fits": lambda _: True}

    def solve_only(job: Job, *_: Any) -> Any:
        state["asked"].append(job)
        if not state["fits"](job):
            raise NoWheelsError("no wheels work together", log=EXPLAINED)
        wheels = (make_locked_wheel("vllm", "0.10.2"), make_locked_wheel("torch", "2.8.0"), make_locked_wheel("x"))
        return Solution(wheels=wheels, advisories=(), warnings=())

    monkeypatch.setattr(module, "solve_only", solve_only)
    return state


def near(job: Job, session: Session, *culprits: IndexContents) -> tuple[Alternative, ...]:
    return alternatives_of(job, culprits, IndexClient(config=Config(), states=session.workspace.index_states), session)


def test_other_versions_of_a_pin_are_tried_the_nearest_first(tried: dict[str, Any], session: Session) -> None:
    others = [f"0.{n}.0" for n in range(1, 50) if n != 9]
    found = near(job("vllm==0.9.0", "numpy", distribution=("debian-12",)), session, culprit("vllm==0.9.0", *others))
    asked = [each.spec.requires for each in tried["asked"]][:7]
    assert set(asked[:4]) == {(f"vllm=={v}", "numpy") for v in ("0.10.0", "0.8.0", "0.11.0", "0.12.0")}
    versions = [each.differs for each in found if each.differs.startswith("vllm")]
    newest_first = ("0.34.0", "0.18.0", "0.14.0", "0.12.0", "0.11.0", "0.10.0", "0.8.0")
    assert versions == [f"vllm {version} instead of 0.9.0" for version in newest_first]
    assert found[0].found == "vllm 0.10.2, torch 2.8.0; 3 wheels"


def test_a_pin_is_not_tried_in_place_of_itself(tried: dict[str, Any], session: Session) -> None:
    blamed = (culprit("torch>=2.9", "2.8.0", "2.7.0"), culprit("torch==2.8.0+cu126", "2.8.0", "2.9.0"))
    found = near(job("torch==2.8.0", distribution=("debian-12",)), session, *blamed)
    assert [each.differs for each in found if "instead" in each.differs] == [
        "torch 2.9.0 instead of 2.8.0",
        "torch 2.7.0 instead of 2.8.0",
    ]


def test_what_a_trial_meets_is_nobodys_news(
    session: Session, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def solve_only(job: Job, session: Session, *_: Any) -> Solution:
        session.console.say(f"{job.cell.id}: advisory something asks for something")
        return Solution(wheels=(), advisories=(), warnings=())

    monkeypatch.setattr(module, "solve_only", solve_only)
    loud = replace(session, console=Console())
    assert near(job("vllm==1", distribution=("debian-12",)), loud, culprit("vllm==1", "2"))
    assert capsys.readouterr().err == ""


def dated(before: str | None, *came: str | None) -> tuple[Job, IndexContents]:
    cell = job("vllm==1", distribution=("debian-12",))
    unfit = tuple(UnfitWheel(filename=f"{day}.whl", why="too late", came=day) for day in came)
    spec = replace(cell.spec, released_before=before)
    return replace(cell, spec=spec), replace(culprit("vllm==1"), unfit=unfit)


@pytest.mark.parametrize(
    ("came", "days"),
    [
        (("2025-03-09", "2025-03-05", None), ("2025-03-06", "2025-04-05", "2025-06-04", "2026-03-06")),
        ((), ("2025-03-31", "2025-05-30", "2026-03-01")),
        (("2999-01-01",), ()),
    ],
)
def test_later_dates_are_tried_up_to_today_and_then_none(
    tried: dict[str, Any], session: Session, came: tuple[str, ...], days: tuple[str, ...]
) -> None:
    cell, blamed = dated("2025-03-01", *came)
    found = [each.differs for each in near(cell, session, blamed) if "released-before" in each.differs]
    wanted = [f"released-before {day} instead of 2025-03-01" for day in days]
    assert found == [*wanted, "without released-before 2025-03-01"]
    asked = {each.spec.released_before for each in tried["asked"] if each.cell.id == cell.cell.id}
    assert asked >= {*days, None}


def test_without_a_date_no_dates_are_tried(tried: dict[str, Any], session: Session) -> None:
    cell, blamed = dated(None, "2025-03-05")
    assert not any("released-before" in each.differs for each in near(cell, session, blamed))


def test_extras_of_a_pin_stay(tried: dict[str, Any], session: Session) -> None:
    near(job("vLLM[flashinfer,audio]==0.9.3", distribution=("debian-12",)), session, culprit("vllm==0.9.3", "0.10.2"))
    assert ("vLLM[audio,flashinfer]==0.10.2",) in [each.spec.requires for each in tried["asked"]]


def test_what_the_recipe_does_not_pin_has_no_other_versions(tried: dict[str, Any], session: Session) -> None:
    found = near(
        job("vllm>=0.9", distribution=("debian-12",)), session, culprit("vllm>=0.9", "0.8.0"), culprit("numpy<2", "1.0")
    )
    assert not any("instead of" in each.differs for each in found)


def test_a_package_that_is_blamed_twice_is_tried_once(tried: dict[str, Any], session: Session) -> None:
    blamed = (culprit("vllm==0.9.3", "0.10.2"), culprit("vllm<0.10", "0.10.2"))
    found = near(job("vllm==0.9.3", distribution=("debian-12",)), session, *blamed)
    assert len({each.differs for each in found}) == len(found) == len(tried["asked"])


def test_other_cells_of_the_recipe_come_before_cells_that_it_could_have(
    tried: dict[str, Any], session: Session
) -> None:
    cell = job("vllm", vllm=("0.9.3", "0.10.2"), l4t=("36.4.0", "36.5.0"), python=("3.10", "3.12"))
    found = [each.differs for each in near(cell, session)]
    assert found[:3] == ["cell with python=3.12", "cell with l4t=36.5.0", "cell with vllm=0.10.2"]
    assert len(found) == 6
    assert all(each.startswith("cell with ") for each in found)
    assert len(set(found)) == len(found)


def test_cells_that_cannot_exist_are_not_tried(tried: dict[str, Any], session: Session) -> None:
    reason = Exclusion(when=(("vllm", "0.10.2"),), reason="no")
    cell = job("vllm", exclude=(reason,), vllm=("0.9.3", "0.10.2"), distribution=("debian-12",), python=("3.11",))
    near(cell, session)
    assert all(each.cell.impossible is None for each in tried["asked"])
    assert not any(each.cell.value("vllm") == "0.10.2" for each in tried["asked"])
    # Debian 12 has one Python only.
    assert not any(each.cell.value("python") != "3.11" for each in tried["asked"])


def test_cells_that_the_recipe_could_have_differ_in_one_value(tried: dict[str, Any], session: Session) -> None:
    cell = job("vllm", l4t=("36.4.0",), cuda=("12.6",))
    found = [each.differs for each in near(cell, session)]
    assert "cell with cuda=12.8" in found
    assert any(each.startswith("cell with l4t=36.4.") for each in found)
    assert all(each.count("=") == 1 for each in found)
    assert "cell with l4t=36.4.0" not in found


def test_what_resolves_comes_first_and_what_fails_says_why(tried: dict[str, Any], session: Session) -> None:
    tried["fits"] = lambda job: job.spec.requires == ("vllm==0.10.2",)
    found = near(job("vllm==0.9.3", distribution=("debian-12",)), session, culprit("vllm==0.9.3", "0.8.0", "0.10.2"))
    assert [each.resolves for each in found] == [True, *[False] * (len(found) - 1)]
    assert found[0].differs == "vllm 0.10.2 instead of 0.9.3"
    assert found[1].failed == "vllm==0.9.3 was not found in the package registry and you require vllm==0.9.3"
    assert not found[1].found


def test_a_failure_without_an_explanation_has_its_own_words(
    tried: dict[str, Any], session: Session, monkeypatch: pytest.MonkeyPatch
) -> None:
    def down(*_: Any) -> Any:
        raise NetworkError("the index jet does not answer for vllm")

    monkeypatch.setattr(module, "solve_only", down)
    found = near(job("vllm==1", distribution=("debian-12",)), session, culprit("vllm==1", "2"))
    assert found[0].failed == "the index jet does not answer for vllm"


def test_a_bug_is_not_taken_for_an_answer(session: Session, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "solve_only", lambda *_: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        near(job("vllm==1", distribution=("debian-12",)), session, culprit("vllm==1", "2"))


def test_an_interrupt_ends_what_runs_and_begins_nothing_more(session: Session, monkeypatch: pytest.MonkeyPatch) -> None:
    gate, begun, ended = threading.Event(), [], []

    def solve_only(job: Job, *_: Any) -> Any:
        begun.append(job)
        if len(begun) == 1:
            raise KeyboardInterrupt
        gate.wait()
        return Solution(wheels=(), advisories=(), warnings=())

    def end_all() -> None:
        ended.append(True)
        gate.set()

    monkeypatch.setattr(module, "solve_only", solve_only)
    monkeypatch.setattr(process, "end_all", end_all)
    many = [f"0.{n}" for n in range(40)]
    with pytest.raises(KeyboardInterrupt):
        near(job("vllm==0.9", distribution=("debian-12",)), session, culprit("vllm==0.9", *many))
    assert ended
    assert len(begun) <= 3


_VERSIONS = st.lists(
    st.tuples(st.integers(0, 3), st.integers(0, 9)).map(lambda pair: f"{pair[0]}.{pair[1]}"), unique=True
)


@given(_VERSIONS, st.sampled_from(["0.5", "1.0", "1.5.post1", "2.0+cu126", "9.0"]))
def test_near_versions_are_those_with_few_between(known: list[str], wanted: str) -> None:
    found = nearest_versions(wanted, known)
    assert sorted(found) == sorted(str(Version(each)) for each in known)
    ordered = sorted(map(Version, known))

    def between(version: str) -> int:
        low, high = sorted((Version(version), Version(wanted)))
        return sum(low < each < high for each in ordered)

    assert [between(each) for each in found] == sorted(between(each) for each in found)


def test_of_two_as_near_the_newer_is_first() -> None:
    assert nearest_versions("1.0", ["0.9", "1.1", "0.8", "1.2"]) == ["1.1", "0.9", "1.2", "0.8"]
    assert nearest_versions("1.0", []) == []


def test_a_job_is_left_as_it_was(tried: dict[str, Any], session: Session) -> None:
    cell = job("vllm==0.9.3", distribution=("debian-12",))
    before = replace(cell)
    near(cell, session, culprit("vllm==0.9.3", "0.10.2"))
    assert cell == before
