"""Puts blobs that were made on this machine into the bundles that lack them.

scripts/gpu_proof/place_blobs.py LAYOUT BUNDLE... links them from the layout.
"""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path


def main() -> int:
    """Link the blobs; the exit code is 1 if the layout lacks some."""
    layout, *bundles = map(Path, sys.argv[1:])
    missing = [path for bundle in bundles for path in place(layout, bundle)]
    for path in missing:
        print(f"{path} is neither there nor in {layout}", file=sys.stderr)
    return int(bool(missing))


def place(layout: Path, bundle: Path) -> list[Path]:
    """Link the files that a bundle lacks from a layout with the same paths; return those that the layout lacks."""
    missing = []
    for file in json.loads((bundle / "bundle.json").read_text())["files"]:
        target, source = bundle / file["path"], layout / file["path"]
        if target.exists():
            continue
        if not source.exists():
            missing.append(target)
            continue
        target.parent.mkdir(parents=True, exist_ok=True)
        os.link(source, target)
    return missing


if __name__ == "__main__":
    sys.exit(main())
