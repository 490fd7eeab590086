"""Cache rules of the configuration: what buildx would take is taken, everything else is a located mistake."""

from __future__ import annotations

import csv
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from builder.host.buildkit_caches import BuildCache, Direction, read_caches
from builder.host.toml.tables import Document

FOLDER = Path("/project")


def read(texts: list[str], direction: Direction) -> tuple[tuple[BuildCache, ...], list[tuple[str, str, str | None]]]:
    document = Document(path=FOLDER / "jbuild.toml", data={"cache": texts}, text="")
    found = read_caches(document.root(), "cache", direction, FOLDER)
    return found, [(p.key, p.message, p.hint) for p in document.problems]


@pytest.mark.parametrize(
    ("text", "direction", "argument"),
    [
        ("type=registry,ref=localhost:5000/cache", "from", "type=registry,ref=localhost:5000/cache"),
        ("type=registry,ref=h/c:{recipe}-{cell},mode=max", "to", "type=registry,ref=h/c:demo-one_1,mode=max"),
        ("type=local,src=caches/{cell}", "from", "type=local,src=/project/caches/one_1"),
        ("type=local,dest=/var/cache", "to", "type=local,dest=/var/cache"),
        ('type=local,"dest=a,b"', "to", 'type=local,"dest=/project/a,b"'),
        ("type=gha,scope={cell}", "from", "type=gha,scope=one_1"),
        ("type=gha,mode=max,ignore-error=true", "to", "type=gha,mode=max,ignore-error=true"),
    ],
)
def test_rules(text: str, direction: Direction, argument: str) -> None:
    (cache,), problems = read([text], direction)
    assert problems == []
    assert cache.argument("demo", "One_1") == argument


@pytest.mark.parametrize(
    ("text", "direction", "message", "hint"),
    [
        ("host/cache", "from", "`host/cache` has no value", "host/cache=…"),
        ("ref=host/cache", "from", "`type=` is missing", "types: gha, local, registry"),
        ("type=registy,ref=a/b", "from", "`registy` is not a type of cache", "did you mean `registry`?"),
        ("type=s3,bucket=x", "to", "`s3` is not a type of cache", "types: gha, local, registry"),
        ("type=registry", "to", "a cache of type registry needs `ref=`", "type=registry,ref=…"),
        ("type=local,dest=x", "from", "a cache of type local needs `src=`", "type=local,src=…"),
        ("type=registry,ref=a/b,mode=max", "from", "unknown attribute `mode`", None),
        ("type=registry,ref=a/b,moed=max", "to", "unknown attribute `moed`", "did you mean `mode`?"),
        ("type=gha,token=abc", "from", "`token` is a secret", "set ACTIONS_RUNTIME_TOKEN in the environment instead"),
        ("type=registry,ref=a/{axis}", "from", "unknown placeholder `{axis}`", "known: {recipe}, {cell}"),
        ("type=registry,ref=", "from", "`ref` is empty or has a control character", None),
        ("type=registry,ref=a\nb", "from", None, None),
        ("type=registry,ref=a,ref=b", "from", "an attribute occurs twice", None),
        ('type=registry,"ref=a', "from", '`type=registry,"ref=a` cannot be read', None),
        ("", "from", None, None),
    ],
)
def test_mistakes(text: str, direction: Direction, message: str | None, hint: str | None) -> None:
    found, ((key, said, advice),) = read(["type=gha", text], direction)
    assert len(found) == 1
    assert key == "cache[1]"
    assert message in (None, said)
    assert hint in (None, advice)


@given(st.text(max_size=40), st.sampled_from(["from", "to"]))
def test_any_text_is_a_rule_or_a_mistake(text: str, direction: Direction) -> None:
    found, problems = read([text], direction)
    assert len(found) + len(problems) == 1


@given(
    st.text(st.characters(exclude_categories=["Cc", "Cs"]), min_size=1).filter(lambda t: "{" not in t and "/" not in t)
)
def test_an_argument_reads_back_as_it_was_meant(value: str) -> None:
    cache = BuildCache(attributes=(("type", "registry"), ("ref", value)))
    ((first, second),) = csv.reader([cache.argument("r", "c")], strict=True)
    assert (first, second) == ("type=registry", f"ref={value}")


def test_what_is_lacking(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("ACTIONS_RUNTIME_TOKEN", raising=False)
    gha, local = BuildCache(attributes=(("type", "gha"),)), BuildCache(attributes=(("type", "local"), ("src", "x")))
    assert (gha.lacks, local.lacks) == ("ACTIONS_RUNTIME_TOKEN", None)
    monkeypatch.setenv("ACTIONS_RUNTIME_TOKEN", "x")
    assert gha.lacks is None
