"""The view of a vault in place of uv's own default index."""

from __future__ import annotations

from typing import TYPE_CHECKING

from builder.host.index_rows import DEFAULT
from builder.remote.index.index_client import IndexClient
from builder.remote.index.index_view import IndexView
from builder.remote.index.listing import Address, Index, IndexPins

if TYPE_CHECKING:
    from builder.host.config import Config
    from builder.host.paths import Workspace


class _EveryPackage(IndexPins):
    """Pins every package to one index."""

    def index(self, project: str) -> Index:  # noqa: ARG002  # any
        return self.indexes[0]


def default_view(vault: str, config: Config, workspace: Workspace) -> IndexView:
    """Return the view of the files of a vault that came from uv's own indexes."""
    index = Index(name=DEFAULT, addresses=(Address(url=vault, vault=vault),))
    # A client of its own, whose pages are the vault's alone.
    client = IndexClient(config=config, states=workspace.index_states)
    return IndexView(pins=_EveryPackage(indexes=(index,)), client=client, workspace=workspace)
