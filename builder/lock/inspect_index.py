"""Inspects the wheels that indexes have for a cell's requirements."""

from __future__ import annotations

import os
import re
import sys
from dataclasses import dataclass, field, replace
from functools import cached_property
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
_MOST_CHECKED = 3
_NAME = r"[a-z0-9](?:[a-z0-9-]*[a-z0-9])?"
_BOUNDS = r"(?:(?:==|~=|!=|>=|<=|<|>)[0-9][^\s,;)]*,?)+"
# The requirements in uv's explanations, and the packages without any version.
_REQUIRED = re.compile(
    rf"(?<![\w.-])(?:(?P<wanted>{_NAME})(?:\[[a-z0-9,-]+\])?(?P<bounds>{_BOUNDS})"
    rf"|(?P<unknown>{_NAME})(?:\[[a-z0-9,-]+\])? was not found in|no versions of (?P<absent>{_NAME}))"
)
# The available versions in them.
_AVAILABLE = re.compile(
    rf"only (?:\S+ is available|the following versions of (\S+) are available:(?:\s+\1{_BOUNDS})+)", re.IGNORECASE
)


@dataclass(frozen=True, kw_only=True, slots=True)
class UnfitWheel:
    """A wheel of a matching version that does not fit the cell, and why; `came`: its upload day, if too late."""

    filename: str
    why: str
    came: str | None = None


@dataclass(frozen=True, kw_only=True, slots=True)
class IndexContents:
    """The wheels of an index for a requirement.

    `fitting` are the usable versions, `unfit` the wheels of matching versions that do not fit the cell, `others` the
    versions with fitting wheels that do not match, newest first. `said` is a problem of the index itself.
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
        """Whether the index cannot meet the requirement in this cell."""
        return not self.fitting


@dataclass
class IndexInspector:
    """Inspects the indexes of one job's packages."""

    job: Job
    session: Session
    client: IndexClient
    ties: IndexPins
    _uv_indexes: tuple[Index, ...] = field(default_factory=own_indexes)

    def examine(self, requirement: Requirement) -> IndexContents:
        """Return the wheels for one requirement."""
        name = str(canonicalize_name(requirement.name))
        index = self.index_of(name)
        url = without_login(index.addresses[0].url) if index.addresses else ""
        nothing = IndexContents(requirement=f"{name}{requirement.specifier}", index=index.name, url=url)
        try:
            page = self.page(name)
        except JbuildError as error:
            return replace(nothing, said=error.message)
        if page is None:
            holder = "the vault in place of it" if index.vault_instead else "it"
            return replace(nothing, said=f"{holder} does not have {name}")
        judged = self._judge(page, index, yanked_too=_is_exact(requirement))
        if not judged:
            sources = f"it has source archives of {name} only, which `build` under [packages] makes wheels of"
            return replace(nothing, said=sources if page.files else f"it has no files of {name}")
        matching = [wheel for wheel in judged if requirement.specifier.contains(wheel.version, prereleases=True)]
        other_wheels = [wheel for wheel in judged if wheel not in matching]
        unfit = [
            UnfitWheel(filename=wheel.file.filename, why=wheel.unfit, came=wheel.too_late)
            for wheel in matching
            if wheel.unfit
        ]
        unfit += [
            UnfitWheel(filename=wheel.file.filename, why=reason)
            for wheel in other_wheels
            if (reason := _other_build(requirement, wheel.version))
        ]
        return replace(
            nothing,
            fitting=_versions(wheel for wheel in matching if not wheel.unfit),
            unfit=tuple(unfit),
            others=_versions(wheel for wheel in other_wheels if not wheel.unfit and not wheel.version.is_prerelease),
        )

    def page(self, name: str) -> ProjectPage | None:
        """Return a package's page on its index, or None if the index does not have the package.

        Raises:
            NetworkError: the index does not answer, or is unknown.
        """
        index = self.index_of(name)
        if not index.addresses:
            raise NetworkError("uv's default index could not be determined", hint="set UV_DEFAULT_INDEX")
        return self.client.page(index, name)

    def default_page(self, name: str) -> ProjectPage | None:
        """Return a package's page on uv's default index, or None if the index does not have the package.

        Raises:
            NetworkError: the index does not answer.
        """
        return self.client.page(self._default, name) if self._default.addresses else None

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
        return max(
            (wheel.version for wheel in judged if not wheel.unfit and not wheel.version.is_prerelease), default=None
        )

    def index_of(self, name: str) -> Index:
        """Return the index that a package comes from."""
        return self.ties.index(name) or self._untied(name)

    def _untied(self, name: str) -> Index:
        """Return the first of uv's own indexes that has a package, as uv does, or else its default index."""
        for index in self._uv_indexes:
            try:
                if self.client.page(index, name):
                    return index
            except IndexUnreachableError:
                # uv stops here too; inspecting this index shows the reason.
                return index
        return self._default

    @cached_property
    def _default(self) -> Index:
        url = default_address(self.session, (Requirement(text).name for text in self.job.spec.requires))
        rules = [rule for rule in self.session.config.index_mirrors if rule.covers_default and rule.vault]
        instead = next((rule for rule in rules if not rule.fallback), None)
        own = (Address(url=url or "", vault=instead.vault),) if instead else (Address(url=url),) if url else ()
        fallbacks = (Address(url=url or "", vault=rule.vault) for rule in rules if rule.fallback)
        return Index(name=DEFAULT, addresses=(*own, *fallbacks))


def index_error(explanation: str, examiner: IndexInspector) -> NetworkError | None:
    """Return the problem of the index of a package without versions in uv's explanation, if there is one.

    uv treats a page that is not an index page, such as a captive portal's, as one without files.
    """
    names = (str(canonicalize_name(requirement.name)) for requirement in requirements_in(explanation)[:_MOST_CHECKED])
    for name in names:
        if not examiner.index_of(name).addresses:
            continue
        try:
            examiner.page(name)
        except IndexUnreachableError as error:
            # uv may have log-ins that jbuild does not.
            return None if error.refused else error
    return None


def default_address(session: Session, names: Iterable[str] = (), *, within_s: float = _TIMEOUT_S) -> str | None:
    """Return the address of uv's default index, from uv's environment variables or from uv itself.

    uv prints the address of a package's index: of one that any index has, or else of `names`. None if it finds none.
    """
    setting = next(filter(None, map(os.environ.get, ("UV_DEFAULT_INDEX", "UV_INDEX_URL"))), None)
    if setting:
        # It may be named, `name=https://…`, or be a folder, which is not inspected.
        address = _ADDRESS.fullmatch(setting.strip())
        return without_login(address[1]) if address else None
    return next(filter(None, (_address_of(name, session, within_s) for name in ("packaging", *names))), None)


def _address_of(name: str, session: Session, within_s: float) -> str | None:
    argv = [uv(), "pip", "compile", "-", "--no-deps", "--universal", "--no-header", "--quiet", "--no-annotate"]
    argv += ["--emit-index-annotation", "--only-binary", ":all:", "--python", sys.executable]
    try:
        environment = uv_environment(session.config, session.workspace.cache)
        text = run(argv, stdin=f"{name}\n", env=environment, timeout_s=within_s).stdout
    except JbuildError:
        # It is down, or lacks even this package; inspecting it shows which.
        return None
    match = _FROM.search(text)
    return match[1] if match else None


def requirements_in(text: str) -> list[Requirement]:
    """Return the requirements in an explanation of uv, without duplicates, in order."""
    requirements: dict[str, Requirement] = {}
    for match in _REQUIRED.finditer(_AVAILABLE.sub("", " ".join(text.split()))):
        name = match["wanted"] or match["unknown"] or match["absent"]
        try:
            requirement = Requirement(f"{name}{(match['bounds'] or '').rstrip(',.')}")
        except InvalidRequirement:
            continue
        requirements.setdefault(str(requirement), requirement)
    return list(requirements.values())


def _is_exact(requirement: Requirement) -> bool:
    return any(
        specifier.operator == "==" and not specifier.version.endswith(".*") for specifier in requirement.specifier
    )


def _other_build(requirement: Requirement, version: Version) -> str | None:
    """Return the reason if a version differs from the requirement in its local version only."""
    for specifier in requirement.specifier:
        _, plus, build = specifier.version.partition("+")
        if specifier.operator == "==" and plus and Version(specifier.version).public == version.public:
            actual = f"it is the build +{version.local}" if version.local else "it is the build without a local version"
            return f"{actual}, but +{build} is required"
    return None


def _versions(judged: Iterable[JudgedWheel]) -> tuple[str, ...]:
    return tuple(str(version) for version in sorted({wheel.version for wheel in judged}, reverse=True))
