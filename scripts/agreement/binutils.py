"""What readelf and nm say of a file, in the words of the audit's reader, and where the two differ."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from builder.audit import elf
from builder.audit.byte_source import File
from builder.host.process import run

if TYPE_CHECKING:
    from pathlib import Path

    from builder.audit.elf import ElfFacts

    Symbols = dict[str, set[tuple[str, str | None, bool]]]

# Num, value, size, type, binding, visibility, section, name. Binding 10 (unique) has no name where the file does not
# say that it is GNU's; arm64 marks some functions with [VARIANT_PCS].
_SYMBOL = re.compile(
    r" *\d+: [0-9a-f]+ +\w+ +\S+ +(GLOBAL|WEAK|UNIQUE|<OS specific>: 10) +(\w+) +(?:\[[^]]*\] +)?"
    r"(UND|ABS|COM|\d+) (\S.*)"
)
_NEED_FILE = re.compile(r"Version: 1  File: (.+)  Cnt: \d+")
_NEED = re.compile(r"Name: (.+)  Flags: (.+?)  Version: \d+")
_DEFINE = re.compile(r"Rev: 1  Flags: .+?  Index: \d+  Cnt: \d+  Name: (.+)")
_NM = re.compile(r"(?:[0-9a-f]+| +) (\w) (.+)")
_VISIBLE = ("DEFAULT", "PROTECTED")


def readelf(path: Path) -> dict[str, object]:
    """Return what readelf says: needed libraries, paths, versions, and symbols as (name, version, weak or hidden)."""
    shown = run(["readelf", "-dVW", "--dyn-syms", str(path)]).stdout
    symbols = _symbols(shown)
    return {
        **_dynamic(shown),
        "version needs": _needs(shown),
        "version defines": set(_DEFINE.findall(shown)),
        "undefined": symbols["undefined"],
        "defined": symbols["defined"],
    }


def nm(path: Path) -> Symbols:
    """Return what nm says of the dynamic symbols."""
    found: Symbols = {"undefined": set(), "defined": set()}
    for line in run(
        ["nm", "-D", "--extern-only", "--with-symbol-versions", str(path)], check=False
    ).stdout.splitlines():
        match = _NM.fullmatch(line)
        if match:
            kind, text = match.groups()
            name, version, hidden = split_version(text)
            undefined = kind in "Uwv" and not line[:16].strip()
            found["undefined" if undefined else "defined"].add(
                (name, version, kind in "wv") if undefined else (name, version, hidden)
            )
    return found


def ours(facts: ElfFacts) -> dict[str, object]:
    """Return what the audit's reader read, in the same words."""
    return {
        "needed": facts.needed,
        "soname": facts.soname,
        "rpath": facts.rpath,
        "runpath": facts.runpath,
        "version needs": {(need.file, need.version, need.weak) for need in facts.version_needs},
        "version defines": set(facts.version_defines),
        "undefined": {(_text(s.name), _version(s.version), s.weak) for s in facts.undefined},
        # Both programs leave the version out where it is the symbol's own name.
        "defined": {
            (_text(s.name), None if s.version == s.name else _version(s.version), s.hidden) for s in facts.defined
        },
    }


def differences(path: Path) -> tuple[int, list[str]]:
    """Return how many symbols a file has, and in what the audit's reader, readelf and nm differ."""
    facts = elf.read_source(File(path))
    mine, said = ours(facts), readelf(path)
    found = [f"readelf: {key}: {_difference(mine[key], said[key])}" for key in mine if mine[key] != said[key]]
    second = nm(path)
    found += [f"nm: {key}: {_difference(mine[key], said)}" for key, said in second.items() if mine[key] != said]
    return len(facts.undefined) + len(facts.defined), found


def split_version(text: str) -> tuple[str, str | None, bool]:
    """Split `name@VERSION` or `name@@VERSION` into name, version, and whether it answers only to that version."""
    name, at, version = text.partition("@")
    if not at or not name:
        return text, None, False
    return name, version.removeprefix("@"), not version.startswith("@")


def _dynamic(shown: str) -> dict[str, object]:
    def one(tag: str) -> str | None:
        match = re.search(rf"\({tag}\).*: \[(.*)\]", shown)
        return match.group(1) if match else None

    needed = tuple(re.findall(r"\(NEEDED\).*: \[(.*)\]", shown))
    return {"needed": needed, "soname": one("SONAME"), "rpath": one("RPATH"), "runpath": one("RUNPATH")}


def _needs(shown: str) -> set[tuple[str, str, bool]]:
    found, file = set(), ""
    for line in shown.splitlines():
        if match := _NEED_FILE.search(line):
            file = match.group(1)
        elif match := _NEED.search(line):
            found.add((file, match.group(1), "WEAK" in match.group(2)))
    return found


def _symbols(shown: str) -> Symbols:
    found: Symbols = {"undefined": set(), "defined": set()}
    for line in shown.splitlines():
        match = _SYMBOL.fullmatch(line)
        if not match:
            continue
        binding, visibility, section, text = match.groups()
        if section == "UND":
            name, version, _ = split_version(re.sub(r" \(\d+\)$", "", text))
            found["undefined"].add((name, version, binding == "WEAK"))
        elif visibility in _VISIBLE:
            found["defined"].add(split_version(text))
    return found


def _text(name: bytes) -> str:
    return name.decode("utf-8", "replace")


def _version(version: bytes | None) -> str | None:
    return None if version is None else _text(version)


def _difference(mine: object, said: object) -> str:
    if isinstance(mine, set) and isinstance(said, set):
        return f"only ours {sorted(map(str, mine - said))[:3]}, only theirs {sorted(map(str, said - mine))[:3]}"
    return f"ours {mine!r}, theirs {said!r}"
