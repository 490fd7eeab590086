"""Looks at what indexes really have for a requirement of a cell."""

from __future__ import annotations

import os
import re
import sys
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

from packaging.requirements import InvalidRequirement, Requirement
from packaging.utils import canonicalize_name
from packaging.version import Version

from builder.errors import JbuildError, NetworkError
from builder.host.index_rows import DEFAULT
from builder.host.process import run
from builder.lock.compatibility import judge
from builder.lock.solve import uv, uv_environment
from builder.remote.index.index_client import IndexUnreachableError
from builder.remote.index.listing import Address, Index, own_indexes
from builder.remote.index.logins import without_login

if TYPE_CHECKING:
    from collections.abc import Iterable

    from builder.host.session import Session
    from builder.lock.compatibility import JudgedWheel
    from builder.model.locks import Job
    from builder.remote.index.index_client import IndexClient
    from builder.remote.index.listing import IndexPins, ProjectPage

_FROM = re.compile(r"# from (https?://\S+)")
_ADDRESS = re.compile(r"(?:[A-Za-z0-9._-]+=)?(https?://\S+)")
_TIMEOUT_S = 120
_LOOKED_AT = 3
_NAME = r"[a-z0-9](?:[a-z0-9-]*[a-z0-9])?"
_BOUNDS = r"(?:(?:==|~=|!=|>=|<=|<|>)[0-9][^\s,;)]*,?)+"
# What uv's explanations say is wanted: a requirement, or a package of which there is nothing.
_WRITTEN = re.compile(
    rf"(?<![\w.-])(?:(?P<wanted>{_NAME})(?:\[[a-z0-9,-]+\])?(?P<bounds>{_BOUNDS})"
    rf"|(?P<unknown>{_NAME})(?:\[[a-z0-9,-]+\])? was not found in|no versions of (?P<absent>{_NAME}))"
)
# What they say is there.
_THERE = re.compile(
    rf"only (?:\S+ is available|the following versions of (\S+) are available:(?:\s+\1{_BOUNDS})+)", re.IGNORECASE
)


@dataclass(frozen=True, kw_only=True, slots=True)
class UnfitWheel:
    """A wheel that the requirement would take, and why the cell cannot; `came` is its day, if it came too late."""

    filename: str
    why: str
    came: str | None = None


@dataclass(frozen=True, kw_only=True, slots=True)
class IndexContents:
    """What an index has for a requirement.

    `fitting` are the versions that it could take, `unfit` the wheels that it would but for the cell, `others` the
    versions with fitting wheels that it does not want, newest first. `said` tells what is wrong with the index itself.
    """

    requirement: str
    index: str
    url: str
    fitting: tuple[str, ...] = ()
    unfit: tuple[UnfitWheel, ...] = ()
    others: tuple[str, ...] = ()
    said: str | None = None

    @property
    def hopeless(self) -> bool:
        """Whether nothing on the index can meet the requirement in this cell."""
        return not self.fitting


@dataclass(slots=True)
class IndexInspector:
    """Asks indexes for the packages of one job."""

    job: Job
    session: Session
    client: IndexClient
    ties: IndexPins
    _default: Index | None = None
    _own: tuple[Index, ...] = field(default_factory=own_indexes)

    def examine(self, requirement: Requirement) -> IndexContents:
        """Look at the wheels for one requirement."""
        name = str(canonicalize_name(requirement.name))
        index = self.index_of(name)
        url = without_login(index.addresses[0].url) if index.addresses else ""
        nothing = IndexContents(requirement=f"{name}{requirement.specifier}", index=index.name, url=url)
        try:
            page = self.page(name)
        except JbuildError as error:
            return replace(nothing, said=error.message)
        if page is None:
            return replace(nothing, said=f"it does not know {name}")
        judged = self._judge(page, index, yanked_too=_is_exact(requirement))
        if not judged:
            sources = f"it has source archives of {name} only, and jbuild installs wheels"
            return replace(nothing, said=sources if page.files else f"it has no files of {name}")
        wanted = [each for each in judged if requirement.specifier.contains(each.version, prereleases=True)]
        rest = [each for each in judged if each not in wanted]
        builds = [(each, said) for each in rest if (said := _other_build(requirement, each.version))]
        return replace(
            nothing,
            fitting=_versions(each for each in wanted if not each.unfit),
            unfit=(
                *(
                    UnfitWheel(filename=each.file.filename, why=each.unfit, came=each.too_late)
                    for each in wanted
                    if each.unfit
                ),
                *(UnfitWheel(filename=each.file.filename, why=said) for each, said in builds),
            ),
            others=_versions(each for each in rest if not each.unfit and not each.version.is_prerelease),
        )

    def page(self, name: str) -> ProjectPage | None:
        """Return what its index lists of a package, or None if it does not know it.

        Raises:
            NetworkError: the index does not answer, or is not known.
        """
        index = self.index_of(name)
        if not index.addresses:
            raise NetworkError("uv's own index could not be found out", hint="name it: UV_DEFAULT_INDEX")
        return self.client.page(index, name)

    def _judge(self, page: ProjectPage, index: Index, *, yanked_too: bool = False) -> list[JudgedWheel]:
        before, platform = self.job.spec.released_before, self.job.platform
        return judge(page.files, index, platform, before=before, yanked_too=yanked_too)

    def newest(self, name: str) -> Version | None:
        """Return the newest release of a package that has a wheel for the cell.

        Raises:
            NetworkError: the index does not answer.
        """
        page = self.page(name)
        judged = self._judge(page, self.index_of(name)) if page else ()
        return max((each.version for each in judged if not each.unfit and not each.version.is_prerelease), default=None)

    def index_of(self, name: str) -> Index:
        """Return the index that a package comes from."""
        return self.ties.index(name) or self._untied(name)

    def _untied(self, name: str) -> Index:
        """Return the first of uv's own indexes that knows a package, where uv stops too; else its default one."""
        for index in self._own:
            try:
                if self.client.page(index, name):
                    return index
            except IndexUnreachableError:
                # uv does not look further either: what is told of this one says why.
                return index
        return self._default_index()

    def _default_index(self) -> Index:
        if self._default is None:
            names = (Requirement(text).name for text in self.job.spec.requires)
            url = default_address(self.session, names)
            self._default = Index(name=DEFAULT, addresses=(Address(url=url),) if url else ())
        return self._default


def fault_behind(explanation: str, examiner: IndexInspector) -> NetworkError | None:
    """Return what is wrong with the index of a package that uv found nothing of, if anything is.

    uv takes a page that is none, as a captive portal answers, for one without files, and says `there is no version`.
    """
    names = (str(canonicalize_name(requirement.name)) for requirement in written_in(explanation)[:_LOOKED_AT])
    for name in names:
        if not examiner.index_of(name).addresses:
            continue
        try:
            examiner.page(name)
        except IndexUnreachableError as error:
            # uv may know log-ins that we do not.
            return None if error.refused else error
    return None


def default_address(session: Session, names: Iterable[str] = (), *, within_s: float = _TIMEOUT_S) -> str | None:
    """Return the address of uv's own default index, which only uv knows: its configuration says it, or its program.

    uv tells it with a package that it finds there: one that any index has, else one of `names`. None if it finds none.
    """
    said = next(filter(None, map(os.environ.get, ("UV_DEFAULT_INDEX", "UV_INDEX_URL"))), None)
    if said:
        # It may be named, `name=https://…`, or be a folder, of which we know nothing.
        address = _ADDRESS.fullmatch(said.strip())
        return without_login(address[1]) if address else None
    return next(filter(None, (_address_of(name, session, within_s) for name in ("packaging", *names))), None)


def _address_of(name: str, session: Session, within_s: float) -> str | None:
    argv = [uv(), "pip", "compile", "-", "--no-deps", "--universal", "--no-header", "--quiet", "--no-annotate"]
    argv += ["--emit-index-annotation", "--only-binary", ":all:", "--python", sys.executable]
    try:
        environment = uv_environment(session.config, session.workspace.cache)
        text = run(argv, stdin=f"{name}\n", env=environment, timeout_s=within_s).stdout
    except JbuildError:
        # Then it is down, or lacks even this package; what is told of it says so.
        return None
    found = _FROM.search(text)
    return found[1] if found else None


def written_in(text: str) -> list[Requirement]:
    """Return the requirements that an explanation of uv's speaks of, each once, in order."""
    found: dict[str, Requirement] = {}
    for written in _WRITTEN.finditer(_THERE.sub("", " ".join(text.split()))):
        name = written["wanted"] or written["unknown"] or written["absent"]
        try:
            requirement = Requirement(f"{name}{(written['bounds'] or '').rstrip(',.')}")
        except InvalidRequirement:
            continue
        found.setdefault(str(requirement), requirement)
    return list(found.values())


def _is_exact(requirement: Requirement) -> bool:
    return any(each.operator == "==" and not each.version.endswith(".*") for each in requirement.specifier)


def _other_build(requirement: Requirement, version: Version) -> str | None:
    """Return why a version is not wanted where nothing but the build, its local version, is another."""
    for each in requirement.specifier:
        _, plus, build = each.version.partition("+")
        if each.operator == "==" and plus and Version(each.version).public == version.public:
            own = f"it is the build +{version.local}" if version.local else "it is the build without a local version"
            return f"{own}, and +{build} is wanted"
    return None


def _versions(judged: Iterable[JudgedWheel]) -> tuple[str, ...]:
    return tuple(str(version) for version in sorted({each.version for each in judged}, reverse=True))
