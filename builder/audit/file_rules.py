"""What wheels hold: files that cannot be read, of other machines or Pythons, owned twice, or beyond their tags."""

from __future__ import annotations

import posixpath
import re
from array import array
from collections import defaultdict
from typing import TYPE_CHECKING

from packaging.utils import InvalidWheelFilename, parse_wheel_filename

from builder.audit.audit_context import finding, named
from builder.audit.load_outcome import Outdated
from builder.audit.rule_tables import tables
from builder.model.audits import Finding

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from builder.audit.audit_context import AuditContext
    from builder.audit.environment import Node
    from builder.model.audits import Severity
    from builder.model.locks import LockedWheel

_MACHINE_NAMES = {3: "x86", 8: "MIPS", 20: "PowerPC", 21: "ppc64", 22: "s390", 40: "arm", 62: "x86_64", 183: "aarch64"}
_MACHINE_NAMES |= {243: "RISC-V", 258: "LoongArch"}
_SUFFIX = re.compile(r"(?P<stem>.+?)\.cpython-(?P<version>[0-9]{2,3})[a-z]*-[^.]+\.so$")
_LIBRARY = re.compile(r"\.so(\.[0-9][^/]*)?$")
# Files that many wheels bring by mistake or by custom, and that nothing reads.
_HARMLESS = re.compile(
    r"(.*/)?(__init__\.py|LICEN[CS]E[^/]*|README[^/]*|CHANGELOG[^/]*|NOTICE[^/]*|py\.typed|(build_backend|setup|conftest)\.py)|tests?/.*|docs?/.*"
)
_LEGACY = {"manylinux1": (5,), "manylinux2010": (12,), "manylinux2014": (17,)}


def damaged(case: AuditContext) -> Iterator[Finding]:
    """Yield files that cannot be read, or that no wheel should hold."""
    for wheel in case.environment.wheels:
        flaws = case.environment.facts[wheel.sha256].flaws
        grouped: dict[str, list[str]] = defaultdict(list)
        for path, flaw in flaws:
            grouped[re.sub(r"[0-9]+", "…", flaw)].append(path)
        texts = {re.sub(r"[0-9]+", "…", flaw): flaw for _, flaw in reversed(flaws)}
        for key, paths in grouped.items():
            severity: Severity = "warning" if "twice" in key or "symbolic" in key else "error"
            yield Finding(
                rule="damaged-wheel",
                severity=severity,
                wheel=named(wheel),
                file=paths[0],
                detail=texts[key],
                fix="report it to the wheel's authors, and exclude this version with `constraints`",
                also=tuple(paths[1:]),
            )


def wrong_machine(case: AuditContext) -> Iterator[Finding]:
    """Yield binaries of other machines, one finding a wheel and machine."""
    wanted = _MACHINE_NAMES[case.environment.machine]
    grouped: dict[tuple[str, str], list[Node]] = defaultdict(list)
    right: set[str] = set()
    for node in case.environment.nodes:
        name = node.wheel.name if node.wheel else ""
        if case.loader.fits(node):
            right.add(name)
        else:
            grouped[name, _machine(node)].append(node)
    for (name, machine), nodes in grouped.items():
        modules = [node for node in nodes if node.binary.inits and for_python(node, case) is not False]
        grave = bool(modules) and (name not in right or not _has_twin(modules[0], case))
        first = (modules or nodes)[0]
        lone = "" if name in right else ", and the wheel has none for it"
        yield finding(
            "wrong-machine",
            "error" if grave or (name not in right and not _is_any(first.wheel)) else "warning",
            first,
            f"is for {machine}, the image for {wanted}{lone}",
            f"take the wheel for {wanted}, or one that has both",
            also=tuple(node.shown for node in nodes if node is not first),
        )


def _machine(node: Node) -> str:
    header = node.binary.header
    name = _MACHINE_NAMES.get(header.machine, f"machine {header.machine}")
    return name + ("" if header.bits == 64 or header.machine in (3, 40) else f" ({header.bits} bit)")  # noqa: PLR2004


def _has_twin(node: Node, case: AuditContext) -> bool:
    """Return whether the same module is there for the right machine too."""
    wanted = set(node.binary.inits)
    same = (n for n in case.environment.nodes if n.wheel is node.wheel and wanted & set(n.binary.inits))
    return any(case.loader.fits(other) for other in same)


def _is_any(wheel: LockedWheel | None) -> bool:
    return bool(wheel) and wheel.filename.endswith("-any.whl")  # type: ignore[union-attr]


def other_python(case: AuditContext) -> Iterator[Finding]:
    """Yield extension modules that this Python does not import, where it has no others of that name."""
    python = case.environment.platform.python
    for wheel in case.environment.wheels:
        nodes = [node for node in case.environment.nodes if node.wheel is wheel and node.binary.inits]
        other = [node for node in nodes if for_python(node, case) is False]
        fitting = {_stem(node) for node in nodes if for_python(node, case) is not False}
        lone = [node for node in other if _stem(node) not in fitting]
        if lone:
            found = sorted({_SUFFIX.match(node.name)["version"] for node in lone})  # type: ignore[index]
            versions = " and ".join(f"{version[0]}.{version[1:]}" for version in found)
            yield finding(
                "other-python",
                "warning" if fitting else "error",
                lone[0],
                f"is for Python {versions}; the image has {python}, which does not see it",
                f"take the wheel for Python {python}",
                also=tuple(node.shown for node in lone[1:]),
            )


def for_python(node: Node, case: AuditContext) -> bool | None:
    """Return whether a module's name says that this Python imports it; None if it says nothing."""
    found = _SUFFIX.match(node.name)
    if not found:
        return None
    return found["version"] == case.environment.platform.python.replace(".", "")


def _stem(node: Node) -> str:
    found = _SUFFIX.match(node.name)
    name = found["stem"] if found else node.name.partition(".")[0]
    return posixpath.join(posixpath.dirname(node.shown), name)


def conflicts(case: AuditContext) -> Iterator[Finding]:
    """Yield files that two wheels own with different content, one finding a pair of wheels."""
    owners: dict[int, tuple[int, int]] = {}
    clashes: dict[tuple[int, int], list[int]] = defaultdict(list)
    wheels = case.environment.wheels
    for number, wheel in enumerate(wheels):
        facts = case.environment.facts[wheel.sha256]
        for index, (key, content) in enumerate(
            zip(array("Q", facts.file_keys), array("Q", facts.contents), strict=True)
        ):
            other = owners.setdefault(key, (number, content))
            if other[0] != number and other[1] != content:
                clashes[other[0], number].append(index)
    for (one, two), indices in clashes.items():
        paths = case.environment.facts[wheels[two].sha256].paths
        yield from _conflict(wheels[one], wheels[two], [paths[index] for index in indices])


def _conflict(one: LockedWheel, two: LockedWheel, paths: Sequence[str]) -> Iterator[Finding]:
    grave = [path for path in paths if not _HARMLESS.fullmatch(path)]
    shown = grave or list(paths)
    yield Finding(
        rule="file-conflict",
        severity="warning" if grave else "info",
        wheel=named(two),
        file=shown[0],
        detail=f"is another file than that of {named(one)}; the image has the one that is unpacked last",
        fix=f"keep one of {one.name} and {two.name}" if grave else "nothing to do unless something reads it",
        also=tuple(shown[1:]),
    )


def tag_lies(case: AuditContext) -> Iterator[Finding]:
    """Yield wheels whose binaries need more than their tag promises."""
    failures = [failure for verdict in case.verdicts for failure in verdict.failures]
    stopped = {failure.node.wheel for failure in failures if isinstance(failure, Outdated)}
    for wheel in case.environment.wheels:
        promised = _promised(wheel)
        nodes = [node for node in case.environment.nodes if node.wheel is wheel and node.is_library]
        if promised is None or not nodes:
            continue
        ceilings = {"GLIBC": (2, promised), "GLIBCXX": _glibcxx(promised)}
        worst = [(family, *_newest(nodes, family)) for family in ceilings]
        beyond = [(family, version, node) for family, version, node in worst if version > ceilings[family] != ()]
        for family, version, node in beyond:
            text = ".".join(map(str, version))
            yield finding(
                "tag-lies",
                "warning" if wheel in stopped else "info",
                node,  # type: ignore[arg-type]
                f"needs {family}_{text}; the tag manylinux_2_{promised} promises {_dotted(ceilings[family])} at most",
                "believe the symbol versions, not the name: `symbol-version` tells whether the image has them",
            )


def _promised(wheel: LockedWheel) -> int | None:
    """Return the glibc (2.x) that a wheel's name promises to do with: the oldest of its tags."""
    try:
        tags = parse_wheel_filename(wheel.filename)[3]
    except InvalidWheelFilename:
        return None
    found = []
    for tag in tags:
        if match := re.match(r"manylinux_2_([0-9]+)_", tag.platform):
            found.append(int(match[1]))
        found += _LEGACY.get(tag.platform.partition("_")[0], ())
    return min(found, default=None)


def _glibcxx(promised: int) -> tuple[int, ...]:
    rows = [(int(tag.rpartition("_")[2]), version) for tag, version in tables().promises]
    return max(((minor, _tuple(version)) for minor, version in rows if minor <= promised), default=(0, ()))[1]


def _newest(nodes: Sequence[Node], family: str) -> tuple[tuple[int, ...], Node | None]:
    needs = [
        (_tuple(need.version), node)
        for node in nodes
        for need in node.binary.version_needs
        if need.version.partition("_")[0] == family and re.fullmatch(r"[A-Z]+_[0-9.]+", need.version)
    ]
    return max(needs, key=lambda pair: pair[0], default=((), None))


def _tuple(version: str) -> tuple[int, ...]:
    return tuple(int(part) for part in re.findall(r"[0-9]+", version))


def _dotted(version: tuple[int, ...]) -> str:
    return ".".join(map(str, version))


_FILE = "/etc/os-release"


def other_distribution(case: AuditContext) -> Iterator[Finding]:
    """Yield a base image of another distribution than the cell's: other packages, another Python and C library.

    One that stands in for the real one, by a mirror rule that says so, is a warning: the real one may well be right.
    """
    environment = case.environment
    said = environment.base.distribution if environment.base else ()
    wanted = environment.platform.distribution
    if not said or wanted in said:
        return
    yield Finding(
        rule="other-distribution",
        severity="warning" if case.stand_in else "error",
        wheel=named(None),
        file=_FILE,
        detail=f"says {said[0]}, and the cell is for {wanted}"
        + (f"; it stands in for the real one: {case.stand_in}" if case.stand_in else ""),
        fix=f"name an image of {wanted} as `image` under [base], or make the cell one of {said[0]}: "
        "the axes `distribution` or `ubuntu` choose it",
    )
