"""The command of a sandbox, and the machines that forbid it."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from builder.errors import BuildError, ProgramFailedError
from builder.foundry.sandbox import Mount, Sandbox, run_in_sandbox

if TYPE_CHECKING:
    from pathlib import Path


def _bubblewrap(folder: Path, monkeypatch: pytest.MonkeyPatch, script: str) -> None:
    """Put a program in place of bubblewrap on PATH."""
    program = folder / "bwrap"
    program.write_text(f"#!/bin/sh\n{script}\n")
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{folder}:/usr/bin:/bin")


# As bubblewrap prints them: without any namespace left, on Ubuntu 24.04, in a container of Docker.
@pytest.mark.parametrize(
    "text",
    [
        "Creating new namespace failed: nesting depth or /proc/sys/user/max_*_namespaces exceeded (ENOSPC)",
        "setting up uid map: Permission denied",
        "No permissions to create new namespace, likely because the kernel does not allow it",
    ],
)
def test_a_machine_without_user_namespaces_is_one_error_with_what_allows_them(
    text: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    _bubblewrap(tmp_path, monkeypatch, f"echo 'bwrap: {text}' >&2; exit 1")
    with pytest.raises(BuildError, match="this machine forbids the user namespaces") as caught:
        run_in_sandbox(["true"], Sandbox(root=tmp_path, mounts=()))
    assert "kernel.apparmor_restrict_unprivileged_userns=0" in (caught.value.hint or "")


def test_a_failure_inside_is_the_programs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    _bubblewrap(tmp_path, monkeypatch, "echo 'error: x' >&2; exit 3")
    with pytest.raises(ProgramFailedError) as caught:
        run_in_sandbox(["true"], Sandbox(root=tmp_path, mounts=()))
    assert caught.value.code == 3


def test_the_sandbox_gets_no_network_no_privileges_and_no_variable_of_this_machine(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    _bubblewrap(tmp_path, monkeypatch, 'printf "%s\\n" "$@" >&2')
    mounts = (Mount(source=tmp_path / "a", target="/a"), Mount(source=tmp_path / "b", target="/b", writable=True))
    lines = run_in_sandbox(["make"], Sandbox(root=tmp_path, mounts=mounts), {"CC": "gcc"}).stderr.splitlines()
    assert {"--unshare-all", "--unshare-user", "--clearenv", "--die-with-parent", "--new-session"} <= set(lines)
    assert "--share-net" not in lines
    at = lines.index("/a")
    assert lines[at - 2 : at + 1] == ["--ro-bind", str(tmp_path / "a"), "/a"]
    assert lines[lines.index("/b") - 2] == "--bind"
    assert [lines[n + 1] for n, line in enumerate(lines) if line == "--setenv"] == ["PATH", "LANG", "CC"]
