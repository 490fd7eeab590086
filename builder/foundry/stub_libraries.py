"""Empty shared libraries: what a linker needs of libraries that only the target has is their name."""

from __future__ import annotations

import shlex
from typing import TYPE_CHECKING

from builder.foundry.sandbox import Mount, Sandbox, run_in_sandbox
from builder.foundry.sandbox_root import compiler_of, sandbox_root, triplet

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from builder.host.session import Session
    from builder.model.builds import LockedBuild


def write_stubs(folder: Path, libraries: Mapping[str, str], build: LockedBuild, session: Session) -> None:
    """Write an empty library for each file name, with its soname.

    Raises:
        BuildError: the compiler or the sandbox does not work.
    """
    folder.mkdir(parents=True, exist_ok=True)
    compiler = f"{triplet(build.target.architecture)}-gcc-{compiler_of(build.tools)[0]}"
    link = f"{compiler} -shared -nostdlib -Wl,--build-id=none -x c /dev/null"
    lines = [
        f"{link} -Wl,-soname,{shlex.quote(soname)} -o {shlex.quote(name)}"
        for name, soname in sorted(libraries.items())
        if not (folder / name).exists()
    ]
    mounts = (Mount(source=folder, target="/build", writable=True),)
    run_in_sandbox(["sh", "-ec", "\n".join(lines)], Sandbox(root=sandbox_root(build, session), mounts=mounts))
