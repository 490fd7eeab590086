"""JSON from other programs and servers."""

from __future__ import annotations

import pytest

from builder.host.json_documents import decode_json


@pytest.mark.parametrize("content", [b"", b"{", b"\xff", b"[" * 100_000 + b"]" * 100_000, "[" * 100_000])
def test_what_is_not_readable_json(content: bytes | str) -> None:
    with pytest.raises(ValueError, match=r".+"):
        decode_json(content)


def test_bytes_and_text() -> None:
    assert decode_json(b'{"a": [1]}') == decode_json('{"a": [1]}') == {"a": [1]}
