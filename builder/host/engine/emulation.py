"""The architectures that this machine's kernel emulates, and how their programs run fast."""

from __future__ import annotations

import re
from contextlib import suppress
from pathlib import Path

_BINFMT = Path("/proc/sys/fs/binfmt_misc")
# Architectures by the names of QEMU, the kernel and OCI.
OCI_NAMES = {"aarch64": "arm64", "x86_64": "amd64", "arm64": "arm64", "amd64": "amd64"}
# The CPU that QEMU emulates. SVE instructions are function calls there: torch's matrix products are 20 to 30 times as
# fast without them (QEMU 10.0, torch 2.10: 0.01 against 0.4 GFLOPS), and Orin's Cortex-A78AE has none either.
_EMULATORS = {"arm64": ("QEMU_CPU", "max,sve=off")}


def emulator_settings(architecture: str) -> tuple[tuple[str, str], ...]:
    """Return the environment for fast emulation of a foreign architecture in a container."""
    return (_EMULATORS[architecture],) if architecture in _EMULATORS else ()


def emulated_here(native: str, folder: Path = _BINFMT) -> tuple[str, ...]:
    """Return the architectures that the kernel emulates.

    Containers lack the emulator's file: only an entry with flag F, which the kernel keeps open, works in them.
    """
    emulated = set()
    for entry in folder.glob("qemu-*"):
        text = ""
        with suppress(OSError):
            text = entry.read_text(encoding="utf-8")
        name = OCI_NAMES.get(entry.name[len("qemu-") :])
        if name and name != native and text.startswith("enabled") and re.search(r"^flags:.*F", text, re.MULTILINE):
            emulated.add(name)
    return tuple(sorted(emulated))
