"""Results of the verbs about images, the cache and the machine."""

from __future__ import annotations

from typing import Annotated, TypedDict

from builder.cache.model import KindSummary, PruneResult
from builder.diff.model import Difference
from builder.doctor.mending import Mended
from builder.doctor.model import Check
from builder.publish.overview import TagState
from builder.publish.verify import Verification
from builder.schema.convert import Beside


class Tags(TypedDict):
    """Where a recipe's tags are."""

    recipe: str
    tags: list[TagState]


class _Holds(TypedDict):
    holds: bool


class Verdict(TypedDict):
    """A verdict that was written to a file."""

    file: str
    digest: str
    level: str
    when: str


class _Identical(TypedDict):
    identical: bool


class Cache(TypedDict):
    """What the cache holds, by kind; sizes in bytes."""

    cache: str
    kinds: list[KindSummary]


class _Frees(TypedDict):
    dry_run: bool
    frees: int


class Doctor(TypedDict):
    """What was looked at on this machine."""

    usable: bool
    checks: list[Check]
    mended: list[Mended]


class Completion(TypedDict):
    """What a shell reads to complete the command line."""

    shell: str
    script: str


Verify = Annotated[_Holds, Beside(kind=Verification)]
Diff = Annotated[_Identical, Beside(kind=Difference)]
CacheResult = Cache | Annotated[_Frees, Beside(kind=PruneResult)]
