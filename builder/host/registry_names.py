"""The names of registries as users write them, `host[:port][/prefix]`, with advice for names of another form."""

from __future__ import annotations

import re
from functools import partial

from builder.host.toml.declarations import ValueType, list_schema, string_schema

_SCHEME = re.compile(r"^([A-Za-z][A-Za-z0-9+.-]*)://")
_LOGIN = re.compile(r"^[^/@]*@")
_DIGEST = re.compile(r"@[A-Za-z0-9]+:[0-9A-Fa-f]+$")
_TAG = re.compile(r"(?<=[^:/]):[^:/]*$")
_API = re.compile(r"/v[12](/.*)?$")


def slashed(pattern: str) -> str:
    """Return a pattern of names that may end with slashes; `bare` removes these."""
    return f"(?:{pattern})/*"


def bare(name: str) -> str:
    """Return a name without slashes at its end."""
    return name.rstrip("/")


def advice(name: str, pattern: str) -> str | None:
    """Return what to write in place of a name that does not match the pattern, and why; None if that is not clear."""
    reasons, text = [], name.strip()
    for reason, part in (("the scheme", _SCHEME), ("the login", _LOGIN), ("the digest", _DIGEST)):
        shorter = part.sub("", text)
        if shorter != text:
            reasons.append(f"omit {reason}")
        text = shorter
    text = re.sub("/+", "/", bare(text))
    host, slash, path = text.partition("/")
    if slash:
        without_api, without_tag = _API.sub("", f"/{path}"), _TAG.sub("", path)
        if without_tag != path:
            reasons.append("omit the tag")
            path = without_tag
        elif without_api != f"/{path}":
            reasons.append("omit the path of the API")
            path = without_api.lstrip("/")
    if path.lower() != path:
        reasons.append("upper case is not allowed")
    proposal = bare(f"{host}{slash}{path.lower()}")
    if proposal == name or not re.fullmatch(pattern, proposal):
        return None
    return f"{', '.join(reasons)}: write {proposal}" if reasons else f"write {proposal}"


def registry(pattern: str, noun: str) -> ValueType:
    """Return the type of a registry's name, or of the beginning of image names."""
    advise = partial(advice, pattern=pattern)
    return ValueType(
        read=lambda table, key, _: bare(table.string(key, pattern=slashed(pattern), noun=noun, advise=advise)),
        schema=lambda: string_schema(slashed(pattern)),
    )


def registries(pattern: str, noun: str) -> ValueType:
    """Return the type of lists of registries' names."""
    advise = partial(advice, pattern=pattern)
    return ValueType(
        read=lambda table, key, _: tuple(
            bare(name) for name in table.strings(key, pattern=slashed(pattern), noun=noun, advise=advise)
        ),
        schema=lambda: list_schema(string_schema(slashed(pattern))),
    )
