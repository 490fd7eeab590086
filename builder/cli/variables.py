"""Environment variables that look like jbuild's own, and that nothing reads."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from builder.host.config import own_variables
from builder.host.wording import nearest, printable

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

_PREFIX = "JBUILD_"
_CACHE = "JBUILD_CACHE"
_CREDENTIALS = ("JBUILD_REGISTRY_USER", "JBUILD_REGISTRY_PASSWORD")
# Those of the server in an image (`builder/image/runtime/settings.py`): compose files and shells may set them.
IMAGE_VARIABLES = (
    *("JBUILD_DTYPE", "JBUILD_EXTRA_ARGS", "JBUILD_GPU_MEMORY_UTILIZATION", "JBUILD_HOST", "JBUILD_MAX_MODEL_LEN"),
    *("JBUILD_MODEL", "JBUILD_PORT", "JBUILD_QUANTIZATION", "JBUILD_SERVED_NAME", "JBUILD_TENSOR_PARALLEL_SIZE"),
)
# Registries' hosts end the names of their credentials.
_OF_A_HOST = re.compile(rf"({'|'.join(_CREDENTIALS)})_[A-Z0-9_]+")


def unknown_variables(names: Iterable[str]) -> Iterator[str]:
    """Yield a warning for each variable `JBUILD_…` that has no effect."""
    known = (*own_variables(), _CACHE, *_CREDENTIALS, *IMAGE_VARIABLES)
    for name in sorted(names):
        if name.startswith(_PREFIX) and name not in known and not _OF_A_HOST.fullmatch(name):
            similar = nearest(name.removeprefix(_PREFIX), [other.removeprefix(_PREFIX) for other in known])
            hint = f"did you mean {_PREFIX}{similar}?" if similar else "docs/configuration.md lists the variables"
            yield f"the environment variable {printable(name)} has no effect: jbuild has none of this name; {hint}"
