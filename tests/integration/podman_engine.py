"""podman's service on a socket of its own, with its own images."""

from __future__ import annotations

import os
import shutil
import subprocess
import tempfile
import time
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from docker import DockerClient
from docker.errors import DockerException

if TYPE_CHECKING:
    from collections.abc import Iterator

_STARTS_WITHIN_S = 30.0


def has_podman() -> bool:
    """Tell whether this user may start it."""
    return os.geteuid() == 0 and shutil.which("podman") is not None


@contextmanager
def running_podman() -> Iterator[str]:
    """Start the service; give its address."""
    folder = Path(tempfile.mkdtemp(prefix="jbuild-podman-", dir="/tmp"))
    address = f"unix://{folder}/podman.sock"
    argv = ["podman", "--root", f"{folder}/images", "--runroot", f"{folder}/run", "--storage-driver", "vfs"]
    argv += ["--cgroup-manager", "cgroupfs", "system", "service", "--time=0", address]
    with (folder / "log").open("wb") as log:
        process = subprocess.Popen(argv, stdin=subprocess.DEVNULL, stdout=log, stderr=log)
    try:
        ends_at = time.monotonic() + _STARTS_WITHIN_S
        while not _answers(address):
            assert process.poll() is None, (folder / "log").read_text()[-2000:]
            assert time.monotonic() < ends_at, (folder / "log").read_text()[-2000:]
            time.sleep(0.2)
        yield address
    finally:
        process.kill()
        process.wait(10)
        shutil.rmtree(folder, ignore_errors=True)


def _answers(address: str) -> bool:
    try:
        DockerClient(base_url=address, timeout=5).ping()
    except (DockerException, OSError):
        return False
    return True
