"""Fuzzes the audit's readers of ELF files, GPU code, kernels and wheels with atheris, each for some minutes.

An exception other than the readers' MalformedError is a bug, and so is an input that takes more than ten seconds or a
gigabyte of memory. The command stores the input of a bug, and the exit code is 1. Seeds are small files of the
wheelhouse and of its wheels, and small parts of larger ones.
"""

from __future__ import annotations

import argparse
import re
import struct
import sys
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING

from agreement.report import when_and_where, write_section
from agreement.wheel_files import wheel_libraries
from builder.audit import elf, fatbin
from builder.audit.byte_source import MalformedError
from builder.errors import JbuildError
from builder.host.console import Console
from builder.host.paths import Workspace
from builder.host.process import run
from builder.lock.solve import uv

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

# The newest release with a wheel for CPython 3.11.
PACKAGE = "atheris==3.0.0"
_CHECKOUT = Path(__file__).parents[1]
_TARGET = Path(__file__).with_name("agreement") / "fuzz_target.py"
_TARGETS = ("elf", "fatbin", "kernels", "wheel")
# Segments of arm64 start at multiples of 64 KiB: a file with two of them cannot be smaller than 64 KiB.
_LONGEST = 160 << 10
_MOST_SEEDS = 300
_MOST_OF_A_LIBRARY = 20
_INPUT_LIMIT_S = 10
_MEMORY_LIMIT_MB = 1024
_CONTAINER = struct.Struct("<IHHQ")
_ENTRY_HEAD = struct.Struct("<HHIQ")
_PAYLOAD_LIMIT = 32


@dataclass(frozen=True, kw_only=True, slots=True)
class Result:
    """The result of fuzzing one target: seeds, tried inputs, covered edges, and the last lines of a bug's log."""

    target: str
    seeds: int
    tried: int
    covered: int
    bug: str | None


def main(arguments: Sequence[str] | None = None) -> int:
    """Fuzz every target, print the results and write the page's section."""
    parser = argparse.ArgumentParser(prog="scripts/audit-fuzz", description=__doc__)
    parser.add_argument("--minutes", type=float, default=10.0, help="minutes per target (default 10)")
    parser.add_argument("--only", choices=_TARGETS, help="fuzz only this target")
    options = parser.parse_args(arguments)
    workspace, console = Workspace.current(), Console()
    folder = workspace.cache / "agreement" / "fuzz"
    results = []
    try:
        python = _python(folder / "venv")
        for target in [options.only] if options.only else _TARGETS:
            seeds = _write_seeds(_SEEDS[target](workspace), folder / target / "seeds")
            with console.task(f"fuzzing {target}", unit="inputs") as task:
                results.append(_fuzz(target, python, folder / target, seeds, options.minutes * 60))
                task.advance(results[-1].tried)
    except JbuildError as error:
        console.failure(error)
        return error.exit_code
    text = _section(results, options.minutes)
    console.result(None, text)
    if not options.only:
        write_section("fuzzing", text)
    return int(any(result.bug for result in results))


def _python(folder: Path) -> str:
    python = folder / "bin" / "python"
    if not all(any(folder.glob(f"lib/*/site-packages/{name}")) for name in ("atheris", "zstandard")):
        run([uv(), "venv", "--quiet", "--clear", "--python", sys.executable, str(folder)])
        run(
            [
                uv(),
                "pip",
                "install",
                "--quiet",
                "--python",
                str(python),
                PACKAGE,
                "-r",
                str(_CHECKOUT / "pyproject.toml"),
            ]
        )
    return str(python)


def _fuzz(target: str, python: str, folder: Path, seeds: int, seconds: float) -> Result:
    corpus = folder / "found"
    corpus.mkdir(exist_ok=True)
    limits = (f"-timeout={_INPUT_LIMIT_S}", f"-rss_limit_mb={_MEMORY_LIMIT_MB}", f"-max_len={_LONGEST}")
    argv = [python, str(_TARGET), target, f"-max_total_time={round(seconds)}", *limits]
    argv += ["-print_final_stats=1", f"-artifact_prefix={folder}/bug-", str(corpus), str(folder / "seeds")]
    done = run(argv, env={"PYTHONPATH": str(_CHECKOUT)}, check=False, timeout_s=seconds + 300)
    log = done.stdout + done.stderr
    tried = re.search(r"number_of_executed_units: (\d+)", log)
    covered = re.findall(r"\bcov: (\d+)", log)
    return Result(
        target=target,
        seeds=seeds,
        tried=int(tried[1]) if tried else 0,
        covered=int(covered[-1]) if covered else 0,
        bug=None if done.code == 0 else _bug(log),
    )


def _bug(log: str) -> str:
    rows = [row.strip() for row in log.splitlines() if re.search(r"Error|Exception|ERROR|artifact|Test unit", row)]
    return "; ".join(rows[-4:]) or log[-500:]


def _write_seeds(seeds: Iterable[bytes], folder: Path) -> int:
    folder.mkdir(parents=True, exist_ok=True)
    count = 0
    for count, seed in enumerate(seeds, 1):
        (folder / str(count)).write_bytes(seed)
        if count == _MOST_SEEDS:
            break
    return count


def _elf_seeds(workspace: Workspace) -> Iterator[bytes]:
    for source in wheel_libraries(workspace):
        if source.size <= _LONGEST:
            yield source.read(0, source.size)


def _wheel_seeds(workspace: Workspace) -> Iterator[bytes]:
    for path in sorted(workspace.wheels.glob("*/*/*.whl")):
        if path.stat().st_size <= _LONGEST:
            yield path.read_bytes()


def _fatbin_seeds(workspace: Workspace) -> Iterator[bytes]:
    """Yield sections of real libraries with truncated payloads and corrected sizes."""
    for source in wheel_libraries(workspace):
        try:
            sections = elf.read_source(source).sections
        except MalformedError:
            continue
        for section in sections:
            if section.name in fatbin.SECTIONS:
                yield _truncated(source.read(section.offset, min(section.size, 64 << 20)))[:_LONGEST]


def _kernel_seeds(workspace: Workspace) -> Iterator[bytes]:
    """Yield small containers of real libraries as they are, and cubins from them."""
    for source in wheel_libraries(workspace):
        try:
            for container in islice(fatbin.containers(source, elf.read_source(source)), _MOST_OF_A_LIBRARY):
                if container.header + container.size <= _LONGEST:
                    yield source.read(container.offset, container.header + container.size)
                for entry in container.entries:
                    is_cubin = entry.code is not None and entry.code.target.kind == "sass"
                    if is_cubin and entry.unpacked <= _LONGEST // 4:
                        yield fatbin.payload(source, entry)
                        break
        except MalformedError:
            continue


def _truncated(section: bytes) -> bytes:
    truncated, at = bytearray(), 0
    while at + _CONTAINER.size <= len(section) and len(truncated) < _LONGEST:
        magic, version, header, size = _CONTAINER.unpack_from(section, at)
        body, position, end = bytearray(), at + header, min(at + header + size, len(section))
        while position + _ENTRY_HEAD.size <= end:
            kind, kind_version, length, payload = _ENTRY_HEAD.unpack_from(section, position)
            size_limit = min(payload, _PAYLOAD_LIMIT)
            body += _ENTRY_HEAD.pack(kind, kind_version, length, size_limit)
            body += section[position + _ENTRY_HEAD.size : position + length + size_limit]
            position += length + payload
        truncated += _CONTAINER.pack(magic, version, header, len(body)) + body
        at += header + size + (-(header + size) % 8)
    return bytes(truncated)


_SEEDS = {"elf": _elf_seeds, "fatbin": _fatbin_seeds, "kernels": _kernel_seeds, "wheel": _wheel_seeds}


def _section(results: Sequence[Result], minutes: float) -> str:
    lines = [
        "## Fuzzing",
        "",
        f"`scripts/audit-fuzz` ({PACKAGE}), {when_and_where()}: {minutes:g} minutes per target.",
        "",
    ]
    lines += [
        f"- {result.target}: {result.tried} inputs from {result.seeds} real seeds, {result.covered} edges covered, "
        + (f"a bug: {result.bug}" if result.bug else "no bug.")
        for result in results
    ]
    return "\n".join(lines)


if __name__ == "__main__":
    sys.exit(main())
