"""What is refused before a bundle's smoke run, and which of the verdicts in its folder counts at home."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from factories import DIGEST

from builder.host import records
from builder.host.paths import CellFolder
from builder.model.images import Descriptor, Image
from builder.model.verdicts import Answer, GpuComputation, Verdict
from builder.pipeline.cell import IMPORTED, CellRecords
from builder.publish import statements
from builder.publish.carried_verdicts import no_verdict, verdict_file, verdict_of
from builder.publish.statements import ContradictoryVerdictError
from builder.publish.trust import handed_over

if TYPE_CHECKING:
    from collections.abc import Callable

OTHER = "sha256:" + "b" * 64
VERDICT = Verdict(
    level="gpu",
    digest=DIGEST,
    passed=True,
    when="2026-11-29T10:00:00+00:00",
    log=Path("/media/disk/verdict/smoke-gpu.log"),
    answers=(Answer(question="Capital?", text="Paris", seconds=2.0, tokens=5),),
    gpu=GpuComputation(device="H200", sm="9.0", arch_list=("sm_90",), errors=(("matmul float32", 2e-7),)),
)


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("smoke", "name a RECIPE, or a bundle with --bundle DIR"),
        ("smoke demo --bundle there", "RECIPE and --bundle exclude each other"),
        ("smoke demo --level gpu", "--level needs --bundle"),
        ("smoke --bundle there --jobs 2", "--jobs has no effect with --bundle"),
        ("smoke --bundle there --locked", "--locked has no effect with --bundle"),
        ("smoke --bundle there --cell x", "--cell has no effect with --bundle"),
        ("smoke --bundle there", "not a bundle: it has neither a bundle.json nor a parts.json"),
    ],
)
def test_lines_that_mix_recipes_and_bundles(
    session: Any, command_line: Callable[..., tuple[int, str, str]], tmp_path: Path, line: str, said: str
) -> None:
    (tmp_path / "there").mkdir()
    words = [str(tmp_path / "there") if word == "there" else word for word in line.split()]
    code, _, err = command_line(*words)
    assert code == 2
    assert said in err


def write(path: Path, about: str = DIGEST, **changes: Any) -> Path:
    predicate = statements.verdict_predicate(VERDICT, "demo", "one", "f" * 64) | changes
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(statements.statement(about, "vllm", statements.VERDICT, predicate))
    return path


def test_of_a_folder_the_best_verdict_about_the_image_counts(tmp_path: Path) -> None:
    folder = tmp_path / "verdict"
    write(folder / "verdict-cpu.json", level="cpu")
    best = write(folder / "verdict-gpu.json")
    write(folder / "verdict-other.json", OTHER, digest=OTHER)
    (folder / "verdict-damaged.json").write_text("{")
    (folder / "notes.json").write_text("{}")
    for named in (folder, tmp_path, best):
        assert verdict_file(named, DIGEST) == best
    assert verdict_file(folder, OTHER) == folder / "verdict-other.json"
    write(best, result="FAILED")
    assert verdict_file(folder, DIGEST) == folder / "verdict-cpu.json"


def test_a_bundle_s_own_evidence_and_exported_verdicts_count_if_their_folder_is_named(tmp_path: Path) -> None:
    copy = write(tmp_path / "bundle" / "evidence" / "verdict.json", level="cpu")
    (copy.parent / "sbom.json").write_text("{}")
    exported = write(tmp_path / "exports" / "board.json")
    assert verdict_file(copy.parent, DIGEST) == copy
    assert verdict_file(exported.parent, DIGEST) == exported


@pytest.mark.parametrize("named", ["bundle", "bundle/verdict", "bundle/project", "."])
def test_the_error_names_the_folder_nearby_that_has_a_passed_verdict(tmp_path: Path, named: str) -> None:
    copy = write(tmp_path / "bundle" / "evidence" / "verdict.json", level="cpu")
    write(tmp_path / "bundle" / "verdict" / "verdict-gpu.json", result="FAILED")
    folder = tmp_path / named
    folder.mkdir(exist_ok=True)
    assert verdict_file(folder, DIGEST) is None
    error = no_verdict(folder, DIGEST)
    assert f"`--verdict {copy.parent}` names the folder that has verdict.json (PASSED at level cpu" in str(error.hint)
    assert "evidence" not in str(no_verdict(folder, OTHER).hint)


def test_a_verdict_that_names_two_images_is_refused_by_name(tmp_path: Path) -> None:
    path = write(tmp_path / "verdict-gpu.json", OTHER)
    said = f"names two images: its subject is {OTHER}, and its result is about {DIGEST}"
    for digest in (OTHER, DIGEST):
        with pytest.raises(ContradictoryVerdictError, match=said):
            handed_over(path.read_bytes(), digest, str(path), (), unsigned=True)
        assert verdict_file(tmp_path, digest) is None
        assert f"verdict-gpu.json (the verdict {said})" in no_verdict(tmp_path, digest).message
    accepted = write(path, OTHER, digest=None)
    assert handed_over(accepted.read_bytes(), OTHER, str(path), (), unsigned=True).level == "gpu"


def test_a_folder_without_a_passed_verdict_says_what_it_has(tmp_path: Path) -> None:
    write(tmp_path / "verdict-gpu.json", result="FAILED")
    (tmp_path / "verdict-x.json").write_text("{}")
    assert verdict_file(tmp_path, DIGEST) is None
    error = no_verdict(tmp_path, DIGEST)
    assert f"verdict-gpu.json (FAILED at level gpu, about {DIGEST}), verdict-x.json (not a verdict)" in error.message
    assert "it has: no verdict" in no_verdict(tmp_path / "nowhere", DIGEST).message


def test_a_verdict_comes_home_as_it_left(tmp_path: Path) -> None:
    path = write(tmp_path / "verdict-gpu.json")
    statement = statements.parse(path.read_bytes(), str(path))
    verdict = verdict_of(statement, path)
    assert verdict == replace(VERDICT, log=path)
    foreign = statements.parse(write(path, level="superb").read_bytes(), str(path))
    assert verdict_of(foreign, path) is None


def test_an_imported_verdict_counts_for_its_image_only(tmp_path: Path) -> None:
    folder, part = CellFolder(path=tmp_path), Descriptor(media_type="m", digest=DIGEST, size=1)
    image = Image(platform="linux/amd64", manifest=part, config=part, layers=(), labels=())
    records.write(folder.record(IMPORTED), DIGEST, VERDICT)
    assert CellRecords(folder).imported() is None
    records.write(folder.record("build"), "", image)
    assert CellRecords(folder).imported() == VERDICT
    assert CellRecords(folder).proven() is None


def test_the_statement_has_no_path_of_the_machine(tmp_path: Path) -> None:
    assert "/media/disk" not in json.dumps(json.loads(write(tmp_path / "v.json").read_bytes()))
