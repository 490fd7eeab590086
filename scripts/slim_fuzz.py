"""Slims libraries with random damage: the result is an error, or a library that is right and not larger.

The mutations come from a random generator with a fixed seed, so that two runs try the same files. A wrong result is
stored, and the exit code is 1. Seeds are small libraries that this program builds, and small ones of wheels.
"""

from __future__ import annotations

import argparse
import random
import struct
import sys
from collections import Counter
from typing import TYPE_CHECKING, NamedTuple

from agreement.report import when_and_where
from agreement.wheel_files import wheel_libraries
from builder.audit import fatbin
from builder.audit.byte_source import MalformedError, Plain
from builder.host.console import Console
from builder.host.files import write_bytes, write_text
from builder.host.paths import Workspace
from builder.image.slim import elf_layout
from builder.model.slimming import SlimRules
from slimming.gpu_library import ARM64, LibraryShape, make_container, make_entry, make_library
from slimming.report_page import PAGE, with_section
from slimming.slim_checks import Violation, outcome

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

_LONGEST = 512 << 10
_MOST_REAL = 20
_RULES = tuple(
    SlimRules(sms=sms, same_major=same_major)
    for sms in ((87,), (90,), (110,), (87, 110))
    for same_major in (True, False, None)
)
_VALUES = (0, 1, 7, 8, 16, 24, 64, 0x1000, 0x10000, 0x7FFFFFFF, 0xFFFFFFFF, 1 << 40, (1 << 64) - 8, (1 << 64) - 1)
_SHAPES = (
    LibraryShape(),
    LibraryShape(note=False),
    LibraryShape(note=False, gap=64),
    LibraryShape(packed=True),
    LibraryShape(stray=True),
    LibraryShape(unwrapped=1),
    LibraryShape(machine=ARM64, align=256),
    LibraryShape(machine=ARM64, page=0x10000, packed=True, gap=56),
)


class FuzzResult(NamedTuple):
    """The number of results of each kind, and what was wrong."""

    counts: Counter[str]
    violations: tuple[str, ...]


def main(arguments: Sequence[str] | None = None) -> int:
    """Try mutated libraries, print the results and write the page's section."""
    parser = argparse.ArgumentParser(prog="scripts/slim-fuzz", description=__doc__)
    parser.add_argument("--files", type=int, default=40_000, help="number of mutated files (default 40000)")
    parser.add_argument("--seed", type=int, default=14, help="seed of the random generator (default 14)")
    options = parser.parse_args(arguments)
    workspace, console = Workspace.current(), Console()
    seeds = [*_built_seeds(), *_real_seeds(workspace)]
    with console.task("fuzzing the writer", options.files, unit="files") as task:
        result = fuzz(seeds, options.files, options.seed, workspace, task.advance)
    text = _section(result, len(seeds), options.seed)
    console.result(None, text)
    write_text(PAGE, with_section(PAGE, "fuzzing", text))
    return int(bool(result.violations))


def fuzz(
    seeds: Sequence[bytes], files: int, seed: int, workspace: Workspace, advance: Callable[[float], object]
) -> FuzzResult:
    """Return the results of some mutated files; wrong ones are stored in the cache."""
    generator = random.Random(seed)  # noqa: S311  # repeatable, no secret
    counts: Counter[str] = Counter()
    violations = []
    for number in range(files):
        data = _mutated(generator.choice(seeds), generator)
        rules = generator.choice(_RULES)
        try:
            counts[outcome(data, rules)] += 1
        except Exception as error:  # noqa: BLE001  # any exception but MalformedError is a bug, and the next file is tried
            counts["wrong"] += 1
            path = workspace.cache / "agreement" / "slim" / f"wrong-{seed}-{number}.so"
            write_bytes(path, data)
            reason = str(error) if isinstance(error, Violation) else f"{type(error).__name__}: {error}"
            violations.append(f"{path.name} for {rules.sms}: {reason}")
        advance(1)
    return FuzzResult(counts, tuple(violations))


def _built_seeds() -> Iterator[bytes]:
    mixed = make_container(
        make_entry("sm_80", ("a", "b"), size=3000),
        make_entry("sm_87", ("a",), size=500, compressed=True),
        make_entry("ptx_80", ("a", "b"), compressed=True),
        make_entry("sm_90a", ("a",), size=9000),
        make_entry("sm_100f", ("a",), size=700),
    )
    others = make_container(make_entry("sm_120", size=5000), make_entry("ptx_90", ("c",)), make_entry("ptx_120"))
    for shape in _SHAPES:
        yield make_library([mixed, others, make_container(), mixed], shape)


def _real_seeds(workspace: Workspace) -> Iterator[bytes]:
    number = 0
    for source in wheel_libraries(workspace):
        if number < _MOST_REAL and source.size <= _LONGEST:
            data = source.read(0, source.size)
            if _section_of(data):
                number += 1
                yield data


def _section_of(data: bytes) -> tuple[int, int] | None:
    """Return the offset and the size of the GPU code of a library."""
    try:
        sections = elf_layout.read_layout(Plain(data)).sections
    except MalformedError:
        return None
    return next(((row.offset, row.in_file) for row in sections if row.name in fatbin.SECTIONS and row.in_file), None)


def _mutated(data: bytes, generator: random.Random) -> bytes:
    damaged = bytearray(data)
    section = _section_of(data) or (0, len(data))
    for _ in range(generator.choice((0, 1, 1, 1, 2, 2, 4, 8))):
        place = generator.choice(_PLACES)(bytes(damaged), section, generator)
        form = generator.choice(("<B", "<H", "<I", "<Q"))
        size = struct.calcsize(form)
        if place is not None and 0 <= place <= len(damaged) - size:
            old = struct.unpack_from(form, damaged, place)[0]
            near = old + generator.choice((-64, -24, -8, -1, 1, 8, 16, 64))
            value = generator.choice((near, generator.choice(_VALUES), generator.getrandbits(8 * size)))
            struct.pack_into(form, damaged, place, value & ((1 << 8 * size) - 1))
    if not generator.randrange(20):
        del damaged[generator.randrange(len(damaged)) :]
    return bytes(damaged)


def _anywhere(data: bytes, _: tuple[int, int], generator: random.Random) -> int:
    return generator.randrange(max(1, len(data)))


def _in_headers(data: bytes, _: tuple[int, int], generator: random.Random) -> int:
    return generator.randrange(min(64 + 6 * 56, max(1, len(data))))


def _in_sections(data: bytes, _: tuple[int, int], generator: random.Random) -> int:
    # The section headers are the end of a file.
    return max(0, len(data) - generator.randrange(1, 14 * 64))


def _in_tables(_: bytes, section: tuple[int, int], generator: random.Random) -> int:
    return generator.randrange(64 + 6 * 56, max(64 + 6 * 56 + 1, min(section[0], 2048)))


def _in_pointers(_: bytes, section: tuple[int, int], generator: random.Random) -> int:
    return section[0] + section[1] + generator.randrange(2048)


def _in_code_header(data: bytes, section: tuple[int, int], generator: random.Random) -> int | None:
    """Return a position in the header of a container or of an entry."""
    window = data[section[0] : section[0] + section[1]]
    starts = []
    position = window.find(fatbin.MAGIC.to_bytes(4, "little"))
    while position >= 0:
        starts += [position, position + 16]
        position = window.find(fatbin.MAGIC.to_bytes(4, "little"), position + 4)
    return section[0] + generator.choice(starts) + generator.randrange(64) if starts else None


_PLACES = (_anywhere, _in_headers, _in_sections, _in_tables, _in_pointers, _in_code_header, _in_code_header)


def _section(result: FuzzResult, seeds: int, seed: int) -> str:
    counts = result.counts
    lines = [
        "## Fuzzing",
        "",
        (
            f"`scripts/slim-fuzz`, {when_and_where()}: {counts.total()} mutated libraries from {seeds} seeds "
            f"(random seed {seed}). {counts['malformed']} were refused as malformed, "
            f"{counts['unchanged']} stayed as they were, {counts['in-place']} were slimmed in place "
            f"and {counts['compact']} became shorter. "
            f"Results that were wrong: {counts['wrong']}."
        ),
        "",
        (
            "A result is right if it is not larger, has the entries that stay byte for byte in the same containers, "
            "has pointers to the same containers, and if all other loaded bytes are the same."
        ),
    ]
    return "\n".join([*lines, *(f"- {violation}" for violation in result.violations[:20])])


if __name__ == "__main__":
    sys.exit(main())
