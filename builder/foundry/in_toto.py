"""in-toto statements about files: in-toto Statement v1, with SLSA provenance v1 as the predicate of builds."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from builder import __version__
from builder.host.records import as_bytes

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

STATEMENT = "https://in-toto.io/Statement/v1"
PROVENANCE = "https://slsa.dev/provenance/v1"
_BUILDER = "urn:jbuild"


def in_toto_statement(
    subjects: Iterable[tuple[str, Mapping[str, str]]], predicate_type: str, predicate: Mapping[str, Any]
) -> bytes:
    """Return a statement about subjects: their names, and their digests by algorithm."""
    subject = [{"name": name, "digest": dict(digest)} for name, digest in subjects]
    return as_bytes({"_type": STATEMENT, "subject": subject, "predicateType": predicate_type, "predicate": predicate})


def build_predicate(
    build_type: str,
    external: Mapping[str, Any],
    internal: Mapping[str, Any],
    dependencies: Sequence[Mapping[str, Any]],
    version: str = __version__,
) -> dict[str, Any]:
    """Return a provenance predicate without times: the same inputs have one provenance.

    `version` is that of the builder.
    """
    return {
        "buildDefinition": {
            "buildType": build_type,
            "externalParameters": dict(external),
            "internalParameters": dict(internal),
            "resolvedDependencies": list(dependencies),
        },
        "runDetails": {"builder": {"id": _BUILDER, "version": {"jbuild": version}}},
    }
