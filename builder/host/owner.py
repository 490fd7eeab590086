"""The process that owns something temporary, named so that later processes know when it has ended.

Names and labels of temporary files, folders, containers and tags include this word. A process that was killed removes
nothing; another process of the same user on the same machine does it then.
"""

from __future__ import annotations

import functools
import hashlib
import os
import re
import socket
from dataclasses import dataclass
from pathlib import Path

_BOOT = Path("/proc/sys/kernel/random/boot_id")
# The file systems of copied machines have the same ID and host name; a board's serial number and network cards differ.
_IDENTITIES = ("/etc/machine-id", "/proc/device-tree/serial-number")
_CARDS = Path("/sys/class/net")
_PID_SPACE = Path("/proc/self/ns/pid")
# Fields of /proc/PID/stat after the program's name, which may contain spaces and brackets; see proc(5).
_STATE, _STARTED = 0, 19
_ENDED = ("Z", "X")
PATTERN = r"[0-9a-f]{8}-[0-9a-f]{8}-[0-9]+-[0-9]+-[0-9]+-[0-9]+"


@dataclass(frozen=True, kw_only=True, slots=True)
class Owner:
    """A process: its machine, boot, PID namespace, user, PID, and start in clock ticks since the boot."""

    machine: str
    boot: str
    space: int
    user: int
    process: int
    started: int

    @property
    def word(self) -> str:
        """The owner as one word of a name or label."""
        return f"{self.machine}-{self.boot}-{self.space}-{self.user}-{self.process}-{self.started}"

    def has_ended(self) -> bool:
        """Return whether this was a process of this user on this machine, and it certainly runs no more."""
        own = this_process()
        if own is None or self.user != own.user:
            return False
        if self.boot != own.boot:
            return self.machine == own.machine
        # In another PID namespace, the number is another process.
        return self.space == own.space and _start_of(self.process) != self.started


def parse(word: str) -> Owner | None:
    """Return the owner of a word, or None for other words."""
    if not re.fullmatch(PATTERN, word):
        return None
    machine, boot, *numbers = word.split("-")
    space, user, process, started = map(int, numbers)
    return Owner(machine=machine, boot=boot, space=space, user=user, process=process, started=started)


def has_ended(word: str) -> bool:
    """Return whether a word is an owner that has ended."""
    owner = parse(word)
    return owner is not None and owner.has_ended()


def this_process() -> Owner | None:
    """Return this process as an owner, or None on a machine that does not show processes."""
    return _owner(os.getpid())


def own_word() -> str:
    """Return the word of this process; on a machine that does not show processes, one that nobody removes."""
    owner = this_process()
    return owner.word if owner else f"unknown-{os.getpid()}"


@functools.cache
def _owner(process: int) -> Owner | None:
    started = _start_of(process)
    try:
        boot, space = _BOOT.read_text(encoding="ascii"), _PID_SPACE.stat().st_ino
    except OSError:
        return None
    if started is None:
        return None
    return Owner(machine=_machine(), boot=boot[:8], space=space, user=os.getuid(), process=process, started=started)


def _start_of(process: int) -> int | None:
    """Return the start of a process, or None if it has ended, also if its parent has not noticed."""
    try:
        fields = Path(f"/proc/{process}/stat").read_text(encoding="utf-8", errors="replace").rpartition(")")[2].split()
    except (FileNotFoundError, ProcessLookupError):
        return None
    return None if fields[_STATE] in _ENDED else int(fields[_STARTED])


def _machine() -> str:
    parts = [socket.gethostname(), *map(_text, map(Path, _IDENTITIES))]
    # Cards without a device are virtual: engines and VPNs add and remove them.
    parts += sorted(_text(card / "address") for card in _CARDS.glob("*") if (card / "device").exists())
    return hashlib.sha256("\0".join(parts).encode()).hexdigest()[:8]


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8", errors="replace").strip()
    except OSError:
        return ""
