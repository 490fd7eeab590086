"""Which wheels: what the Jetson index has, what the public one would slip in, and what goes wrong with both."""

from __future__ import annotations

import shutil
from typing import TYPE_CHECKING, Any

import pytest
from factories import make_wheel
from index_server import running_index
from jetson_index import JetsonIndex, running_jetson_index
from project import assert_refused
from resolving import CELL, Resolving, push_base, words
from servers import free_port

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from index_server import Index
    from servers import Registry

CU126 = "jetson-ai-lab-jp6-cu126"
TORCH = "torch-2.8.0-cp310-cp310-linux_aarch64.whl"


@pytest.fixture(scope="session")
def base(shared_registry: Registry, tmp_path_factory: pytest.TempPathFactory) -> str:
    """The name of a base image."""
    return push_base(shared_registry, tmp_path_factory.mktemp("base"))


@pytest.fixture
def jetson(jetson_sets: Path, tmp_path: Path) -> Iterator[JetsonIndex]:
    """The stand-in for the Jetson index, with which a test may do what it wants."""
    with running_jetson_index(shutil.copytree(jetson_sets, tmp_path / "sets")) as running:
        yield running


@pytest.fixture
def project(tmp_path: Path, jetson: JetsonIndex, public_index: Index, base: str) -> Resolving:
    """A project in which nothing is locked yet."""
    make_wheel(public_index.folder, "numpy", "1.26.4")
    public = f"http://{public_index.host}/simple"
    return Resolving(folder=tmp_path / "work", public=public, jetson=f"http://{jetson.host}/", base=base)


def locked(project: Resolving, *arguments: str, **environment: str) -> Any:
    done = project.lock(*arguments, "--json", **environment)
    assert done.code == 0, done.stderr
    return done.json["cells"][0]


# --- what is right


def test_tied_packages_come_from_their_index(project: Resolving, jetson: JetsonIndex) -> None:
    locked(project)
    packages = project.locked()
    torch = packages["torch"]["wheels"][0]
    assert torch["name"] == TORCH
    assert torch["url"].startswith(f"http://{jetson.host}/jp6/cu126/+f/")
    assert packages["torch"]["index"] == f"http://{jetson.host}/jp6/cu126/+simple/"
    assert packages["torchvision"]["version"] == "0.23.0"
    assert "index" not in packages["numpy"]
    own = project.own()
    assert own["torch-cuda"] == "12.6"
    assert own["indexes"] == [
        {"name": CU126, "url": f"http://{jetson.host}/jp6/cu126/+simple/", "stand_in": "generated wheels"}
    ]
    assert f"torch, torchvision from the index {CU126} only" in [rule["rule"] for rule in own["rules"]]
    assert packages["numpy"]["version"] == "1.26.4"
    assert "jetson-torch-numpy-1" in [advisory["id"] for advisory in own["advisories"]]


def test_what_was_applied_is_shown(project: Resolving) -> None:
    locked(project)
    shown = project.jbuild("show", "jetson").stdout
    assert f"applied     torch, torchvision from the index {CU126} only (usual for L4T 36.4.0 with CUDA 12.6)" in shown
    assert "torch       a build for CUDA 12.6" in shown
    assert f"stand-in    index {CU126}: generated wheels" in shown


def test_the_second_lock_does_nothing_and_asks_nobody(project: Resolving, jetson: JetsonIndex) -> None:
    locked(project)
    asked = len(jetson.asked())
    assert locked(project)["stages"]["lock"]["ran"] is False
    assert len(jetson.asked()) == asked


def test_the_public_index_alone_gives_no_cpu_torch(project: Resolving) -> None:
    project.recipe["packages"]["indexes"] = []
    done = project.lock()
    assert_refused(done, 4, "torch 2.8.0 from uv's own index is a CPU build", "cpu-torch", "CUDA 12.6")
    assert not (project.folder / "locks").exists()
    assert "is a CPU build" in project.jbuild("matrix", "jetson").stdout
    project.recipe["packages"]["ignore-advisories"] = ["cpu-torch"]
    done = project.lock()
    assert done.code == 0
    assert "warning: r36_4_0-cu126-py310: torch 2.8.0 from uv's own index is a CPU build" in done.stderr


def test_a_single_package_may_come_from_elsewhere(project: Resolving) -> None:
    project.recipe["packages"] |= {"from": {"torchvision": "default"}}
    locked(project)
    packages = project.locked()
    assert packages["torchvision"]["wheels"][0]["name"] == "torchvision-0.23.0-cp310-cp310-manylinux_2_28_aarch64.whl"
    assert packages["torch"]["wheels"][0]["name"] == TORCH


def test_each_cuda_has_its_set(project: Resolving) -> None:
    project.recipe["matrix"] = {"l4t": ["36.4.0"], "cuda": ["12.6", "12.8"], "python": ["3.10"]}
    done = project.lock("--jobs", "2", "--json")
    assert done.code == 0, done.stderr
    assert project.own()["torch-cuda"] == "12.6"
    assert project.own("r36_4_0-cu128-py310")["torch-cuda"] == "12.8"


def test_a_cut_off_says_where_it_is_blind(project: Resolving) -> None:
    project.recipe["packages"]["released-before"] = "2026-01-01"
    done = project.lock()
    assert done.code in (0, 4), done.stderr
    if done.code == 0:
        rules = [rule["rule"] for rule in project.own()["rules"]]
        assert f"no cut-off by date for the index {CU126}" in rules


# --- relocking


def test_changes_are_told_with_their_reason(project: Resolving) -> None:
    project.recipe["packages"]["requires"] = ["torch==2.7.0", "torchvision"]
    locked(project)
    project.recipe["packages"]["requires"] = ["torch==2.8.0", "torchvision"]
    done = project.lock()
    assert done.code == 0
    assert f"{CELL}: torch 2.7.0 → 2.8.0 because the recipe asks for torch==2.8.0" in done.stderr
    assert f"{CELL}: torchvision 0.22.0 → 0.23.0 because" in done.stderr
    assert "the lock is stale (the recipe or its platform changed)" in done.stderr


def test_versions_are_kept_until_an_upgrade_is_asked_for(project: Resolving) -> None:
    project.recipe["packages"]["requires"] = ["torch", "torchvision"]
    project.recipe["packages"]["constraints"] = ["torch<2.8"]
    locked(project)
    assert project.locked()["torch"]["version"] == "2.7.0"
    project.recipe["packages"]["constraints"] = ["torch<3"]
    assert locked(project)["changes"] == []
    changes = {change["name"]: change for change in locked(project, "--upgrade", "torch")["changes"]}
    assert changes["torch"]["why"] == "its upgrade was requested"
    newest = project.locked()["torch"]["version"]
    assert newest != "2.7.0"
    every = {change["name"] for change in locked(project, "--upgrade")["changes"]}
    assert "torch" not in every


def test_an_index_that_changed_a_locked_file(project: Resolving, jetson: JetsonIndex) -> None:
    locked(project)
    before = project.locked()["torch"]["wheels"][0]["hashes"]["sha256"]
    jetson.shelf.replace("jp6/cu126", TORCH)
    done = project.lock("--check")
    assert done.code == 6, done.stderr
    assert f"{TORCH}: the index {CU126} serves a different file under this name" in done.stdout
    project.recipe["packages"]["constraints"] = ["pillow"]
    done = project.lock()
    assert_refused(done, 6, f"serves another {TORCH} now", f"locked was {before}", "--upgrade torch")
    assert project.locked()["torch"]["wheels"][0]["hashes"]["sha256"] == before
    locked(project, "--upgrade", "torch")
    assert project.locked()["torch"]["wheels"][0]["hashes"]["sha256"] != before


def test_the_wheelhouse_keeps_what_the_index_changed(project: Resolving, jetson: JetsonIndex) -> None:
    locked(project)
    before = project.locked()["torch"]["wheels"][0]
    digest = before["hashes"]["sha256"]
    kept = project.cache / "wheels" / digest[:2] / digest / TORCH
    kept.parent.mkdir(parents=True)
    shutil.copyfile(jetson.shelf.folder / "jp6" / "cu126" / TORCH, kept)
    jetson.shelf.replace("jp6/cu126", TORCH)
    assert project.lock("--check").code == 0
    project.recipe["packages"]["constraints"] = ["pillow"]
    done = project.lock()
    assert done.code == 0, done.stderr
    assert f"{TORCH} from the wheelhouse, as it was locked" in words(done)
    assert project.locked()["torch"]["wheels"][0]["hashes"]["sha256"] == digest


def test_a_version_that_the_index_lost(project: Resolving, jetson: JetsonIndex) -> None:
    locked(project)
    jetson.shelf.lose("jp6/cu126", "torch-2.8.0*")
    done = project.lock("--check")
    assert done.code == 6
    assert "no longer has it; the wheelhouse does not have the locked file" in done.stdout


def test_jetsons_vllm_that_names_no_torch_gets_its_own(project: Resolving, tmp_path: Path) -> None:
    """`torch` alone would be 2.10.0, the newest there."""
    make_wheel(tmp_path / "own", "vllm", "0.10.2", "cp310-cp310-linux_aarch64", requires=("torch",))
    project.recipe["packages"]["requires"] = ["vllm==0.10.2"]
    with running_index(tmp_path / "own") as own:
        url = f"http://{own.host}/simple/"
        project.settings["indexes"] = [{"name": "jetson-ai-lab-own", "url": url, "packages": ["vllm"]}]
        locked(project)
    assert project.locked()["torch"]["version"] == "2.8.0"
    assert "jetson-vllm-0.10.2-torch" in [advisory["id"] for advisory in project.own()["advisories"]]


# --- why


def test_why_tells_what_the_index_has_instead(project: Resolving) -> None:
    project.recipe["packages"]["requires"] = ["vllm==0.16.1"]
    done = project.lock()
    assert_refused(done, 4, "no wheels work together for l4t-36.4.0", "jbuild why jetson")
    assert "--index-strategy" not in done.stderr
    done = project.jbuild("why", "jetson")
    assert done.code == 4
    assert "vllm 0.16.1 was never released by its authors" in done.stdout
    assert f"vllm==0.16.1: asked {CU126} (http://" in done.stdout
    assert "has wheels of other versions for this cell: 0.20.0, 0.10.2+cu126, 0.9.3+cu126" in done.stdout


def test_why_names_the_reason_of_each_wheel(project: Resolving, public_index: Index) -> None:
    for tag in ("cp312-cp312-manylinux_2_28_aarch64", "cp310-cp310-manylinux_2_39_aarch64", "cp310-cp310-win_amd64"):
        make_wheel(public_index.folder, "lonely", "1.0", tag)
    project.recipe["packages"]["requires"] = ["lonely==1.0"]
    done = project.jbuild("why", "jetson")
    assert done.code == 4
    assert "lonely==1.0: asked default" in done.stdout
    assert "it needs glibc 2.39, the cell has 2.35" in done.stdout
    assert "it is for cp312-cp312, the cell has cp310" in done.stdout
    assert "it is for win_amd64, the cell is aarch64" in done.stdout


def test_why_of_a_cell_that_resolves(project: Resolving) -> None:
    locked(project)
    done = project.jbuild("why", "jetson", "--json")
    assert done.code == 0
    reasons = {reason["name"]: reason for reason in done.json["cells"][0]["reasons"]}
    assert reasons["torch"]["index"] == CU126
    assert "the recipe asks for torch==2.8.0" in reasons["torch"]["held_by"]
    assert reasons["torch"]["newest"] == "2.10.0"
    assert "advisory torch-2.8-companions: torchvision==0.23.*" in reasons["torchvision"]["asks"]


# --- indexes fail


def test_an_index_that_is_down(project: Resolving, jetson: JetsonIndex) -> None:
    jetson.fails(r"GET .*/simple|GET .*\+simple", "status", times=None, status=503)
    done = project.lock()
    assert_refused(done, 5, f"the index {CU126} does not answer for torch", "still build from the wheelhouse", "503")
    assert "it has been failing since" in project.lock().stderr
    assert not (project.folder / "locks").exists()


@pytest.mark.parametrize(
    ("kind", "details"),
    [
        ("status", {"status": 503}),
        ("status", {"status": 429, "headers": {"Retry-After": "1"}}),
        ("reset", {}),
        ("garbage", {}),
        ("empty", {}),
        ("wrong-type", {}),
    ],
)
def test_a_fault_that_passes_is_outlived(
    project: Resolving, jetson: JetsonIndex, kind: str, details: dict[str, Any]
) -> None:
    jetson.fails(r"\+simple/torch/", kind, times=1, **details)
    locked(project)
    assert len(jetson.asked(r"\+simple/torch/")) == 2


@pytest.mark.parametrize(
    ("kind", "said"), [("garbage", "its HTML is not a package page"), ("huge", "longer than 64 MiB")]
)
def test_a_page_that_is_none(project: Resolving, jetson: JetsonIndex, kind: str, said: str) -> None:
    jetson.fails(r"\+simple/", kind, times=None)
    done = project.lock()
    assert_refused(done, 5, f"the index {CU126} does not answer", said)


def test_a_fallback_is_asked_when_the_index_is_down(project: Resolving, jetson: JetsonIndex) -> None:
    dead = f"http://127.0.0.1:{free_port()}/"
    project.settings["index-mirrors"] = [
        {"prefix": "https://pypi.jetson-ai-lab.io/", "mirror": dead},
        {"prefix": "https://pypi.jetson-ai-lab.io/", "mirror": f"http://{jetson.host}/", "fallback": True},
    ]
    locked(project)
    assert project.locked()["torch"]["index"].startswith(f"http://{jetson.host}/")


def test_a_fallback_of_the_default_index(project: Resolving) -> None:
    project.settings["index-mirrors"].append({"prefix": "default", "mirror": project.public, "fallback": True})
    project.public = f"http://127.0.0.1:{free_port()}/simple"
    locked(project)


def test_a_portal_in_place_of_the_public_index(project: Resolving, jetson: JetsonIndex) -> None:
    """uv alone says that there is no version of anything."""
    jetson.fails(r"/portal/", "garbage", times=None)
    project.public = f"http://{jetson.host}/portal/simple"
    project.recipe["packages"]["requires"] = ["filelock"]
    done = project.lock()
    assert_refused(done, 5, "the index default does not answer for filelock", "its HTML is not a package page")


def test_an_index_that_asks_for_a_log_in(project: Resolving, jetson: JetsonIndex) -> None:
    jetson.user = "edge:hush-hush"
    done = project.lock()
    assert_refused(done, 5, "401", "UV_INDEX_JETSON_AI_LAB_JP6_CU126_USERNAME")
    names = {
        f"UV_INDEX_JETSON_AI_LAB_JP6_CU126_{part}": said
        for part, said in (("USERNAME", "edge"), ("PASSWORD", "hush-hush"))
    }
    done = project.lock("--json", **names)
    assert done.code == 0, done.stderr
    written = "".join(path.read_text() for path in project.folder.rglob("*.toml"))
    assert "hush-hush" not in done.stdout + done.stderr + written


def test_wheels_are_fetched_with_the_log_in_too(project: Resolving, jetson: JetsonIndex) -> None:
    name = "UV_INDEX_JETSON_AI_LAB_JP6_CU126"
    login = {f"{name}_USERNAME": "edge", f"{name}_PASSWORD": "hush-hush"}
    jetson.user = "edge:hush-hush"
    assert project.lock(**login).code == 0
    assert_refused(project.jbuild("render", "jetson"), 5, "torch.* cannot be downloaded: the server answers 401")
    done = project.jbuild("render", "jetson", **login)
    assert done.code == 0, done.stderr
    made = [path.read_bytes() for path in (project.folder / "build").rglob("*") if path.is_file()]
    assert not any(b"hush-hush" in content for content in made)


def test_a_locked_wheel_comes_from_a_mirror_when_its_index_has_lost_it(
    project: Resolving, jetson: JetsonIndex, jetson_sets: Path
) -> None:
    locked(project)
    jetson.fails(r"\+f/", "status", times=None, status=410)
    with running_jetson_index(jetson_sets) as other:
        rule = {"prefix": f"http://{jetson.host}/", "mirror": f"http://{other.host}/", "fallback": True}
        project.settings["index-mirrors"].append(rule)
        done = project.jbuild("render", "jetson", "--locked")
        assert done.code == 0, done.stderr
        assert other.asked(TORCH)


# --- wheels that are not what they say


@pytest.mark.parametrize(
    ("trap", "said"),
    [
        ("lying-name", "its METADATA is of"),
        ("lying-version", "its METADATA is of"),
        ("truncated", "it is not a valid wheel"),
    ],
)
def test_a_wheel_that_lies(project: Resolving, jetson: JetsonIndex, trap: str, said: str) -> None:
    project.settings["indexes"] = [
        {"name": "trap", "url": f"http://{jetson.host}/traps/{trap}/+simple/", "packages": ["torchvision"]}
    ]
    done = project.lock()
    assert_refused(done, 6, "torchvision-.* of the index trap cannot be used", said, "constraints")
    assert not (project.folder / "locks").exists()


def test_contradicting_pins(project: Resolving) -> None:
    project.recipe["packages"]["requires"] = ["torch==2.8.0", "torch==2.7.0"]
    assert_refused(project.lock(), 4, "no wheels work together", r"torch==2\.7\.0")


def test_a_package_on_no_index(project: Resolving) -> None:
    project.recipe["packages"]["requires"] = ["no-such-package-anywhere"]
    assert_refused(project.lock(), 4, "no-such-package-anywhere")


@pytest.mark.parametrize("key", ["indexes", "from"])
def test_an_index_that_nobody_knows(project: Resolving, key: str) -> None:
    project.recipe["packages"][key] = ["jetson-ai-lap"] if key == "indexes" else {"torch": "jetson-ai-lap"}
    assert_refused(project.lock(), 3, "there is no package index `jetson-ai-lap`", "did you mean `jetson-ai-lab`")


def test_an_index_without_the_cells_platform(project: Resolving) -> None:
    project.recipe["packages"]["indexes"] = ["jetson-ai-lab-sbsa-cu130"]
    assert_refused(project.lock(), 3, "has nothing for L4T 36.4.0 with CUDA 12.6", "L4T 38")


def test_two_locks_at_once_make_one(project: Resolving) -> None:
    running = [project.start("lock", "jetson", "--json") for _ in range(2)]
    done = [each.wait() for each in running]
    assert [each.code for each in done] == [0, 0], done[0].stderr + done[1].stderr
    assert sorted(each.json["cells"][0]["stages"]["lock"]["ran"] for each in done) == [False, True]
