"""Interpreters that uv fetches, from a stand-in for the releases of python-build-standalone on loopback."""

from __future__ import annotations

import gzip
import hashlib
import io
import tarfile
import threading
from dataclasses import replace
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from typing import TYPE_CHECKING

import pytest
from factories import make_lock, make_platform
from layer_files import Made, make

from builder.errors import IntegrityError, JbuildError, NetworkError
from builder.host.config import Config
from builder.host.console import Console
from builder.host.interpreters import Compiler, find_compiler
from builder.host.session import Session
from builder.image.layers.layer import InterpreterLayer
from builder.image.wheels.standalone_python import provide_compiler
from builder.lock import python_archives
from builder.model.images import EPOCH
from builder.model.locks import LockedInterpreter

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from builder.host.paths import Workspace
    from builder.model.locks import Lock

RELEASE = "3.12.16+20261110"
NAME = f"cpython-{RELEASE}-aarch64-unknown-linux-gnu-install_only_stripped.tar.gz"
# uv refuses one without this first line.
CONFIGURED = b"# system configuration generated and used by the sysconfig module\nbuild_time_vars = {'prefix': '@'}\n"
FILES = {
    "python/bin/python3.12": b"\x7fELF not really",
    "python/lib/python3.12/os.py": b"x = 1\n",
    "python/lib/python3.12/_sysconfigdata__linux_aarch64-linux-gnu.py": CONFIGURED.replace(b"@", b"/install"),
    "python/lib/libpython3.12.so.1.0": b"library",
}


@pytest.fixture
def mirror(tmp_path: Path) -> Iterator[Path]:
    """A folder that is served; its address is in the session's configuration."""
    folder = tmp_path / "mirror"
    folder.mkdir()

    class Quiet(SimpleHTTPRequestHandler):
        def log_message(self, *args: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), partial(Quiet, directory=str(folder))) as server:
        threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True).start()
        (folder / "address").write_text(f"http://127.0.0.1:{server.server_port}")
        yield folder
        server.shutdown()


@pytest.fixture
def own(workspace: Workspace, mirror: Path, monkeypatch: pytest.MonkeyPatch) -> Session:
    """A session whose mirror is the stand-in."""
    monkeypatch.setenv("UV_HTTP_RETRIES", "0")
    config = Config(python_mirror=(mirror / "address").read_text())
    return Session(workspace=workspace, config=config, console=Console(quiet=True))


def archive(files: dict[str, bytes]) -> bytes:
    """Return an archive with the layout of the real ones, which is not an interpreter."""
    buffer = io.BytesIO()
    with gzip.GzipFile(fileobj=buffer, mode="wb", mtime=0) as packed, tarfile.open(fileobj=packed, mode="w") as members:
        for name, content in files.items():
            member = tarfile.TarInfo(name)
            member.size, member.mode, member.mtime = len(content), 0o755 if "/bin/" in name else 0o664, 1_700_000_000
            members.addfile(member, io.BytesIO(content))
        link = tarfile.TarInfo("python/bin/python3")
        link.type, link.linkname = tarfile.SYMTYPE, "python3.12"
        members.addfile(link)
    return buffer.getvalue()


def offered(mirror: Path, files: dict[str, bytes] = FILES) -> Lock:
    """Put an archive on the mirror and return a lock of it."""
    content = archive(files)
    (mirror / "20261110").mkdir(exist_ok=True)
    (mirror / "20261110" / NAME).write_bytes(content)
    url = f"https://github.com/astral-sh/python-build-standalone/releases/download/20261110/{NAME.replace('+', '%2B')}"
    locked = LockedInterpreter(release=RELEASE, url=url, sha256=hashlib.sha256(content).hexdigest())
    return make_lock(platform=make_platform(python="3.12", standalone=RELEASE), interpreter=locked)


def made_of(lock: Lock, session: Session, compiler: Compiler | None = None) -> Made:
    return make(InterpreterLayer(name="interpreter-0", lock=lock, session=session), session, compiler)


def test_an_interpreter_lies_where_the_image_has_it(mirror: Path, own: Session) -> None:
    made = made_of(offered(mirror), own)
    home = made.folder / "opt/python"
    with tarfile.open(fileobj=io.BytesIO(made.tar)) as members:
        assert {member.mtime for member in members} == {EPOCH}
    assert (home / "bin/python3.12").read_bytes() == FILES["python/bin/python3.12"]
    assert str((home / "bin/python3").readlink()) == "python3.12"
    assert (home / "lib/python3.12" / "os.py").read_text() == "x = 1\n"
    modes = {path.name: path.stat().st_mode & 0o777 for path in home.rglob("*") if path.is_file()}
    assert modes == {name: 0o755 if name.startswith("python3") else 0o644 for name in modes}


def test_its_own_records_say_where_it_is(mirror: Path, own: Session) -> None:
    tree = made_of(offered(mirror), own).folder
    (records,) = tree.rglob("_sysconfigdata*.py")
    assert records.read_bytes() == CONFIGURED.replace(b"@", b"/opt/python")
    texts = [path.read_bytes() for path in tree.rglob("*") if path.is_file()]
    assert not any(str(own.workspace.cache).encode() in text for text in texts)


def test_it_is_fetched_once(mirror: Path, own: Session) -> None:
    lock = offered(mirror)
    first = made_of(lock, own)
    (mirror / "20261110" / NAME).unlink()
    assert made_of(lock, own) == first
    (archive_kept,) = own.workspace.interpreters.rglob("*.tar.gz")
    assert archive_kept.name == NAME
    assert [path.name for path in archive_kept.parent.iterdir()] == [NAME]


def test_its_sources_are_compiled_if_something_can(mirror: Path, own: Session) -> None:
    lock = offered(mirror)
    assert lock.interpreter
    compiler = find_compiler(own_minor(), None, own.workspace.interpreters)
    assert compiler
    tree = made_of(lock, own, compiler).folder
    assert {path.name.partition(".")[0] for path in tree.rglob("*.pyc")} == {
        "os",
        "_sysconfigdata__linux_aarch64-linux-gnu",
    }


def own_minor() -> str:
    import sys  # noqa: PLC0415

    return f"{sys.version_info[0]}.{sys.version_info[1]}"


def failure(lock: Lock, session: Session) -> JbuildError:
    with pytest.raises(JbuildError) as caught:
        made_of(lock, session)
    assert not list(session.workspace.cache.glob(".*"))
    assert not list(session.workspace.interpreters.rglob("*.tar.gz"))
    assert caught.value.where
    assert caught.value.hint
    return caught.value


def test_another_file_under_its_name_is_refused(mirror: Path, own: Session) -> None:
    lock = offered(mirror)
    offered(mirror, {**FILES, "python/lib/evil.py": b"import os\n"})
    error = failure(lock, own)
    assert isinstance(error, IntegrityError)
    assert error.message == f"{NAME} does not match the locked sha256"
    assert error.where == own.config.python_mirror


def test_a_cut_archive_is_not_kept(mirror: Path, own: Session) -> None:
    lock = offered(mirror)
    place = mirror / "20261110" / NAME
    place.write_bytes(place.read_bytes()[:-20])
    assert isinstance(failure(lock, own), (IntegrityError, NetworkError))
    offered(mirror)
    assert made_of(lock, own).tar


def test_a_mirror_that_lacks_it(mirror: Path, own: Session) -> None:
    lock = offered(mirror)
    (mirror / "20261110" / NAME).unlink()
    error = failure(lock, own)
    assert isinstance(error, NetworkError)
    assert error.message == f"{NAME} cannot be fetched: the server answers 404 File not found"
    assert "`mirror` under [python]" in str(error.hint)


def test_a_mirror_that_is_not_there(mirror: Path, own: Session) -> None:
    dead = replace(own, config=Config(python_mirror="http://127.0.0.1:9"))
    error = failure(offered(mirror), dead)
    assert isinstance(error, NetworkError)
    assert error.message.endswith("its server does not answer")


@pytest.mark.parametrize(
    "files",
    [
        {"python/lib/nothing": b""},
        {**FILES, "etc/passwd": b"root::0:0::/:/bin/sh\n"},
        {name.replace("3.12", "3.11"): content for name, content in FILES.items()},
    ],
)
def test_an_archive_that_is_no_interpreter(mirror: Path, own: Session, files: dict[str, bytes]) -> None:
    lock = offered(mirror, files)
    with pytest.raises(JbuildError):
        made_of(lock, own)
    assert not list(own.workspace.cache.rglob("opt"))


def test_an_archive_that_reaches_outside_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "x.tar.gz"
    path.write_bytes(archive({**FILES, "python/../../../evil": b"x"}))
    with pytest.raises(IntegrityError, match="is not an interpreter"):
        python_archives.unpack_archive(path, tmp_path / "a" / "b", "3.12")
    assert not (tmp_path / "evil").exists()


def test_no_compiler_is_fetched_where_one_is_here(own: Session) -> None:
    found = find_compiler(own_minor(), None, own.workspace.interpreters)
    assert found
    lock = make_lock(platform=make_platform(python=own_minor()), compiler=found.version)
    dead = replace(own, config=Config(python_mirror="http://127.0.0.1:9"))
    assert provide_compiler(lock, dead) == found
    assert provide_compiler(replace(lock, compiler=None), dead) == found


def test_a_release_that_cannot_be_had_is_said(own: Session, capsys: pytest.CaptureFixture[str]) -> None:
    python = own_minor()
    lock = make_lock(platform=make_platform(python=python), compiler=f"{python}.9")
    found = provide_compiler(lock, own)
    assert isinstance(found, Compiler)
    said = capsys.readouterr().err
    assert said.startswith(f"warning: one: CPython {python}.9 cannot be fetched: the server answers 404")
    assert f"CPython {found.version} compiles instead, so the layers differ from those of other machines" in said
    assert said.endswith("; set a mirror that this machine can reach: `mirror` under [python] in jbuild.toml\n")


def test_a_server_that_is_down_costs_one_more_try(
    own: Session, mirror: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    asked: list[str] = []
    monkeypatch.delenv("UV_HTTP_RETRIES")

    def refuse(handler: SimpleHTTPRequestHandler) -> None:
        asked.append(handler.path)
        handler.send_error(503)

    monkeypatch.setattr(SimpleHTTPRequestHandler, "do_GET", refuse)
    python = own_minor()
    provide_compiler(make_lock(platform=make_platform(python=python), compiler=f"{python}.9"), own)
    assert "the server answers 503" in capsys.readouterr().err
    assert len(asked) == 2


def test_no_compiler_at_all(own: Session, capsys: pytest.CaptureFixture[str]) -> None:
    lock = make_lock(platform=make_platform(python="3.99"), compiler=None)
    assert provide_compiler(lock, own) is None
    assert capsys.readouterr().err == (
        "warning: one: no CPython 3.99 is on this machine, so the image has no bytecode and starts slower; "
        f"install it and run `jbuild lock {lock.recipe} --force`\n"
    )


def test_a_lock_with_a_bad_sha256_is_none() -> None:
    with pytest.raises(ValueError, match="no valid sha256"):
        LockedInterpreter(release=RELEASE, url="https://x/y.tar.gz", sha256="../../etc")
