"""The error of an incomplete publication."""

from __future__ import annotations

from typing import TYPE_CHECKING

from builder.errors import RegistryError
from builder.host.records import to_json

if TYPE_CHECKING:
    from builder.model.publications import Publication


class PublicationError(RegistryError):
    """At least one registry does not hold all it should. `publication` says what each holds."""

    def __init__(self, publication: Publication) -> None:
        """Take the incomplete publication."""
        self.publication = publication
        failures = publication.failures
        reasons = "; ".join(f"{failure.repository}: {failure.message}" for failure in failures)
        super().__init__(
            f"{reasons}. {_tags_now(publication)}",
            where=", ".join(failure.repository for failure in failures),
            hint="; ".join(dict.fromkeys(failure.hint for failure in failures if failure.hint)) or None,
        )

    def as_json(self) -> dict[str, object]:
        """Return the error with what each registry holds."""
        return {**super().as_json(), "publication": to_json(self.publication)}


def _tags_now(publication: Publication) -> str:
    tagged = [
        f"{registry.repository} ({', '.join(t.name for t in registry.tags)})"
        for registry in publication.registries
        if registry.tags
    ]
    if tagged:
        return f"Tags were put in {', '.join(tagged)}"
    is_tagging = any(failure.stage == "tags" for failure in publication.failures)
    return "No tag reads back as it should" if is_tagging else "No tag was put anywhere"
