"""Files that cannot be read, are for another system, machine or Python, have two owners, or exceed their tags."""

from __future__ import annotations

import posixpath
import re
from array import array
from collections import defaultdict
from typing import TYPE_CHECKING

from packaging.utils import InvalidWheelFilename, parse_wheel_filename

from builder.audit.audit_context import finding, named
from builder.audit.load_outcome import Outdated
from builder.audit.rule_tables import tables, version_numbers
from builder.model.audits import Finding

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from builder.audit.audit_context import AuditContext
    from builder.audit.environment import Node
    from builder.model.audits import Severity
    from builder.model.wheels import LockedWheel

_MACHINE_NAMES = {3: "x86", 8: "MIPS", 20: "PowerPC", 21: "ppc64", 22: "s390", 40: "arm", 62: "x86_64", 183: "aarch64"}
_MACHINE_NAMES |= {243: "RISC-V", 258: "LoongArch"}
_SUFFIX = re.compile(r"(?P<stem>.+?)\.cpython-(?P<version>[0-9]{2,3})[a-z]*-[^.]+\.so$")
# Files that many wheels contain by mistake or by custom, and that nothing reads.
_HARMLESS = re.compile(
    r"(.*/)?(__init__\.py|LICEN[CS]E[^/]*|README[^/]*|CHANGELOG[^/]*|NOTICE[^/]*|py\.typed|(build_backend|setup|conftest)\.py)|tests?/.*|docs?/.*"
)
_LEGACY = {"manylinux1": (5,), "manylinux2010": (12,), "manylinux2014": (17,)}


def damaged(case: AuditContext) -> Iterator[Finding]:
    """Yield files that cannot be read, or that no wheel should contain."""
    for wheel in case.environment.wheels:
        grouped: dict[str, list[tuple[str, str]]] = defaultdict(list)
        for path, flaw in case.environment.facts[wheel.sha256].flaws:
            grouped[re.sub(r"[0-9]+", "…", flaw)].append((path, flaw))
        for (file, detail), *others in grouped.values():
            severity: Severity = "warning" if "twice" in detail or "symbolic" in detail else "error"
            yield Finding(
                rule="damaged-wheel",
                severity=severity,
                wheel=named(wheel),
                file=file,
                detail=detail,
                fix="report it to the wheel's authors, and exclude this version with `constraints`",
                also=tuple(path for path, _ in others),
            )


def wrong_machine(case: AuditContext) -> Iterator[Finding]:
    """Yield binaries of other machines, one finding a wheel and machine."""
    machine_name = _MACHINE_NAMES[case.environment.machine]
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
        is_any = first.wheel is not None and first.wheel.filename.endswith("-any.whl")
        lone = "" if name in right else ", and the wheel has none for it"
        yield finding(
            "wrong-machine",
            "error" if grave or (name not in right and not is_any) else "warning",
            [first, *nodes],
            f"is for {machine}, the image for {machine_name}{lone}",
            f"take the wheel for {machine_name}, or one that has both",
        )


def _machine(node: Node) -> str:
    header = node.binary.header
    name = _MACHINE_NAMES.get(header.machine, f"machine {header.machine}")
    return name + ("" if header.bits == 64 or header.machine in (3, 40) else f" ({header.bits} bit)")  # noqa: PLR2004


def _has_twin(node: Node, case: AuditContext) -> bool:
    """Return whether the wheel has the same module for the right machine too."""
    modules = set(node.binary.inits)
    same = (n for n in case.environment.nodes if n.wheel is node.wheel and modules & set(n.binary.inits))
    return any(case.loader.fits(twin) for twin in same)


def other_python(case: AuditContext) -> Iterator[Finding]:
    """Yield extension modules that this Python does not import, and that have no twin that it does import."""
    python = case.environment.platform.python
    for wheel in case.environment.wheels:
        nodes = [node for node in case.environment.nodes if node.wheel is wheel and node.binary.inits]
        foreign = [node for node in nodes if for_python(node, case) is False]
        fitting = {_stem(node) for node in nodes if for_python(node, case) is not False}
        lone = [node for node in foreign if _stem(node) not in fitting]
        if lone:
            pythons = sorted({_SUFFIX.match(node.name)["version"] for node in lone})  # type: ignore[index]
            versions = " and ".join(f"{version[0]}.{version[1:]}" for version in pythons)
            yield finding(
                "other-python",
                "warning" if fitting else "error",
                lone,
                f"is for Python {versions}; the image has {python}, which does not see it",
                f"take the wheel for Python {python}",
            )


def for_python(node: Node, case: AuditContext) -> bool | None:
    """Return whether the Python version in a module's name is this one's; None if it has none."""
    suffix = _SUFFIX.match(node.name)
    return suffix["version"] == case.environment.platform.python.replace(".", "") if suffix else None


def _stem(node: Node) -> str:
    suffix = _SUFFIX.match(node.name)
    name = suffix["stem"] if suffix else node.name.partition(".")[0]
    return posixpath.join(posixpath.dirname(node.file), name)


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
            owner = owners.setdefault(key, (number, content))
            if owner[0] != number and owner[1] != content:
                clashes[owner[0], number].append(index)
    for (one, two), indices in clashes.items():
        paths = case.environment.facts[wheels[two].sha256].paths
        yield from _conflict(wheels[one], wheels[two], [paths[index] for index in indices])


def _conflict(one: LockedWheel, two: LockedWheel, paths: Sequence[str]) -> Iterator[Finding]:
    grave = [path for path in paths if not _HARMLESS.fullmatch(path)]
    files = grave or list(paths)
    yield Finding(
        rule="file-conflict",
        severity="warning" if grave else "info",
        wheel=named(two),
        file=files[0],
        detail=f"is another file than that of {named(one)}; the image has the one that is unpacked last",
        fix=f"keep one of {one.name} and {two.name}" if grave else "nothing to do unless something reads it",
        also=tuple(files[1:]),
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
        for family, version, node in worst:
            if node is None or not version > ceilings[family] != ():
                continue
            promise = _dotted(ceilings[family])
            yield finding(
                "tag-lies",
                "warning" if wheel in stopped else "info",
                [node],
                f"needs {family}_{_dotted(version)}; the tag manylinux_2_{promised} promises {promise} at most",
                "believe the symbol versions, not the name: `symbol-version` tells whether the image has them",
            )


def _promised(wheel: LockedWheel) -> int | None:
    """Return the minor version of glibc 2 that a wheel's name promises to need at most: its oldest tag's."""
    try:
        tags = parse_wheel_filename(wheel.filename)[3]
    except InvalidWheelFilename:
        return None
    promises = []
    for tag in tags:
        if match := re.match(r"manylinux_2_([0-9]+)_", tag.platform):
            promises.append(int(match[1]))
        promises += _LEGACY.get(tag.platform.partition("_")[0], ())
    return min(promises, default=None)


def _glibcxx(promised: int) -> tuple[int, ...]:
    rows = [(int(tag.rpartition("_")[2]), version) for tag, version in tables().promises]
    return max(((minor, version_numbers(version)) for minor, version in rows if minor <= promised), default=(0, ()))[1]


def _newest(nodes: Sequence[Node], family: str) -> tuple[tuple[int, ...], Node | None]:
    needs = [
        (version_numbers(need.version), node)
        for node in nodes
        for need in node.binary.version_needs
        if need.version.partition("_")[0] == family and re.fullmatch(r"[A-Z]+_[0-9.]+", need.version)
    ]
    return max(needs, key=lambda pair: pair[0], default=((), None))


def _dotted(version: tuple[int, ...]) -> str:
    return ".".join(map(str, version))


def other_distribution(case: AuditContext) -> Iterator[Finding]:
    """Yield a base image of another distribution than the cell's: other packages, another Python and C library.

    A stand-in for the real one, declared by a mirror rule, is only a warning: the real one may be right.
    """
    environment = case.environment
    names = environment.base.distribution if environment.base else ()
    distribution = environment.platform.distribution
    if not names or distribution in names:
        return
    yield Finding(
        rule="other-distribution",
        severity="warning" if case.stand_in else "error",
        wheel=named(None),
        file="/etc/os-release",
        detail=f"says {names[0]}, and the cell is for {distribution}"
        + (f"; it stands in for the real one: {case.stand_in}" if case.stand_in else ""),
        fix=f"name an image of {distribution} as `image` under [base], or make the cell one of {names[0]}: "
        "the axes `distribution` or `ubuntu` choose it",
    )
