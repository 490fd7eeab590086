"""Names the blobs that a bundle expects at its receiver, and that are not there."""

from __future__ import annotations

from typing import TYPE_CHECKING

from builder.host.units import size_of

if TYPE_CHECKING:
    from collections.abc import Sequence

    from builder.model.bundles import Bundle
    from builder.model.images import Descriptor

_MOST_SHOWN = 5


def lacking_words(lacking: Sequence[Descriptor], bundle: Bundle) -> str:
    """Return how many blobs of a bundle are lacking, and the first of them."""
    distinct = {blob.digest: blob for blob in lacking}.values()
    listed = [f"{blob.digest} ({size_of(blob.size)})" for blob in distinct][:_MOST_SHOWN]
    rest = f" and {len(distinct) - _MOST_SHOWN} more" if len(distinct) > _MOST_SHOWN else ""
    since = f" (--since {bundle.since})" if bundle.since else ""
    count = f"{len(distinct)} of the {len(bundle.missing)} blobs that this bundle expects{since}"
    return f"{count}: {', '.join(listed)}{rest}"
