"""Runs programs in a sandbox (bubblewrap): no network, no privileges, a file system and an environment of its own."""

from __future__ import annotations

import platform
from dataclasses import dataclass
from typing import TYPE_CHECKING

from builder.errors import BuildError, ProgramFailedError
from builder.host.process import find_program, run

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence
    from pathlib import Path

    from builder.host.process import Completed

# The folders of `/usr` that links at the top of the file system name.
MERGED = ("bin", "sbin", "lib", "lib64")
_USER = "1000"
# bubblewrap's messages where the kernel or the machine's rules forbid user namespaces.
_FORBIDDEN = (
    "No permissions to creat",
    "Creating new namespace failed",
    "setting up uid map: Permission denied",
    "setting up uid map: Operation not permitted",
    "loopback: Failed RTM_NEWADDR",
)
_LOADERS = {"x86_64": "ld-linux-x86-64.so.2", "aarch64": "ld-linux-aarch64.so.1"}


@dataclass(frozen=True, kw_only=True, slots=True)
class Mount:
    """A file or folder of the machine, and where the sandbox has it."""

    source: Path
    target: str
    writable: bool = False


@dataclass(frozen=True, kw_only=True, slots=True)
class Sandbox:
    """A file system for programs: `root` has the system's files, `mounts` the rest."""

    root: Path
    mounts: tuple[Mount, ...]


class SandboxForbiddenError(BuildError):
    """The machine forbids the namespaces that a sandbox needs."""


def run_in_sandbox(
    argv: Sequence[str],
    sandbox: Sandbox,
    environment: Mapping[str, str] | None = None,
    on_line: Callable[[str], None] | None = None,
) -> Completed:
    """Run a program in `/build`. Its whole output goes to standard error.

    Raises:
        SandboxForbiddenError: the machine forbids the namespaces that a sandbox needs.
        ProgramFailedError: the program failed.
    """
    try:
        options = _options(sandbox, environment or {})
        return run([*_bubblewrap(sandbox.root), *options, *merged(argv)], on_line=on_line)
    except ProgramFailedError as error:
        if any(text in error.output for text in _FORBIDDEN):
            raise _forbidden(error) from error
        raise


def merged(argv: Sequence[str]) -> list[str]:
    """Return the command for a program whose whole output is to be on standard error."""
    return ["/bin/sh", "-c", 'exec "$@" 1>&2', "sh", *argv]


def _bubblewrap(root: Path) -> list[str]:
    """Return bubblewrap's command: the system's, which a rule of AppArmor may allow, or else the root's own."""
    if system := find_program("bwrap"):
        return [system]
    machine = platform.machine()
    libraries = root / f"usr/lib/{machine}-linux-gnu"
    return [str(libraries / _LOADERS[machine]), "--library-path", str(libraries), str(root / "usr/bin/bwrap")]


def _options(sandbox: Sandbox, environment: Mapping[str, str]) -> list[str]:
    root = sandbox.root
    options = ["--unshare-all", "--unshare-user", "--uid", _USER, "--gid", _USER, "--hostname", "jbuild"]
    options += ["--die-with-parent", "--new-session", "--clearenv"]
    options += ["--ro-bind", str(root / "usr"), "/usr", "--ro-bind", str(root / "etc"), "/etc"]
    for name in MERGED:
        options += ["--symlink", f"usr/{name}", f"/{name}"]
    options += ["--proc", "/proc", "--dev", "/dev", "--tmpfs", "/tmp", "--dir", "/build"]  # noqa: S108  # the sandbox's
    for mount in sandbox.mounts:
        options += ["--bind" if mount.writable else "--ro-bind", str(mount.source), mount.target]
    for name, value in {"PATH": "/usr/bin", "LANG": "C.UTF-8", **environment}.items():
        options += ["--setenv", name, value]
    return [*options, "--chdir", "/build", "--"]


def _forbidden(error: ProgramFailedError) -> SandboxForbiddenError:
    return SandboxForbiddenError(
        "this machine forbids the user namespaces that a sandbox needs",
        hint=(
            "allow them: `sysctl kernel.apparmor_restrict_unprivileged_userns=0` (Ubuntu 24.04 and later), "
            "`sysctl user.max_user_namespaces=10000`, or `docker run --security-opt seccomp=unconfined`"
        ),
        log=error.output,
    )
