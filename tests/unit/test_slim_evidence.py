"""What is recorded of slimmed wheels: verdicts, labels, bill of materials, provenance, and differences of images."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Literal

import pytest
from bill_images import check_bill
from elf_files import make_case, make_fatbin
from factories import DIGEST, make_image, make_jetson, make_job, make_lock, make_locked_wheel, make_plan

from builder.audit.gpu_rules import coverage, gpu_code
from builder.audit.runnable_code import remaining_kernels
from builder.cli.verbs.diff import text
from builder.image.layers.layer_groups import wheel_layers
from builder.image.render.image_labels import labels, slim_labels, slim_sizes, slim_text
from builder.model.audits import GpuTarget
from builder.model.images import SlimmedWheel
from builder.model.kernels import KernelModule, LibraryKernels
from builder.model.slimming import SlimRules
from builder.project.diff.difference import ComparedSide, compare
from builder.publish.sbom import BillSources, sbom
from builder.publish.statements import provenance_predicate

if TYPE_CHECKING:
    from pathlib import Path

    from builder.host.paths import Workspace

WHEEL = make_locked_wheel("torch", "2.14.0", sha256="a" * 64)
RULES = SlimRules(sms=(87,), same_major=True)
SLIMMED = SlimmedWheel(
    name="torch",
    version="2.14.0",
    sha256=WHEEL.sha256,
    rules=RULES,
    algorithm=1,
    record="b" * 64,
    before=900,
    after=700,
    removed=500,
)


def test_verdicts_are_about_the_code_that_stays(tmp_path: Path) -> None:
    targets = (("sass", 80), ("sass", 87), ("sass", 90), ("ptx", 90))
    wheels = {"demo": {"demo/_C.so": {"fatbin": make_fatbin(*targets)}}}
    case = make_case(tmp_path, wheels, platform=make_jetson(python="3.11", l4t="39.2.0", cuda="13.2"))
    (plain,) = coverage(case)["8.7"].values()
    (slim,) = coverage(replace(case, slim={"demo": RULES}))["8.7"].values()
    assert (plain.verdict, plain.sass, plain.ptx) == ("native", (80, 87, 90), (90,))
    assert (slim.verdict, slim.sass, slim.ptx) == ("native", (80, 87), ())


def test_a_library_without_any_code_for_the_board_is_still_found(tmp_path: Path) -> None:
    wheels = {"demo": {"demo/_C.so": {"defined": ["PyInit__C"], "fatbin": make_fatbin(("sass", 90))}}}
    case = make_case(tmp_path, wheels, platform=make_jetson(python="3.11"))
    slim = replace(case, slim={"demo": RULES})
    assert list(gpu_code(slim)) == list(gpu_code(case)) != []
    (verdict,) = coverage(slim)["8.7"].values()
    assert (verdict.verdict, verdict.sass) == ("none", ())


def test_kernels_of_ptx_go_with_it() -> None:
    modules: list[tuple[Literal["sass", "ptx"], int, bytes]] = [
        ("sass", 87, b"\0\0\0\0"),
        ("sass", 90, b"\1\0\0\0"),
        ("ptx", 80, b"\0\0\0\0"),
    ]
    library = LibraryKernels(
        path="demo/_C.so",
        modules=tuple(
            KernelModule(container=0, target=GpuTarget(kind, sm, ""), isa=(8, 4), unpacked=9, indices=indices)
            for kind, sm, indices in modules
        ),
    )
    assert [module.target.sm for module in remaining_kernels(library, RULES).modules] == [87]
    other = replace(library, modules=(replace(library.modules[0], indices=b"\1\0\0\0"), *library.modules[1:]))
    assert [module.target.sm for module in remaining_kernels(other, RULES).modules] == [87, 80]


def test_labels_and_layers_are_as_ever_without_slimming() -> None:
    job, lock = make_job(), make_lock(WHEEL)
    assert labels(job, lock, None, ()) == labels(job, lock)
    assert set(labels(job, lock, None, (SLIMMED,))) - set(labels(job, lock)) == {("io.jbuild.slim", "torch=900>400")}
    names = [
        [layer.name for layer in wheel_layers((WHEEL,), "3-py3.12", models=1, slimmed=slimmed)]
        for slimmed in ({}, {WHEEL.sha256: "slim1-0"}, {WHEEL.sha256: "slim1-1"})
    ]
    assert names[0] == [layer.name for layer in wheel_layers((WHEEL,), "3-py3.12", models=1)]
    assert len({tuple(each) for each in names}) == 3


@pytest.mark.parametrize("damaged", ["torch", "torch=9", "torch=>", "torch=a>b", "=1>2", ","])
def test_a_damaged_label_is_no_size(damaged: str) -> None:
    assert slim_sizes({"io.jbuild.slim": damaged}) == ()
    ((name, value),) = slim_labels([SLIMMED]).items()
    assert slim_text(slim_sizes({name: value})).startswith("0.5 kB less of libraries: torch")


def test_the_bill_names_the_original_wheel(workspace: Workspace) -> None:
    bill = sbom(make_lock(WHEEL), DIGEST, "c", workspace, BillSources(slimmed=(SLIMMED,)))
    check_bill(bill)
    component = next(each for each in bill["components"] if each["name"] == "torch")
    (ancestor,) = component["pedigree"]["ancestors"]
    assert ancestor["hashes"] == [{"alg": "SHA-256", "content": WHEEL.sha256}]
    assert "hashes" not in component
    assert "does not run on SM 8.7 (algorithm 1;" in component["pedigree"]["notes"]


def test_the_provenance_names_the_transformation() -> None:
    predicate = provenance_predicate(
        make_job(), make_lock(WHEEL), make_plan(slimmed=(SLIMMED,)), "c" * 64, make_image()
    )
    (slim,) = predicate["buildDefinition"]["internalParameters"]["slim"]
    assert slim["material"]["digest"] == {"sha256": WHEEL.sha256}
    assert slim["parameters"]["sms"] == [87]
    assert slim["parameters"]["algorithm"] == 1
    plain = provenance_predicate(make_job(), make_lock(WHEEL), make_plan(), "c" * 64, make_image())
    assert "slim" not in plain["buildDefinition"]["internalParameters"]


def test_a_difference_in_code_alone_is_explained() -> None:
    sizes = slim_sizes(slim_labels([SLIMMED]))
    before = ComparedSide(name="a", kind="image", slimmed=())
    found = compare(before, replace(before, name="b", slimmed=sizes))
    assert not found.identical
    assert "GPU code: 1 package" in text(found)
    assert not compare(before, before).slim
