"""Modules that the build compiles: which ones, their entries, the cache, and the libraries that get them.

The files of `golden/cubins` were written by `fatbinary` of CUDA 13.0.88 from cubins of `ptxas` of the same release.
"""

from __future__ import annotations

import hashlib
import json
from array import array
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
import zstandard
from factories import locked, make_jetson, make_job, make_lock, make_locked_wheel, make_spec, make_wheel
from layer_files import make, wheels_layer

from builder.audit import fatbin, kernel_names
from builder.audit.byte_source import MalformedError, Plain
from builder.audit.cubin import read_cubin_headers
from builder.audit.precompile_choice import every_kernel, modules_to_compile, needed_kernels, with_compiled
from builder.audit.runnable_code import remaining_kernels
from builder.audit.slim_choice import choose
from builder.errors import BuildError
from builder.image.precompile.cubin_entry import PackedCubin, entry_bytes, pack_cubin
from builder.image.precompile.cubin_store import fingerprint_of, key_of, store_cubin, stored_cubin
from builder.image.precompile.ptxas import check_kernels, options_of
from builder.image.wheels.wheel_slimmer import slim_key
from builder.lock import lockfile
from builder.lock.build_tools import package_of
from builder.lock.index_sources import lock_inputs, locks_tools
from builder.model.audits import GpuTarget
from builder.model.kernels import KernelModule, LibraryKernels
from builder.model.precompiled import CompiledWheel, PtxModule
from builder.model.recipes import ImageSpec
from builder.model.slimming import SlimRules
from slimming.gpu_library import make_container, make_entry, make_library

if TYPE_CHECKING:
    from builder.host.paths import Workspace
    from builder.host.session import Session
    from builder.model.locks import Job, Lock
    from builder.model.recipes import Precompile

GOLDEN = Path(__file__).with_name("golden") / "cubins"
THOR = SlimRules(sms=(110,), same_major=False)
LIBRARY = "demo/_C.so"


def golden(name: str) -> tuple[bytes, bytes]:
    """Return the raw entry of a golden file, and its payload without compression."""
    source = Plain((GOLDEN / f"{name}.fatbin").read_bytes())
    (container,) = fatbin.containers_between(source, 0, source.size)
    return source.read(container.header, container.size), fatbin.payload(source, container.entries[0])


PTX = golden("ptx_80")[1].rstrip(b"\0")
CUBIN = golden("sm_110")[1]


@pytest.mark.parametrize(("name", "variant"), [("sm_80", ""), ("sm_110", ""), ("sm_110a", "a"), ("sm_90", "")])
def test_entries_are_those_of_fatbinary(name: str, variant: str) -> None:
    expected, cubin = golden(name)
    target = GpuTarget("sass", int(name[3:].rstrip("a")), variant)  # type: ignore[arg-type]
    assert entry_bytes(pack_cubin(cubin, target), compressed=name != "sm_90") == expected
    assert read_cubin_headers(cubin).sm == target.sm


@pytest.mark.parametrize("cubin", [b"", b"\x7fELF" + bytes(200), CUBIN[:100]])
def test_what_is_no_cubin(cubin: bytes) -> None:
    with pytest.raises(MalformedError):
        entry_bytes(PackedCubin(GpuTarget("sass", 110), cubin, b""))


def test_options_of_ptx_are_read() -> None:
    source = Plain((GOLDEN / "ptx_80.fatbin").read_bytes())
    (container,) = fatbin.containers_between(source, 0, source.size)
    assert options_of(fatbin.options_text(source, container.entries[0])) == ("-O1", "--warn-on-spills")


@pytest.mark.parametrize(
    ("text", "options"),
    [
        (b"", ()),
        (b"-O3 --maxrregcount=64", ("-O3", "--maxrregcount=64")),
        (b"-maxrregcount 64", ("-maxrregcount", "64")),
        (b"-o /etc/passwd", None),
        (b"--options-file x", None),
        (b"-O3 'unclosed", None),
        (b"\xff", None),
    ],
)
def test_only_known_options_are_repeated(text: bytes, options: tuple[str, ...] | None) -> None:
    assert options_of(text) == options


def test_cache_gives_what_was_stored(workspace: Workspace) -> None:
    key = key_of(PTX, GpuTarget("sass", 110), "13.0.88", ())
    assert stored_cubin(key, PTX, workspace) is None
    stored = store_cubin(key, CUBIN, workspace)
    assert stored_cubin(key, PTX, workspace) == stored
    others = (replace(key, ptxas="13.2.1"), replace(key, arch="sm_87"), replace(key, options=("-O1",)))
    assert len({fingerprint_of(row) for row in (key, *others)}) == 4


def test_damaged_files_of_the_cache_do_not_count(workspace: Workspace) -> None:
    key = key_of(PTX, GpuTarget("sass", 110), "13.0.88", ())
    store_cubin(key, CUBIN, workspace)
    path = workspace.cubin(fingerprint_of(key))
    content = path.read_bytes()
    for damaged in (b"", content[:-1], content[:40] + bytes(1) + content[41:]):
        path.write_bytes(damaged)
        assert stored_cubin(key, PTX, workspace) is None


def test_cubins_of_other_kernels_or_gpus_do_not_count(workspace: Workspace) -> None:
    orin = key_of(PTX, GpuTarget("sass", 87), "13.0.88", ())
    store_cubin(orin, CUBIN, workspace)
    assert stored_cubin(orin, PTX, workspace) is None
    thor = key_of(PTX, GpuTarget("sass", 110), "13.0.88", ())
    store_cubin(thor, CUBIN, workspace)
    assert stored_cubin(thor, PTX.replace(b"scale", b"other"), workspace) is None
    with pytest.raises(BuildError, match="does not have the kernels of its PTX"):
        check_kernels(CUBIN, PTX.replace(b"scale", b"other"), "ptxas")


def kernels(*modules: tuple[int, str, str]) -> LibraryKernels:
    """Return a library of modules: container, target such as sm_80 or ptx_80f, the letters of its kernels."""
    rows = []
    for container, target, letters in modules:
        kind, _, sm = target.partition("_")
        variant = sm[-1] if sm[-1] in "af" else ""
        rows.append(
            KernelModule(
                container=container,
                target=GpuTarget("ptx" if kind == "ptx" else "sass", int(sm.rstrip("af")), variant),  # type: ignore[arg-type]
                isa=(9, 0) if kind == "ptx" else (0, 0),
                unpacked=1000,
                indices=array("I", sorted("abc".index(letter) for letter in letters)).tobytes(),
            )
        )
    return LibraryKernels(path=LIBRARY, modules=tuple(rows), packed_names=zstandard.compress(b"a\nb\nc"))


def chosen(library: LibraryKernels, *sms: int, same_major: bool | None = True) -> list[tuple[int, str, int]]:
    rules = SlimRules(sms=sms, same_major=same_major)
    modules = modules_to_compile(library, rules, every_kernel)
    return [(row.container, f"ptx_{row.ptx.sm}{row.ptx.variant}", row.sm) for row in modules]


def test_modules_that_a_driver_would_compile_are_chosen() -> None:
    library = kernels(
        (0, "sm_80", "a"), (0, "ptx_80", "a"), (1, "sm_110", "b"), (1, "ptx_90", "b"), (2, "ptx_120", "c")
    )
    assert chosen(library, 110) == [(0, "ptx_80", 110)]
    assert chosen(library, 87) == []
    assert chosen(library, 87, same_major=False) == [(0, "ptx_80", 87)]
    assert chosen(library, 87, same_major=None) == [(0, "ptx_80", 87)]
    assert chosen(library, 87, 110, same_major=False) == [(0, "ptx_80", 87), (0, "ptx_80", 110)]


def test_the_driver_takes_the_newest_target_that_it_can() -> None:
    library = kernels((0, "ptx_80", "ab"), (0, "ptx_90", "a"), (0, "ptx_100a", "a"), (0, "ptx_120", "a"))
    assert chosen(library, 110) == [(0, "ptx_90", 110)]
    assert chosen(kernels((0, "ptx_110f", "a"), (0, "ptx_80", "a")), 110) == [(0, "ptx_110f", 110)]
    assert chosen(kernels((0, "ptx_90a", "a")), 110) == []


def test_modules_without_a_needed_kernel_stay_ptx() -> None:
    library = kernels((0, "ptx_80", "a"), (1, "ptx_80", "bc"))
    modules = list(modules_to_compile(library, THOR, lambda _, __: frozenset({1})))
    assert [row.container for row in modules] == [1]
    result = remaining_kernels(with_compiled(library, modules), THOR)
    assert [(row.container, row.target.kind, row.precompiled) for row in result.modules] == [
        (0, "ptx", False),
        (1, "sass", True),
    ]


def job_with(precompile: Precompile | None, **changes: object) -> Job:
    spec = make_spec(image=ImageSpec(precompile=precompile))
    return make_job(spec=spec, platform=make_jetson(**changes))


def test_precompiled_packages_are_slimmed() -> None:
    job = job_with("needed")
    assert choose(job, "vllm").slim
    assert not choose(job, "nvidia-cublas").slim
    assert locks_tools(job)
    assert not locks_tools(job_with("off"))
    assert not locks_tools(job_with(None))
    assert not locks_tools(job_with("all", sms=(), cuda=None))


def test_all_kernels_need_no_model() -> None:
    assert needed_kernels(job_with("all"), None)(kernels((0, "ptx_80", "ab")), 87) == {0, 1, 2}  # type: ignore[arg-type]


def test_only_cells_that_compile_lock_a_compiler(session: Session, tmp_path: Path) -> None:
    inputs = {value: lock_inputs(job_with(value), session.config) for value in (None, "off", "needed", "all")}
    assert inputs[None] == inputs["off"]
    assert inputs["needed"] == inputs["all"] != inputs["off"]
    plain = make_lock()
    tool = make_locked_wheel("nvidia-cuda-nvcc")
    with_tools = replace(plain, tools=(tool, replace(tool, filename="other-1.0-py3-none-any.whl")))
    assert read_back(with_tools, tmp_path) == with_tools
    assert read_back(plain, tmp_path) == plain
    assert "tools" not in (tmp_path / "pylock.one.toml").read_text()


def read_back(lock: Lock, folder: Path) -> Lock | None:
    path = folder / "pylock.one.toml"
    lockfile.write(path, lock)
    return lockfile.read(path, recipe=lock.recipe, cell=lock.cell)


def test_the_package_of_the_compiler() -> None:
    assert (package_of("12.6"), package_of("13.2")) == ("nvidia-cuda-nvcc-cu12", "nvidia-cuda-nvcc")


def compiled_wheel(version: str = "13.0.88") -> CompiledWheel:
    module = PtxModule(library=LIBRARY, container=0, ptx=GpuTarget("ptx", 80), isa=(8, 0), sm=110, unpacked=len(PTX))
    return CompiledWheel(ptxas=version, modules=(module,))


def test_layers_have_the_compiled_code(session: Session, tmp_path: Path) -> None:
    data = make_library((make_container(make_entry("sm_80", ("scale",), size=6000), golden("ptx_80")[0]),))
    wheel = locked(make_wheel(tmp_path, files={LIBRARY: data}))
    key = key_of(PTX, GpuTarget("sass", 110), "13.0.88", ("-O1", "--warn-on-spills"))
    compiled = compiled_wheel()
    layer = wheels_layer([wheel], session, {wheel.sha256: THOR}, {wheel.sha256: compiled})
    with pytest.raises(BuildError, match="no longer in the cache"):
        make(layer, session)
    packed = store_cubin(key, CUBIN, session.workspace)
    made = make(layer, session)
    packages = made.packages
    library = (packages / LIBRARY).read_bytes()
    assert entry_bytes(packed) in library
    assert b"ptx" not in library
    (report,) = packages.glob("*.dist-info/jbuild-slim.json")
    body = json.loads(report.read_text())
    assert body["libraries"][0]["compiled"] == [{"entries": 1, "size": len(entry_bytes(packed)), "target": "sm_110"}]
    (slimmed,) = made.slimmed
    assert slimmed.cubins == (key,)
    assert key.ptx == hashlib.sha256(PTX).hexdigest()
    keys = {slim_key(THOR), slim_key(THOR, compiled), slim_key(THOR, compiled_wheel("13.1.0"))}
    assert len(keys) == 3


def test_older_drivers_get_code_without_zstd(session: Session, tmp_path: Path) -> None:
    data = make_library((make_container(make_entry("sm_80", ("scale",), size=9000), golden("ptx_80")[0]),))
    wheel = locked(make_wheel(tmp_path, files={LIBRARY: data}))
    store_cubin(key_of(PTX, GpuTarget("sass", 110), "12.6.85", ("-O1", "--warn-on-spills")), CUBIN, session.workspace)
    compiled = {wheel.sha256: compiled_wheel("12.6.85")}
    layer = wheels_layer([wheel], session, {wheel.sha256: THOR}, compiled)
    library = (make(layer, session).packages / LIBRARY).read_bytes()
    assert CUBIN in library


def test_golden_kernels() -> None:
    assert kernel_names.names(CUBIN, "sass") == kernel_names.names(PTX, "ptx") == [b"scale"]
