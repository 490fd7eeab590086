"""The verdict of a cell's image as a file, for a machine that may set tags."""

from __future__ import annotations

from typing import TYPE_CHECKING

from builder.errors import UsageError
from builder.host.files import write_bytes
from builder.pipeline.cell import CellRecords
from builder.publish import statements
from builder.publish.signing import signer

if TYPE_CHECKING:
    from pathlib import Path

    from builder.host.session import Session
    from builder.model.locks import Job
    from builder.model.verdicts import Verdict


def write_verdict(job: Job, session: Session, path: Path) -> Verdict:
    """Write the verdict of a cell's latest image, signed if a key is configured; return it.

    Raises:
        UsageError: the image has no passing verdict, or it cannot be signed.
        DiskError: the file cannot be written.
    """
    records = CellRecords(session.workspace.cell(job.recipe.name, job.cell.id))
    image, verdict = records.image(), records.proven()
    if image is None or verdict is None:
        raise UsageError(
            "the latest image of this cell has no passing smoke verdict",
            where=job.name,
            hint=f"run `jbuild smoke {job.recipe.name} --cell {job.cell.id}`",
        )
    checksum = dict(image.labels).get("io.jbuild.lock", "")
    predicate = statements.verdict_predicate(verdict, job.recipe.name, job.cell.id, checksum)
    content = statements.statement(image.digest, job.spec.publish.repository, statements.VERDICT, predicate)
    sign = signer(session.config, session.workspace)
    if sign:
        content = statements.envelope(content, sign.sign(statements.signed_bytes(content)))
    else:
        session.console.warn("the verdict is not signed: no `cosign-key` is configured")
    write_bytes(path, content)
    return verdict
