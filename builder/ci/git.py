"""What git knows of a project: its root, a commit's files, and what it does not track."""

from __future__ import annotations

import re
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory, gettempdir
from typing import TYPE_CHECKING

from builder import process
from builder.errors import ProgramFailedError, ProgramMissingError, UsageError
from builder.tomldoc import shown, suggest
from builder.workspace import disk_errors

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

_GIT_TIMEOUT_S = 120.0
# What recipes, locks and settings never reach; models in a repository may be gigabytes.
_LARGEST = 1 << 20
# GitHub's name for the commit before the first push of a branch.
_NONE = re.compile("0{40}|0{64}")


def is_none(ref: str) -> bool:
    """Return whether a name stands for no commit at all: before it there was nothing."""
    return _NONE.fullmatch(ref) is not None


def root_of(project: Path) -> Path:
    """Return the root of the repository that a folder is in.

    Raises:
        UsageError: git is not installed, or the folder is in no repository that git would read.
    """
    try:
        done = _git(project, "rev-parse", "--show-toplevel", check=False)
    except ProgramMissingError as error:
        raise UsageError(
            "`git` is not installed, so nobody knows what changed",
            where=str(project),
            hint="install git, or leave --changed-since out",
        ) from error
    if done.code == 0:
        return Path(done.stdout.rstrip("\n"))
    said = done.stderr.strip().splitlines()
    owner = next((line.strip() for line in said if "safe.directory" in line and "git config" in line), None)
    raise UsageError(
        "the project is in no git repository that can be read",
        where=str(project),
        hint=owner or "run it in a clone of the repository, or leave --changed-since out",
        log=done.stderr or None,
    )


def commit_of(root: Path, ref: str) -> str:
    """Return the full name of a commit.

    Raises:
        UsageError: there is no such commit here; a shallow clone may just not have it.
    """
    if not ref.startswith("-"):
        done = _git(root, "rev-parse", "--verify", "--quiet", f"{ref}^{{commit}}", check=False)
        if done.code == 0:
            return done.stdout.strip()
    if _git(root, "rev-parse", "--is-shallow-repository").stdout.strip() == "true":
        raise UsageError(
            f"this clone is shallow, and has no commit `{shown(ref)}`",
            where=str(root),
            hint="run `git fetch --unshallow`; on GitHub give actions/checkout `fetch-depth: 0`",
        )
    names = _git(root, "for-each-ref", "--format=%(refname:short)").stdout.split()
    near = suggest(ref, names, noun="branches and tags")
    hint = near if near.startswith("did you mean") else "run `git fetch --all --tags`; `git log` shows commits"
    raise UsageError(f"there is no commit `{shown(ref)}`", where=str(root), hint=hint)


@contextmanager
def files_at(root: Path, commit: str) -> Iterator[Path]:
    """Give a folder with the files of a commit, large ones left out; what git ignores is the same now and then.

    Raises:
        UsageError: git could not read the commit.
        DiskError: there is no room for the files.
    """
    with disk_errors(Path(gettempdir())), TemporaryDirectory(prefix="jbuild-since-") as name:
        folder = Path(name).resolve() / "files"
        folder.mkdir()
        index = {"GIT_INDEX_FILE": str(folder.with_name("index"))}
        _git(root, "read-tree", commit, env=index)
        paths = "".join(f"{path}\0" for path in _small(root, commit))
        _git(root, "checkout-index", "--quiet", "-z", "--stdin", f"--prefix={folder}/", env=index, stdin=paths)
        for path in _ignored(root):
            _link(root / path, folder / path)
        yield folder


def changed(root: Path, commit: str, path: Path) -> bool:
    """Return whether anything below a path of the repository is other than in a commit, new files among it."""
    place = str(path.relative_to(root))
    done = _git(root, "diff", "--quiet", commit, "--", place, check=False)
    return done.code != 0 or bool(_git(root, "ls-files", "--others", "--exclude-standard", "--", place).stdout)


def _small(root: Path, commit: str) -> Iterator[str]:
    listed = _git(root, "ls-tree", "-r", "-l", "-z", "--full-tree", commit).stdout
    for line in listed.split("\0"):
        about, tab, path = line.partition("\t")
        if tab and about.split()[1] == "blob" and int(about.split()[3]) <= _LARGEST:
            yield path


def _ignored(root: Path) -> Iterable[str]:
    listed = _git(root, "ls-files", "--others", "--ignored", "--exclude-standard", "--directory", "-z").stdout
    return [path.rstrip("/") for path in listed.split("\0") if path]


def _link(path: Path, link: Path) -> None:
    if not link.exists() and link.parent.is_dir():
        link.symlink_to(path)


def _git(
    folder: Path, *arguments: str, check: bool = True, env: dict[str, str] | None = None, stdin: str | None = None
) -> process.Completed:
    try:
        return process.run(
            ["git", "-c", "core.quotePath=false", *arguments],
            cwd=folder,
            # Files that git keeps elsewhere are models, not settings.
            env={"LC_ALL": "C", "GIT_LFS_SKIP_SMUDGE": "1", **(env or {})},
            stdin=stdin,
            timeout_s=_GIT_TIMEOUT_S,
            check=check,
        )
    except ProgramFailedError as error:
        raise UsageError(
            f"`git {arguments[0]}` failed", where=str(folder), hint="`git fsck` checks the clone", log=error.output
        ) from error
