"""The platform of a cell: the facts of one target that later stages need."""

from __future__ import annotations

from dataclasses import dataclass

from builder.model.recipes import Architecture


@dataclass(frozen=True, kw_only=True, slots=True)
class Platform:
    """The target of an image.

    `python` is the minor version of the image's interpreter (`3.11`), `glibc` the C library's (`2.36`), `glibcxx` the
    highest symbol version of its C++ library (`3.4.30`). `release` is the distribution's release as in tags (`22.04`,
    `bookworm`). `sms` are the GPU's compute capabilities, empty for a CPU platform. `python_packages` are the
    distribution's packages of `python`, else `standalone` is a release of python-build-standalone (`3.12.16+20261110`).
    """

    name: str
    architecture: Architecture
    distribution: str
    release: str
    python: str
    glibc: str
    base: str
    python_packages: tuple[str, ...] = ()
    l4t: str | None = None
    jetpack: str | None = None
    cuda: str | None = None
    sms: tuple[str, ...] = ()
    source: str = ""
    glibcxx: str = ""
    standalone: str | None = None

    @property
    def has_gpu(self) -> bool:
        """Whether images of the platform compute on a GPU."""
        return bool(self.sms)

    @property
    def note(self) -> str | None:
        """A note for lists, if the platform is unusual."""
        return f"Python {self.python} from python-build-standalone" if self.standalone else None
