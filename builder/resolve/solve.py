"""Asks uv which wheels work together on a platform."""

from __future__ import annotations

import re
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

from builder.errors import LockError, NetworkError, ProgramFailedError, ProgramTimeoutError
from builder.process import run
from builder.resolve.target import uv_flags

if TYPE_CHECKING:
    from builder.config import Config
    from builder.jetson.model import Platform
    from builder.recipe.model import Spec

_TIMEOUT_S = 900
_NETWORK = re.compile(
    r"error sending request|Failed to fetch|Request failed|dns error|timed out|certificate", re.IGNORECASE
)
_CONFLICT = "No solution found"
# uv's words for a pin such as torch==2.11.0+cpu, whose local version only its authors' own index has.
_LOCAL_VERSION = re.compile(r"there is no version of (?P<name>[\w.-]+)==(?P<public>[^\s+,]+)\+(?P<local>[\w.]+)")
_CERTIFICATE = re.compile(r"certificate|UnknownIssuer", re.IGNORECASE)


def solve(spec: Spec, platform: Platform, config: Config, cache: Path, *, before: Path | None = None) -> str:
    """Return uv's PEP 751 lock for a cell's requirements, as text.

    The versions of the lock at `before` are kept where they still fit. Indexes, mirrors and credentials are those of
    uv's own configuration.

    Raises:
        LockError: no set of wheels satisfies the requirements.
        NetworkError: an index did not answer.
    """
    with tempfile.TemporaryDirectory(prefix="jbuild-lock-") as name:
        folder = Path(name)
        output = folder / "pylock.toml"
        requires = _write(folder / "requires.in", spec.requires)
        constraints = _write(folder / "constraints.txt", spec.constraints)
        overrides = _write(folder / "overrides.txt", spec.replace)
        if before and before.is_file():
            output.write_text(before.read_text(encoding="utf-8"), encoding="utf-8")
        argv = [uv(), "pip", "compile", requires, "--constraints", constraints, "--overrides", overrides]
        argv += uv_flags(platform)
        argv += ["--generate-hashes", "--format", "pylock.toml", "--no-header", "--quiet", "--output-file", str(output)]
        try:
            run(argv, env=uv_environment(config, cache), timeout_s=_TIMEOUT_S)
        except ProgramFailedError as error:
            raise _explain(error, spec, platform) from error
        return output.read_text(encoding="utf-8")


def _write(path: Path, lines: tuple[str, ...]) -> str:
    path.write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")
    return str(path)


def uv() -> str:
    """Return the path of the uv that was installed with jbuild."""
    from uv import find_uv_bin  # noqa: PLC0415  # only verbs that solve need it

    return str(find_uv_bin())


def uv_environment(config: Config, cache: Path) -> dict[str, str]:
    """Return what uv's environment needs on top of the user's own."""
    own = {"UV_CACHE_DIR": str(cache / "uv"), "UV_PYTHON_DOWNLOADS": "never", "NO_COLOR": "1"}
    return {**own, "SSL_CERT_FILE": str(config.ca_bundle)} if config.ca_bundle else own


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
    local = _LOCAL_VERSION.search(error.output)
    if local:
        hint = (
            f"only its authors' own index has the +{local['local']} build of {local['name']}: name it (UV_INDEX), "
            f'or take the public build with `replace = ["{local["name"]}=={local["public"]}"]` under [packages]'
        )
    return LockError(
        f"no wheels work together for {platform.name}: {platform.architecture}, Python {platform.python}, "
        f"glibc {platform.glibc}",
        where=asked,
        hint=hint,
        log=error.output,
    )
