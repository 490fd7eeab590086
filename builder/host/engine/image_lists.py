"""The engine's lists of images.

With containerd's store, Docker Engine (28.2) answers 404 while another process removes an image: it collects the names,
then reads the content of each.
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any, TypeVar

if TYPE_CHECKING:
    from collections.abc import Callable

    from docker import DockerClient

_T = TypeVar("_T")
_TRIES = 20
_WAIT_S = 0.1


def list_images(client: DockerClient, name: str | None = None) -> list[dict[str, Any]]:
    """Return the images of the engine, or those of one repository.

    Raises:
        docker.errors.DockerException, requests.RequestException: the engine does not answer.
    """
    from docker.errors import NotFound  # noqa: PLC0415  # slow to import

    return list(read_again(lambda: client.api.images(name=name), NotFound))


def read_again(read: Callable[[], _T], moved: type[Exception]) -> _T:
    """Return the result of `read`, which raises `moved` while another process removes an image.

    Raises:
        Exception: what `read` raises; `moved` only if it does so for seconds.
    """
    for _ in range(_TRIES - 1):
        try:
            return read()
        except moved:
            time.sleep(_WAIT_S)
    return read()
