"""The system image and the packed layers are made at the same time; one failure ends the build."""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING, Any, cast

import pytest

from builder.errors import BuildError
from builder.image.build.cell_image import _together

if TYPE_CHECKING:
    from builder.host.concurrency import CancelToken
    from builder.model.images import Image

SYSTEM = cast("Image", "system")
LAYERS: tuple[Any, ...] = ("layer",)


def test_both_run_at_the_same_time() -> None:
    met = threading.Barrier(2, timeout=30)

    def system() -> Image:
        met.wait()
        return SYSTEM

    def packed(_: CancelToken) -> tuple[Any, ...]:
        met.wait()
        return LAYERS

    assert _together(system, packed, lambda: None) == (SYSTEM, LAYERS)


def test_a_system_image_that_fails_ends_the_packing() -> None:
    def system() -> Image:
        raise BuildError("no package")

    def packed(token: CancelToken) -> tuple[Any, ...]:
        token.sleep(30)
        raise AssertionError("it was not ended")

    with pytest.raises(BuildError, match="no package"):
        _together(system, packed, lambda: None)


def test_a_layer_that_cannot_be_packed_fails_the_build_after_the_system_image() -> None:
    ended = threading.Event()
    failed = threading.Event()

    def system() -> Image:
        assert failed.wait(30)
        ended.set()
        return SYSTEM

    def packed(_: CancelToken) -> tuple[Any, ...]:
        failed.set()
        raise BuildError("a damaged wheel")

    with pytest.raises(BuildError, match="a damaged wheel"):
        _together(system, packed, lambda: None)
    assert ended.is_set()


def test_ctrl_c_stops_the_system_image() -> None:
    stopped = threading.Event()

    def system() -> Image:
        assert stopped.wait(30)
        raise BuildError("stopped")

    def packed(_: CancelToken) -> tuple[Any, ...]:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        _together(system, packed, stopped.set)
