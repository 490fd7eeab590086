"""Makes the trees of a lock: unpacks wheels on all processors while others download."""

from __future__ import annotations

from concurrent.futures import as_completed
from contextlib import suppress
from typing import TYPE_CHECKING

from builder.host.concurrency import workers
from builder.host.files import mark_used
from builder.image.wheels.tree import Unpacking, unpack, unpacking
from builder.remote.wheelhouse import fetch

if TYPE_CHECKING:
    from collections.abc import Sequence
    from concurrent.futures import Future
    from pathlib import Path

    from builder.host.interpreters import Compiler
    from builder.host.session import Session
    from builder.model.locks import LockedWheel


def prepare(wheels: Sequence[LockedWheel], python: str, compiler: Compiler | None, session: Session) -> dict[str, Path]:
    """Return the tree of each wheel by its sha256, after fetching and unpacking missing ones.

    Raises:
        NetworkError, IntegrityError, DiskError: a wheel cannot be fetched, verified or stored.
    """
    plans = {wheel.sha256: unpacking(wheel, python, compiler, session.workspace) for wheel in wheels}
    for plan in plans.values():
        mark_used(plan.wheel.parent)
    missing = [wheel for wheel in wheels if not mark_used(plans[wheel.sha256].tree)]
    # The largest first: started last, one would keep a single processor busy after all others.
    missing.sort(key=lambda wheel: wheel.size or 0, reverse=True)
    if missing:
        _unpack(missing, plans, session)
    return {sha256: plan.tree for sha256, plan in plans.items()}


def _unpack(missing: Sequence[LockedWheel], plans: dict[str, Unpacking], session: Session) -> None:
    title = f"unpacking {len(missing)} wheels"
    with session.console.task(title, len(missing), unit="wheels") as task, workers() as pool:
        running: list[Future[None]] = []

        def begin(wheel: LockedWheel) -> None:
            future = pool.submit(unpack, plans[wheel.sha256])
            future.add_done_callback(done)
            running.append(future)

        def done(_: Future[None]) -> None:
            # Runs in the pool's own thread, which an exception would end; `check` below raises the same one.
            with suppress(KeyboardInterrupt):
                task.advance(1)

        fetch(missing, session, on_fetched=begin)
        for future in as_completed(running):
            session.console.check()
            future.result()
