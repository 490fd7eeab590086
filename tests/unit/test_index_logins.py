"""Log-ins of indexes: where they are found, whom they are given to, and that nobody reads them."""

from __future__ import annotations

import stat
import sys
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

import pytest
from factories import locked, make_wheel
from tiny_index import Answer, TinyIndex, tiny_index

from builder.host.config import Config
from builder.host.index_mirrors import IndexMirror
from builder.host.index_rows import IndexRow
from builder.host.session import Session
from builder.remote import http
from builder.remote.http import Retry
from builder.remote.index.index_client import IndexClient, IndexUnreachableError
from builder.remote.index.listing import Address, Index
from builder.remote.index.logins import Logins
from builder.remote.wheelhouse import fetch

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from builder.host.paths import Workspace

PASSWORD = "hu/sh@1:%"
QUOTED = "hu%2Fsh%401%3A%25"


@pytest.fixture(autouse=True)
def _no_foreign_logins(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name in ("UV_DEFAULT_INDEX", "UV_INDEX", "UV_INDEX_URL", "UV_EXTRA_INDEX_URL"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("PATH", str(tmp_path / "bin"))


@pytest.fixture
def server(tmp_path: Path) -> Iterator[TinyIndex]:
    """An index that wants a log-in."""
    with tiny_index() as index:
        index.add(make_wheel(tmp_path / "wheels", "torch", "2.8.0"))
        index.login = f"me:{PASSWORD}"
        yield index


def row(url: str, name: str = "my-jet") -> IndexRow:
    return IndexRow(name=name, url=url, packages=("torch",))


def with_login(url: str, login: str = f"me:{QUOTED}") -> str:
    return url.replace("://", f"://{login}@")


def get(config: Config, url: str) -> int:
    with Logins(config, http.session(config)).get(url) as answer:
        return answer.status_code


def test_a_login_of_the_address(server: TinyIndex) -> None:
    assert get(Config(indexes=(row(with_login(server.url)),)), f"{server.url}torch/") == 200


def test_a_login_of_a_mirrors_address(server: TinyIndex) -> None:
    rule = IndexMirror(prefix="https://index.example/simple", mirror=with_login(server.url))
    assert (
        get(Config(indexes=(row("https://index.example/simple"),), index_mirrors=(rule,)), f"{server.url}torch/") == 200
    )
    fallback = IndexMirror(prefix="default", mirror=with_login(server.url), fallback=True)
    assert get(Config(index_mirrors=(fallback,)), f"{server.url}torch/") == 200


@pytest.mark.parametrize("value", ["{}", "https://other.example/simple own={}", "https://other.example {}"])
@pytest.mark.parametrize("name", ["UV_DEFAULT_INDEX", "UV_INDEX", "UV_INDEX_URL", "UV_EXTRA_INDEX_URL"])
def test_a_login_of_uvs_variables(server: TinyIndex, monkeypatch: pytest.MonkeyPatch, name: str, value: str) -> None:
    monkeypatch.setenv(name, value.format(with_login(server.url)))
    assert get(Config(), f"{server.url}torch/") == 200


@pytest.mark.parametrize("indexes", [True, False])
def test_a_login_of_the_variables_for_an_index(
    server: TinyIndex, monkeypatch: pytest.MonkeyPatch, indexes: bool
) -> None:
    monkeypatch.setenv("UV_INDEX_MY_JET_USERNAME", "me")
    monkeypatch.setenv("UV_INDEX_MY_JET_PASSWORD", PASSWORD)
    if not indexes:
        monkeypatch.setenv("UV_INDEX", f"my-jet={server.url}")
    assert get(Config(indexes=(row(server.url),) if indexes else ()), f"{server.url}torch/") == 200


def test_a_login_of_netrc(server: TinyIndex, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    server.login = "me:hush"
    (tmp_path / "netrc").write_text("machine 127.0.0.1 login me password hush\n")
    monkeypatch.setenv("NETRC", str(tmp_path / "netrc"))
    assert get(Config(indexes=(row(server.url),)), f"{server.url}torch/") == 200
    assert get(Config(), f"{server.url}torch/") == 200


def test_without_a_login_a_server_refuses(server: TinyIndex) -> None:
    assert get(Config(indexes=(row(server.url),)), f"{server.url}torch/") == 401


def test_a_login_is_for_its_own_server_only(server: TinyIndex) -> None:
    with tiny_index() as other:
        other.login = f"me:{PASSWORD}"
        config = Config(indexes=(row(with_login(server.url)),))
        assert get(config, f"{other.url}torch/") == 401
        assert get(config, f"{server.url.replace('127.0.0.1', 'localhost')}torch/") == 401


def test_a_login_does_not_follow_a_redirect_to_another_server(server: TinyIndex) -> None:
    with tiny_index() as other:
        other.login = f"me:{PASSWORD}"
        server.faults["*"] = [Answer(status=302, headers=(("Location", other.url.replace("127.0.0.1", "localhost")),))]
        assert get(Config(indexes=(row(with_login(server.url)),)), f"{server.url}torch/") == 401


def test_of_two_indexes_on_one_server_each_has_its_own(server: TinyIndex) -> None:
    root = f"http://{server.host}"
    config = Config(
        indexes=(
            row(with_login(f"{root}/team-a/simple/", "a:1"), "a"),
            row(with_login(f"{root}/team-b/simple/", "b:2"), "b"),
            row(f"{root}/open/simple/", "c"),
        )
    )
    for login, path in (("a:1", "team-a/files/x"), ("b:2", "team-b/simple/torch/"), (None, "open/x")):
        server.login = login
        assert get(config, f"{root}/{path}") == 404


KEYRING = """#!{python}
import pathlib, sys
with pathlib.Path({log!r}).open("a") as log:
    log.write(" ".join(sys.argv[1:]) + "\\n")
answers = {answers!r}
if tuple(sys.argv[1:]) not in answers:
    sys.exit(1)
print(answers[tuple(sys.argv[1:])])
"""


@pytest.fixture
def keyring(tmp_path: Path) -> Callable[[dict[tuple[str, ...], str]], Path]:
    """Put a `keyring` on PATH that knows some answers, and return the file in which it notes what it was asked."""

    def make(answers: dict[tuple[str, ...], str]) -> Path:
        log, program = tmp_path / "keyring.log", tmp_path / "bin" / "keyring"
        program.parent.mkdir(exist_ok=True)
        program.write_text(KEYRING.format(python=sys.executable, log=str(log), answers=answers))
        program.chmod(program.stat().st_mode | stat.S_IXUSR)
        return log

    return make


def test_a_login_of_the_keyring_is_asked_for_once(server: TinyIndex, keyring: Any) -> None:
    log = keyring({("--mode", "creds", "get", server.url): f"me\n{PASSWORD}"})
    config = Config(indexes=(row(server.url),))
    logins = Logins(config, http.session(config))
    for url in (
        f"{server.url}torch/",
        f"{server.url}absent/",
        f"http://{server.host}/files/torch-2.8.0-py3-none-any.whl",
    ):
        assert logins.get(url).status_code in (200, 404)
    assert log.read_text().splitlines() == [f"--mode creds get {server.url}"]
    # Once it is known, nobody is asked in vain first.
    assert server.asked.count("/simple/absent/") == 1


def test_the_keyring_may_know_the_server_only(server: TinyIndex, keyring: Any) -> None:
    log = keyring({("--mode", "creds", "get", server.host): f"me\n{PASSWORD}"})
    assert get(Config(indexes=(row(server.url),)), f"{server.url}torch/") == 200
    assert len(log.read_text().splitlines()) == 2


def test_the_keyring_may_know_the_password_of_a_user(server: TinyIndex, keyring: Any) -> None:
    log = keyring({("get", server.url, "me"): PASSWORD})
    assert get(Config(indexes=(row(with_login(server.url, "me")),)), f"{server.url}torch/") == 200
    assert log.read_text() == f"get {server.url} me\n"


@pytest.mark.parametrize("answer", ["", "me", "me\nwrong", "a\nb\nc"])
def test_a_keyring_that_does_not_help(server: TinyIndex, keyring: Any, answer: str) -> None:
    log = keyring({("--mode", "creds", "get", server.url): answer})
    config = Config(indexes=(row(server.url),))
    logins = Logins(config, http.session(config))
    for _ in range(3):
        assert logins.get(f"{server.url}torch/").status_code == 401
    assert 1 <= len(log.read_text().splitlines()) <= 2


def test_a_keyring_is_left_alone_where_nothing_is_refused(server: TinyIndex, keyring: Any) -> None:
    log = keyring({})
    server.login = None
    assert get(Config(indexes=(row(server.url),)), f"{server.url}torch/") == 200
    assert not log.exists()


def test_a_token_without_a_password(server: TinyIndex) -> None:
    server.login = "token:"
    assert get(Config(indexes=(row(with_login(server.url, "token")),)), f"{server.url}torch/") == 200


def test_letters_of_any_script(server: TinyIndex) -> None:
    server.login = "mé:пароль"
    login = quote("mé") + ":" + quote("пароль")
    assert get(Config(indexes=(row(with_login(server.url, login)),)), f"{server.url}torch/") == 200


@pytest.mark.parametrize("status", [401, 403])
def test_a_refusal_says_how_to_log_in_and_tells_no_password(server: TinyIndex, tmp_path: Path, status: int) -> None:
    url = with_login(server.url, "me:hush-hush")
    server.faults["*"] = [Answer(status=status)]
    client = IndexClient(config=Config(indexes=(row(url),)), states=tmp_path, retry=Retry(tries=1))
    with pytest.raises(IndexUnreachableError) as caught:
        client.page(Index(name="my-jet", addresses=(Address(url=url), Address(url=url))), "torch")
    error = caught.value
    assert "UV_INDEX_MY_JET_USERNAME" in (error.hint or "")
    assert f"answers {status}" in (error.log or "")
    for text in (str(error.as_json()), repr(error), str(error.__cause__)):
        assert "hush-hush" not in text
    assert not list(tmp_path.glob("*hush*"))
    assert "hush" not in (tmp_path / "my-jet.json").read_text()


def test_a_page_behind_a_login_does_not_show_it(server: TinyIndex, tmp_path: Path) -> None:
    url = with_login(server.url)
    client = IndexClient(config=Config(indexes=(row(url),)), states=tmp_path)
    page = client.page(Index(name="my-jet", addresses=(Address(url=url),)), "torch")
    assert page
    assert page.url == f"{server.url}torch/"
    assert "hu" not in repr(page).replace("127.0.0.1", "")


def test_wheels_come_from_behind_the_login_too(server: TinyIndex, workspace: Workspace, session: Session) -> None:
    content = server.files["torch-2.8.0-py3-none-any.whl"]
    source = workspace.project / "torch-2.8.0-py3-none-any.whl"
    source.write_bytes(content)
    wheel = locked(source, url=f"http://{server.host}/files/{source.name}")
    config = Config(indexes=(row(with_login(server.url)),))
    fetch([wheel], Session(workspace=workspace, config=config, console=session.console))
    assert workspace.wheel(wheel.sha256, wheel.filename).read_bytes() == content
