"""A stand-in for a torch with CUDA: that for the CPU, with libraries that have the names of the CUDA build's.

`libc10_cuda` exports the symbols of the x86-64 CUDA wheel of the same version, none of which does anything;
`libtorch_cuda` exports nothing. An extension loads with it if it needs no symbol of `libtorch_cuda`.
"""

from __future__ import annotations

import base64
import hashlib
import shlex
import zipfile
from dataclasses import replace
from typing import TYPE_CHECKING

from builder.audit import elf
from builder.audit.byte_source import Plain
from builder.foundry.build_environment import CUDA, TORCH
from builder.foundry.cuda_tree import cuda_tree
from builder.foundry.sandbox import Mount, Sandbox, run_in_sandbox
from builder.foundry.sandbox_root import compiler_of, sandbox_root, triplet
from builder.foundry.torch_tree import torch_tree
from builder.foundry.wheel_members import record_hash, unpack_members
from builder.host.files import sha256_of
from builder.lock import lockfile
from builder.lock.solve import SolveRequest, solve
from builder.model.builds import ToolFile
from builder.model.recipes import Spec
from builder.remote.wheelhouse import fetch

if TYPE_CHECKING:
    from pathlib import Path

    from builder.host.session import Session
    from builder.model.builds import LockedBuild
    from builder.model.platforms import Platform
    from builder.model.wheels import LockedWheel

RUNTIME = "nvidia-cuda-runtime-cu12"
_C10 = "torch/lib/libc10_cuda.so"
# The libraries, the ones that each needs, and where it looks for them.
_LIBRARIES = {
    "libc10_cuda.so": ("-lcudart", "$ORIGIN/../../nvidia/cuda_runtime/lib"),
    "libtorch_cuda.so": ("-lc10_cuda -lcudart", "$ORIGIN:$ORIGIN/../../nvidia/cuda_runtime/lib"),
    "libtorch.so": ("-ltorch_cpu -ltorch_cuda", "$ORIGIN"),
}
_ONE_TIME = (1980, 1, 1, 0, 0, 0)


def cuda_torch(build: LockedBuild, platform: Platform, session: Session, folder: Path) -> LockedWheel:
    """Return the stand-in of a build's torch, in the wheelhouse.

    Raises:
        JbuildError: a wheel cannot be had, or the compiler does not work.
    """
    torch = build.target.torch
    if torch is None:
        raise ValueError(f"{build.name} is built without torch")
    fetch([torch], session)
    folder.mkdir(parents=True, exist_ok=True)
    _compile(folder, _exports(torch, platform, session, folder), build, session)
    path = folder / torch.filename
    _pack(session.workspace.wheel(torch.sha256, torch.filename), path, folder)
    made = replace(torch, url=f"stand-in:{torch.filename}", sha256=sha256_of(path), size=path.stat().st_size)
    target = session.workspace.wheel(made.sha256, made.filename)
    target.parent.mkdir(parents=True, exist_ok=True)
    path.replace(target)
    return made


def _exports(torch: LockedWheel, platform: Platform, session: Session, folder: Path) -> list[str]:
    """Return the names of the symbols of the x86-64 CUDA wheel's `libc10_cuda`."""
    other = replace(platform, architecture="amd64")
    request = SolveRequest(spec=Spec(requires=(f"torch=={torch.version}",)), platform=other, dependencies=False)
    (wheel,) = lockfile.wheels_of(solve(request, session.config, session.workspace), other, "torch")
    tool = ToolFile(
        role="torch-headers",
        filename=wheel.filename,
        url=wheel.url,
        sha256=wheel.sha256,
        size=wheel.size,
        record=record_hash(wheel, session),
    )
    path = folder / "x86-64.so"
    unpack_members(tool, session, lambda name: path if name == _C10 else None)
    return sorted({symbol.name.decode() for symbol in elf.read_source(Plain(path.read_bytes())).defined})


def _compile(folder: Path, exports: list[str], build: LockedBuild, session: Session) -> None:
    # Nothing calls or reads them: an import only binds their names.
    symbols = "".join(f".weak {name}\n{name}: .zero 8\n" for name in exports)
    (folder / "libc10_cuda.s").write_text(f".data\n{symbols}", encoding="utf-8")
    for name in list(_LIBRARIES)[1:]:
        (folder / name.replace(".so", ".s")).write_text("", encoding="utf-8")
    compiler = f"{triplet(build.target.architecture)}-gcc-{compiler_of(build.tools)[0]}"
    lines = [
        f"{compiler} -shared -nostdlib -Wl,--build-id=none,--no-as-needed,-soname,{name},-rpath,{shlex.quote(path)} "
        f"-o {name} {name.replace('.so', '.s')} -L. -L{CUDA}/lib -L{TORCH}/torch/lib {needs}"
        for name, (needs, path) in _LIBRARIES.items()
    ]
    trees = ((cuda_tree(build, session), CUDA), (torch_tree(build, session), TORCH))
    mounts = [Mount(source=folder, target="/build", writable=True)]
    mounts += [Mount(source=tree, target=target) for tree, target in trees if tree]
    sandbox = Sandbox(root=sandbox_root(build, session), mounts=tuple(mounts))
    run_in_sandbox(["sh", "-ec", "\n".join(lines)], sandbox)


def _pack(source: Path, target: Path, folder: Path) -> None:
    """Write the wheel with the libraries, and with the runtime among its requirements."""
    added = {f"torch/lib/{name}": (folder / name).read_bytes() for name in _LIBRARIES}
    rows: list[str] = []
    with zipfile.ZipFile(source) as old, zipfile.ZipFile(target, "w", zipfile.ZIP_DEFLATED, compresslevel=1) as new:
        for entry in old.infolist():
            if entry.filename in added or entry.filename.endswith((".dist-info/RECORD", "/")):
                continue
            content = old.read(entry)
            if entry.filename.endswith(".dist-info/METADATA"):
                content = content.replace(
                    b"\nRequires-Dist:", f"\nRequires-Dist: {RUNTIME}\nRequires-Dist:".encode(), 1
                )
            rows.append(_write(new, entry.filename, content))
        rows += [_write(new, name, content) for name, content in added.items()]
        record = next(name for name in old.namelist() if name.endswith(".dist-info/RECORD"))
        _write(new, record, "".join([*rows, f"{record},,\n"]).encode())


def _write(archive: zipfile.ZipFile, name: str, content: bytes) -> str:
    """Add a member, and return its line in RECORD."""
    entry = zipfile.ZipInfo(name, _ONE_TIME)
    entry.compress_type, entry.external_attr = zipfile.ZIP_DEFLATED, 0o644 << 16
    archive.writestr(entry, content)
    digest = base64.urlsafe_b64encode(hashlib.sha256(content).digest()).decode().rstrip("=")
    return f"{name},sha256={digest},{len(content)}\n"
