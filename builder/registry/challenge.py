"""`WWW-Authenticate` headers (RFC 9110, section 11.6.1): one header may hold several challenges."""

from __future__ import annotations

import re
from dataclasses import dataclass

_TOKEN = r"[!#$%&'*+.^_`|~0-9A-Za-z-]+"  # noqa: S105
_PARAMETER = re.compile(rf'({_TOKEN})\s*=\s*(?:"((?:[^"\\]|\\.)*)"|({_TOKEN}))')
_SCHEME = re.compile(rf"({_TOKEN})(?=\s|,|$)")
_GAP = re.compile(r"[\s,]*")


@dataclass(frozen=True, kw_only=True, slots=True)
class Challenge:
    """One way to log in that a server offers; scheme and parameter names are in lower case."""

    scheme: str
    parameters: tuple[tuple[str, str], ...] = ()

    def get(self, name: str) -> str | None:
        """Return a parameter's value, or None."""
        return dict(self.parameters).get(name)


def parse(header: str) -> tuple[Challenge, ...]:
    """Return the challenges of a header in its order. What cannot be read ends the list; it never raises."""
    found: list[tuple[str, list[tuple[str, str]]]] = []
    position = 0
    while True:
        position = _end_of(_GAP.match(header, position), position)
        parameter = _PARAMETER.match(header, position)
        scheme = _SCHEME.match(header, position)
        if parameter and found:
            value = parameter[3] if parameter[2] is None else re.sub(r"\\(.)", r"\1", parameter[2])
            found[-1][1].append((parameter[1].lower(), value))
        elif scheme and not parameter:
            found.append((scheme[1].lower(), []))
        else:
            return tuple(Challenge(scheme=name, parameters=tuple(pairs)) for name, pairs in found)
        position = _end_of(parameter or scheme, position)


def _end_of(match: re.Match[str] | None, position: int) -> int:
    return match.end() if match else position
