"""Looks at what indexes really have for a requirement of a cell."""

from __future__ import annotations

import os
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING

from packaging.requirements import InvalidRequirement, Requirement
from packaging.utils import canonicalize_name

from builder.errors import JbuildError, NetworkError
from builder.index.model import DEFAULT, Address, Index
from builder.process import run
from builder.resolve.solve import uv, uv_environment
from builder.resolve.unfit import judge

if TYPE_CHECKING:
    from collections.abc import Iterable

    from packaging.version import Version

    from builder.index.client import IndexClient
    from builder.index.ties import Ties
    from builder.resolve.model import Job
    from builder.resolve.unfit import Judged
    from builder.session import Session

_FROM = re.compile(r"# from (\S+)")
_TIMEOUT_S = 120
_LOOKED_AT = 3
# A requirement as uv writes it in its explanations.
_NONE_OF = re.compile(r"there are no versions of ([a-z0-9](?:[a-z0-9-]*[a-z0-9])?) ")
_WRITTEN = re.compile(
    r"\b([a-z0-9](?:[a-z0-9-]*[a-z0-9])?)(?:\[[a-z0-9,-]+\])?((?:(?:==|~=|!=|>=|<=|<|>)[0-9][^\s,;]*,?)+)"
)


@dataclass(frozen=True, kw_only=True, slots=True)
class Unfit:
    """A wheel that the requirement would take, and why the cell cannot."""

    filename: str
    why: str


@dataclass(frozen=True, kw_only=True, slots=True)
class Examined:
    """What an index has for a requirement.

    `fitting` are the versions that it could take, `unfit` the wheels that it would but for the cell, `others` the
    versions with fitting wheels that it does not want, newest first. `said` tells what is wrong with the index itself.
    """

    requirement: str
    index: str
    url: str
    fitting: tuple[str, ...] = ()
    unfit: tuple[Unfit, ...] = ()
    others: tuple[str, ...] = ()
    said: str | None = None

    @property
    def hopeless(self) -> bool:
        """Whether nothing on the index can meet the requirement in this cell."""
        return not self.fitting


@dataclass(slots=True)
class Examiner:
    """Asks indexes for the packages of one job."""

    job: Job
    session: Session
    client: IndexClient
    ties: Ties
    _default: Index | None = None

    def examine(self, requirement: Requirement) -> Examined:
        """Look at the wheels for one requirement."""
        name = str(canonicalize_name(requirement.name))
        index = self.index_of(name)
        shown = f"{name}{requirement.specifier}"
        url = index.addresses[0].url if index.addresses else ""
        try:
            judged = self.judged(name)
        except JbuildError as error:
            return Examined(requirement=shown, index=index.name, url=url, said=error.message)
        if judged is None:
            return Examined(requirement=shown, index=index.name, url=url, said=f"it does not know {name}")
        wanted = [each for each in judged if requirement.specifier.contains(each.version, prereleases=True)]
        rest = [each for each in judged if each not in wanted]
        return Examined(
            requirement=shown,
            index=index.name,
            url=url,
            fitting=_versions(each for each in wanted if not each.unfit),
            unfit=tuple(Unfit(filename=each.file.filename, why=each.unfit) for each in wanted if each.unfit),
            others=_versions(each for each in rest if not each.unfit and not each.version.is_prerelease),
        )

    def judged(self, name: str) -> list[Judged] | None:
        """Return the wheels of a package with what speaks against each, or None if its index does not know it.

        Raises:
            NetworkError: the index does not answer.
        """
        index = self.index_of(name)
        if not index.addresses:
            raise NetworkError("uv's own index could not be found out", hint="name it: UV_DEFAULT_INDEX")
        page = self.client.page(index, name)
        before = self.job.spec.released_before
        return None if page is None else judge(page.files, index, self.job.platform, before=before)

    def newest(self, name: str) -> Version | None:
        """Return the newest release of a package that has a wheel for the cell.

        Raises:
            NetworkError: the index does not answer.
        """
        judged = self.judged(name) or ()
        return max((each.version for each in judged if not each.unfit and not each.version.is_prerelease), default=None)

    def index_of(self, name: str) -> Index:
        """Return the index that a package comes from."""
        return self.ties.index(name) or self._default_index()

    def _default_index(self) -> Index:
        if self._default is None:
            names = (Requirement(text).name for text in self.job.spec.requires)
            url = default_address(self.session, names)
            self._default = Index(name=DEFAULT, addresses=(Address(url=url),) if url else ())
        return self._default


def fault_behind(explanation: str, examiner: Examiner) -> NetworkError | None:
    """Return what is wrong with the index of a package that uv found nothing of, if anything is.

    uv takes a page that is none, as a captive portal answers, for one without files, and says `there is no version`.
    """
    names = (str(canonicalize_name(requirement.name)) for requirement in written_in(explanation)[:_LOOKED_AT])
    for name in names:
        if not examiner.index_of(name).addresses:
            continue
        try:
            examiner.judged(name)
        except NetworkError as error:
            return error
    return None


def default_address(session: Session, names: Iterable[str] = ()) -> str | None:
    """Return the address of uv's own default index, which only uv knows: its configuration says it, or its program.

    uv tells it with a package that it finds there: one that any index has, else one of `names`. None if it finds none.
    """
    said = (os.environ.get(name) for name in ("UV_DEFAULT_INDEX", "UV_INDEX_URL"))
    return next(filter(None, said), None) or next(
        filter(None, (_address_of(name, session) for name in ("packaging", *names))), None
    )


def _address_of(name: str, session: Session) -> str | None:
    argv = [uv(), "pip", "compile", "-", "--no-deps", "--universal", "--no-header", "--quiet", "--no-annotate"]
    argv += ["--emit-index-annotation", "--only-binary", ":all:"]
    try:
        environment = uv_environment(session.config, session.workspace.cache)
        text = run(argv, stdin=f"{name}\n", env=environment, timeout_s=_TIMEOUT_S).stdout
    except JbuildError:
        # Then it is down, or lacks even this package; what is told of it says so.
        return None
    found = _FROM.search(text)
    return found[1] if found else None


def written_in(text: str) -> list[Requirement]:
    """Return the requirements that an explanation of uv's speaks of, each once, in order."""
    found: dict[str, Requirement] = {}
    text = " ".join(text.split())
    for name, versions in (*_WRITTEN.findall(text), *((name, "") for name in _NONE_OF.findall(text))):
        try:
            requirement = Requirement(f"{name}{versions.rstrip(',.')}")
        except InvalidRequirement:
            continue
        found.setdefault(str(requirement), requirement)
    return list(found.values())


def _versions(judged: Iterable[Judged]) -> tuple[str, ...]:
    return tuple(str(version) for version in sorted({each.version for each in judged}, reverse=True))
