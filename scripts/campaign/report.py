"""The page of a campaign: what was tried, how it ended, and what did not hold."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING

import tomli

if TYPE_CHECKING:
    from campaign.trial import Result

_MENDED = Path(__file__).with_name("mended.toml")
_KILL = "SIGKILL"
_SOURCES = (
    "Trials ended with the first of these; the others came up while the clients were read for the same mistake.\n"
)
_INTRO = """# Faults and kills

`scripts/fault-campaign` writes this page. Each trial runs a real command with a real engine and real registries, lets a
random request fail (once, three times, or always) or kills the process group at a random time, reads the registry
without jbuild, runs the same command again without a fault, and looks for what is left.

After every trial, these must hold: every tag is on an image with a verdict, whose blobs are all there and have their
digests; an exit code 0 means that the tags are there; no exit code 1 and no traceback; an end within 60 s; the second
run ends with 0; no container, temporary image, temporary file, partial file or process is left.

Stalls last 3 s, and the failing servers close a silent connection after 5 s. Without that, jbuild waits 60 s for the
next bytes of an answer, and tries five times. The images go to a registry of the campaign; the base image comes from
that of `scripts/engine`. Each push removes the image's largest layer from the cache, and the next one packs it again.
"""


def summary(results: list[Result]) -> str:
    """Return the figures in one line."""
    faults, kills = _split(results)
    reached = [result for result in faults if result.hits]
    kinds = len({result.kind for result in reached})
    violated = [result for result in results if result.violations]
    return (
        f"{len(faults)} faults of {kinds} kinds ({len(reached)} reached a request) and {len(kills)} kills: "
        f"{len(violated)} trials in which something did not hold"
    )


def page(results: list[Result], seed: int, faults: int, kills: int) -> str:
    """Return the page."""
    return "\n".join(
        (
            _INTRO,
            f"The command was `scripts/fault-campaign --faults {faults} --kills {kills} --seed {seed}`:",
            f"{summary(results)}.\n",
            *_held(results),
            *_kill_rows(_split(results)[1]),
            *_kind_rows(_split(results)[0]),
            *_mended_rows(),
            "",
        )
    )


def _mended_rows() -> list[str]:
    rows = []
    for row in tomli.loads(_MENDED.read_text(encoding="utf-8"))["mended"]:
        tests = ", ".join(f"`{path}`" for path in row["tests"])
        rows.append(f"| {', '.join(row['kinds'])} | {row['before']} | {row['now']} | {tests} |")
    return ["", "## Found and mended\n", _SOURCES, "| kinds | before | now | tests |", "|---|---|---|---|", *rows]


def _split(results: list[Result]) -> tuple[list[Result], list[Result]]:
    return [r for r in results if r.kind != _KILL], [r for r in results if r.kind == _KILL]


def _held(results: list[Result]) -> list[str]:
    rows = [
        f"| {result.number} | {result.kind} | {result.way} | {result.at} | {'; '.join(result.violations)} |"
        for result in results
        if result.violations
    ]
    if not rows:
        return []
    return ["## What did not hold\n", "| trial | kind | way | at | |", "|---|---|---|---|---|", *rows, ""]


def _kill_rows(kills: list[Result]) -> list[str]:
    stages = Counter(result.at for result in kills)
    sound = Counter(result.at for result in kills if not result.violations)
    rows = [f"| {stage} | {count} | {sound[stage]} |" for stage, count in sorted(stages.items())]
    return ["## Kills\n", "| killed in | kills | all held |", "|---|---|---|", *rows, ""]


def _kind_rows(faults: list[Result]) -> list[str]:
    rows = []
    for kind in sorted({result.kind for result in faults}):
        own = [result for result in faults if result.kind == kind]
        codes = Counter(result.code for result in own)
        ways = ", ".join(sorted({result.way for result in own}))
        outcomes = ", ".join(f"{code} ({count})" for code, count in sorted(codes.items()))
        slowest = max(result.seconds for result in own)
        rows.append(f"| {kind} | {len(own)} | {outcomes} | {slowest:.0f} | {ways} |")
    heading = [
        "## Faults\n",
        "Exit codes as in [stages](stages.md#exit-codes); 0: retries, or another way, were enough.\n",
    ]
    return [*heading, "| kind | trials | exit codes (trials) | slowest, s | ways |", "|---|---|---|---|---|", *rows]
