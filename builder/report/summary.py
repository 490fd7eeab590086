"""What a run ends with: for each cell the image, its digest and size, the model's answer, tags and times."""

from __future__ import annotations

import shlex
from typing import TYPE_CHECKING, Any

from builder import records
from builder.audit.model import Audit
from builder.engine import emulator_settings
from builder.image.model import Image, Plan
from builder.publish.model import Publication
from builder.report.audit import counts, tally
from builder.report.words import duration
from builder.resolve.model import Locked
from builder.smoke.model import Verdict
from builder.tomldoc import shown

if TYPE_CHECKING:
    from collections.abc import Sequence

    from builder.pipeline.cell import CellRun
    from builder.pipeline.runner import CellResult, Preview


def summary(results: Sequence[CellResult], seconds: float, docker_host: str | None = None) -> str:
    """Return the summary of a run as text; `docker_host` is what the commands in it need to reach the engine."""
    reach = f"DOCKER_HOST={docker_host} " if docker_host else ""
    blocks = [_cell(result, reach) for result in results]
    if all(result.status == "unchanged" and not result.verified for result in results):
        blocks.append(f"nothing to do: everything is up to date ({seconds:.1f} s)")
    else:
        blocks.append(f"{_counts(results)} in {duration(seconds)}")
    return "\n\n".join(blocks)


def cell_json(result: CellResult) -> dict[str, Any]:
    """Return what became of a cell, as `--json` shows it."""
    run = result.run
    locked, audit, image = run.find(Locked), run.find(Audit), run.find(Image)
    return {
        "cell": run.job.cell.id,
        "status": result.status,
        "error": result.error.as_json() if result.error else None,
        "stages": {s.stage: {"ran": s.ran, "seconds": s.seconds} for s in result.stages},
        "lock": str(_lock_path(result)) if locked else None,
        "changes": [{**records.plain(change), "words": change.words} for change in (locked.changes if locked else ())],
        "audit": counts(audit) if audit else None,
        "plan": str(run.folder.path) if run.find(Plan) else None,
        "digest": image.digest if image else None,
        "verified": result.verified,
        "size": image.size if image else None,
        "verdict": records.plain(run.find(Verdict)),
        "publication": records.plain(run.find(Publication)),
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
    run = result.run
    return str(run.session.workspace.lock(run.job.recipe.name, run.job.cell.id))


def _cell(result: CellResult, reach: str) -> str:
    run, lines = result.run, [f"{result.run.job.name}: {result.status}"]
    locked, audit, plan, image = run.find(Locked), run.find(Audit), run.find(Plan), run.find(Image)
    if result.error:
        lines.append(f"  error     {result.error.message}")
    if locked:
        lines.append(f"  lock      {_lock_path(result)} ({len(locked.lock.wheels)} wheels)")
    if audit:
        lines.append(f"  audit     {tally(audit)}")
    if plan and not image:
        lines += [f"  plan      {run.folder.path}", f"  build it  {reach}{' '.join(plan.command)}"]
    if image:
        lines += [f"  image     {image.digest}", f"  size      {image.size / 1e6:.0f} MB compressed"]
    if result.verified:
        lines.append("  verified  a second build without any cache gave the same digest")
    if verdict := run.find(Verdict):
        lines += [f"  {line}" for line in _verdict(verdict)]
    if publication := run.find(Publication):
        lines += [f"  pushed    {tag}" for tag in references(publication)]
        lines += [f"  withheld  {line}" for line in withheld(publication)]
    if result.stages:
        each = ", ".join(f"{s.stage} {duration(s.seconds) if s.ran else 'unchanged'}" for s in result.stages)
        lines.append(f"  time      {duration(sum(s.seconds for s in result.stages))}: {each}")
    command = _run_command(run)
    return "\n".join(lines + ([f"  run it    {reach}{command}"] if command else []))


def _verdict(verdict: Verdict) -> list[str]:
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


def _run_command(run: CellRun) -> str | None:
    job, verdict, publication = run.job, run.find(Verdict), run.find(Publication)
    if not verdict:
        return None
    pushed = references(publication) if publication else []
    image = pushed[0] if pushed else run.proven_name
    options = "--runtime nvidia " if job.platform.l4t else ""
    if verdict.level == "emulated":
        # As it was smoked: what makes it bearable under emulation does so here too.
        given = (*emulator_settings(job.platform.architecture), *job.spec.smoke.environment)
        options += "".join(f"-e {shlex.quote(f'{name}={value}')} " for name, value in given)
    port = job.spec.server.port
    return f"docker run --rm --platform linux/{job.platform.architecture} {options}-p 127.0.0.1:{port}:{port} {image}"


def _counts(results: Sequence[CellResult]) -> str:
    words = ("done", "unchanged", "failed")
    counts = {word: sum(1 for r in results if r.status == word) for word in words}
    return ", ".join(f"{count} {word}" for word, count in counts.items() if count)
