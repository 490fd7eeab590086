"""Reads a file with readelf and nm, and compares their output with the facts of the audit's reader."""

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

# Num, value, size, type, binding, visibility, section, name. readelf prints binding 10 (unique) as a number if the file
# lacks the GNU OS/ABI; on arm64, it marks some functions with [VARIANT_PCS].
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
    """Return readelf's facts: needed libraries, paths, versions, and symbols as (name, version, weak or hidden)."""
    output = run(["readelf", "-dVW", "--dyn-syms", str(path)]).stdout
    symbols = _symbols(output)
    return {
        **_dynamic(output),
        "version needs": _needs(output),
        "version defines": set(_DEFINE.findall(output)),
        "undefined": symbols["undefined"],
        "defined": symbols["defined"],
    }


def nm(path: Path) -> Symbols:
    """Return the dynamic symbols that nm lists."""
    symbols: Symbols = {"undefined": set(), "defined": set()}
    for row in run(["nm", "-D", "--extern-only", "--with-symbol-versions", str(path)], check=False).stdout.splitlines():
        match = _NM.fullmatch(row)
        if match:
            kind, text = match.groups()
            name, version, hidden = split_version(text)
            undefined = kind in "Uwv" and not row[:16].strip()
            symbols["undefined" if undefined else "defined"].add(
                (name, version, kind in "wv") if undefined else (name, version, hidden)
            )
    return symbols


def ours(facts: ElfFacts) -> dict[str, object]:
    """Return the facts of the audit's reader, under the same keys."""
    return {
        "needed": facts.needed,
        "soname": facts.soname,
        "rpath": facts.rpath,
        "runpath": facts.runpath,
        "version needs": {(need.file, need.version, need.weak) for need in facts.version_needs},
        "version defines": set(facts.version_defines),
        "undefined": {(_text(s.name), _version(s.version), s.weak) for s in facts.undefined},
        # Both programs omit the version if it equals the symbol's name.
        "defined": {
            (_text(s.name), None if s.version == s.name else _version(s.version), s.hidden) for s in facts.defined
        },
    }


def differences(path: Path) -> tuple[int, list[str]]:
    """Return the number of symbols in a file, and the differences between the audit's reader, readelf and nm."""
    facts = elf.read_source(File(path))
    mine, theirs = ours(facts), readelf(path)
    result = [f"readelf: {key}: {_difference(mine[key], theirs[key])}" for key in mine if mine[key] != theirs[key]]
    symbols = nm(path)
    result += [f"nm: {key}: {_difference(mine[key], value)}" for key, value in symbols.items() if mine[key] != value]
    return len(facts.undefined) + len(facts.defined), result


def split_version(text: str) -> tuple[str, str | None, bool]:
    """Split `name@VERSION` or `name@@VERSION` into name, version, and whether only references to that version match."""
    name, at, version = text.partition("@")
    if not at or not name:
        return text, None, False
    return name, version.removeprefix("@"), not version.startswith("@")


def _dynamic(output: str) -> dict[str, object]:
    def one(tag: str) -> str | None:
        match = re.search(rf"\({tag}\).*: \[(.*)\]", output)
        return match.group(1) if match else None

    needed = tuple(re.findall(r"\(NEEDED\).*: \[(.*)\]", output))
    return {"needed": needed, "soname": one("SONAME"), "rpath": one("RPATH"), "runpath": one("RUNPATH")}


def _needs(output: str) -> set[tuple[str, str, bool]]:
    needs, file = set(), ""
    for row in output.splitlines():
        if match := _NEED_FILE.search(row):
            file = match.group(1)
        elif match := _NEED.search(row):
            needs.add((file, match.group(1), "WEAK" in match.group(2)))
    return needs


def _symbols(output: str) -> Symbols:
    symbols: Symbols = {"undefined": set(), "defined": set()}
    for row in output.splitlines():
        match = _SYMBOL.fullmatch(row)
        if not match:
            continue
        binding, visibility, section, text = match.groups()
        if section == "UND":
            name, version, _ = split_version(re.sub(r" \(\d+\)$", "", text))
            symbols["undefined"].add((name, version, binding == "WEAK"))
        elif visibility in _VISIBLE:
            symbols["defined"].add(split_version(text))
    return symbols


def _text(name: bytes) -> str:
    return name.decode("utf-8", "replace")


def _version(version: bytes | None) -> str | None:
    return None if version is None else _text(version)


def _difference(mine: object, theirs: object) -> str:
    if isinstance(mine, set) and isinstance(theirs, set):
        return f"only ours {sorted(map(str, mine - theirs))[:3]}, only theirs {sorted(map(str, theirs - mine))[:3]}"
    return f"ours {mine!r}, theirs {theirs!r}"
