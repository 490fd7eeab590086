"""A stand-in for the releases of python-build-standalone: this machine's own interpreter in the layout of theirs."""

from __future__ import annotations

import hashlib
import io
import sys
import sysconfig
import tarfile
import threading
from contextlib import contextmanager
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator

    from builder.model.locks import LockedInterpreter

MINOR = f"{sys.version_info[0]}.{sys.version_info[1]}"
_LEFT_OUT = ("__pycache__", "site-packages", "dist-packages", "test", "idlelib", "tkinter", "ensurepip")


# A real one finds its library beside itself.
_WRAPPER = f'#!/bin/sh\nLD_LIBRARY_PATH=/opt/python/lib exec /opt/python/bin/python{MINOR}.real "$@"\n'


def put_archive(folder: Path, locked: LockedInterpreter, *, wrapped: bool = False) -> str:
    """Write the archive of a locked interpreter into a mirror's folder and return its sha256.

    With `wrapped`, a script starts the interpreter with its library.
    """
    name = locked.url.rpartition("/")[2].replace("%2B", "+")
    path = folder / locked.release.partition("+")[2] / name
    path.parent.mkdir(parents=True, exist_ok=True)
    # The interpreter behind a virtual environment.
    program = Path(sys._base_executable).resolve()  # type: ignore[attr-defined]
    with tarfile.open(path, "w:gz", compresslevel=1) as archive:
        archive.add(program, f"python/bin/python{MINOR}{'.real' if wrapped else ''}")
        if wrapped:
            script = tarfile.TarInfo(f"python/bin/python{MINOR}")
            script.size, script.mode = len(_WRAPPER), 0o755
            archive.addfile(script, io.BytesIO(_WRAPPER.encode()))
        archive.add(sysconfig.get_path("stdlib"), f"python/lib/python{MINOR}", filter=_kept)
        for library in Path(str(sysconfig.get_config_var("LIBDIR"))).glob(f"libpython{MINOR}.so*"):
            archive.add(library, f"python/lib/{library.name}")
    return hashlib.sha256(path.read_bytes()).hexdigest()


def _kept(member: tarfile.TarInfo) -> tarfile.TarInfo | None:
    parts = Path(member.name).parts
    return None if any(part in _LEFT_OUT or part.startswith("config-") for part in parts) else member


@contextmanager
def running_mirror(folder: Path) -> Iterator[str]:
    """Serve a folder and give its address."""

    class Quiet(SimpleHTTPRequestHandler):
        def log_message(self, *args: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), partial(Quiet, directory=str(folder))) as server:
        threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()
