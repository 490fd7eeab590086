"""Builds wheels of other authors' packages for arm64, audits them, and imports them under emulation.

The packages are in `scripts/foundry/packages.toml`. The results go to `docs/foundry-campaign.md`; the exit code is 1 if
a package failed. It needs the engine and the base image of `scripts/engine`, and the package index. Where the releases
of python-build-standalone cannot be reached, `--debian-python` imports with Debian's Python.
"""

from __future__ import annotations

import argparse
import sys
import threading
from dataclasses import replace
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import TYPE_CHECKING

from builder.host.config import Config
from builder.host.console import Console
from builder.host.paths import Workspace
from builder.host.session import Session
from builder.host.toml import documents
from builder.jetson.distributions import standalone
from builder.jetson.platform import platform_for
from builder.model.locks import LockedInterpreter
from builder.remote.registry.base_lookup import resolve_digest
from foundry.campaign_report import write_report
from foundry.debian_python import SUITES, debian_python
from foundry.trials import Cell, Package, Trial, run_trial

if TYPE_CHECKING:
    from builder.host.toml.tables import Table
    from builder.model.platforms import Platform

_CHECKOUT = Path(__file__).parents[1]
_BASE = "127.0.0.1:5000/stand-in/debian:bookworm-slim"


def main() -> int:
    """Run the campaign; return the exit code."""
    parser = argparse.ArgumentParser(prog="scripts/foundry-campaign", description=__doc__)
    parser.add_argument("--python", default="3.12", help="the Python to build for (default: 3.12)")
    parser.add_argument("--base", default=_BASE, help=f"the arm64 base image (default: {_BASE})")
    parser.add_argument("--debian-python", action="store_true", help="import with Debian's Python: 3.11 or 3.13")
    parser.add_argument("--no-import", action="store_true", help="build and audit only")
    parser.add_argument("--twice", action="store_true", help="build each package again, and compare the bytes")
    parser.add_argument("--only", nargs="+", metavar="NAME", help="only these packages; the report stays as it is")
    arguments = parser.parse_args()
    packages = [row for row in _packages() if not arguments.only or row.name in arguments.only]
    session = Session(workspace=Workspace.current(), config=Config(), console=Console())
    folder = session.workspace.cache / "foundry-campaign"
    cell, config = _cell(arguments, folder)
    session = replace(session, config=config)
    trials: list[Trial] = []
    for package in packages:
        trials.append(_run(package, _on_jetson(cell, package), session, folder / "wheels", twice=arguments.twice))
        if not arguments.only:
            # After each package, since a busy machine may take hours.
            write_report(_CHECKOUT / "docs" / "foundry-campaign.md", trials, packages, cell)
    return 0 if all(trial.passed for trial in trials) else 1


def _run(package: Package, cell: Cell, session: Session, output: Path, *, twice: bool) -> Trial:
    trial = run_trial(package, cell, session, output, twice=twice)
    outcome = "passed" if trial.passed else f"FAILED at {trial.stage}: {trial.failure}"
    outcome += {True: ", twice the same bytes", False: ", OTHER BYTES", None: ""}[trial.same]
    print(f"{package.name} {package.version}: {outcome} {trial.wheel} {', '.join(trial.imported)}", flush=True)
    return trial


def _packages() -> list[Package]:
    def parse(root: Table) -> list[Package]:
        return [
            Package(
                name=row.string("name"),
                version=row.string("version"),
                build=row.string("build"),
                l4t=row.optional_string("l4t"),
                torch=row.optional_string("torch"),
                patches=row.strings("patches"),
                environment=row.string_map("environment"),
            )
            for row in root.rows("packages")
        ]

    return documents.load(Path(__file__).parent / "foundry" / "packages.toml", "the packages have mistakes", parse)


def _cell(arguments: argparse.Namespace, folder: Path) -> tuple[Cell, Config]:
    """Return the cell, and the settings with a mirror of its Python if that is Debian's."""
    platform = _platform(arguments.python)
    config = Config()
    interpreter = None
    if arguments.debian_python:
        if arguments.python not in SUITES:
            raise SystemExit(f"Debian has no Python {arguments.python}; it has {', '.join(SUITES)}")
        archive, interpreter = debian_python(folder, arguments.python, platform.architecture)
        config = replace(config, python_mirror=_mirror(archive.parents[1]))
    elif not arguments.no_import:
        row = standalone(arguments.python)
        sha256 = dict(row.sha256)[platform.architecture]
        interpreter = LockedInterpreter(release=row.release, url=row.url(platform.architecture), sha256=sha256)
    base = resolve_digest(arguments.base, config, platform.architecture)
    return Cell(platform=platform, base=base, interpreter=interpreter), config


def _on_jetson(cell: Cell, package: Package) -> Cell:
    """Return the cell of a package: that of a Jetson release, with the Python and the base image of all others."""
    if package.l4t is None:
        return cell
    platform = platform_for([("l4t", package.l4t), ("sm", "8.7")], "arm64")
    return replace(cell, platform=replace(platform, python=cell.platform.python))


def _platform(python: str) -> Platform:
    """Return Debian 12 on arm64, with a Python that it may not have itself."""
    return replace(platform_for([("distribution", "debian-12")], "arm64"), python=python)


def _mirror(folder: Path) -> str:
    class Quiet(SimpleHTTPRequestHandler):
        def log_message(self, *_: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), partial(Quiet, directory=str(folder)))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    return f"http://127.0.0.1:{server.server_port}"


if __name__ == "__main__":
    sys.exit(main())
