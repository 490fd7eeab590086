"""Checkouts of Git commits in the cache, without their history."""

from __future__ import annotations

import hashlib
import shutil
from typing import TYPE_CHECKING

from builder.errors import LockError, ProgramFailedError
from builder.host.files import atomic_folder, mark_used
from builder.host.process import run

if TYPE_CHECKING:
    from pathlib import Path

    from builder.host.session import Session

_FETCH_S = 1800
# No prompt, and the bytes of the repository; proxies and credentials are those of the user's configuration.
_ENVIRONMENT = {"GIT_TERMINAL_PROMPT": "0", "GIT_LFS_SKIP_SMUDGE": "1"}
_PLAIN = ("-c", "core.autocrlf=false", "-c", "core.hooksPath=/dev/null", "-c", "advice.detachedHead=false")


def checkout(url: str, commit: str, session: Session) -> Path:
    """Return the files of a commit with those of its submodules; each commit is fetched once.

    Raises:
        LockError: the repository does not answer, or does not have the commit.
        EngineError: git is missing.
    """
    target = _folder(url, commit, session)
    with session.workspace.file_lock(f"source-{target.name[:16]}"):
        if not mark_used(target):
            with session.console.task(f"fetching {url} at {commit[:12]}"), atomic_folder(target) as folder:
                _fetch(url, commit, folder)
    return target


def is_checked_out(url: str, commit: str, session: Session) -> bool:
    """Return whether the cache has the files of a commit."""
    return _folder(url, commit, session).is_dir()


def _folder(url: str, commit: str, session: Session) -> Path:
    return session.workspace.foundry / "checkouts" / hashlib.sha256(f"{url}\n{commit}".encode()).hexdigest()


def _fetch(url: str, commit: str, folder: Path) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    try:
        _git(folder, "init", "--quiet")
        _git(folder, "fetch", "--quiet", "--depth", "1", url, commit)
        _git(folder, "checkout", "--quiet", "FETCH_HEAD")
        _git(folder, "submodule", "update", "--quiet", "--init", "--recursive", "--depth", "1")
    except ProgramFailedError as error:
        hint = "check the address and the commit; a server may refuse commits that no branch or tag has"
        raise LockError(f"git cannot fetch {commit}", where=url, hint=hint, log=error.output) from error
    for path in [folder / ".git", *folder.rglob(".git")]:
        shutil.rmtree(path) if path.is_dir() else path.unlink(missing_ok=True)


def _git(folder: Path, *words: str) -> None:
    run(["git", *_PLAIN, "-C", str(folder), *words], env=_ENVIRONMENT, timeout_s=_FETCH_S)
