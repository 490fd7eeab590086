"""Kernels that the build compiles, with the real `ptxas` of the package index."""

from __future__ import annotations

import platform
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from factories import locked, make_platform, make_session, make_wheel
from index_server import running_index
from project import assert_refused
from servers import running_registry

from builder.audit import elf, fatbin
from builder.audit.byte_source import Plain
from builder.errors import BuildError, LockError, NetworkError
from builder.host import records
from builder.image.precompile import shared_cubins
from builder.image.precompile.cubin_store import fingerprint_of, key_of, store_cubin, stored_cubin
from builder.image.precompile.ptxas import Ptxas, ptxas_of
from builder.lock import lockfile
from builder.lock.build_tools import ptxas_wheel
from builder.model.audits import GpuTarget
from builder.model.images import Plan
from builder.remote.wheelhouse import fetch
from slimming.gpu_library import ARM64, LibraryShape, make_container, make_entry, make_library

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from project import Project

    from builder.host.session import Session
    from builder.model.wheels import LockedWheel

pytestmark = [
    pytest.mark.skipif(platform.machine() != "x86_64", reason="the wheel is for x86-64"),
]

CELL = "r39_2_0-v1_0-cu130-py312-sm110"
VERSION = "13.0.88"
_GOLDEN = Path(__file__).parents[1] / "unit" / "golden" / "cubins"
_THOR = GpuTarget("sass", 110)


def _payload(name: str) -> bytes:
    source = Plain((_GOLDEN / f"{name}.fatbin").read_bytes())
    (container,) = fatbin.containers_between(source, 0, source.size)
    return fatbin.payload(source, container.entries[0]).rstrip(b"\0" if name.startswith("ptx") else b"")


PTX, CUBIN = _payload("ptx_80"), _payload("sm_110")
_RAW = (_GOLDEN / "ptx_80.fatbin").read_bytes()[16:]


@dataclass(frozen=True, kw_only=True)
class Tool:
    """The wheel of `ptxas`, the session that has it, and the program."""

    wheel: LockedWheel
    session: Session
    program: Ptxas


@pytest.fixture(scope="module")
def tool(tmp_path_factory: pytest.TempPathFactory) -> Tool:
    session = make_session(tmp_path_factory.mktemp("ptxas") / "models")
    try:
        wheel = ptxas_wheel(f"nvidia-cuda-nvcc=={VERSION}", make_platform(architecture="amd64"), session)
        fetch([wheel], session)
    except (LockError, NetworkError) as error:
        pytest.skip(f"the package index does not have it: {error.message}")
    return Tool(wheel=wheel, session=session, program=ptxas_of(wheel, session.workspace))


def test_the_same_text_gives_the_same_bytes(tool: Tool) -> None:
    assert tool.program.version == VERSION
    assert tool.program.compile(PTX, _THOR) == tool.program.compile(PTX, _THOR) == CUBIN
    assert tool.program.compile(PTX, _THOR, ("-O0",)) != CUBIN


@pytest.mark.parametrize(
    ("change", "sm", "message"),
    [
        ((b".version 8.0", b".version 9.9"), 110, f"a wheel's PTX 9.9 is newer than ptxas {VERSION}"),
        ((b"mul.f32", b"mull.f32"), 110, f"ptxas {VERSION} cannot compile a module for sm_110"),
        ((b"", b""), 999, f"ptxas {VERSION} does not know sm_999"),
    ],
)
def test_failures_are_one_sentence(tool: Tool, change: tuple[bytes, bytes], sm: int, message: str) -> None:
    with pytest.raises(BuildError) as caught:
        tool.program.compile(PTX.replace(*change), GpuTarget("sass", sm))
    assert caught.value.message == message
    assert caught.value.hint
    assert caught.value.log


@pytest.mark.parametrize("content", [b"", b"no program", b"#!/no/interpreter\n"])
def test_a_program_that_does_not_run(content: bytes, tmp_path: Path) -> None:
    session = make_session(tmp_path / "models")
    wheel = locked(make_wheel(tmp_path, "nvidia-cuda-nvcc", "1.0", files={"nvidia/cu13/bin/ptxas": content}))
    fetch([wheel], session)
    with pytest.raises(BuildError, match=r"does not (run on this machine|print its version)"):
        ptxas_of(wheel, session.workspace)


def test_a_wheel_without_the_program(tmp_path: Path) -> None:
    session = make_session(tmp_path / "models")
    wheel = locked(make_wheel(tmp_path, "nvidia-cuda-nvcc", "1.0"))
    fetch([wheel], session)
    with pytest.raises(BuildError, match="the wheel has no ptxas"):
        ptxas_of(wheel, session.workspace)


def test_a_program_that_goes_away(tool: Tool, tmp_path: Path) -> None:
    with pytest.raises(BuildError, match="does not run on this machine"):
        Ptxas(path=tmp_path / "ptxas", version=VERSION).compile(PTX, _THOR)
    assert tool.program.path.is_file()


def test_registries_share_modules(tmp_path: Path) -> None:
    key = key_of(PTX, _THOR, VERSION, ())
    one, two = (make_session(tmp_path / name / "models") for name in ("one", "two"))
    store_cubin(key, CUBIN, one.workspace)
    with running_registry(tmp_path) as registry:
        assert shared_cubins.push_cubins([key], registry.host, "team/vllm", one) == 1
        assert shared_cubins.push_cubins([key], registry.host, "team/vllm", one) == 0
        fetch_cubin = shared_cubins.fetcher((registry.host,), "team/vllm", two)
        assert not fetch_cubin(key_of(PTX + b" ", _THOR, VERSION, ()), PTX + b" ")
        assert stored_cubin(key, PTX, two.workspace) is None
        assert fetch_cubin(key, PTX)
        assert stored_cubin(key, PTX, two.workspace) == stored_cubin(key, PTX, one.workspace)
        # A registry that has another cubin under the key does not count.
        forged = key_of(PTX, GpuTarget("sass", 87), VERSION, ())
        path = one.workspace.cubin(fingerprint_of(forged))
        path.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(one.workspace.cubin(fingerprint_of(key)), path)
        assert shared_cubins.push_cubins([forged], registry.host, "team/vllm", one) == 1
        assert not fetch_cubin(forged, PTX)
    assert not shared_cubins.fetcher((registry.host,), "team/vllm", two)(key_of(PTX, _THOR, "1.0", ()), PTX)


@pytest.fixture(scope="module")
def project(
    make_project: Callable[..., Project], tool: Tool, base_registry: str, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Project]:
    """A cell for Thor whose `vllm` has PTX only."""
    folder = tmp_path_factory.mktemp("ptx-index")
    code = make_library(
        (make_container(make_entry("sm_80", ("scale",), size=9000), _RAW),), LibraryShape(machine=ARM64)
    )
    files: dict[str, str | bytes] = {"vllm/__init__.py": "", "vllm/_C.so": code}
    make_wheel(folder, "vllm", "1.0", "cp312-cp312-manylinux_2_28_aarch64", files=files)
    shutil.copy(tool.session.workspace.wheel(tool.wheel.sha256, tool.wheel.filename), folder)
    make_wheel(folder, "nvidia-cuda-nvcc", VERSION, "py3-none-manylinux2014_aarch64")
    with running_index(folder) as index:
        made = make_project(
            cache=tmp_path_factory.mktemp("cache"),
            index=index.host,
            architecture="arm64",
            matrix={"l4t": ["39.2.0"], "vllm": ["1.0"], "cuda": ["13.0"], "python": ["3.12"], "sm": ["11.0"]},
            image={"precompile": "all"},
            boards=["agx-thor-128"],
            audit={"waive": [{"rule": "other-distribution", "reason": "the base image of these tests is Debian"}]},
        )
        mirror = (
            f'[[registry-mirrors]]\nprefix = "docker.io/library/debian"\nmirror = "{base_registry}/stand-in/debian"\n'
        )
        (made.folder / "jbuild.toml").write_text(mirror)
        made.override("{% block system %}{% endblock %}\n")
        yield made


def test_a_cell_is_compiled_once(project: Project) -> None:
    first = project.run("render", "--standalone")
    assert first.code == 0, first.stderr
    assert "1 of 1 modules compiled" in first.stderr
    lock = lockfile.read_file(project.folder / "locks" / project.name / f"pylock.{CELL}.toml")
    assert [wheel.version for wheel in lock.tools or ()] == [VERSION, VERSION]
    cell = project.folder / "build" / project.name / CELL
    plan = records.read(cell / "render.json", None, Plan)
    assert plan is not None
    (slimmed,) = plan.slimmed
    assert [(key.arch, key.ptxas) for key in slimmed.cubins] == [("sm_110", VERSION)]
    (library,) = cell.glob("layers/*/opt/venv/lib/python3.12/site-packages/vllm/_C.so")
    source = Plain(library.read_bytes())
    (container,) = fatbin.containers(source, elf.read_source(source))
    assert [entry.code.target for entry in container.entries if entry.code] == [_THOR]
    # The layers are gone, the modules stay.
    shutil.rmtree(project.cache / "packed")
    again = project.run("recipe", "--from", "render", "--until", "render")
    assert "0 of 1 modules compiled" in again.stderr
    third = project.run("recipe", "--from", "render", "--until", "render")
    assert "modules compiled" not in third.stderr


def test_loose_wheels_are_compiled(project: Project) -> None:
    (wheel,) = (project.cache / "wheels").glob("*/*/vllm-1.0-*.whl")
    done = project.jbuild("slim", str(wheel), "--sm", "11.0", "--precompile", "--json")
    assert done.code == 0, done.stderr
    (report,) = done.json["wheels"]
    assert report["ptxas"] == VERSION
    assert [row["target"] for row in report["libraries"][0]["compiled"]] == ["sm_110"]
    # CUDA 12.6 of this release is not in the index; the hint has no key of a recipe.
    failed = project.jbuild("slim", str(wheel), "--sm", "8.7", "--l4t", "36.4.0", "--precompile")
    assert_refused(failed, 4, "use an index that has it, or leave --precompile out")
