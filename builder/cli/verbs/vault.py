"""`jbuild vault`: package indexes with every file that locks name."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import click

from builder.cli.cell_selection import naming, select_cells, session_verb
from builder.cli.results import show, show_failures
from builder.cli.verb_options import cell_option, complete_recipes, refuse_options
from builder.errors import CellsFailedError, IntegrityError, JbuildError, UsageError
from builder.host.paths import check_cache
from builder.host.session import Session
from builder.host.units import count_of, size_of
from builder.model.vaults import Vault
from builder.publish.vault.vault_folder import VaultFolder
from builder.publish.vault.vault_registry import PushedVault, pull_vault, push_vault
from builder.publish.vault.write_vault import VaultChange, add_locks
from builder.remote.registry.reference import Reference
from builder.remote.vault.vault_storage import OCI

_MOST = 20


@dataclass(frozen=True, kw_only=True, slots=True)
class WrittenVault:
    """A vault that was written or pulled.

    `files` and `size` (bytes) are the vault's; `added` files have `added_size` bytes, of which the disk holds
    `copied_size` anew, since the others are hard links to the cache. `silent` are the packages whose indexes did not
    answer. `failed` are the cells that were not added.
    """

    output: str
    indexes: tuple[str, ...]
    files: int
    size: int
    added: int
    added_size: int
    copied_size: int
    silent: tuple[str, ...]
    failed: tuple[str, ...]
    pushed: str | None
    digest: str | None


@dataclass(frozen=True, kw_only=True, slots=True)
class VaultFinding:
    """A file of a vault that is not as the catalogue has it."""

    path: str
    says: str


@dataclass(frozen=True, kw_only=True, slots=True)
class CheckedVault:
    """With --check: the files of a vault that are missing, damaged or unknown."""

    folder: str
    files: int
    size: int
    findings: tuple[VaultFinding, ...]


VaultResult = WrittenVault | CheckedVault


def _references(_: click.Context, __: click.Parameter, name: str | None) -> Reference | None:
    return Reference.parse(name.removeprefix(OCI)) if name else None


_FOLDER = click.Path(path_type=Path, file_okay=False)


@session_verb(
    "vault",
    click.argument("recipes", nargs=-1, shell_complete=complete_recipes),
    cell_option,
    click.option("--output", metavar="FOLDER", type=_FOLDER, help="Folder of the vault. Files are only added."),
    click.option("--locked", is_flag=True, help="Fail if a lock is missing or stale, instead of updating it."),
    click.option(
        "--push", metavar="NAME", callback=_references, help="Then push the vault to HOST/NAME[:TAG]. Default: latest."
    ),
    click.option(
        "--pull", metavar="NAME", callback=_references, help="First add the files of the vault at HOST/NAME[:TAG]."
    ),
    click.option(
        "--check", metavar="FOLDER", type=_FOLDER, help="Compare all files of this vault with their sha256, and end."
    ),
)
def write_vault(
    session: Session,
    recipes: tuple[str, ...],
    selectors: tuple[str, ...],
    output: Path | None,
    locked: bool,
    push: Reference | None,
    pull: Reference | None,
    check: Path | None,
) -> int:
    """Write the Python packages that the locks of RECIPES name into a folder that is a package index.

    The folder has wheels, source archives, compilers, build tools and interpreters with their sha256. Base images and
    models are not in it.

    uv and pip install from the folder. [[index-mirrors]] in jbuild.toml names it: locked cells build although an index
    is gone.

    All uses but --check need --output. With --push or --pull, RECIPES can be left out.
    """
    if check:
        refuse_options(("output", "push", "pull", "locked", "selectors"), "has no effect with --check")
        if recipes:
            raise UsageError("--check takes no recipe", hint=f"`jbuild vault --check {check}` checks the whole vault")
        return _check(VaultFolder(check), session)
    if output is None:
        raise UsageError("no folder for the vault", hint="name it with --output FOLDER")
    if not (recipes or push or pull):
        hint = "name recipes, or a vault in a registry with --pull; `jbuild list` lists the recipes"
        raise UsageError("nothing to put into the vault", hint=hint)
    check_cache(session.workspace)
    folder = VaultFolder(output)
    folder.check()
    changes, failures = [], list[tuple[str, JbuildError]]()
    if pull:
        changes.append(pull_vault(pull, folder, session))
    if recipes:
        change, failures = _add(recipes, selectors, folder, session, locked=locked)
        changes.append(change)
    pushed = push_vault(folder, push, session) if push else None
    result = _result(folder, changes, failures, pushed)
    show_failures(failures, session.console)
    show(result, _text(result, pushed), session.console)
    return _exit_code([error for _, error in failures])


def _add(
    recipes: Sequence[str], selectors: tuple[str, ...], folder: VaultFolder, session: Session, *, locked: bool
) -> tuple[VaultChange, list[tuple[str, JbuildError]]]:
    jobs = [job for name in dict.fromkeys(recipes) for job in select_cells(name, selectors, session).jobs()]
    change, failures = add_locks(folder, jobs, session, locked_only=locked)
    return change, [(job.cell.id, naming(error, job.recipe.name)) for job, error in failures]


def _exit_code(errors: list[JbuildError]) -> int:
    if not errors:
        return 0
    return errors[0].exit_code if len(errors) == 1 else CellsFailedError.exit_code


def _result(
    folder: VaultFolder,
    changes: list[VaultChange],
    failures: list[tuple[str, JbuildError]],
    pushed: PushedVault | None,
) -> WrittenVault:
    vault = changes[-1].vault if changes else folder.present()
    return WrittenVault(
        output=str(folder.path),
        indexes=tuple(sorted({index for file in vault.files for index in file.indexes})),
        files=len(vault.files),
        size=_size(vault),
        added=sum(change.added for change in changes),
        added_size=sum(change.added_bytes for change in changes),
        copied_size=sum(change.copied_bytes for change in changes),
        silent=tuple(sorted({name for change in changes for name in change.silent})),
        failed=tuple(cell for cell, _ in failures),
        pushed=pushed.name if pushed else None,
        digest=pushed.digest if pushed else None,
    )


def _size(vault: Vault) -> int:
    return sum(file.size for file in vault.files)


def _text(result: WrittenVault, pushed: PushedVault | None) -> str:
    linked = result.added_size - result.copied_size
    added = f"{result.added} files, {size_of(result.added_size)}"
    lines = [
        result.output,
        f"vault    {result.files} files, {size_of(result.size)}",
        f"added    {added}{f' ({size_of(linked)} as hard links to the cache)' if linked else ''}",
        f"indexes  {', '.join(result.indexes) or 'none'}",
    ]
    if pushed:
        lines.append(f"pushed   {pushed.name}@{pushed.digest}, {size_of(pushed.transfer.uploaded)} sent")
    if result.silent:
        names = ", ".join(result.silent[:_MOST])
        lines.append(f"note     the indexes of {names} did not answer: upload times and yanked marks are not known")
    return "\n".join(lines)


def _check(folder: VaultFolder, session: Session) -> int:
    vault = folder.catalogue()
    with session.console.task(f"checking {len(vault.files)} files", _size(vault)) as task:
        findings = tuple(VaultFinding(path=path, says=says) for path, says in folder.flaws(vault, task.advance))
    result = CheckedVault(folder=str(folder.path), files=len(vault.files), size=_size(vault), findings=findings)
    show(result, _findings_text(result), session.console)
    return IntegrityError.exit_code if findings else 0


def _findings_text(result: CheckedVault) -> str:
    whole = f"{result.folder}: {result.files} files, {size_of(result.size)}"
    if not result.findings:
        return f"{whole}, all as in the catalogue"
    lines = [f"  {finding.path}: {finding.says}" for finding in result.findings]
    advice = f"remove damaged and unknown files, then run `jbuild vault RECIPE --output {result.folder}` again"
    return "\n".join([f"{whole}, {count_of(len(lines), 'problem')}", *lines, advice])
