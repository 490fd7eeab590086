"""`jbuild slim`."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import click

from builder.audit.byte_source import ByteSource, MalformedError
from builder.audit.rule_tables import tables
from builder.cli.cell_selection import session_verb
from builder.cli.gpu_option import sm_option
from builder.cli.results import show, without_controls
from builder.errors import DiskError, UsageError
from builder.foundry.wheel_names import wheel_name
from builder.host.session import Session
from builder.host.units import size_of
from builder.image.precompile.loose_modules import compile_loose
from builder.image.precompile.module_compiler import compiled_entries
from builder.image.slim.entry_choice import AddedEntry
from builder.image.slim.package_rules import refusal, slimmed_label
from builder.image.slim.slim_wheel import CompiledLibraries, labelled_name, slim_wheel
from builder.jetson.boards import dotted_sm
from builder.jetson.distributions import platforms
from builder.jetson.platform import check_value
from builder.model.precompiled import CompiledWheel
from builder.model.slimming import CodeAmount, SlimmedLibrary, SlimReport, SlimRules

_NVIDIA = "nvidia-*"


@dataclass(frozen=True, kw_only=True, slots=True)
class SlimResult:
    """The wheels before and after, and the folder of the new ones; `note` is about what is not known of the GPUs."""

    output: str
    wheels: tuple[SlimReport, ...]
    note: str | None


@session_verb(
    "slim",
    click.argument("wheels", nargs=-1, required=True, metavar="WHEEL...", type=click.Path(path_type=Path)),
    sm_option("Compute capability of a GPU whose code stays, such as 8.7.", required=True),
    click.option("--l4t", metavar="RELEASE", help="L4T release, whose driver decides which code runs."),
    click.option("--precompile", is_flag=True, help="Compile kernels that a GPU would compile from PTX, with ptxas."),
    click.option("--nvidia", is_flag=True, help="Change NVIDIA's own wheels too; their licence restricts that."),
    click.option(
        "--output",
        type=click.Path(path_type=Path, file_okay=False),
        default=Path(),
        help="Folder for the new wheels. Default: the current folder.",
    ),
)
def command(
    session: Session,
    wheels: tuple[Path, ...],
    sms: tuple[int, ...],
    l4t: str | None,
    precompile: bool,
    nvidia: bool,
    output: Path,
) -> None:
    """Take the code for other GPUs out of wheels.

    Writes new wheels whose version has a local label such as +sm87, and leaves the given ones as they are.
    """
    paths = tuple(dict.fromkeys(wheels))
    label = ".".join(f"sm{sm}" for sm in sms)
    targets = {path: output / _target_name(path, label) for path in paths}
    if l4t:
        _check_release(l4t, sms, paths)
    _check_folder(output)
    same_major, note = _same_major(sms, l4t)
    rules = SlimRules(sms=sms, same_major=same_major, include=(_NVIDIA,) if nvidia else ())
    if note:
        session.console.warn(note)
    compiled = _compiled(paths, rules, l4t, session) if precompile else {}
    reports = []
    for path, target in targets.items():
        with session.console.task(f"slimming {path.name}", unit="B") as task:
            reports.append(_slimmed(path, target, rules, label, task.advance, compiled.get(path)))
    _check_any(paths, reports, nvidia=nvidia)
    for report in reports:
        if emptied := _emptied(report):
            session.console.warn(f"{report.slimmed_wheel}: no code for these GPUs is left in {emptied}")
    result = SlimResult(output=str(output), wheels=tuple(reports), note=note)
    show(result, "\n\n".join(map(_text, reports)), session.console)


def _check_folder(output: Path) -> None:
    """Refuse a folder that cannot be made or written, before minutes of work."""
    is_new = not output.exists()
    try:
        output.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=output):
            pass
        if is_new:
            # The writer makes it again: a refused wheel leaves nothing.
            output.rmdir()
    except OSError as error:
        hint = "name a folder that you may write with --output"
        raise DiskError(f"cannot write: {error.strerror}", where=str(output), hint=hint) from error


def _check_release(l4t: str, sms: Sequence[int], wheels: Sequence[Path]) -> None:
    """Refuse a release that is not known, has no such GPU, or does not run such wheels."""
    if mistake := check_value("l4t", l4t):
        raise UsageError(f"--l4t: {mistake[0]}", hint=mistake[1])
    release = next(row for row in platforms() if row.l4t == l4t)
    for capability in map(dotted_sm, sms):
        if capability not in release.sms:
            message = f"--sm: no board of L4T {l4t} has SM {capability}"
            raise UsageError(message, hint=f"its boards have {', '.join(release.sms)}; without --l4t, any GPU goes")
    for wheel in wheels:
        tag = wheel_name(wheel.name).words[-1]
        if tag != "any" and "aarch64" not in tag:
            message = f"the wheel is for {tag}, and L4T {l4t} runs on aarch64 only"
            raise UsageError(message, where=str(wheel), hint="name the wheel for aarch64, or leave --l4t out")


def _same_major(sms: Sequence[int], l4t: str | None) -> tuple[bool | None, str | None]:
    """Return whether code of the same major runs there, and a note if that depends on a release that is not given."""
    of_boards = {capability for row in platforms() for capability in row.sms}
    unknown = [capability for capability in map(dotted_sm, sms) if capability in of_boards]
    if l4t or not unknown:
        return tables().same_major(l4t), None
    note = f"some L4T releases run code of the same major on SM {', '.join(unknown)}, others do not"
    return None, f"{note}: PTX stays beside such code; --l4t RELEASE decides"


def _target_name(path: Path, label: str) -> str:
    if path.is_dir():
        raise UsageError("this is a folder", where=str(path), hint=f"name wheel files: {path}/*.whl")
    if not path.is_file():
        raise UsageError("no such file", where=str(path), hint="name wheel files: *.whl")
    return labelled_name(path, label)


def _compiled(
    paths: Sequence[Path], rules: SlimRules, l4t: str | None, session: Session
) -> dict[Path, CompiledLibraries]:
    """Compile what GPUs would compile, of the wheels that are slimmed."""
    chosen = [path for path in paths if refusal(wheel_name(path.name), rules) is None]
    try:
        wheels = compile_loose(chosen, rules, l4t, session)
    except MalformedError as error:
        raise _unreadable(error, error.where or ", ".join(path.name for path in chosen)) from error

    def added(wheel: CompiledWheel, source: ByteSource, library: str) -> Mapping[int, Sequence[AddedEntry]]:
        return compiled_entries(source, library, wheel, session.workspace).entries

    return {path: CompiledLibraries(wheel.ptxas, partial(added, wheel)) for path, wheel in wheels.items()}


def _slimmed(
    path: Path, target: Path, rules: SlimRules, label: str, advance: object, compiled: CompiledLibraries | None
) -> SlimReport:
    try:
        return slim_wheel(path, target, rules, label=label, on_bytes=advance, compiled=compiled)  # type: ignore[arg-type]
    except MalformedError as error:
        raise _unreadable(error, str(path)) from error


def _unreadable(error: MalformedError, location: str) -> UsageError:
    message = f"not a wheel that jbuild can read: {error.message}"
    return UsageError(message, where=location, hint="download the wheel again")


def _check_any(paths: Sequence[Path], reports: Sequence[SlimReport], *, nvidia: bool) -> None:
    """Refuse to end in silence if no wheel was written."""
    if any(report.skipped is None for report in reports):
        return
    first = reports[0]
    owned = first.package.startswith(_NVIDIA.rstrip("*")) and not nvidia
    hint = "--nvidia changes these wheels all the same" if owned else "name a wheel with CUDA libraries"
    hint = "name the wheel that it was made of" if slimmed_label(first.version) else hint
    more = f" (and {len(reports) - 1} more)" if len(reports) > 1 else ""
    raise UsageError(f"no wheel was written: {first.skipped}{more}", where=str(paths[0]), hint=hint)


def _emptied(report: SlimReport) -> str:
    """Return the number of libraries that have lost all code, in words; empty if there are none."""
    changed = [library for library in report.libraries if library.removed or library.retained]
    empty = [library for library in changed if not library.retained and not library.compiled]
    if not empty:
        return ""
    return "any library" if len(empty) == len(changed) else f"{len(empty)} of {len(changed)} libraries"


def _text(report: SlimReport) -> str:
    if report.skipped:
        return without_controls(f"{report.wheel}: not changed: {report.skipped}")
    share = report.slimmed_size / report.size
    sizes = f"{size_of(report.size)}, now {size_of(report.slimmed_size)} ({share:.0%})"
    lines = [f"{report.slimmed_wheel}: {sizes}"]
    for library in report.libraries:
        lines += _library_lines(library)
    return "\n".join(map(without_controls, lines))


def _library_lines(library: SlimmedLibrary) -> Iterator[str]:
    yield f"  {library.path}: {size_of(library.before)}, now {size_of(library.after)}"
    if library.compiled:
        yield f"    compiled: {_amounts(library.compiled)}"
    if library.retained:
        yield f"    stays: {_amounts(library.retained)}"
    if library.removed:
        yield f"    removed: {_amounts(library.removed)}"
    if library.note:
        effect = "zeros replace the removed code" if library.method == "in-place" else "unchanged"
        yield f"    {effect}: {library.note}"


def _amounts(amounts: Sequence[CodeAmount]) -> str:
    return ", ".join(f"{amount.target} ({amount.entries}, {size_of(amount.size)})" for amount in amounts)
