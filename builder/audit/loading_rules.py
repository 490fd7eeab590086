"""Files that the loader would refuse: missing libraries, versions and symbols, grouped by cause."""

from __future__ import annotations

import re
from collections import defaultdict
from typing import TYPE_CHECKING

from builder.audit.audit_context import finding, named
from builder.audit.environment import Node, ceiling
from builder.audit.file_rules import for_python
from builder.audit.load_outcome import Dependent, ExecutableStack, MissingLibrary, Outdated, UnresolvedSymbol
from builder.audit.loader import STRICT_GLIBC
from builder.audit.rule_tables import version_numbers
from builder.jetson.distributions import distributions, platforms
from builder.model.audits import SEVERITIES, Finding

if TYPE_CHECKING:
    from collections.abc import Callable, Hashable, Iterable, Iterator

    from builder.audit.audit_context import AuditContext
    from builder.audit.load_outcome import Cause, LoadOutcome
    from builder.jetson.distributions import Distribution
    from builder.model.audits import Finding, Severity
    from builder.model.platforms import Platform

# Of C++ names, in characters: longer ones are not demangled, and cut in findings.
_LONGEST = 2000
_LONGEST_SHOWN = 160
_RULES: dict[type, str] = {
    MissingLibrary: "missing-library",
    Outdated: "symbol-version",
    UnresolvedSymbol: "undefined-symbol",
    ExecutableStack: "executable-stack",
}


def loading(case: AuditContext) -> Iterator[Finding]:
    """Yield the files that the loader would refuse; one finding a cause, however many files it stops."""
    grouped: dict[Hashable, list[tuple[Cause, Severity]]] = defaultdict(list)
    unused: dict[tuple[str, str], list[LoadOutcome]] = defaultdict(list)
    for verdict in case.verdicts:
        if not case.loader.fits(verdict.node) or for_python(verdict.node, case) is False:
            # Other rules report them: nothing here loads them.
            continue
        exempt = case.exempt(verdict.node) or case.other_gpus(verdict.node)
        if exempt and verdict.failures:
            unused[named(verdict.node.wheel), exempt.why].append(verdict)
            continue
        for failure in _causes(verdict):
            grouped[_cause(case, failure)].append((failure, _severity(case, verdict, failure)))
    for (_, why), verdicts in unused.items():
        yield _unused(verdicts, why)
    for rows in grouped.values():
        severity = min((severity for _, severity in rows), key=SEVERITIES.index)
        failures = list(dict.fromkeys(failure for failure, _ in rows))
        yield _finding(case, failures, severity)
    yield from _by_runtime(case)
    yield from _by_import(case)


def _unused(verdicts: list[LoadOutcome], why: str) -> Finding:
    """Return one finding about files that do not load and need not."""
    failures = [failure for verdict in verdicts for failure in _causes(verdict)]
    lacking = sorted({failure.library for failure in failures if isinstance(failure, MissingLibrary)})
    want = f", for want of {', '.join(lacking)}" if lacking else ""
    nodes, fix = [verdict.node for verdict in verdicts], "nothing to do unless you use it"
    return finding(_RULES[type(failures[0])], "info", nodes, f"does not load{want}; {why}", fix)


def _causes(verdict: LoadOutcome) -> Iterator[Cause]:
    """Yield the root causes: a file that fails because of another one counts with that one."""
    for failure in verdict.failures:
        yield from failure.causes if isinstance(failure, Dependent) else (failure,)


def _cause(case: AuditContext, failure: Cause) -> Hashable:
    wheel = failure.node.wheel.name if failure.node.wheel else None
    if isinstance(failure, MissingLibrary):
        copy = _unreachable_copy(case, failure.library)
        return ("missing", wheel, _advice(case, failure.library), named(copy.wheel) if copy else None)
    if isinstance(failure, Outdated):
        return ("version", wheel, failure.need.file, failure.need.version.partition("_")[0])
    if isinstance(failure, ExecutableStack):
        return ("stack", wheel)
    return ("symbol", wheel, named(failure.blamed.wheel) if failure.blamed else "", bool(failure.definers))


def _severity(case: AuditContext, verdict: LoadOutcome, failure: Cause) -> Severity:
    """A module that Python imports must load; a library for other files may never be needed."""
    if isinstance(failure, MissingLibrary):
        copy = _unreachable_copy(case, failure.library)
        # A Jetson's base image has CUDA and much else, but could not be read.
        maybe = copy or case.environment.unknown_packages or (case.unread and case.l4t)
        return "error" if verdict.node.is_module and not maybe else "warning"
    if isinstance(failure, UnresolvedSymbol):
        return "warning" if failure.definers else "error"
    return "error" if verdict.node.is_module else "warning"


def _finding(case: AuditContext, failures: list[Cause], severity: Severity) -> Finding:
    first = failures[0]
    if isinstance(first, MissingLibrary):
        return _missing(case, first, failures, severity)
    if isinstance(first, Outdated):
        return _outdated(case, [failure for failure in failures if isinstance(failure, Outdated)], severity)
    if isinstance(first, ExecutableStack):
        detail = "wants an executable stack, which the C library of this base refuses from 2.41 on"
        fix = "take a newer build of it"
        if bases := list(bases_for(case.environment.platform, lambda row: version_numbers(row.glibc) < STRICT_GLIBC)):
            fix += f", or a base with an older C library: {', '.join(bases)}"
        return finding("executable-stack", severity, _nodes(failures), detail, fix)
    return _undefined(first, failures, severity)


def _nodes(failures: Iterable[Cause]) -> list[Node]:
    return [failure.node for failure in failures]


def _missing(case: AuditContext, first: MissingLibrary, failures: list[Cause], severity: Severity) -> Finding:
    library = first.library
    missing = [failure for failure in failures if isinstance(failure, MissingLibrary)]
    libraries, others = _needs(first.node, ((failure.node, failure.library) for failure in missing))
    wrong = next((n for n in case.environment.nodes if n.name == library and not case.loader.fits(n)), None)
    nothing = f"only {named(wrong.wheel)} has one, for another machine" if wrong else "nothing brings it"
    copy = _unreachable_copy(case, library)
    detail, fix = f"needs {libraries}, and {nothing}", _advice(case, library)
    if copy:
        detail = f"needs {libraries}, which {named(copy.wheel)} has where it does not look"
        fix = "make sure that what loads it is imported first; if that is done, waive this with the reason"
    elif case.environment.unknown_packages:
        detail += f" that is known here; {', '.join(case.environment.unknown_packages)} may"
    return finding("missing-library", severity, _nodes(failures), detail + others, fix, assumed=case.assumed)


def _needs(first: Node, rows: Iterable[tuple[Node, str]]) -> tuple[str, str]:
    """Return the libraries that a file needs, and an addition about those that only other files of a finding need."""
    files: dict[str, str] = {}
    # The first file comes first.
    for node, library in sorted(rows, key=lambda row: row[0] is not first):
        files.setdefault(library, node.file)
    own = sorted(library for library, file in files.items() if file == first.file)
    others = ", ".join(f"{library} ({file})" for library, file in sorted(files.items()) if file != first.file)
    return ", ".join(own), f"; other files need {others}" if others else ""


def _advice(case: AuditContext, library: str) -> str:
    package = case.environment.package_for(library)
    if package and case.loose:
        return f"install {package} in the image, and say so with `--apt {package}`"
    if package:
        return f"add `{package}` to `apt` under [base]"
    if library.startswith(("libtorch", "libc10")):
        return "add torch, of the release that the wheel was built for, to `requires`"
    if re.match(r"lib(cu|nv|nccl)", library):
        return "add NVIDIA's wheel of it to `requires`, or a base image with that CUDA release"
    return "add a package or wheel that has it, or another build of this wheel"


def _unreachable_copy(case: AuditContext, library: str) -> Node | None:
    """Return a wheel's file that would serve, if something loaded it first."""
    names = (n for n in case.environment.nodes if library in (n.name, n.binary.soname) and case.loader.fits(n))
    return next(names, None)


def _outdated(case: AuditContext, failures: list[Outdated], severity: Severity) -> Finding:
    first = max(failures, key=lambda failure: version_numbers(failure.need.version))
    need, provider, platform = first.need, first.provider, case.environment.platform
    family = need.version.partition("_")[0]
    if isinstance(provider, Node):
        versions = [version for version in provider.binary.version_defines if version.startswith(f"{family}_")]
        newest = max(versions, key=version_numbers, default="none of that family")
        owner = named(provider.wheel)
    else:
        newest, owner = f"{family}_{ceiling(platform, family)}", platform.distribution
    detail = f"needs {need.version} of {need.file}; {owner} has up to {newest}"
    fix = f"take a build for {platform.distribution}, an older or newer release of it"
    if bases := list(bases_for(platform, lambda row: _reaches(ceiling(row, family), need.version))):
        fix += f", or a base that has it: {', '.join(bases)}"
    assumed = case.assumed if first.assumed else None
    return finding("symbol-version", severity, _nodes([first, *failures]), detail, fix, assumed=assumed)


def _reaches(newest: str, version: str) -> bool:
    return bool(newest) and version_numbers(newest) >= version_numbers(version)


def _undefined(first: UnresolvedSymbol, failures: list[Cause], severity: Severity) -> Finding:
    names = {name for failure in failures if isinstance(failure, UnresolvedSymbol) for name in failure.names}
    # A C++ name from outside the wheel tells most.
    package = first.node.wheel.name.replace("-", "_") if first.node.wheel else ""
    symbol = demangled(min(names, key=lambda name: (package in name, not name.startswith("_ZN"), len(name), name)))
    count = "a symbol" if len(names) == 1 else f"{len(names)} symbols"
    such = symbol if len(names) == 1 else f"such as {symbol}"
    blamed = first.blamed
    if first.definers:
        owners = ", ".join(sorted({named(node.wheel) for node in first.definers}))
        detail = f"needs {count} that {owners} would define if loaded first, {such}"
        fix = "make sure that what defines them is imported first; if that is done, waive this with the reason"
    elif blamed and blamed.wheel is None:
        detail = f"needs {count} that {blamed.binary.soname} of the base image does not have, {such}"
        fix = "take a base image with a newer one, or a build for this one"
    elif blamed:
        detail = f"needs {count} that {named(blamed.wheel)} does not have, {such}"
        name = blamed.wheel.name if blamed.wheel else ""
        fix = f"take the build of it that was made for {named(blamed.wheel)}, or the {name} that it was made for"
    else:
        detail = f"needs {count} that nothing it loads defines, {such}"
        fix = "take another build or release of it"
    return finding("undefined-symbol", severity, _nodes(failures), detail, fix)


def _by_runtime(case: AuditContext) -> Iterator[Finding]:
    """Yield files that load under the NVIDIA runtime only, once a wheel, if the platform has no GPU."""
    for verdicts in _by_wheel(verdict for verdict in case.verdicts if verdict.injected and not case.sms):
        modules = [v for v in verdicts if v.node.is_module and not case.exempt(v.node)]
        first = (modules or verdicts)[0]
        names, others = _needs(first.node, ((verdict.node, name) for verdict in verdicts for name in verdict.injected))
        detail = f"loads only where the NVIDIA runtime brings {names}, and the platform has no GPU{others}"
        fix = "run the image with `--runtime nvidia`, or take a build for the CPU"
        nodes = [verdict.node for verdict in (first, *verdicts)]
        yield finding("missing-library", "warning" if modules else "info", nodes, detail, fix)


def _by_import(case: AuditContext) -> Iterator[Finding]:
    """Yield files that load only after an import has loaded libraries of other wheels, once a wheel."""
    for verdicts in _by_wheel(verdict for verdict in case.verdicts if verdict.by_import):
        wanted = ((verdict.node, name) for verdict in verdicts for name in verdict.by_import)
        names, others = _needs(verdicts[0].node, wanted)
        detail = f"finds {names} only because Python has loaded them before, by imports{others}"
        fix = "nothing to do while those imports come first, as they are meant to"
        yield finding("missing-library", "info", [verdict.node for verdict in verdicts], detail, fix)


def _by_wheel(verdicts: Iterable[LoadOutcome]) -> Iterable[list[LoadOutcome]]:
    """Group the verdicts on files that load by their wheel."""
    grouped: dict[str, list[LoadOutcome]] = defaultdict(list)
    for verdict in verdicts:
        if verdict.node.wheel and not verdict.failures:
            grouped[verdict.node.wheel.name].append(verdict)
    return grouped.values()


def demangled(symbol: str) -> str:
    """Return a symbol's C++ name, shortened; the symbol itself if it is not a C++ one or cannot be read."""
    name = symbol.partition("@")[0]
    if not name.startswith("_Z") or len(name) > _LONGEST:
        return symbol
    from itanium_demangler import parse  # type: ignore[import-untyped]  # noqa: PLC0415  # only findings need it

    try:
        text = str(parse(name) or symbol)
    except (NotImplementedError, RecursionError, ValueError, LookupError, AttributeError, TypeError, AssertionError):
        # The library does not understand the name.
        text = symbol
    return text if len(text) <= _LONGEST_SHOWN else f"{text[:_LONGEST_SHOWN]}…"


def bases_for(platform: Platform, fits: Callable[[Distribution], bool]) -> Iterator[str]:
    """Yield the distributions that fit and have a cell's Python, with the download that it needs.

    For a Jetson, only distributions of its release's containers count.
    """
    made_on = {
        name
        for row in platforms()
        if row.l4t == platform.l4t
        for name in (row.distribution, *(alternative.distribution for alternative in row.also_on))
    }
    for row in distributions():
        if row.name == platform.distribution or not fits(row) or (platform.l4t and row.name not in made_on):
            continue
        if platform.python == row.python:
            yield row.name
        elif platform.python in row.standalone:
            yield f"{row.name} (its Python {platform.python} is fetched from GitHub, or `mirror` under [python])"
