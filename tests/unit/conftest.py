"""What every unit test gets: an environment of its own, and folders that belong to it."""

from __future__ import annotations

import shutil
import signal
import sys
from typing import TYPE_CHECKING

import hypothesis
import pytest

from builder.cli import main as cli
from builder.host import process
from builder.host.config import Config
from builder.host.console import Console
from builder.host.paths import Workspace, cache_folder
from builder.host.session import Session
from builder.lock import solve

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

hypothesis.settings.register_profile("unit", deadline=None, max_examples=60)
hypothesis.settings.load_profile("unit")

_FOREIGN = (
    *("CI", "GITHUB_ACTIONS", "NO_COLOR", "FORCE_COLOR", "HF_ENDPOINT", "NETRC", "DOCKER_HOST", "DOCKER_CONTEXT"),
    *("REQUESTS_CA_BUNDLE", "SSL_CERT_FILE", "CURL_CA_BUNDLE", "PYTHONPYCACHEPREFIX", "PYTHONOPTIMIZE"),
    *("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "FTP_PROXY", "http_proxy", "https_proxy", "all_proxy", "ftp_proxy"),
    *("NO_PROXY", "no_proxy"),
)


@pytest.fixture(autouse=True)
def _own_environment(monkeypatch: pytest.MonkeyPatch, tmp_path_factory: pytest.TempPathFactory) -> None:
    """Nothing of the user's settings reaches a test, and nothing of a test reaches the user's cache."""
    for name in _FOREIGN:
        monkeypatch.delenv(name, raising=False)
    home = tmp_path_factory.mktemp("home")
    monkeypatch.setenv("HOME", str(home))
    monkeypatch.setenv("XDG_CONFIG_HOME", str(home / "config"))
    monkeypatch.setenv("JBUILD_CACHE", str(home / "cache"))


@pytest.fixture
def workspace(tmp_path: Path) -> Workspace:
    """An empty project and an empty cache."""
    (tmp_path / "project" / "recipes").mkdir(parents=True)
    return Workspace(project=tmp_path / "project", cache=tmp_path / "cache")


@pytest.fixture
def session(workspace: Workspace) -> Session:
    """A session that works in the test's own folders."""
    return Session(workspace=workspace, config=Config(), console=Console(quiet=True))


@pytest.fixture
def command_line(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Iterator[Callable[..., tuple[int, str, str]]]:
    """Run jbuild in this process and return exit code, standard output and standard error."""

    def call(*arguments: str) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["jbuild", *arguments])
        capsys.readouterr()
        with pytest.raises(SystemExit) as caught:
            cli.main()
        captured = capsys.readouterr()
        return int(caught.value.code or 0), captured.out, captured.err

    before = signal.getsignal(signal.SIGTERM)
    yield call
    signal.signal(signal.SIGTERM, before)


@pytest.fixture(scope="session")
def _known_interpreter(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What uv has found out about this Python, which takes it longer than the solving of a test."""
    cache = tmp_path_factory.mktemp("uv")
    argv = [solve.uv(), "pip", "compile", "-", "--quiet", "--python", sys.executable]
    process.run(argv, stdin="", env={"UV_CACHE_DIR": str(cache)})
    return cache


@pytest.fixture
def quick_uv(_known_interpreter: Path, workspace: Workspace) -> None:
    """The real uv, with caches that know this Python already."""
    for cache in (workspace.cache, cache_folder()):
        shutil.copytree(_known_interpreter, cache / "uv", ignore=shutil.ignore_patterns(".lock"))
