"""Weights in several files: the shards of an index, their tensors, and gaps in numbered names."""

from __future__ import annotations

import re
from collections import defaultdict
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import TYPE_CHECKING, Any

from builder.errors import ModelError

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping

INDEX_ENDING = ".index.json"
_NUMBERED = re.compile(r"(?P<stem>.+)-(?P<number>\d{1,6})-of-(?P<total>\d{1,6})(?P<ending>\.\w+)")
_ONE_REVISION = "download the index and its shards again, all from one revision"


@dataclass(frozen=True, kw_only=True, slots=True)
class ShardIndex:
    """An index: `shards` maps each tensor to its shard's path, relative to the model's folder like `path`."""

    path: str
    shards: dict[str, str]

    @property
    def covered(self) -> str:
        """The folder and ending of the files that it covers."""
        return cover_of(self.path.removesuffix(INDEX_ENDING))


def cover_of(path: str) -> str:
    """Return the folder and ending that a shard shares with the other shards of its index."""
    parsed = PurePosixPath(path)
    return str(parsed.parent / f"*{parsed.suffix}")


def index_of(path: str, document: object) -> ShardIndex | None:
    """Return the index in a JSON document, or None if it has no `weight_map` of file names."""
    shards: Any = document.get("weight_map") if isinstance(document, dict) else None
    if not isinstance(shards, dict) or not all(isinstance(shard, str) for shard in shards.values()):
        return None
    folder = PurePosixPath(path).parent
    return ShardIndex(path=path, shards={tensor: str(folder / shard) for tensor, shard in shards.items()})


def absent_numbers(paths: Iterable[str]) -> tuple[str, ...]:
    """Return the paths that are missing from sets of numbered files such as `model-00001-of-00003.safetensors`."""
    groups: dict[tuple[str, str, str], set[str]] = defaultdict(set)
    for path in paths:
        if match := _NUMBERED.fullmatch(path):
            groups[match["stem"], match["total"], match["ending"]].add(match["number"])
    return tuple(sorted(path for group, numbers in groups.items() for path in _gaps(group, numbers)))


def check_tensors(name: str, index: ShardIndex, headers: Mapping[str, frozenset[str]], where: str) -> tuple[str, ...]:
    """Compare an index with the tensors of its shards, as far as `headers` has them, and return warnings.

    Raises:
        ModelError: the index puts a tensor into a shard whose header lacks it.
    """
    absent = [
        (tensor, shard) for tensor, shard in index.shards.items() if shard in headers and tensor not in headers[shard]
    ]
    if absent:
        tensor, shard = min(absent)
        more = f" and {len(absent) - 1} more" if len(absent) > 1 else ""
        flaw = f"{index.path} puts tensor {tensor!r}{more} into {shard}, whose header lacks it"
        raise ModelError(f"model {name}: {flaw}", where=where, hint=_ONE_REVISION)
    return tuple(_unnamed_tensors(name, index, headers))


def _unnamed_tensors(name: str, index: ShardIndex, headers: Mapping[str, frozenset[str]]) -> Iterator[str]:
    named = set(index.shards.values())
    for path in sorted(named & set(headers)):
        extra = sorted(headers[path] - set(index.shards))
        if extra:
            more = f" and {len(extra) - 1} more" if len(extra) > 1 else ""
            yield f"model {name}: {path} has tensor {extra[0]!r}{more}, which {index.path} does not name"


def _gaps(group: tuple[str, str, str], numbers: set[str]) -> Iterator[str]:
    stem, total, ending = group
    present = {int(number) for number in numbers}
    first = 0 if 0 in present else 1
    width = max(map(len, numbers))
    if len(present) < int(total):
        for number in range(first, first + int(total)):
            if number not in present:
                yield f"{stem}-{number:0{width}}-of-{total}{ending}"
