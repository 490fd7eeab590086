"""A second engine on this machine: its own socket, data and containerd, sharing nothing with the first.

It touches no firewall rules, and so has no network for build steps: what is built on it copies only.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import tempfile
import time
import uuid
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

_STARTS_WITHIN_S = 30.0


@dataclass(frozen=True, kw_only=True)
class SecondEngine:
    """The engine: its folder, its address, and its process."""

    folder: Path
    process: subprocess.Popen[bytes]

    @property
    def host(self) -> str:
        """What DOCKER_HOST would be."""
        return f"unix://{self.folder}/docker.sock"

    def context(self, name: str, environment: Mapping[str, str]) -> None:
        """Give it a name for the docker command."""
        argv = ["docker", "context", "create", name, "--docker", f"host={self.host}"]
        subprocess.run(argv, env=dict(environment), check=True, capture_output=True)

    def forget(self) -> None:
        """Empty its build cache."""
        argv = ["docker", "buildx", "prune", "--all", "--force"]
        subprocess.run(argv, env={**os.environ, "DOCKER_HOST": self.host}, check=True, capture_output=True)

    def has_built(self) -> bool:
        """Tell whether its build cache holds anything."""
        argv = ["docker", "buildx", "du"]
        done = subprocess.run(argv, env={**os.environ, "DOCKER_HOST": self.host}, check=True, capture_output=True)
        return b"Total:" in done.stdout and b"Total:\t0B" not in done.stdout.replace(b" ", b"")

    def signal(self, number: signal.Signals) -> None:
        """Signal the daemon and its containerd: they have a process group of their own."""
        os.killpg(self.process.pid, number)


def can_run() -> bool:
    """Tell whether this user may start an engine."""
    return os.geteuid() == 0 and all(shutil.which(program) for program in ("dockerd", "setpriv"))


@contextmanager
def running_engine(*, containerd: bool = True, prefix: tuple[str, ...] = ()) -> Iterator[SecondEngine]:
    """Start a second engine and end it; `containerd` false: with Docker's classic store.

    `prefix` are the words before its command.
    """
    # A socket's path must be short.
    folder = Path(tempfile.mkdtemp(prefix="jbuild-2-", dir="/tmp"))
    settings = {
        "data-root": f"{folder}/data",
        "exec-root": f"{folder}/exec",
        "pidfile": f"{folder}/docker.pid",
        "hosts": [f"unix://{folder}/docker.sock"],
        "bridge": "none",
        "iptables": False,
        "ip6tables": False,
        "features": {"containerd-snapshotter": containerd},
    }
    (folder / "daemon.json").write_text(json.dumps(settings))
    # containerd takes no underscores where the folder may have them.
    name = f"jbuild-2-{uuid.uuid4().hex[:8]}"
    # It ends with whoever started it, however that ends.
    argv = [*prefix, "setpriv", "--pdeathsig", "TERM", "dockerd", "--config-file", f"{folder}/daemon.json"]
    argv += ["--containerd-namespace", name, "--containerd-plugins-namespace", f"{name}-plugins"]
    with (folder / "log").open("wb") as log:
        process = subprocess.Popen(argv, stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True)
    engine = SecondEngine(folder=folder, process=process)
    try:
        _await(engine)
        yield engine
    finally:
        _end(engine)


def _await(engine: SecondEngine) -> None:
    ends_at = time.monotonic() + _STARTS_WITHIN_S
    environment = {**os.environ, "DOCKER_HOST": engine.host}
    while subprocess.run(["docker", "version"], env=environment, capture_output=True, check=False).returncode:
        assert engine.process.poll() is None, (engine.folder / "log").read_text()[-2000:]
        assert time.monotonic() < ends_at, (engine.folder / "log").read_text()[-2000:]
        time.sleep(0.2)


def _end_steps(engine: SecondEngine) -> None:
    """End what steps of builds still run: a killed daemon leaves their processes."""
    for table in Path("/proc").glob("[0-9]*/mountinfo"):
        # Processes may end meanwhile.
        with suppress(OSError):
            roots = [line for line in table.read_text().splitlines() if line.split()[4] == "/"]
            # Their root is in the engine's data.
            if roots and f"upperdir={engine.folder}/data/" in roots[-1]:
                os.kill(int(table.parent.name), signal.SIGKILL)


def _end(engine: SecondEngine) -> None:
    with suppress(ProcessLookupError):
        engine.signal(signal.SIGCONT)
        engine.process.terminate()
        with suppress(subprocess.TimeoutExpired):
            engine.process.wait(20)
        engine.signal(signal.SIGKILL)
    _end_steps(engine)
    engine.process.wait(10)
    mounts = [line.split()[1] for line in Path("/proc/mounts").read_text().splitlines()]
    for mount in sorted((m for m in mounts if m.startswith(f"{engine.folder}/")), reverse=True):
        subprocess.run(["umount", "-l", mount], check=False, capture_output=True)
    shutil.rmtree(engine.folder, ignore_errors=True)
