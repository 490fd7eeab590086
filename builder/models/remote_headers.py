"""The headers of weights on a hub, read by ranges: a lock checks them before the weights are downloaded."""

from __future__ import annotations

from typing import TYPE_CHECKING

from builder.errors import ModelError, NetworkError
from builder.host.concurrency import map_with_progress
from builder.model.model_files import suffix_of
from builder.models.content_flaws import DAMAGED
from builder.models.safetensors import LENGTH_BYTES, HeaderError, header_length, parse_header
from builder.remote import http

if TYPE_CHECKING:
    from collections.abc import Iterable

    from builder.host.concurrency import Progress
    from builder.host.session import Session
    from builder.model.model_files import HubFile
    from builder.remote.hub_client import HubFetcher
    from builder.remote.model_sources import HubSource

# Most headers fit: one tensor takes 100 to 150 bytes.
_FIRST = 64 << 10


def remote_tensors(
    name: str, source: HubSource, files: Iterable[HubFile], session: Session
) -> dict[str, frozenset[str]]:
    """Return the tensors of the safetensors files among files of a hub.

    Without an answer, nothing is known: the files are checked once more when they are fetched.

    Raises:
        ModelError: a header is damaged.
    """
    from builder.remote.hub_client import HubFetcher, require_online  # noqa: PLC0415  # huggingface_hub is slow to import

    weights = [file for file in files if suffix_of(file.path) == "safetensors"]
    if not weights:
        return {}
    require_online(source)
    client = http.session(session.config)

    def read(file: HubFile, progress: Progress) -> frozenset[str]:
        names = _tensors(name, HubFetcher(source=source, file=file, session=client))
        progress.advance(1)
        return names

    try:
        with session.console.task(f"reading the headers of model {name}", len(weights), unit="files") as task:
            tensors = map_with_progress(read, weights, task.advance)
    except NetworkError as error:
        session.console.warn(f"model {name}: the headers of its weights are checked later: {error.message}")
        return {}
    return {file.path: names for file, names in zip(weights, tensors, strict=True)}


def _tensors(name: str, fetcher: HubFetcher) -> frozenset[str]:
    file = fetcher.file
    begin = fetcher.beginning(min(_FIRST, file.size)) if file.size else b""
    try:
        length = header_length(begin[:LENGTH_BYTES], file.size)
        end = LENGTH_BYTES + length
        whole = begin if len(begin) >= end else fetcher.beginning(end)
        return frozenset(tensor.name for tensor in parse_header(whole[LENGTH_BYTES:end], file.size - end))
    except HeaderError as error:
        raise ModelError(f"model {name}: {file.path} {error}", where=fetcher.uri, hint=DAMAGED) from error
