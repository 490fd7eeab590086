"""What a lock and its output state about vaults that stood in for indexes."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from builder.host.index_rows import DEFAULT
from builder.model.locks import LockedRule
from builder.remote.index.index_client import failing_since
from builder.remote.vault.vault_reader import vault_at

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from builder.host.session import Session
    from builder.model.locks import Job
    from builder.remote.index.index_client import IndexClient
    from builder.remote.index.index_view import IndexView


@dataclass(frozen=True, kw_only=True, slots=True)
class StandIn:
    """A vault that stood in for an index; `failed` is False if the configuration names the vault instead of it."""

    index: str
    vault: str
    failed: bool

    @property
    def words(self) -> str:
        """The index, as messages name it."""
        return "uv's default index" if self.index == DEFAULT else f"the index {self.index}"


def stand_ins(indexes: Iterable[str | None], view: IndexView, client: IndexClient) -> tuple[StandIn, ...]:
    """Return the vaults that stood in for the indexes of some packages; None is uv's own index."""
    used = {index or DEFAULT for index in indexes}
    # A package that the vault lacks has no page.
    vaults = {index.name: index.vault_instead for index in view.pins.indexes if index.vault_instead}
    vaults |= {page.index: page.vault for page in view.pages.values() if page.vault} | client.stood_in
    instead = {rule.vault for rule in client.config.index_mirrors if rule.vault and not rule.fallback}
    return tuple(
        StandIn(index=index, vault=vault, failed=vault not in instead)
        for index, vault in sorted(vaults.items())
        if index in used
    )


def vault_rules(found: Iterable[StandIn]) -> tuple[LockedRule, ...]:
    """Return the rules of a lock about vaults."""
    return tuple(
        LockedRule(
            rule=f"only files of a vault, for {entry.words}",
            why="the index did not answer"
            if entry.failed
            else "`[[index-mirrors]]` names the vault instead of the index",
        )
        for entry in found
    )


def announce(found: Iterable[StandIn], job: Job, session: Session) -> None:
    """Print which vaults stood in for which indexes, and how to use the indexes again."""
    for entry in found:
        reader = vault_at(entry.vault, session.config)
        vault = f"the vault {reader.location} ({len(reader.contents().files)} files)"
        if not entry.failed:
            session.console.say(f"{job.cell.id}: {vault} is used instead of {entry.words}")
            continue
        since = failing_since(session.workspace.index_states, entry.index)
        failing = f" (failing since {since})" if since else ""
        recipe = job.recipe.name
        session.console.warn(
            f"{job.cell.id}: {entry.words} did not answer{failing}; {vault} stood in, so other versions were not "
            f"considered. When the index answers again, `jbuild lock {recipe} --upgrade` considers them, and "
            f"`jbuild vault {recipe} --output FOLDER` adds them to the vault"
        )


def limits(found: Sequence[StandIn]) -> str | None:
    """Return a hint for a cell without wheels whose only candidates were those of vaults."""
    hints = []
    if failed := [entry.words for entry in found if entry.failed]:
        hints.append(
            f"{' and '.join(failed)} did not answer, so only the files of the vault were considered: try again later"
        )
    if instead := [entry for entry in found if not entry.failed]:
        vaults = " and ".join(dict.fromkeys(entry.vault for entry in instead))
        names = " and ".join(entry.words for entry in instead)
        hints.append(
            f"only the vault {vaults} was asked, not {names}: add the files to it (`jbuild vault` on a machine that "
            "reaches the indexes), or set `fallback = true` in [[index-mirrors]], which asks the indexes first"
        )
    return "; ".join(hints) or None
