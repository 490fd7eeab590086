"""What must hold after a trial: every tag is on a complete, proven image, and nothing is left of processes."""

from __future__ import annotations

import hashlib
import json
import re
import time
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

from builder.host import owner
from builder.host.engine.temporary import LABEL

if TYPE_CHECKING:
    from collections.abc import Iterator

    from servers import Registry

    from campaign.ways import Attempt
    from campaign.workshop import Workshop

_TEMPORARY = re.compile(r"\..+\.jbuild-.+|scratch-.+|.*\.part|.*\.tmp")
_FOUND = 200
_CHILDREN_WITHIN_S = 20.0


def registry_flaws(registry: Registry, repository: str, proven: set[str]) -> Iterator[str]:
    """Yield what is wrong with the tags of a repository, read from the registry itself."""
    for tag, digest in registry.tags(repository).items():
        if digest not in proven:
            yield f"tag {tag} is on {digest[:19]}…, which no verdict proves"
        yield from (f"tag {tag}: {flaw}" for flaw in _manifest_flaws(registry, repository, tag))
    for tag in registry.tags(repository, evidence=True):
        yield from (f"evidence {tag[:19]}…: {flaw}" for flaw in _manifest_flaws(registry, repository, tag))


def _manifest_flaws(registry: Registry, repository: str, reference: str) -> Iterator[str]:
    status, headers, content = registry.request(f"/v2/{repository}/manifests/{reference}")
    digest = f"sha256:{hashlib.sha256(content).hexdigest()}"
    if status != _FOUND or headers.get("Docker-Content-Digest") != digest:
        yield f"manifest {reference[:19]}… is missing or has other bytes (status {status})"
        return
    manifest: dict[str, Any] = json.loads(content)
    for entry in manifest.get("manifests") or ():
        yield from _manifest_flaws(registry, repository, entry["digest"])
    for entry in (*([manifest["config"]] if "config" in manifest else ()), *(manifest.get("layers") or ())):
        status, _, blob = registry.request(f"/v2/{repository}/blobs/{entry['digest']}")
        if status != _FOUND or f"sha256:{hashlib.sha256(blob).hexdigest()}" != entry["digest"]:
            yield f"blob {entry['digest'][:19]}… is missing or has other bytes (status {status})"


def leftovers(attempt: Attempt, workshop: Workshop) -> Iterator[str]:
    """Yield temporary files, containers, temporary images and processes that no living jbuild owns."""
    for folder in (attempt.folder, attempt.cache, workshop.temporary):
        for path in folder.rglob("*"):
            if _TEMPORARY.fullmatch(path.name) and not _FOREIGN.search(str(path)):
                yield f"file {path.relative_to(folder)}"
    partial = attempt.cache / "models" / "partial"
    yield from (f"partial file {path.name}" for path in partial.rglob("*") if path.is_file() and path.stat().st_size)
    yield from _records_cut(attempt)
    client = workshop.project.client
    for container in client.api.containers(all=True, filters={"label": LABEL}):
        own = owner.parse(str((container.get("Labels") or {}).get(LABEL)))
        if own and own.process in workshop.started and own.has_ended():
            yield f"container {container['Names'][0]} ({container['State']})"
    yield from (f"temporary image {tag}" for tag in workshop.project.temporary_names())
    yield from (f"process {words}" for words in _processes(attempt.cache))


# uv's own cache.
_FOREIGN = re.compile(r"/cache/uv/.+/")


def _records_cut(attempt: Attempt) -> Iterator[str]:
    for path in attempt.folder.glob("build/*/*/*.json"):
        with suppress(ValueError):
            json.loads(path.read_text())
            continue
        yield f"record {path.name} cannot be read"


def _processes(cache: Path) -> list[str]:
    """Return the command lines of processes that still work with a cache."""
    ends_at = time.monotonic() + _CHILDREN_WITHIN_S
    while (found := _running(cache)) and time.monotonic() < ends_at:
        time.sleep(0.2)
    return found


def _running(cache: Path) -> list[str]:
    found = []
    for path in Path("/proc").glob("[0-9]*"):
        with suppress(OSError):
            if f"JBUILD_CACHE={cache}".encode() in (path / "environ").read_bytes().split(b"\0"):
                found.append((path / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace"))
    return found
