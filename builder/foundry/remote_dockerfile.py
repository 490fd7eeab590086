"""The Dockerfile of a sandbox on a builder: its folders are contexts, mounted at the paths of the sandbox."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

from builder.foundry.build_python import HOME
from builder.foundry.sandbox_root import triplet
from builder.host import records

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

    from builder.foundry.build_python import BuildPython
    from builder.foundry.sandbox import Mount, Sandbox
    from builder.model.builds import LockedBuild

RUN = "/foundry/run"
# A folder of the context `run`, for the links at the top of the file system.
LINKS = "links"
WORK = "/foundry/work"


def context_name(folder: Path) -> str:
    """Return the name of a folder's context. A builder keeps what it has of a name, and gets the changes only."""
    return f"jbuild-{records.fingerprint(str(folder))[:16]}"


def contexts(sandbox: Sandbox) -> dict[str, Path]:
    """Return the folders of a sandbox by the names of their contexts; the interpreter's is the main one."""
    folders = [*_system(sandbox), *(_folder(mount) for mount in sandbox.mounts if mount.target != HOME)]
    return {context_name(folder): folder for folder in folders}


def remote_dockerfile(sandbox: Sandbox, build: LockedBuild, *, keeps: bool) -> str:
    """Return the Dockerfile that runs `remote_build.py` in a sandbox; `keeps` mounts `/build`, which stays there."""
    usr, etc = (context_name(folder) for folder in _system(sandbox))
    options = ["--network=none", "--mount=type=tmpfs,target=/tmp", f"--mount=type=bind,from=run,target={RUN}"]
    # BuildKit would transfer a context each time if it were the bottom of a file system, or used for two purposes.
    options.append(f"--mount=type=bind,from={usr},target=/usr")
    for mount in sandbox.mounts:
        if not mount.writable:
            options.append(_bind(mount, mount.target))
        elif keeps:
            options.append(_bind(mount, WORK))
            options.append(f"--mount=type=cache,id=jbuild-{build.fingerprint},target={mount.target},sharing=locked")
    python = f"{HOME}/bin/python{build.target.python}"
    command = json.dumps([python, "-E", "-S", f"{RUN}/remote_build.py", f"{RUN}/run.json"])
    lines = (
        "FROM scratch AS build",
        f"COPY --from={etc} / /etc",
        f"COPY --from=run {LINKS} /",
        "ARG BUILDARCH",
        f"ENV LD_LIBRARY_PATH={HOME}/lib",
        f"RUN {' '.join(options)} {command}",
        "FROM scratch",
        "COPY --from=build /result /",
    )
    return "\n".join(lines) + "\n"


def remote_ignore(python: BuildPython, build: LockedBuild) -> str:
    """Return the part of the main context that a builder gets: the interpreter may be the system's, in `/usr`."""
    return "\n".join(_parts(python, build)) + "\n"


def _parts(python: BuildPython, build: LockedBuild) -> Iterator[str]:
    minor = build.target.python
    yield "*"
    yield "!bin/python*"
    yield f"!lib/python{minor}"
    yield "!lib/libpython*"
    yield f"!lib/{triplet(build.machine)}/libpython*"
    yield f"!include/python{minor}"
    yield f"!{python.header.parent.relative_to(python.prefix)}"
    # What is installed beside the interpreter; the build's environment does not import it.
    yield f"lib/python{minor}/site-packages"
    yield f"lib/python{minor}/dist-packages"


def _system(sandbox: Sandbox) -> tuple[Path, Path]:
    return sandbox.root / "usr", sandbox.root / "etc"


def _folder(mount: Mount) -> Path:
    return mount.source if mount.source.is_dir() else mount.source.parent


def _bind(mount: Mount, target: str) -> str:
    fields: Sequence[str] = [
        *([f"from={context_name(_folder(mount))}"] if mount.target != HOME else ()),
        *([f"source={mount.source.name}"] if _folder(mount) != mount.source else ()),
        f"target={target}",
    ]
    return f"--mount=type=bind,{','.join(fields)}"
