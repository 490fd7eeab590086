"""Lock files: what is written is read, what was touched is refused."""

from __future__ import annotations

import dataclasses
import sys
from typing import TYPE_CHECKING, Any, cast

import pytest
import tomli_w
from factories import make_jetson, make_lock, make_locked_wheel, make_model, make_platform
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from packaging.pylock import Pylock

from builder.errors import LockError
from builder.lock import lockfile
from builder.lock.uv_target import markers, tags
from builder.model.locks import Lock, LockedBase, LockedInterpreter

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

if TYPE_CHECKING:
    from pathlib import Path

    from packaging.markers import Environment

LOCK = make_lock(
    make_locked_wheel("demo"),
    make_locked_wheel("no-size", size=None),
    make_locked_wheel("on-disk", url="/wheels/on_disk-1.0-py3-none-any.whl"),
)
DIGEST = "a" * 64


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """A lock file."""
    path = tmp_path / "locks" / "pylock.one.toml"
    lockfile.write(path, LOCK)
    return path


def read(path: Path) -> Lock | None:
    return lockfile.read(path, recipe="demo", cell="one")


def edit(path: Path, change: Any) -> None:
    data = tomllib.loads(path.read_text(encoding="utf-8"))
    change(data)
    path.write_text(tomli_w.dumps(data), encoding="utf-8")


def refusal(path: Path) -> LockError:
    with pytest.raises(LockError) as caught:
        read(path)
    assert caught.value.where == str(path)
    assert caught.value.hint == "run `jbuild lock demo --cell one --force` to make it again"
    return caught.value


def test_what_is_written_is_read(path: Path) -> None:
    assert read(path) == LOCK


def test_a_lock_without_models_and_with_everything(tmp_path: Path) -> None:
    base = LockedBase(name="a", used="b", digest="sha256:c", stand_in="made here")
    for index, lock in enumerate(
        (
            make_lock(models=(), platform=make_jetson()),
            make_lock(base=base, models=(make_model("a", stand_in="x"), make_model("b", revision=None, licence=None))),
        )
    ):
        lockfile.write(tmp_path / f"{index}.toml", lock)
        assert read(tmp_path / f"{index}.toml") == lock


def test_no_file_is_no_lock(tmp_path: Path) -> None:
    assert read(tmp_path / "absent.toml") is None


def test_the_same_lock_is_the_same_file(path: Path, tmp_path: Path) -> None:
    lockfile.write(tmp_path / "again.toml", LOCK)
    assert (tmp_path / "again.toml").read_bytes() == path.read_bytes()


def test_other_tools_can_read_it(path: Path) -> None:
    pylock = Pylock.from_dict(tomllib.loads(path.read_text(encoding="utf-8")))
    pylock.validate()
    assert str(pylock.lock_version) == "1.0"
    assert str(pylock.requires_python) == "==3.11.*"
    assert {str(package.name) for package in pylock.packages} == {"demo", "no-size", "on-disk"}
    environment = cast("Environment", markers(LOCK.platform))
    chosen = list(pylock.select(environment=environment, tags=tags(LOCK.platform)))
    assert len(chosen) == 3


@pytest.mark.parametrize(
    "change",
    [
        lambda d: d["packages"][0]["wheels"][0].update(url="https://evil.example/demo-1.0-py3-none-any.whl"),
        lambda d: d["packages"][0]["wheels"][0]["hashes"].update(sha256="0" * 64),
        lambda d: d["packages"].pop(),
        lambda d: d["packages"].append(d["packages"][0]),
        lambda d: d["packages"][0]["wheels"].append({**d["packages"][0]["wheels"][0], "size": 5}),
        lambda d: d["tool"]["jbuild"].update(inputs="0" * 64),
        lambda d: d["tool"]["jbuild"]["base"].update(digest="sha256:0"),
        lambda d: d["tool"]["jbuild"]["platform"].update(glibc="2.99"),
        lambda d: d["tool"]["jbuild"].update(models=[]),
        lambda d: d["tool"]["jbuild"].update(content="0" * 64),
    ],
)
def test_what_was_edited_by_hand_is_refused(path: Path, change: Any) -> None:
    edit(path, change)
    assert "edited by hand" in refusal(path).message


@pytest.mark.parametrize(
    ("change", "named"),
    [
        (lambda d: d.pop("tool"), "`tool` is missing"),
        (lambda d: d.update(tool=[]), "damaged"),
        (lambda d: d.update(tool={"jbuild": "x"}), "damaged"),
        (lambda d: d["tool"]["jbuild"].pop("format"), "`format` is missing"),
        (lambda d: d["tool"]["jbuild"].pop("content"), "`content` is missing"),
        (lambda d: d["tool"]["jbuild"].pop("models"), "`models` is missing"),
        (lambda d: d["tool"]["jbuild"].update(platform="x"), "damaged"),
        (lambda d: d["tool"]["jbuild"].update(models=3), "damaged"),
        (lambda d: d["tool"]["jbuild"].update(models=["x"]), "damaged"),
        (lambda d: d["tool"]["jbuild"]["platform"].update(sms="8.7"), "damaged"),
        (lambda d: d["tool"]["jbuild"]["platform"].update(colour="red"), "damaged"),
        (lambda d: d["tool"]["jbuild"]["models"][0]["files"][0].update(path="../../etc/passwd"), "plain relative"),
        (lambda d: d.pop("packages"), "packages"),
        (lambda d: d["packages"][0].update(version="2.0"), "not consistent with package version"),
        (lambda d: d["packages"][0].update(version="not a version"), "damaged"),
        (lambda d: d["packages"][0]["wheels"][0].update(name="../../demo-1.0-py3-none-any.whl"), "damaged"),
        (lambda d: d["packages"][0]["wheels"][0].update(name="demo.whl"), "damaged"),
        (lambda d: d["packages"][0]["wheels"][0]["hashes"].update(sha256="../../x"), "damaged"),
        (lambda d: d["packages"][0]["wheels"][0].update(hashes={"md5": "0"}), "no sha256"),
        (lambda d: d.update({"lock-version": "2.0"}), "damaged"),
    ],
)
def test_damage_is_refused_with_its_place(path: Path, change: Any, named: str) -> None:
    edit(path, change)
    with pytest.raises(LockError) as caught:
        read(path)
    assert named in caught.value.message


def test_another_format_is_refused(path: Path) -> None:
    edit(path, lambda d: d["tool"]["jbuild"].update(format=99))
    assert "lock format 99 is not 4" in refusal(path).message


def test_the_lock_of_another_cell_is_refused(path: Path) -> None:
    with pytest.raises(LockError, match="this is the lock of demo/one"):
        lockfile.read(path, recipe="demo", cell="two")


def test_a_file_cut_anywhere_is_refused(path: Path) -> None:
    whole = path.read_bytes()
    for length in range(0, len(whole) - 1, 23):
        path.write_bytes(whole[:length])
        refusal(path)


def test_a_file_that_is_no_text_is_refused(path: Path) -> None:
    path.write_bytes(b"\xff\xfe\x00")
    assert "damaged" in refusal(path).message


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=40)
@given(st.data())
def test_whatever_one_byte_becomes_the_lock_is_the_same_or_refused(path: Path, data: st.DataObject) -> None:
    original = path.read_bytes()
    content = bytearray(original)
    content[data.draw(st.integers(0, len(content) - 1))] = data.draw(st.integers(0, 255))
    path.write_bytes(bytes(content))
    try:
        assert read(path) == LOCK
    except LockError:
        pass
    finally:
        path.write_bytes(original)


def test_content_changes_with_everything() -> None:
    others = [
        make_lock(make_locked_wheel(version="2.0")),
        make_lock(inputs="0" * 64),
        make_lock(models=()),
        make_lock(platform=make_platform(glibc="2.31")),
        make_lock(),
    ]
    assert len({lockfile.content(lock) for lock in others}) == len(others)


def answer(*packages: str, wheels: str = "") -> str:
    """Return what uv answers: packages as `name` with a wheel of their own, or with these."""
    text = 'lock-version = "1.0"\ncreated-by = "uv"\n'
    for name in packages:
        own = f'{{ url = "https://i.example/{name}-1.0-py3-none-any.whl", hashes = {{ sha256 = "{DIGEST}" }} }}'
        text += f'[[packages]]\nname = "{name}"\nversion = "1.0"\nwheels = [{wheels or own}]\n'
    return text


def assemble(text: str) -> Lock:
    return dataclasses.replace(LOCK, wheels=lockfile.wheels_of(text, make_platform(), "demo/one"))


def test_uvs_answer_becomes_a_lock_sorted_by_name() -> None:
    lock = assemble(answer("zeta", "alpha"))
    assert [wheel.name for wheel in lock.wheels] == ["alpha", "zeta"]
    assert lock.wheels[0].filename == "alpha-1.0-py3-none-any.whl"
    assert lock.version_of("vllm", "zeta") == "1.0"
    assert lock.version_of("vllm") is None


def test_the_best_wheel_of_a_package_is_taken() -> None:
    names = ("cp311-cp311-manylinux_2_28_x86_64", "py3-none-any", "cp311-cp311-manylinux_2_28_aarch64")
    wheels = ",".join(
        f'{{ url = "https://i.example/demo-1.0-{n}.whl", hashes = {{ sha256 = "{DIGEST}" }} }}' for n in names
    )
    (wheel,) = assemble(answer("demo", wheels=wheels)).wheels
    assert wheel.filename == "demo-1.0-cp311-cp311-manylinux_2_28_aarch64.whl"


def test_a_hash_in_capitals_is_the_same_hash() -> None:
    wheels = f'{{ url = "https://i.example/demo-1.0-py3-none-any.whl", hashes = {{ sha256 = "{DIGEST.upper()}" }} }}'
    assert assemble(answer("demo", wheels=wheels)).wheels[0].sha256 == DIGEST


def test_a_package_without_a_fitting_wheel() -> None:
    wheels = f'{{ url = "https://i.example/demo-1.0-cp312-cp312-win32.whl", hashes = {{ sha256 = "{DIGEST}" }} }}'
    with pytest.raises(LockError, match="no wheel for debian-12"):
        assemble(answer("demo", wheels=wheels))


def test_a_wheel_without_sha256() -> None:
    wheels = '{ url = "https://i.example/demo-1.0-py3-none-any.whl", hashes = { md5 = "0" } }'
    with pytest.raises(LockError, match=r"no sha256 for demo-1\.0-py3-none-any\.whl"):
        assemble(answer("demo", wheels=wheels))


def test_a_source_distribution_is_no_wheel() -> None:
    text = (
        'lock-version = "1.0"\ncreated-by = "uv"\n[[packages]]\nname = "demo"\nversion = "1.0"\n'
        f'sdist = {{ url = "https://i.example/demo-1.0.tar.gz", hashes = {{ sha256 = "{DIGEST}" }} }}\n'
    )
    with pytest.raises(LockError, match="demo has no wheel"):
        assemble(text)


def test_packages_for_other_machines_are_left_out() -> None:
    text = answer("demo", "other") + "marker = \"platform_machine == 'x86_64'\"\n"
    assert [wheel.name for wheel in assemble(text).wheels] == ["demo"]


INTERPRETER = LockedInterpreter(release="3.12.16+20261110", url="https://example.com/cpython.tar.gz", sha256=DIGEST)


@pytest.mark.parametrize("interpreter", [None, INTERPRETER])
@pytest.mark.parametrize("compiler", [None, "3.12.16"])
def test_interpreter_and_compiler(tmp_path: Path, interpreter: LockedInterpreter | None, compiler: str | None) -> None:
    lock = make_lock(interpreter=interpreter, compiler=compiler)
    path = tmp_path / "pylock.one.toml"
    lockfile.write(path, lock)
    assert read(path) == lock


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"sha256": "../../etc"}, "has no valid sha256"),
        ({"sha256": "b" * 64}, "was edited by hand"),
        ({"more": 1}, "the lock is damaged"),
    ],
)
def test_an_interpreter_that_was_touched(tmp_path: Path, change: dict[str, Any], said: str) -> None:
    path = tmp_path / "pylock.one.toml"
    lockfile.write(path, make_lock(interpreter=INTERPRETER))
    edit(path, lambda data: data["tool"]["jbuild"]["interpreter"].update(change))
    assert said in refusal(path).message


def test_a_glance_sees_what_reading_does(path: Path) -> None:
    assert lockfile.read_unchecked(path) == (read(path), lockfile.content(LOCK))


@pytest.mark.parametrize("text", ["", "nonsense", "[tool.jbuild]\nformat = 1\n", "[tool.jbuild]\nformat = 4\n"])
def test_a_glance_at_what_is_no_lock(path: Path, text: str) -> None:
    path.write_text(text)
    with pytest.raises(LockError) as caught:
        lockfile.read_unchecked(path)
    assert caught.value.where == str(path)


def test_a_glance_at_a_lock_with_a_part_missing(path: Path) -> None:
    edit(path, lambda data: data["packages"][0].pop("wheels"))
    with pytest.raises(LockError, match="`wheels` is missing"):
        lockfile.read_unchecked(path)
