from __future__ import annotations

import json
from typing import TYPE_CHECKING

from builder.host import records
from builder.model.publications import Publication, PublicationFailure, RegistryPublication, TagPut
from builder.publish.push import PublicationError

if TYPE_CHECKING:
    from pathlib import Path

DIGEST = "sha256:" + "a" * 64


def held(name: str, *tags: TagPut) -> RegistryPublication:
    return RegistryPublication(
        repository=name, digest=DIGEST, tags=tags, bytes_sent=1, bytes_mounted=2, bytes_there=3, seconds=0.5
    )


def test_a_publication_is_kept(tmp_path: Path) -> None:
    publication = Publication(
        digest=DIGEST,
        registries=(held("a/b", TagPut(name="1", previous=None), TagPut(name="2", previous=DIGEST)), held("c/d")),
        failures=(PublicationFailure(repository="e/f", stage="image", message="no"),),
    )
    records.write(tmp_path / "push.json", "x", publication)
    assert records.read(tmp_path / "push.json", "x", Publication) == publication


def test_the_error_names_every_failure_and_what_holds() -> None:
    failures = tuple(PublicationFailure(repository=n, stage="image", message=f"{n} is down", hint="wait") for n in "xy")
    error = PublicationError(Publication(digest=DIGEST, registries=(held("a/b"),), failures=failures))
    assert error.message == "x: x is down; y: y is down. No tags were set"
    assert error.where == "x, y"
    assert error.hint == "wait"
    assert json.loads(json.dumps(error.as_json()))["publication"]["failures"][1]["repository"] == "y"


def test_the_error_says_which_tags_were_put() -> None:
    failures = (PublicationFailure(repository="x", stage="tags", message="no"),)
    tagged = Publication(digest=DIGEST, registries=(held("a/b", TagPut(name="1", previous=None)),), failures=failures)
    assert PublicationError(tagged).message.endswith("Tags were put in a/b (1)")
    bare = Publication(digest=DIGEST, registries=(held("a/b"),), failures=failures)
    assert PublicationError(bare).message.endswith("No tag points to the pushed image")
