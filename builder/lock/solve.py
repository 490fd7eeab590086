"""Solves a cell's requirements with uv."""

from __future__ import annotations

import os
import re
import sys
from dataclasses import dataclass
from datetime import date, timedelta
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from builder.errors import LockError, NetworkError, NoWheelsError, ProgramFailedError, ProgramTimeoutError
from builder.host.files import work_folder
from builder.host.index_rows import DEFAULT
from builder.host.process import run
from builder.lock.uv_target import uv_flags
from builder.remote.index.index_client import answered, client_of, failing_since
from builder.remote.index.index_proxy import running_proxy
from builder.remote.index.vault_view import default_view

if TYPE_CHECKING:
    from pathlib import Path

    from builder.host.config import Config
    from builder.host.index_mirrors import IndexMirror
    from builder.host.paths import Workspace
    from builder.model.platforms import Platform
    from builder.model.recipes import Spec

_TIMEOUT_S = 900
_NETWORK = re.compile(
    r"error sending request|Failed to fetch|Request failed|dns error|timed out|certificate", re.IGNORECASE
)
_CONFLICT = "No solution found"
# uv's message about a pin such as torch==2.11.0+cpu, whose local version only its authors' own index has.
_LOCAL_VERSION = re.compile(r"there is no version of (?P<name>[\w.-]+)==(?P<public>[^\s+,]+)\+(?P<local>[\w.]+)")
# uv's messages about packages whose files are too new, and its advice, which a recipe cannot follow.
_TOO_LATE = re.compile(r"was filtered by .exclude-newer.")
_PUBLISHED = re.compile(r"was published at ([0-9]{4}-[0-9]{2}-[0-9]{2})")
_NEWER_ADVICE = re.compile(r"\s*Consider using\s+`exclude-newer-package`[^.]*\.")
# uv's advice to mix indexes, which index pins are there to prevent.
_STRATEGY_ADVICE = re.compile(r"\n+[ \t]*hint: (?:(?!\n[ \t]*\n).)*?index-strategy(?:(?!\n[ \t]*\n).)*", re.DOTALL)
_CERTIFICATE = re.compile(r"certificate|UnknownIssuer", re.IGNORECASE)


@dataclass(frozen=True, kw_only=True, slots=True)
class SolveRequest:
    """The input of a solution: a cell's requirements, and the platform.

    `front` is the URL of the index proxy, which uv uses before all other indexes. Versions of the lock at `before` stay
    if they still fit, except those of `upgrade` (`*` for all). Without `dependencies`, only what is required is locked.
    """

    spec: Spec
    platform: Platform
    front: str | None = None
    before: Path | None = None
    upgrade: tuple[str, ...] = ()
    dependencies: bool = True


def solve(question: SolveRequest, config: Config, workspace: Workspace) -> str:
    """Return uv's PEP 751 lock for a cell's requirements, as text.

    Indexes, mirrors and credentials are those of uv's own configuration, besides the index proxy. If its default index
    does not answer, the configured fallbacks are tried in order.

    Raises:
        NoWheelsError: no set of wheels satisfies the requirements.
        LockError: uv failed, for instance because of its own configuration.
        NetworkError: an index did not answer.
    """
    failures: list[NetworkError] = []
    stood_in = client_of(config, workspace.index_states).stood_in
    for rule in _defaults(config):
        try:
            if rule and rule.vault:
                stood_in[DEFAULT] = rule.vault
                if failures:
                    failing_since(workspace.index_states, DEFAULT, note=True)
                return _solve_in_vault(rule.vault, question, config, workspace)
            answer = _run_uv(question, config, workspace, rule.mirror if rule else None)
        except NetworkError as error:
            if question.front and urlsplit(question.front).netloc in (error.log or ""):
                # The index of a pinned package: its mirrors were tried already.
                raise
            failures.append(error)
            continue
        except NoWheelsError:
            answered(workspace.index_states, DEFAULT)
            raise
        answered(workspace.index_states, DEFAULT)
        stood_in.pop(DEFAULT, None)
        return answer
    raise _unreachable(failures, failing_since(workspace.index_states, DEFAULT, note=True))


def _defaults(config: Config) -> list[IndexMirror | None]:
    """Return the rules for uv's default index in order; None is the index itself."""
    rules = [rule for rule in config.index_mirrors if rule.covers_default]
    instead = next((rule for rule in rules if not rule.fallback), None)
    return [instead, *(rule for rule in rules if rule.fallback)]


def _solve_in_vault(vault: str, question: SolveRequest, config: Config, workspace: Workspace) -> str:
    """Return uv's lock with a vault as its default index; the addresses in it are those of the index."""
    with running_proxy(default_view(vault, config, workspace)) as proxy:
        try:
            return proxy.upstream_files(_run_uv(question, config, workspace, proxy.url))
        except (LockError, NetworkError) as error:
            error.log = proxy.upstream(error.log or "") or None
            raise (proxy.view.errors[0] if proxy.view.errors else error) from error


def _unreachable(failures: list[NetworkError], since: str | None) -> NetworkError:
    first, *more = failures
    fallbacks = f", nor {'its fallback' if len(more) == 1 else 'its fallbacks'}" if more else ""
    failing = f"; it has been failing since {since}" if since else ""
    hint = f"{first.hint}; locked cells still build from the wheelhouse"
    return NetworkError(f"{first.message}{fallbacks}{failing}", where=first.where, hint=hint, log=first.log)


def _run_uv(question: SolveRequest, config: Config, workspace: Workspace, default: str | None) -> str:
    spec = question.spec
    with work_folder("jbuild-lock") as folder:
        output = folder / "pylock.toml"
        requires = _write(folder / "requires.in", spec.requires)
        constraints = _write(folder / "constraints.txt", spec.constraints)
        overrides = _write(folder / "overrides.txt", spec.replace)
        if question.before and question.before.is_file():
            output.write_text(question.before.read_text(encoding="utf-8"), encoding="utf-8")
        argv = [uv(), "pip", "compile", requires, "--constraints", constraints, "--overrides", overrides]
        # Any Python can solve for another version; uv does not need to search for that version.
        argv += ["--python", sys.executable, *uv_flags(question.platform), *_flags(question)]
        argv += ["--generate-hashes", "--format", "pylock.toml", "--no-header", "--quiet", "--output-file", str(output)]
        environment = uv_environment(config, workspace.cache, front=question.front, default=default)
        try:
            run(argv, env=environment, timeout_s=_TIMEOUT_S)
        except ProgramFailedError as error:
            raise _explain(error, spec, question.platform) from error
        return output.read_text(encoding="utf-8")


def _flags(question: SolveRequest) -> list[str]:
    flags = ["--index-strategy", "first-index"] if question.front else []
    if not question.dependencies:
        flags.append("--no-deps")
    if question.spec.released_before:
        # A bare date would mean the end of that day in this machine's time zone.
        flags += ["--exclude-newer", f"{question.spec.released_before}T00:00:00Z"]
    if "*" in question.upgrade:
        return [*flags, "--upgrade"]
    return [*flags, *(flag for name in question.upgrade for flag in ("--upgrade-package", name))]


def _write(path: Path, requirements: tuple[str, ...]) -> str:
    path.write_text("".join(f"{requirement}\n" for requirement in requirements), encoding="utf-8")
    return str(path)


def uv() -> str:
    """Return the path of the uv that was installed with jbuild."""
    from uv import find_uv_bin  # noqa: PLC0415  # only verbs that solve need it

    return str(find_uv_bin())


def uv_environment(
    config: Config, cache: Path, *, front: str | None = None, default: str | None = None
) -> dict[str, str]:
    """Return uv's environment variables on top of the user's."""
    variables = {"UV_CACHE_DIR": str(cache / "uv"), "UV_PYTHON_DOWNLOADS": "never", "NO_COLOR": "1"}
    if config.ca_bundle:
        variables["SSL_CERT_FILE"] = str(config.ca_bundle)
    if default:
        variables["UV_DEFAULT_INDEX"] = default
    if front:
        # The variable, not the option: an option would drop the indexes of the user's variable.
        variables["UV_INDEX"] = " ".join(filter(None, (front, os.environ.get("UV_INDEX"))))
        # Some programs read only one of the two.
        no_proxy = os.environ.get("NO_PROXY") or os.environ.get("no_proxy")
        variables["NO_PROXY"] = variables["no_proxy"] = ",".join(filter(None, (no_proxy, "127.0.0.1")))
    return variables


def _explain(error: ProgramFailedError, spec: Spec, platform: Platform) -> LockError | NetworkError:
    requirements = ", ".join(spec.requires)
    if isinstance(error, ProgramTimeoutError):
        hint = "check network, proxy and index, then run it again: uv keeps its downloads"
        return NetworkError(f"uv did not end within {_TIMEOUT_S} s", where=requirements, hint=hint, log=error.output)
    # The explanation of a conflict contains package names, which may be any word.
    if _CONFLICT not in error.output and _NETWORK.search(error.output):
        hint = "check network, proxy and index (UV_DEFAULT_INDEX, uv's configuration), then run it again"
        if _CERTIFICATE.search(error.output):
            hint = "name your company's certificates: `ca-bundle` under [network] in jbuild.toml, or SSL_CERT_FILE"
        return NetworkError("a package index did not answer", where=requirements, hint=hint, log=error.output)
    if _CONFLICT not in error.output:
        hint = "the log above names the cause; uv reads its own configuration files too"
        return LockError("uv cannot solve the recipe's packages", where=requirements, hint=hint, log=error.output)
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
        where=requirements,
        hint=hint,
        log=_NEWER_ADVICE.sub("", _STRATEGY_ADVICE.sub("", error.output)),
    )


def _later(spec: Spec, output: str) -> str:
    """Return a hint about the recipe's date in a conflict."""
    since = f"files uploaded on or after {spec.released_before} are excluded (`released-before` under [packages])"
    if not _TOO_LATE.search(output):
        return f"{since}, which may be the cause"
    days = [date.fromisoformat(day) + timedelta(days=1) for day in _PUBLISHED.findall(output)]
    return f"{since}: set it to {max(days)} or later" if days else f"{since}: set it to a later day"
