"""Slims one shared library, for comparisons on a GPU: scripts/slim_library.py FILE OUTPUT SM."""

from __future__ import annotations

import sys
from pathlib import Path

from builder.audit.byte_source import File
from builder.image.slim.slim_library import slim_library
from builder.jetson.boards import sm_number
from builder.model.slimming import SlimRules


def main() -> None:
    """Write the library and print what went."""
    source_path, target, sm = sys.argv[1:]
    source = File(Path(source_path))
    slimmed = slim_library(source, source_path, SlimRules(sms=(sm_number(sm),), same_major=False))
    with Path(target).open("wb") as file:
        file.writelines(slimmed.blocks(source))
    report = slimmed.report
    print(f"{source_path}: {report.method}, {report.before} to {report.after} bytes; {report.note or ''}")
    for amount in report.removed:
        print(f"  removed {amount.target}: {amount.entries} entries, {amount.size} bytes")


if __name__ == "__main__":
    main()
