"""A hash in a thread of its own: the same as any other, and no thread stays behind."""

from __future__ import annotations

import hashlib
import threading

import pytest
from hypothesis import given
from hypothesis import strategies as st

from builder.host.threaded_hash import ThreadedHash


@given(before=st.binary(), blocks=st.lists(st.binary(max_size=50), max_size=20), after=st.binary())
def test_it_is_the_hash_of_the_whole(before: bytes, blocks: list[bytes], after: bytes) -> None:
    with ThreadedHash(before, after) as digest:
        for block in [b"dropped", *blocks]:
            if block == b"dropped":
                digest.update(block)
                digest.restart()
            else:
                digest.update(block)
        expected = hashlib.sha256(before + b"".join(blocks) + after).hexdigest()
        assert digest.hexdigest() == expected
        assert digest.hexdigest() == expected, "asking twice changes nothing"


def test_no_thread_stays_behind() -> None:
    def interrupted() -> None:
        with ThreadedHash() as digest:
            for _ in range(100):
                digest.update(bytes(1 << 20))
            raise KeyboardInterrupt

    before = threading.active_count()
    with pytest.raises(KeyboardInterrupt):
        interrupted()
    assert threading.active_count() == before
