"""A wheel whose METADATA differs from what the index served at lock time."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import pytest
from factories import locked, make_wheel

from builder.errors import IntegrityError
from builder.host.files import write_bytes
from builder.remote.index.remote_wheel import metadata_of, with_archive
from builder.remote.wheelhouse import fetch

if TYPE_CHECKING:
    from pathlib import Path

    from builder.host.session import Session
    from builder.model.wheels import LockedWheel


@pytest.fixture
def wheel(tmp_path: Path) -> LockedWheel:
    """A wheel of an index that its package is tied to."""
    return replace(locked(make_wheel(tmp_path, "demo", requires=("numpy<2", "torch"))), index="jet")


def said(wheel: LockedWheel, session: Session, *, without: bytes = b"", more: bytes = b"") -> Path:
    """Keep what the index is to have said of a wheel."""
    with open(wheel.url, "rb") as file:  # noqa: PTH123  # a lock's URL may be a path
        own = with_archive(file, metadata_of)
    kept = session.workspace.metadata(wheel.sha256)
    write_bytes(kept, more + own.replace(without, b""))
    return kept


def test_what_was_said_is_so(wheel: LockedWheel, session: Session) -> None:
    kept = said(wheel, session)
    assert fetch([wheel], session) > 0
    assert kept.is_file()


def test_what_decides_nothing_may_differ(wheel: LockedWheel, session: Session) -> None:
    said(wheel, session, more=b"Summary: another\n")
    assert fetch([wheel], session) > 0


@pytest.mark.parametrize("change", [{"without": b"Requires-Dist: numpy<2\n"}, {"more": b"Requires-Python: >=3.9\n"}])
def test_a_wheel_that_asks_for_something_else_is_refused(
    wheel: LockedWheel, session: Session, change: dict[str, bytes]
) -> None:
    kept = said(wheel, session, **change)
    for _ in range(2):
        with pytest.raises(IntegrityError, match="differs from what the index served at lock time") as caught:
            fetch([wheel], session)
        assert caught.value.where == wheel.url
        assert not session.workspace.wheel(wheel.sha256, wheel.filename).exists()
    assert not kept.exists(), "locking anew reads it again"
    said(wheel, session)
    assert fetch([wheel], session) > 0
    session.workspace.wheel(wheel.sha256, wheel.filename).unlink()
    kept.unlink()
    assert fetch([wheel], session) > 0, "what was refused once is forgotten"


def test_what_is_kept_of_other_packages_has_decided_nothing(wheel: LockedWheel, session: Session) -> None:
    said(wheel, session, without=b"Requires-Dist: numpy<2\n")
    assert fetch([replace(wheel, index=None)], session) > 0


def test_a_wheel_of_which_nothing_was_read_before(wheel: LockedWheel, session: Session) -> None:
    assert fetch([wheel], session) > 0
