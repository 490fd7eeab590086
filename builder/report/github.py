"""What came of cells as Markdown for GitHub's job summary. What models and logs say cannot become markup."""

from __future__ import annotations

import html
from typing import TYPE_CHECKING

from builder.report.outcome import FAILED, counted, said, size, times
from builder.tomldoc import shown

if TYPE_CHECKING:
    from collections.abc import Sequence

    from builder.report.outcome import Outcome

_SIGNS = {"done": "✅", "unchanged": "✅", "failed": "❌", "missing": "❌", "impossible": "⚪"}
_HEADINGS = ("recipe", "cell", "status", "reason", "size", "level", "answer", "times")
_LOG_LINES = 25
_MOST_LOGS = 20


def markdown(found: Sequence[Outcome]) -> str:
    """Return a table of the cells, and what is known of each failure below it."""
    rows = [_HEADINGS, ("---",) * len(_HEADINGS), *map(_row, found)]
    table = "\n".join(f"| {' | '.join(row)} |" for row in rows)
    failures = [_failure(one) for one in found if one.status in FAILED and (one.hint or one.log)]
    left_out = len(failures) - _MOST_LOGS
    more = [f"and {left_out} more; their jobs' logs have it"] if left_out > 0 else []
    tags = [f"- {plain(tag)} is {plain(one.digest or '')}" for one in found for tag in one.tags]
    put = ["### Tags", "\n".join(tags)] if tags else []
    return "\n\n".join([f"## jbuild: {counted(found)}", table, *failures[:_MOST_LOGS], *more, *put])


def plain(text: str) -> str:
    """Return text of anybody's as Markdown that shows just that: all that could be markup is a character reference."""
    return "".join(c if c.isalnum() or c in " -" else f"&#{ord(c)};" for c in shown(text))


def _row(one: Outcome) -> tuple[str, ...]:
    status = f"{_SIGNS.get(one.status, '')} {one.status}"
    first = (plain(one.recipe), plain(one.cell), status, plain(one.reason))
    return (*first, size(one), plain(one.level or ""), plain(said(one)), plain(times(one)))


def _failure(one: Outcome) -> str:
    lines = (one.log or "").rstrip().splitlines()[-_LOG_LINES:]
    log = "\n".join(html.escape("".join(c for c in line if c.isprintable() or c == "\t")) for line in lines)
    title = f"<summary>{plain(one.recipe)} {plain(one.cell)}: {plain(one.reason)}</summary>"
    hint = f"Next: {plain(one.hint)}\n" if one.hint else ""
    # A blank line would end the HTML block, and let what follows be Markdown.
    block = "<pre>" + "\n".join(line or " " for line in log.split("\n")) + "</pre>\n" if log else ""
    return f"<details>{title}\n\n{hint}\n{block}</details>"
