"""Loading an image while other processes remove theirs: a stand-in for the engine answers as Docker Engine 28 does."""

from __future__ import annotations

from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any, cast

import pytest
from docker.errors import APIError, ImageNotFound, NotFound
from servers import make_image

from builder.errors import EngineError, IntegrityError
from builder.host.console import Console
from builder.image.oci.engine_load import loaded

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator
    from pathlib import Path

    from builder.host.engine.docker import Engine
    from builder.model.images import Image

SNAPSHOT = (
    'failed to unpack loaded image: failed to prepare extraction snapshot "extract-1-x sha256:aa": '
    "parent snapshot sha256:bb does not exist: not found"
)
CONTENT = (
    "failed to unpack loaded image: failed to extract layer sha256:aa: failed to get reader from content store: "
    "content digest sha256:aa: not found"
)
LISTED = "failed to read config content: rpc error: code = NotFound desc = content digest sha256:aa: not found"


@dataclass
class StandIn:
    """An engine, its client, and the client's two parts in one; `loads` are the errors of loads, in their order."""

    loads: list[str] = field(default_factory=list)
    lists: list[Exception] = field(default_factory=list)
    names: list[str] | None = None
    gets: Exception = field(default_factory=lambda: ImageNotFound("No such image"))
    sent: int = 0
    endpoint: str = "unix:///nowhere/docker.sock"

    @property
    def api(self) -> StandIn:
        return self

    def client(self, *_: float) -> StandIn:
        return self

    def close(self) -> None: ...

    # The client's `images` has `get`, and that of `api` is called.
    @property
    def images(self) -> Images:
        return Images(self)

    def load_image(self, content: Iterable[bytes]) -> Iterator[dict[str, str]]:
        assert b"".join(content)
        self.sent += 1
        error = self.loads.pop(0) if self.loads else ""
        yield {"error": error} if error else {"stream": "Loaded image"}

    def tag(self, *_: str, force: bool) -> None:
        raise self.gets

    def remove_image(self, name: str, **_: bool) -> None: ...


@dataclass
class Images:
    of: StandIn

    def __call__(self, name: str | None = None) -> list[dict[str, Any]]:
        if self.of.lists:
            raise self.of.lists.pop(0)
        return []

    def get(self, name: str) -> SimpleNamespace:
        if self.of.names is None:
            raise self.of.gets
        return SimpleNamespace(attrs={"Architecture": "arm64"}, tags=self.of.names)


@pytest.fixture(autouse=True)
def waits(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """The waits, in seconds, which take no time."""
    waited: list[float] = []
    monkeypatch.setattr("builder.host.engine.image_lists.time.sleep", waited.append)
    return waited


@pytest.fixture
def image(tmp_path: Path) -> Image:
    """An image of one layer in an OCI layout."""
    return make_image(tmp_path, sizes=(500,))


def load(image: Image, layout: Path, engine: StandIn) -> str:
    with loaded(image, layout, cast("Engine", engine), Console(quiet=True)) as name:
        return name


@pytest.mark.parametrize("reason", [SNAPSHOT, CONTENT])
def test_an_image_is_sent_again_if_another_process_removes_its_layers(
    image: Image, tmp_path: Path, reason: str
) -> None:
    engine = StandIn(loads=[reason, reason])
    assert load(image, tmp_path, engine).startswith("jbuild-smoke:")
    assert engine.sent == 3


@pytest.mark.parametrize(("reason", "tries"), [(SNAPSHOT, 3), ("no space left on device", 1), ("invalid tar", 1)])
def test_other_failures_are_final(image: Image, tmp_path: Path, reason: str, tries: int) -> None:
    engine = StandIn(loads=[reason] * 9)
    with pytest.raises(EngineError, match="could not load the image: ") as caught:
        load(image, tmp_path, engine)
    assert engine.sent == tries
    assert reason in caught.value.message


def test_a_damaged_layer_explains_a_refusal(image: Image, tmp_path: Path) -> None:
    path = tmp_path / "blobs" / image.layers[0].digest.replace(":", "/")
    path.write_bytes(b"x" * image.layers[0].size)
    with pytest.raises(IntegrityError):
        load(image, tmp_path, StandIn(loads=[CONTENT] * 9))


def test_lists_are_read_again_while_images_go(image: Image, tmp_path: Path, waits: list[float]) -> None:
    engine = StandIn(lists=[NotFound(LISTED), NotFound(LISTED)])
    load(image, tmp_path, engine)
    assert waits == [0.1, 0.1]


@pytest.mark.parametrize(
    "engine",
    [StandIn(lists=[APIError("out of order")]), StandIn(lists=[NotFound(LISTED)] * 99), StandIn(gets=APIError("no"))],
)
def test_an_engine_that_does_not_answer_is_one_error(image: Image, tmp_path: Path, engine: StandIn) -> None:
    with pytest.raises(EngineError, match="the engine failed: ") as caught:
        load(image, tmp_path, engine)
    assert caught.value.where == engine.endpoint
    assert engine.sent == 0


def test_an_image_that_goes_while_it_is_looked_up_is_loaded(image: Image, tmp_path: Path) -> None:
    engine = StandIn(gets=NotFound(LISTED))
    load(image, tmp_path, engine)
    assert engine.sent == 1


def test_an_image_that_goes_before_it_has_a_name_of_this_process_is_loaded(image: Image, tmp_path: Path) -> None:
    engine = StandIn(names=["jbuild-smoke:another-process"])
    assert load(image, tmp_path, engine).startswith("jbuild-smoke:")
    assert engine.sent == 1
