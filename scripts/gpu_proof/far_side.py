"""Runs the steps of the proof on the machine with the GPU, which has Docker, the bundles, and no network.

Each step is one of jbuild's own commands. Its result, exit code, messages and seconds become a JSON file of the output
folder. scripts/gpu-proof has the steps in order.
"""

from __future__ import annotations

import argparse
import json
import os
import shlex
import subprocess
import sys
import tarfile
import time
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

_CDI = Path("/etc/cdi/nvidia.json")
_DRIVER = "libcuda.so.1"
_DROP_CACHES = Path("/proc/sys/vm/drop_caches")
_MESSAGES = 20_000


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one step; the exit code is 1 if it ended in another way than it should."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("label", help="name of the result")
    parser.add_argument("bundle", type=Path, help="the bundle's folder")
    parser.add_argument("--output", type=Path, required=True, help="folder of the results")
    parser.add_argument("--jbuild", default="jbuild", help="the command of jbuild, with its options")
    parser.add_argument("--verb", choices=("smoke", "load", "bench"), default="smoke")
    parser.add_argument("--cold", action="store_true", help="drop the page cache first")
    parser.add_argument("--without-driver", action="store_true", help="take libcuda out of the CDI specification")
    parser.add_argument("--fails", action="store_true", help="the step has to fail")
    parser.add_argument("--more", default="", help="more options of the verb, as one word")
    options = parser.parse_args(arguments)
    if options.cold:
        drop_caches()
    argv = [*shlex.split(options.jbuild), *command(options.verb, options.bundle, shlex.split(options.more))]
    if options.without_driver:
        with without_driver():
            done = run(argv)
    else:
        done = run(argv)
    options.output.mkdir(parents=True, exist_ok=True)
    (options.output / f"{options.label}.json").write_text(json.dumps({"label": options.label, **done}, indent=1))
    print(f"{options.label}: exit code {done['exit_code']} after {done['seconds']} s")
    print(done["messages"][-3000:])
    return int((done["exit_code"] != 0) != options.fails)


def command(verb: str, bundle: Path, more: Sequence[str]) -> list[str]:
    """Return the arguments of jbuild."""
    if verb == "load":
        return ["load", str(bundle), "--json", *more]
    if verb == "bench":
        document = bundle_document(bundle)
        return ["bench", f"jbuild/{document['recipe']}:{document['cell']}", "--json", *more]
    return ["smoke", "--bundle", str(bundle), "--level", "gpu", "--force", "--json", *more]


def bundle_document(bundle: Path) -> dict[str, Any]:
    """Return a bundle's `bundle.json`, which is the first member of a split bundle's archive."""
    parts = bundle / "parts"
    if not parts.is_dir():
        return dict(json.loads((bundle / "bundle.json").read_text()))
    with tarfile.open(min(parts.iterdir()), "r|") as archive:
        member = archive.next()
        content = archive.extractfile(member) if member else None
        if content is None:
            raise SystemExit(f"{parts}: the first part does not begin with bundle.json")
        return dict(json.load(content))


def run(argv: Sequence[str]) -> dict[str, Any]:
    """Run a command, and return its result."""
    began = time.monotonic()
    done = subprocess.run(argv, capture_output=True, text=True, check=False)
    seconds = round(time.monotonic() - began, 1)
    try:
        result = json.loads(done.stdout)
    except ValueError:
        result = done.stdout
    return {
        "command": shlex.join(argv),
        "exit_code": done.returncode,
        "seconds": seconds,
        "result": result,
        "messages": done.stderr[-_MESSAGES:],
    }


def drop_caches() -> None:
    """Write cached files back, and forget them."""
    os.sync()
    _DROP_CACHES.write_text("3\n")


@contextmanager
def without_driver() -> Iterator[None]:
    """Take the driver's library out of the CDI specification, as on a board where it was made without one."""
    before = _CDI.read_text()
    document = json.loads(before)
    edits = document["containerEdits"]
    edits["mounts"] = [mount for mount in edits["mounts"] if not mount["containerPath"].endswith(_DRIVER)]
    _CDI.write_text(json.dumps(document))
    # The engine watches the folder, and reads the file again.
    time.sleep(2)
    try:
        yield
    finally:
        _CDI.write_text(before)
        time.sleep(2)


if __name__ == "__main__":
    sys.exit(main())
