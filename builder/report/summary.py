"""What a run ends with: for each cell the image, its digest and size, the model's answer, tags and times."""

from __future__ import annotations

import shlex
from typing import TYPE_CHECKING, Any

from builder import records
from builder.engine import emulator_settings
from builder.report.audit import counts, tally
from builder.report.words import duration
from builder.tomldoc import shown

if TYPE_CHECKING:
    from collections.abc import Sequence

    from builder.pipeline import CellResult, Preview
    from builder.publish.model import Publication


def summary(results: Sequence[CellResult], seconds: float, docker_host: str | None = None) -> str:
    """Return the summary of a run as text; `docker_host` is what the commands in it need to reach the engine."""
    reach = f"DOCKER_HOST={docker_host} " if docker_host else ""
    blocks = [_cell(result, reach) for result in results]
    if all(result.status == "unchanged" and not result.work.made.verified for result in results):
        blocks.append(f"nothing to do: everything is up to date ({seconds:.1f} s)")
    else:
        blocks.append(f"{_counts(results)} in {duration(seconds)}")
    return "\n\n".join(blocks)


def cell_json(result: CellResult) -> dict[str, Any]:
    """Return what became of a cell, as `--json` shows it."""
    made = result.work.made
    return {
        "cell": result.work.job.cell.id,
        "status": result.status,
        "error": result.error.as_json() if result.error else None,
        "stages": {s.stage: {"ran": s.ran, "seconds": round(s.seconds, 2)} for s in result.stages},
        "lock": str(_lock_path(result)) if made.lock else None,
        "changes": [{**records.plain(change), "words": change.words} for change in made.changes],
        "audit": counts(made.audit) if made.audit else None,
        "plan": str(result.work.folder.path) if made.plan else None,
        "digest": made.image.digest if made.image else None,
        "verified": made.verified,
        "size": made.image.size if made.image else None,
        "verdict": records.plain(made.verdict),
        "publication": records.plain(made.publication),
    }


def preview_lines(cell: str, previews: Sequence[Preview]) -> list[str]:
    """Return what a run would do with a cell, and what of it went wrong the last time."""
    words = {"unchanged": "unchanged", "run": "run", "failed": "run"}
    lines = [f"{cell}: " + ", ".join(f"{each.stage} {words[each.state]}" for each in previews)]
    return lines + [f"  {each.stage} failed the last time: {each.why}" for each in previews if each.why]


def references(publication: Publication) -> list[str]:
    """Return what an image can be pulled by: every tag in every registry."""
    return [f"{each.repository}:{tag.name}" for each in publication.registries for tag in each.tags]


def withheld(publication: Publication) -> list[str]:
    """Return which tags were not put, and why."""
    lines = [f"{each.name}: {each.reason}" for each in publication.withheld]
    return lines + [
        f"{there.repository}:{e.name}: {e.reason}" for there in publication.registries for e in there.withheld
    ]


def _lock_path(result: CellResult) -> str:
    work = result.work
    return str(work.session.workspace.lock(work.job.recipe.name, work.job.cell.id))


def _cell(result: CellResult, reach: str) -> str:
    made = result.work.made
    lines = [f"{result.work.job.name}: {result.status}"]
    if result.error:
        lines.append(f"  error     {result.error.message}")
    if made.lock:
        lines.append(f"  lock      {_lock_path(result)} ({len(made.lock.wheels)} wheels)")
    if made.audit:
        lines.append(f"  audit     {tally(made.audit)}")
    if made.plan and not made.image:
        lines += [f"  plan      {result.work.folder.path}", f"  build it  {reach}{' '.join(made.plan.command)}"]
    if made.image:
        lines += [f"  image     {made.image.digest}", f"  size      {made.image.size / 1e6:.0f} MB compressed"]
    if made.verified:
        lines.append("  verified  a second build without any cache gave the same digest")
    if made.verdict:
        lines += [f"  {line}" for line in _verdict(result)]
    if made.publication:
        lines += [f"  pushed    {tag}" for tag in references(made.publication)]
        lines += [f"  withheld  {line}" for line in withheld(made.publication)]
    if result.stages:
        each = ", ".join(f"{s.stage} {duration(s.seconds) if s.ran else 'unchanged'}" for s in result.stages)
        lines.append(f"  time      {duration(sum(s.seconds for s in result.stages))}: {each}")
    run = _run_command(result)
    return "\n".join(lines + ([f"  run it    {reach}{run}"] if run else []))


def _verdict(result: CellResult) -> list[str]:
    verdict = result.work.made.verdict
    if verdict is None:
        return []
    lines = [f"smoke     passed at level {verdict.level}, ready after {verdict.ready_s:.0f} s"]
    if verdict.modules:
        count = len(verdict.modules.need_driver)
        lines.append(f"modules   {verdict.modules.loaded} load, {count} need the GPU's driver and could not be tried")
    for answer in verdict.answers:
        lines.append(f"asked     {answer.question}")
        # A model may say anything, also what a terminal would obey.
        lines.append(f"answer    {shown(' '.join(answer.text.split()))}")
    lines += [f"warning   {shown(warning)}" for warning in verdict.warnings]
    return lines


def _run_command(result: CellResult) -> str | None:
    made, job = result.work.made, result.work.job
    if not made.verdict:
        return None
    pushed = references(made.publication) if made.publication else []
    image = pushed[0] if pushed else result.work.proven
    options = "--runtime nvidia " if job.platform.l4t else ""
    if made.verdict.level == "emulated":
        # As it was smoked: what makes it bearable under emulation does so here too.
        given = (*emulator_settings(job.platform.architecture), *job.spec.smoke.environment)
        options += "".join(f"-e {shlex.quote(f'{name}={value}')} " for name, value in given)
    port = job.spec.server.port
    return f"docker run --rm --platform linux/{job.platform.architecture} {options}-p 127.0.0.1:{port}:{port} {image}"


def _counts(results: Sequence[CellResult]) -> str:
    words = ("done", "unchanged", "failed")
    counts = {word: sum(1 for r in results if r.status == word) for word in words}
    return ", ".join(f"{count} {word}" for word, count in counts.items() if count)
