"""Writes docs/gpu-proof.md from the results of far_side.py: scripts/gpu_proof/report.py RESULTS."""

from __future__ import annotations

import json
import re
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

CHECKOUT = Path(__file__).parents[2]
PAGE = CHECKOUT / "docs" / "gpu-proof.md"
_STARTS = (
    "| image, start | ready after | first token after | recorded tokens, worst (nats) | level | whole run |",
    "|---|--:|--:|--:|---|--:|",
)
_LOADS = (
    "| at once | answered | tokens/s | first token, median | between tokens, median |",
    "|--:|--:|--:|--:|--:|",
)
# The launcher of a jbuild that came in a bundle.
_CARRIED = re.compile(r"^sh \S+/jbuild/jbuild ")
_BEGIN, _END = "<!-- results -->", "<!-- /results -->"


@dataclass(frozen=True, kw_only=True, slots=True)
class Step:
    """A step's result: its label, exit code and seconds, jbuild's JSON, its messages."""

    label: str
    command: str
    exit_code: int
    seconds: float
    result: Any
    messages: str

    @property
    def verdict(self) -> dict[str, Any]:
        """The verdict of a smoke run, empty for another verb or a failure before the run."""
        verdict = self.result.get("verdict") if isinstance(self.result, dict) else None
        return verdict if isinstance(verdict, dict) else {}


def main() -> int:
    """Write the results between the page's marks."""
    steps = read_steps(Path(sys.argv[1]))
    text = PAGE.read_text(encoding="utf-8")
    before, _, rest = text.partition(_BEGIN)
    _, _, after = rest.partition(_END)
    sections = (starts(steps), answers(steps), failures(steps), measurements(steps), commands(steps))
    body = "\n\n".join(section for section in sections if section)
    PAGE.write_text(f"{before}{_BEGIN}\n{body}\n{_END}{after}", encoding="utf-8")
    return 0


def read_steps(folder: Path) -> dict[str, Step]:
    """Return the results of a folder by label."""
    documents = (json.loads(path.read_text(encoding="utf-8")) for path in sorted(folder.glob("*.json")))
    return {document["label"]: Step(**document) for document in documents}


def starts(steps: Mapping[str, Step]) -> str:
    """Return the table of starts that passed."""
    rows = list(_starts(steps))
    return "\n".join(("### Starts", "", *_STARTS, *rows)) if rows else ""


def _starts(steps: Mapping[str, Step]) -> Iterator[str]:
    for step in steps.values():
        verdict = step.verdict
        if not verdict.get("passed"):
            continue
        replies = verdict["answers"]
        golden = [reply["golden"] for reply in replies if reply.get("golden")]
        tokens = sum(agreement["tokens"] for agreement in golden)
        worst = max((agreement["worst"] for agreement in golden), default=0.0)
        first = replies[0]["first_token_s"]
        agreed = f"{tokens}, {worst:.3f}" if golden else "-"
        yield (
            f"| {step.label} | {verdict['ready_s']:.1f} s | {first:.3f} s | {agreed} | "
            f"{verdict['level']} | {step.seconds:.0f} s |"
        )


def answers(steps: Mapping[str, Step]) -> str:
    """Return which images gave the same answers to all questions."""
    groups: dict[tuple[str, ...], list[str]] = {}
    for step in steps.values():
        if step.verdict.get("passed"):
            texts = tuple(reply["text"] for reply in step.verdict["answers"])
            groups.setdefault(texts, []).append(step.label)
    rows = [
        f"- {', '.join(labels)}: {' / '.join(_excerpt(text) for text in texts)}" for texts, labels in groups.items()
    ]
    return "\n".join(("### Answers", "", "The runs of one line gave the same text:", "", *rows)) if rows else ""


def _excerpt(text: str) -> str:
    line = " ".join(text.split())
    return f"`{line[:60]}{'…' if len(line) > 60 else ''}`"  # noqa: PLR2004  # the width of a cell


def failures(steps: Mapping[str, Step]) -> str:
    """Return what jbuild said in the runs that had to fail."""
    blocks = [
        f"**{step.label}**, exit code {step.exit_code} after {step.seconds:.0f} s:\n\n" + _quoted(step.messages)
        for step in steps.values()
        if step.exit_code
    ]
    return "\n\n".join(("### Failures", *blocks)) if blocks else ""


def _quoted(messages: str) -> str:
    at = messages.rfind("error: ")
    lines = messages[max(at, 0) :].strip().splitlines()
    return "\n".join(f"    {line}" for line in lines[:12])


def measurements(steps: Mapping[str, Step]) -> str:
    """Return the tables of `jbuild bench`."""
    blocks = []
    for step in steps.values():
        loads = step.result.get("steps") if isinstance(step.result, dict) else None
        if not loads:
            continue
        rows = [
            f"| {load['concurrency']} | {load['answered']} | {load['tokens_per_s']:.0f} | "
            f"{load['first_token_ms']['p50']:.1f} ms | {load['between_tokens_ms']['p50']:.2f} ms |"
            for load in loads
        ]
        blocks.append("\n".join((f"**{step.label}**", "", *_LOADS, *rows)))
    return "\n\n".join(("### jbuild bench", *blocks)) if blocks else ""


def commands(steps: Mapping[str, Step]) -> str:
    """Return the exact commands."""
    rows = [f"- {step.label}: `{_CARRIED.sub('jbuild ', step.command)}`" for step in steps.values()]
    return "\n".join(("### Commands", "", *rows)) if rows else ""


if __name__ == "__main__":
    sys.exit(main())
