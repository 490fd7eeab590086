"""What tells of slimmed wheels: labels, layers, bills of materials, provenance, differences, and the audit."""

from __future__ import annotations

import itertools
import time
from array import array
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import pytest
import zstandard
from bill_images import check_bill
from elf_files import make_case, make_fatbin
from factories import DIGEST, make_image, make_jetson, make_job, make_lock, make_locked_wheel, make_plan

from builder.audit.runnable_code import remaining, remaining_kernels
from builder.audit.stage import judge
from builder.cli.verbs.diff import text as diff_text
from builder.host import records
from builder.image.layers.layer_groups import wheel_layers
from builder.image.render.image_labels import labels, slim_sizes, slim_text
from builder.model.audits import GpuTarget
from builder.model.images import Plan, SlimmedWheel, SlimSize
from builder.model.kernels import KernelModule, LibraryKernels
from builder.model.slimming import SlimRules
from builder.project.diff.difference import ComparedSide, compare
from builder.publish.sbom import BillSources, sbom
from builder.publish.statements import provenance_predicate

if TYPE_CHECKING:
    from pathlib import Path

    from builder.audit.audit_context import AuditContext
    from builder.host.paths import Workspace

ORIN = SlimRules(sms=(87,), same_major=True)
VARIANT = "3-py3.12-c3.12.1"
TORCH = make_locked_wheel("torch", "2.14.0")
SLIMMED = SlimmedWheel(
    name="torch",
    version="2.14.0",
    sha256=TORCH.sha256,
    rules=ORIN,
    algorithm=1,
    record="d" * 64,
    before=3_000_000_000,
    after=1_000_000_000,
    removed=2_000_000_000,
)


def test_layers_without_slimming_are_those_of_ever() -> None:
    wheels = [make_locked_wheel("torch"), make_locked_wheel("click")]
    plain = [layer.name for layer in wheel_layers(wheels, VARIANT, models=1)]
    # Another name would give every device another image.
    assert plain == ["torch-b15ad947db7d", "libraries-d9690f869189"]
    slim = [layer.name for layer in wheel_layers(wheels, VARIANT, models=1, slimmed={wheels[0].sha256: "slim1-a"})]
    assert slim[0].startswith("torch-")
    assert slim[0] != plain[0]
    assert slim[1] == plain[1]


def test_labels_without_slimming_are_those_of_ever() -> None:
    plain = labels(make_job(), make_lock())
    assert records.fingerprint(plain) == "fd550f22b278fc3a0acee82695a65de590453bc0242c44c9b543b89f7af6cc3e"


def test_a_label_has_the_sizes() -> None:
    given = dict(labels(make_job(), make_lock(), None, (SLIMMED,)))
    assert given["io.jbuild.slim"] == "torch=3000000000>1000000000"
    assert slim_sizes(given) == (SlimSize(name="torch", before=3_000_000_000, after=1_000_000_000),)
    assert slim_text(slim_sizes(given)) == "2.00 GB less of libraries: torch 3.00 GB → 1.00 GB"
    assert slim_text((SlimSize(name="triton", before=9_000_000, after=0),)).endswith(": triton without 9.0 MB")


@pytest.mark.parametrize("text", ["", "torch", "torch=1", "torch=a>b", "torch=1>2>3", "Torch=1>2", "=1>2"])
def test_a_damaged_label_counts_as_none(text: str) -> None:
    assert slim_sizes({"io.jbuild.slim": text}) == ()


def test_a_plan_is_read_as_it_was_written() -> None:
    plan = make_plan(slimmed=(SLIMMED,))
    assert records.from_json(records.to_json(plan), Plan) == plan
    before = records.to_json(make_plan())
    del before["slimmed"]
    assert records.from_json(before, Plan).slimmed == ()


def test_bill_has_the_original_as_ancestor(workspace: Workspace) -> None:
    lock = make_lock(TORCH, make_locked_wheel("numpy"))
    bill = sbom(lock, DIGEST, "c" * 64, workspace, BillSources(slimmed=(SLIMMED,)))
    check_bill(bill)
    components = {component["name"]: component for component in bill["components"]}
    torch, numpy = components["torch"], components["numpy"]
    (ancestor,) = torch["pedigree"]["ancestors"]
    assert ancestor["hashes"] == [{"alg": "SHA-256", "content": TORCH.sha256}]
    assert "SM 8.7" in torch["pedigree"]["notes"]
    assert "hashes" not in torch
    assert {"name": "io.jbuild.slim-record", "value": f"sha256:{'d' * 64}"} in torch["properties"]
    assert "pedigree" not in numpy
    assert numpy["hashes"]


def test_provenance_names_the_transformation() -> None:
    lock = make_lock(TORCH)
    plain = provenance_predicate(make_job(), lock, make_plan(), "c" * 64, make_image())
    assert "slim" not in plain["buildDefinition"]["internalParameters"]
    changed = provenance_predicate(make_job(), lock, make_plan(slimmed=(SLIMMED,)), "c" * 64, make_image())
    (row,) = changed["buildDefinition"]["internalParameters"]["slim"]
    assert row["material"]["digest"] == {"sha256": TORCH.sha256}
    assert row["parameters"]["sms"] == [87]
    assert row["parameters"]["algorithm"] == 1
    assert TORCH.sha256 in {entry["digest"]["sha256"] for entry in changed["buildDefinition"]["resolvedDependencies"]}


def side(**fields: Any) -> ComparedSide:
    return ComparedSide(name="one", kind="image", packages=(), models=(), layers=(), blobs=(), **fields)


def test_difference_of_slimmed_images() -> None:
    whole, orin = side(slimmed=()), side(slimmed=(SlimSize(name="torch", before=9_000_000, after=5_000_000),))
    thor = side(slimmed=(SlimSize(name="torch", before=9_000_000, after=6_000_000),))
    assert compare(orin, orin).identical
    assert "~ torch: all code, 9.0 MB → slimmed, 5.0 MB" in diff_text(compare(whole, orin))
    assert "~ torch: slimmed, 5.0 MB → slimmed, 6.0 MB" in diff_text(compare(orin, thor))
    assert "~ torch: slimmed, 6.0 MB → all code, 9.0 MB" in diff_text(compare(thor, whole))
    assert compare(whole, side(slimmed=None)).slim == ()


TARGETS = [("sass", 80), ("sass", 87), ("sass", 90), ("sass", 110), ("ptx", 80), ("ptx", 90)]
CHOICES = [choice for count in (1, 2, 3) for choice in itertools.combinations(TARGETS, count)]


def case_of(folder: Path, targets: tuple[tuple[str, int], ...], **platform: Any) -> AuditContext:
    files = {"demo/_C.so": {"defined": ["PyInit__C"], "fatbin": make_fatbin(*targets)}}
    facts = {"python": "3.11", "l4t": "39.2.0", "cuda": "13.2", "sms": ("8.7",), **platform}
    return make_case(folder, {"demo": files}, platform=make_jetson(**facts))


@pytest.mark.parametrize("same_major", [True, False])
def test_what_runs_before_runs_after_slimming(tmp_path: Path, same_major: bool) -> None:
    """A verdict that code runs is the verdict on the code that is left."""
    platform = {"l4t": "39.2.0", "cuda": "13.2"} if same_major else {"l4t": "36.4.0", "cuda": "12.6"}
    rules = SlimRules(sms=(87,), same_major=same_major)
    for number, targets in enumerate(CHOICES):
        case = case_of(tmp_path / str(number), targets, **platform)
        (node,) = [node for node in case.environment.nodes if node.binary.gpu]
        left = [(code.target.kind, code.target.sm) for code in remaining(node.binary.gpu, rules)]
        after = case_of(tmp_path / f"{number}-after", tuple(left), **platform) if left else None
        (before_verdict,), (after_verdict,) = (
            judge(one, "one", "base", (), time.monotonic()).gpu["8.7"].values() if one else [None]
            for one in (case, after)
        )
        assert before_verdict is not None
        if before_verdict.verdict in {"native", "same-major", "ptx"}:
            assert after_verdict is not None
            assert after_verdict.verdict == before_verdict.verdict, targets
        else:
            assert after_verdict is None or after_verdict.verdict not in {"native", "same-major", "ptx"}


def test_the_audit_lists_the_code_of_the_image_and_finds_as_before(tmp_path: Path) -> None:
    case = case_of(tmp_path, (("sass", 80), ("sass", 87), ("sass", 120), ("ptx", 90)))
    slim = replace(case, slim={"demo": ORIN})
    before, after = (judge(one, "one", "base", (), time.monotonic()) for one in (case, slim))
    (whole,), (left,) = before.gpu["8.7"].values(), after.gpu["8.7"].values()
    assert (whole.sass, whole.ptx) == ((80, 87, 120), (90,))
    assert (left.sass, left.ptx) == ((80, 87), ())
    assert whole.verdict == left.verdict == "native"
    assert before.findings == after.findings


def test_a_finding_names_the_code_of_the_wheel(tmp_path: Path) -> None:
    case = case_of(tmp_path, (("sass", 90),))
    (finding,) = [
        row
        for row in judge(replace(case, slim={"demo": ORIN}), "one", "base", (), time.monotonic()).findings
        if row.rule == "gpu-code"
    ]
    assert "SASS 9.0" in finding.detail


def module(container: int, kind: Any, sm: int, kernels: list[int]) -> KernelModule:
    return KernelModule(
        container=container, target=GpuTarget(kind, sm), isa=(8, 4), unpacked=9, indices=array("I", kernels).tobytes()
    )


def test_kernels_that_are_left() -> None:
    modules = (
        module(0, "sass", 87, [0, 1]),
        module(0, "ptx", 80, [0, 1]),
        module(1, "sass", 87, [0]),
        module(1, "ptx", 80, [0, 1]),
        module(2, "sass", 90, [0]),
        module(2, "ptx", 80, [0]),
    )
    library = LibraryKernels(path="_C.so", modules=modules, packed_names=zstandard.compress(b"a\nb"))
    left = remaining_kernels(library, ORIN)
    assert left.modules == (modules[0], modules[2], modules[3], modules[5])
    assert left.names == library.names
