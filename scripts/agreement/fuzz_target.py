"""Runs under atheris, which passes arbitrary bytes to a reader of the audit. Any exception but MalformedError is a bug.

Usage: fuzz_target.py elf|fatbin|kernels|wheel LIBFUZZER-OPTION… CORPUS
"""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path

import atheris  # type: ignore[import-untyped]  # in a separate environment

with atheris.instrument_imports(include=["builder", "zipfile", "email"]):
    from builder.audit import elf, fatbin, kernel_names, wheel_facts, wheel_reader
    from builder.model.audits import Header
from builder.audit.byte_source import MalformedError, Plain


def read_elf(data: bytes) -> None:
    """Read an ELF file and its GPU code, as the audit does."""
    wheel_facts.read_binary(Plain(data), "fuzzed.so")


def read_fatbin(data: bytes) -> None:
    """Read a section of GPU code."""
    fatbin.codes(Plain(data), _only_gpu_code(data))


def read_kernels(data: bytes) -> None:
    """Read the names of kernels: of a section of GPU code, or of a cubin."""
    if data.startswith(elf.MAGIC):
        kernel_names.loose_cubin(data)
        return
    for _ in kernel_names.kernels(Plain(data), _only_gpu_code(data)):
        pass


def _only_gpu_code(data: bytes) -> elf.ElfFacts:
    section = elf.Section(fatbin.SECTIONS[0], 0, len(data))
    header = Header(64, little=True, type=elf.SHARED, machine=183, flags=0)
    return elf.ElfFacts(header=header, sections=(section,))


def read_wheel(data: bytes) -> None:
    """Read a whole wheel."""
    _WHEEL.write_bytes(data)
    listing = wheel_reader.listing(_WHEEL)
    binaries, flaws = wheel_facts.read_members(_WHEEL, listing.members)
    wheel_facts.assemble(_WHEEL, listing, binaries, flaws)


_TARGETS = {"elf": read_elf, "fatbin": read_fatbin, "kernels": read_kernels, "wheel": read_wheel}
_FOLDER = tempfile.TemporaryDirectory(prefix="jbuild-fuzz-")
_WHEEL = Path(_FOLDER.name) / "fuzzed-1.0-py3-none-any.whl"


def main() -> None:
    """Fuzz the target that the command line names, until libFuzzer ends the process."""
    target = _TARGETS[sys.argv.pop(1)]

    def fuzz_one(data: bytes) -> None:
        try:
            target(data)
        except MalformedError:
            # Readers raise this error for a damaged file.
            return

    atheris.Setup(sys.argv, fuzz_one)
    atheris.Fuzz()


if __name__ == "__main__":
    main()
