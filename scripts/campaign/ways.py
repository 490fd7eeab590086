"""The ways that trials go: a command, the point that it begins from, and what it must have put in the registry."""

from __future__ import annotations

import json
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from project import Project

    from campaign.workshop import Workshop

_OWN_TAG, _CANDIDATE = "1.0-cpu-bookworm", "rc"


@dataclass(frozen=True, kw_only=True, slots=True)
class Attempt:
    """A command, ready to run: `proven` returns the digests with a verdict, `tags` are those of a complete run.

    `then` are arguments of the second run, and `mend` changes the recipe before it, where nothing proves the image in
    the first run.
    """

    argv: tuple[str, ...]
    folder: Path
    cache: Path
    environment: dict[str, str]
    repository: str = ""
    tags: frozenset[str] = frozenset()
    proven: Callable[[], set[str]] = set
    then: tuple[str, ...] = ()
    mend: Callable[[], object] | None = None

    @property
    def is_unproven(self) -> bool:
        """Whether the first run must be refused."""
        return bool(self.then or self.mend)

    def mended(self) -> Attempt:
        """Return the second run's command."""
        if self.mend:
            self.mend()
        return replace(self, argv=(*self.argv, *self.then), then=(), mend=None)


@dataclass(frozen=True, kw_only=True, slots=True)
class Way:
    """A way: `weight` is how often trials take it; kills make sense if it writes."""

    name: str
    weight: int
    begin: Callable[[Workshop, Path, str], Attempt]
    writes: bool = True


def _of_project(
    project: Project, *argv: str, repository: str = "", mend: Callable[[], object] | None = None
) -> Attempt:
    return Attempt(
        argv=argv,
        folder=project.folder,
        cache=project.cache,
        environment=project.environment,
        repository=repository,
        tags=frozenset({_OWN_TAG} if repository else ()),
        proven=lambda: _passed(project.cell / "smoke.json"),
        mend=mend,
    )


def _passed(path: Path) -> set[str]:
    """Return the digest of a record of a smoke run, if the image passed it."""
    if not path.is_file():
        return set()
    record = json.loads(path.read_text())["record"]
    return {str(record["digest"])} if record["passed"] else set()


def _fresh(project: Project, folder: Path) -> Project:
    """Give a project a cache in which nothing is."""
    project.cache = folder / "cache"
    project.environment["JBUILD_CACHE"] = str(project.cache)
    return project


def _publishing(project: Project, front: str, name: str) -> str:
    project.recipe["publish"] = {"repository": "vllm", "registries": [f"{front}/{name}"]}
    project.write()
    return f"{name}/vllm"


def _lock(workshop: Workshop, folder: Path, _: str) -> Attempt:
    project = _fresh(workshop.copied("bare", folder / "work"), folder)
    return _of_project(project, "lock", project.name)


def _render(workshop: Workshop, folder: Path, _: str) -> Attempt:
    project = _fresh(workshop.copied("locked", folder / "work"), folder)
    return _of_project(project, "render", project.name)


def _whole(workshop: Workshop, folder: Path, name: str) -> Attempt:
    project = _fresh(workshop.copied("bare", folder / "work"), folder)
    repository = _publishing(project, workshop.fronts["registry"].host, name)
    return _of_project(project, "recipe", project.name, "--push", repository=repository)


def _rebuild(workshop: Workshop, folder: Path, name: str) -> Attempt:
    """Build another image than all earlier ones, test it and push it."""
    project = workshop.copied("locked", folder / "work")
    project.override('{% block runtime %}\nENV CAMPAIGN="' + name + '"\n{{ super() }}{% endblock %}\n')
    repository = _publishing(project, workshop.fronts["registry"].host, name)
    return _of_project(project, "recipe", project.name, "--push", repository=repository)


def _unproven(workshop: Workshop, folder: Path, name: str) -> Attempt:
    """Push an image that fails its smoke run; mended, it passes."""
    project = workshop.copied("finished", folder / "work")
    repository = _publishing(project, workshop.fronts["registry"].host, name)
    project.misbehave("garbage")

    def mend() -> None:
        project.misbehave("")

    return _of_project(project, "recipe", project.name, "--push", repository=repository, mend=mend)


def _push_to(front: str) -> Callable[[Workshop, Path, str], Attempt]:
    def begin(workshop: Workshop, folder: Path, name: str) -> Attempt:
        project = workshop.copied("finished", folder / "work")
        repository = _publishing(project, workshop.fronts[front].host, name)
        return _of_project(project, "push", project.name, repository=repository)

    return begin


def _of_proven(workshop: Workshop, root: Path, *argv: str, repository: str = "") -> Attempt:
    folder = workshop.proven(root)
    return Attempt(
        argv=argv,
        folder=folder.root,
        cache=root / "cache",
        environment=folder.environment,
        repository=repository,
        tags=frozenset({_CANDIDATE} if repository else ()),
        proven=lambda: {workshop.images[0]},
    )


def _promote_to(front: str) -> Callable[[Workshop, Path, str], Attempt]:
    def begin(workshop: Workshop, folder: Path, name: str) -> Attempt:
        target = f"{workshop.fronts[front].host}/{name}"
        return _of_proven(workshop, folder / "root", "promote", "demo", "--to", target, repository=f"{name}/vllm")

    return begin


def _image(workshop: Workshop, number: int) -> str:
    name = f"{workshop.project.name}-{('first', 'second')[number]}"
    return f"{workshop.fronts['registry'].host}/{name}/vllm@{workshop.images[number]}"


def _copy(workshop: Workshop, folder: Path, name: str) -> Attempt:
    target = ("--to", f"{workshop.fronts['registry'].host}/{name}", "--tag", _CANDIDATE, "--unsigned-verdict")
    argv = ("promote", _image(workshop, 0), *target)
    return _of_proven(workshop, folder / "root", *argv, repository=f"{name}/vllm")


def _distrusted(workshop: Workshop, folder: Path, name: str) -> Attempt:
    """Copy an image whose verdict is not signed: nothing proves it, until the second run trusts the verdict."""
    attempt = _copy(workshop, folder, name)
    return replace(attempt, argv=attempt.argv[:-1], then=attempt.argv[-1:])


def _verify(workshop: Workshop, folder: Path, _: str) -> Attempt:
    return _of_proven(workshop, folder / "root", "verify", _image(workshop, 0), "--whole")


def _diff(workshop: Workshop, folder: Path, _: str) -> Attempt:
    return _of_proven(workshop, folder / "root", "diff", _image(workshop, 0), _image(workshop, 1))


def _tags(workshop: Workshop, folder: Path, _: str) -> Attempt:
    place = f"{workshop.fronts['registry'].host}/{workshop.project.name}-first"
    return _of_proven(workshop, folder / "root", "tags", "demo", "--registry", place)


WAYS = (
    Way(name="lock", weight=3, begin=_lock),
    Way(name="render", weight=3, begin=_render),
    Way(name="whole", weight=1, begin=_whole),
    Way(name="rebuild", weight=1, begin=_rebuild),
    Way(name="unproven", weight=1, begin=_unproven),
    Way(name="push", weight=4, begin=_push_to("registry")),
    Way(name="push with tokens", weight=2, begin=_push_to("tokens")),
    Way(name="promote", weight=4, begin=_promote_to("registry")),
    Way(name="promote with tokens", weight=2, begin=_promote_to("tokens")),
    Way(name="copy", weight=4, begin=_copy),
    Way(name="copy without a trusted verdict", weight=2, begin=_distrusted),
    Way(name="verify", weight=2, begin=_verify, writes=False),
    Way(name="diff", weight=1, begin=_diff, writes=False),
    Way(name="tags", weight=1, begin=_tags, writes=False),
)
