"""Asks uv which wheels work together on a platform."""

from __future__ import annotations

import os
import re
import sys
import tempfile
from dataclasses import dataclass
from datetime import date, timedelta
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from builder.errors import LockError, NetworkError, NoWheelsError, ProgramFailedError, ProgramTimeoutError
from builder.host.index_rows import DEFAULT
from builder.host.process import run
from builder.lock.uv_target import uv_flags
from builder.remote.index.index_client import answered, failing_since

if TYPE_CHECKING:
    from builder.host.config import Config
    from builder.host.paths import Workspace
    from builder.model.locks import Platform
    from builder.model.recipes import Spec

_TIMEOUT_S = 900
_NETWORK = re.compile(
    r"error sending request|Failed to fetch|Request failed|dns error|timed out|certificate", re.IGNORECASE
)
_CONFLICT = "No solution found"
# uv's words for a pin such as torch==2.11.0+cpu, whose local version only its authors' own index has.
_LOCAL_VERSION = re.compile(r"there is no version of (?P<name>[\w.-]+)==(?P<public>[^\s+,]+)\+(?P<local>[\w.]+)")
# What uv says of packages whose files came too late, and its advice, which a recipe cannot take.
_TOO_LATE = re.compile(r"was filtered by .exclude-newer.")
_CAME = re.compile(r"was published at ([0-9]{4}-[0-9]{2}-[0-9]{2})")
_NEWER_ADVICE = re.compile(r"\s*Consider using\s+`exclude-newer-package`[^.]*\.")
# uv's advice to mix indexes, which is what ties are there to prevent.
_MIXING = re.compile(r"\n+[ \t]*hint: (?:(?!\n[ \t]*\n).)*?index-strategy(?:(?!\n[ \t]*\n).)*", re.DOTALL)
_CERTIFICATE = re.compile(r"certificate|UnknownIssuer", re.IGNORECASE)


@dataclass(frozen=True, kw_only=True, slots=True)
class SolveRequest:
    """What uv is asked: a cell's requirements, and for which platform.

    `front` is the index that is asked before all others. The versions of the lock at `before` are kept where they still
    fit, except those of `upgrade` (`*` for all).
    """

    spec: Spec
    platform: Platform
    front: str | None = None
    before: Path | None = None
    upgrade: tuple[str, ...] = ()


def solve(question: SolveRequest, config: Config, workspace: Workspace) -> str:
    """Return uv's PEP 751 lock for a cell's requirements, as text.

    Indexes, mirrors and credentials are those of uv's own configuration, besides the front. When its default index does
    not answer, the configured fallbacks are asked in order.

    Raises:
        NoWheelsError: no set of wheels satisfies the requirements.
        LockError: uv cannot work, for instance because of its own configuration.
        NetworkError: an index did not answer.
    """
    fallbacks = [rule.mirror for rule in config.index_mirrors if rule.prefix == DEFAULT]
    failures: list[NetworkError] = []
    for default in (None, *fallbacks):
        try:
            answer = _ask(question, config, workspace, default)
        except NetworkError as error:
            if question.front and urlsplit(question.front).netloc in (error.log or ""):
                # A tied package's index: its own mirrors have been asked.
                raise
            failures.append(error)
            continue
        except NoWheelsError:
            answered(workspace.index_states, DEFAULT)
            raise
        answered(workspace.index_states, DEFAULT)
        return answer
    raise _unreachable(failures, failing_since(workspace.index_states, DEFAULT, note=True))


def _unreachable(failures: list[NetworkError], since: str | None) -> NetworkError:
    first, *others = failures
    also = f", nor {'its fallback' if len(others) == 1 else 'its fallbacks'}" if others else ""
    failing = f"; it has been failing since {since}" if since else ""
    hint = f"{first.hint}; cells that are locked already still build from the wheelhouse"
    return NetworkError(f"{first.message}{also}{failing}", where=first.where, hint=hint, log=first.log)


def _ask(question: SolveRequest, config: Config, workspace: Workspace, default: str | None) -> str:
    spec = question.spec
    with tempfile.TemporaryDirectory(prefix="jbuild-lock-") as name:
        folder = Path(name)
        output = folder / "pylock.toml"
        requires = _write(folder / "requires.in", spec.requires)
        constraints = _write(folder / "constraints.txt", spec.constraints)
        overrides = _write(folder / "overrides.txt", spec.replace)
        if question.before and question.before.is_file():
            output.write_text(question.before.read_text(encoding="utf-8"), encoding="utf-8")
        argv = [uv(), "pip", "compile", requires, "--constraints", constraints, "--overrides", overrides]
        # Any Python will do to solve for another; uv need not look for that other one all over this machine.
        argv += ["--python", sys.executable, *uv_flags(question.platform), *_wishes(question)]
        argv += ["--generate-hashes", "--format", "pylock.toml", "--no-header", "--quiet", "--output-file", str(output)]
        environment = uv_environment(config, workspace.cache, front=question.front, default=default)
        try:
            run(argv, env=environment, timeout_s=_TIMEOUT_S)
        except ProgramFailedError as error:
            raise _explain(error, spec, question.platform) from error
        return output.read_text(encoding="utf-8")


def _wishes(question: SolveRequest) -> list[str]:
    flags = ["--index-strategy", "first-index"] if question.front else []
    if question.spec.released_before:
        # A bare date would mean the end of that day, wherever this machine is.
        flags += ["--exclude-newer", f"{question.spec.released_before}T00:00:00Z"]
    if "*" in question.upgrade:
        return [*flags, "--upgrade"]
    return [*flags, *(flag for name in question.upgrade for flag in ("--upgrade-package", name))]


def _write(path: Path, lines: tuple[str, ...]) -> str:
    path.write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")
    return str(path)


def uv() -> str:
    """Return the path of the uv that was installed with jbuild."""
    from uv import find_uv_bin  # noqa: PLC0415  # only verbs that solve need it

    return str(find_uv_bin())


def uv_environment(
    config: Config, cache: Path, *, front: str | None = None, default: str | None = None
) -> dict[str, str]:
    """Return what uv's environment needs on top of the user's own."""
    own = {"UV_CACHE_DIR": str(cache / "uv"), "UV_PYTHON_DOWNLOADS": "never", "NO_COLOR": "1"}
    if config.ca_bundle:
        own["SSL_CERT_FILE"] = str(config.ca_bundle)
    if default:
        own["UV_DEFAULT_INDEX"] = default
    if front:
        # The variable, not the option: an option would drop the indexes that the user has named in the variable.
        own["UV_INDEX"] = " ".join(filter(None, (front, os.environ.get("UV_INDEX"))))
        # Programs read one of the two, and not all the same one.
        without = os.environ.get("NO_PROXY") or os.environ.get("no_proxy")
        own["NO_PROXY"] = own["no_proxy"] = ",".join(filter(None, (without, "127.0.0.1")))
    return own


def _explain(error: ProgramFailedError, spec: Spec, platform: Platform) -> LockError | NetworkError:
    asked = ", ".join(spec.requires)
    if isinstance(error, ProgramTimeoutError):
        hint = "check network, proxy and index, then run it again: what uv has fetched is kept"
        return NetworkError(f"uv did not end within {_TIMEOUT_S} s", where=asked, hint=hint, log=error.output)
    # The explanation of a conflict holds names of packages, which may be any word.
    if _CONFLICT not in error.output and _NETWORK.search(error.output):
        hint = "check network, proxy and index (UV_DEFAULT_INDEX, uv's configuration), then run it again"
        if _CERTIFICATE.search(error.output):
            hint = "name your company's certificates: `ca-bundle` under [network] in jbuild.toml, or SSL_CERT_FILE"
        return NetworkError("a package index did not answer", where=asked, hint=hint, log=error.output)
    if _CONFLICT not in error.output:
        hint = "the log above names the cause; uv reads its own configuration files too"
        return LockError("uv cannot solve the recipe's packages", where=asked, hint=hint, log=error.output)
    hint = "relax `packages` in the recipe as the explanation above says, then run it again"
    if spec.released_before:
        hint = f"{_later(spec, error.output)}; or {hint}"
    local = _LOCAL_VERSION.search(error.output)
    if local:
        hint = (
            f"only its authors' own index has the +{local['local']} build of {local['name']}: name it (UV_INDEX), "
            f'or take the public build with `replace = ["{local["name"]}=={local["public"]}"]` under [packages]'
        )
    return NoWheelsError(
        f"no wheels work together for {platform.name}: {platform.architecture}, Python {platform.python}, "
        f"glibc {platform.glibc}",
        where=asked,
        hint=hint,
        log=_NEWER_ADVICE.sub("", _MIXING.sub("", error.output)),
    )


def _later(spec: Spec, output: str) -> str:
    """Return what the recipe's date has to do with a conflict, and the way out."""
    since = f"nothing that came from {spec.released_before} on is taken (`released-before` under [packages])"
    if not _TOO_LATE.search(output):
        return f"{since}, which may be why"
    days = [date.fromisoformat(day) + timedelta(days=1) for day in _CAME.findall(output)]
    return f"{since}: set it to {max(days)} or later" if days else f"{since}: set it to a later day"
