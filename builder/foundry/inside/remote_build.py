"""Runs in a step of BuildKit, as root: `remote_build.py RUN`. It leaves in `/result` what the caller gets.

RUN is a JSON file. Without `argv`, the result states the machine. Otherwise an unprivileged user runs the program in
`/build`, which stays on the builder, so that an interrupted build goes on. BuildKit limits a step's output: only lines
that show progress are printed, and the result has the whole output and the exit code.
"""

from __future__ import annotations

import ctypes
import json
import os
import re
import shutil
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

_BUILD, _WORK, _RESULT = Path("/build"), Path("/foundry/work"), Path("/result")
_SOURCES, _OTHERS = ("source", "inputs"), ("home", "temp")
_USER = 1000
_NO_NEW_PRIVILEGES = 38
_ALIVE_EVERY_S = 30
_CANNOT_RUN = 126


def _machine() -> dict[str, Any]:
    rows = dict(line.split(":", 1) for line in Path("/proc/meminfo").read_text(encoding="ascii").splitlines())
    memory = int(rows["MemAvailable"].split()[0]) * 1024
    processors = len(os.sched_getaffinity(0))
    return {"architecture": os.environ["BUILDARCH"], "processors": processors, "memory": memory}


def _wheels() -> list[Path]:
    """Return the finished wheel: the memory that a build took is written after it."""
    return sorted((_BUILD / "wheel").glob("*.whl")) if (_BUILD / "cost.json").is_file() else []


def _remove(names: tuple[str, ...]) -> None:
    for name in names:
        path = _BUILD / name
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path)
        else:
            path.unlink(missing_ok=True)


def _fill() -> None:
    """Copy the sources; those of an interrupted build stay as they are."""
    for name in _SOURCES:
        origin, target, part = _WORK / name, _BUILD / name, _BUILD / f".{name}"
        if origin.is_dir() and not target.is_dir():
            _remove((part.name,))
            shutil.copytree(origin, part, symlinks=True)
            part.rename(target)
    for name in (*_OTHERS, "wheel"):
        (_BUILD / name).mkdir(exist_ok=True)
    for path in (_BUILD, *_BUILD.rglob("*")):
        os.lchown(path, _USER, _USER)


def _become_user() -> None:
    os.setgroups([])
    os.setgid(_USER)
    os.setuid(_USER)
    ctypes.CDLL(None).prctl(_NO_NEW_PRIVILEGES, 1, 0, 0, 0)


def _keep_alive(text: str, ended: threading.Event) -> None:
    """Print a line now and then: a builder without output counts as silent, however slow the compiler is."""
    while not ended.wait(_ALIVE_EVERY_S):
        _print(text)


def _print(text: str) -> None:
    sys.stdout.write(f"{text}\n")
    sys.stdout.flush()


def _run(run: dict[str, Any]) -> int:
    """Run the program and return its exit code."""
    progress = [(re.compile(pattern), shown) for pattern, shown in run["progress"]]
    os.umask(0o022)
    with (_BUILD / "build.log").open("w", encoding="utf-8") as log:
        try:
            child = subprocess.Popen(
                run["argv"],
                cwd=_BUILD,
                env=run["environment"],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                text=True,
                errors="replace",
                preexec_fn=_become_user,  # noqa: PLW1509  # no other thread runs yet
            )
        except PermissionError:
            hint = "`chmod -R a+rX` the folder `foundry` of the cache, and set the umask to 022"
            log.write(f"jbuild: the files of the sandbox are not readable for its user: {hint}\n")
            return _CANNOT_RUN
        ended = threading.Event()
        threading.Thread(target=_keep_alive, args=(run["alive"], ended), daemon=True).start()
        for line in child.stdout or ():
            log.write(line)
            match, shown = next(((m, shown) for pattern, shown in progress if (m := pattern.match(line))), (None, ""))
            if match:
                _print(match.expand(shown))
        ended.set()
        return child.wait()


def main() -> None:
    """State the machine, or run the program."""
    run = json.loads(Path(sys.argv[1]).read_text(encoding="utf-8"))
    _RESULT.mkdir()
    if "argv" not in run:
        (_RESULT / "machine.json").write_text(json.dumps(_machine()), encoding="utf-8")
        return
    if run["fresh"]:
        _remove(tuple(path.name for path in _BUILD.iterdir()))
    code = 0
    if not _wheels():
        _fill()
        code = _run(run)
    if code == 0:
        _remove((*_SOURCES, *_OTHERS))
    for path in (*_wheels(), _BUILD / "cost.json", _BUILD / "build.log"):
        if path.is_file():
            shutil.copyfile(path, _RESULT / path.name)
    (_RESULT / "code").write_text(str(code), encoding="ascii")


if __name__ == "__main__":
    main()
