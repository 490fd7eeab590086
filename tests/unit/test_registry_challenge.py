from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from builder.remote.registry.auth import parse_challenges


@pytest.mark.parametrize(
    ("header", "challenges"),
    [
        ("", []),
        ('Basic realm="Registry"', [("basic", {"realm": "Registry"})]),
        ("Negotiate", [("negotiate", {})]),
        (
            'Bearer realm="https://auth.docker.io/token",service="registry.docker.io",scope="repository:a/b:pull,push"',
            [
                (
                    "bearer",
                    {
                        "realm": "https://auth.docker.io/token",
                        "service": "registry.docker.io",
                        "scope": "repository:a/b:pull,push",
                    },
                )
            ],
        ),
        ("bearer Realm=https, error=invalid_token", [("bearer", {"error": "invalid_token"})]),
        (
            'Negotiate, Basic realm="a, b", Bearer realm="c" , service = d',
            [("negotiate", {}), ("basic", {"realm": "a, b"}), ("bearer", {"realm": "c", "service": "d"})],
        ),
        (r'Basic realm="say \"hi\"",charset=UTF-8', [("basic", {"realm": 'say "hi"', "charset": "UTF-8"})]),
        ('Basic realm="never closed', [("basic", {})]),
        ('="x"', []),
    ],
)
def test_headers(header: str, challenges: list[tuple[str, dict[str, str]]]) -> None:
    parsed = parse_challenges(header)
    assert [scheme for scheme, _ in parsed] == [scheme for scheme, _ in challenges]
    for (_, actual), (_, parameters) in zip(parsed, challenges, strict=True):
        assert {name: actual.get(name) for name in parameters} == parameters


@given(st.text())
def test_never_raises(header: str) -> None:
    parse_challenges(header)


TOKENS = st.from_regex(r"[a-z][a-z0-9]{0,8}", fullmatch=True)
VALUES = st.text(st.characters(codec="ascii", exclude_categories=["Cc"]), max_size=20)


@given(st.lists(st.tuples(TOKENS, st.lists(st.tuples(TOKENS, VALUES), max_size=3)), max_size=3))
def test_what_is_written_by_the_grammar_reads_back(challenges: list[tuple[str, list[tuple[str, str]]]]) -> None:
    def quoted(value: str) -> str:
        escaped = value.replace("\\", "\\\\").replace('"', '\\"')
        return f'"{escaped}"'

    header = ", ".join(
        f"{scheme} {','.join(f'{name}={quoted(value)}' for name, value in pairs)}" for scheme, pairs in challenges
    )
    assert parse_challenges(header) == [(scheme, dict(pairs)) for scheme, pairs in challenges]
