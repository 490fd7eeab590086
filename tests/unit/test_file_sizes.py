"""The files of a cell's wheels by size: in the wheelhouse or by ranges, with what the recipe excludes."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import pytest
from factories import locked, make_job, make_lock, make_spec, make_wheel
from tiny_index import tiny_index

from builder.audit.file_sizes import sized_files
from builder.errors import IntegrityError
from builder.host.paths import Workspace
from builder.lock import lockfile
from builder.model.recipes import ImageSpec

if TYPE_CHECKING:
    from pathlib import Path

    from builder.host.session import Session

GLOBS = (("cud*", ("cud/lib/engine_*",)), ("cudnn", ("*",)))
FILES = {"cud/lib/engine_a.so": b"x" * 5000, "cud/lib/core.so": bytes(range(256)) * 16, "cud/__init__.py": b""}
RECIPE = """description = "A demonstration"
[matrix]
distribution = ["debian-12"]
[packages]
requires = ["cudnn"]
[image.exclude-files]
"cud*" = ["cud/lib/engine_*"]
[[models]]
name = "tiny"
source = "hf://org/tiny@main"
[[smoke.questions]]
ask = "Anything?"
expect = "Yes"
[publish]
tags = ["{cell}"]
"""


@pytest.fixture
def wheel(tmp_path: Path) -> Path:
    return make_wheel(tmp_path, "cudnn", "9.1", files=FILES)


def test_files_have_their_sizes_and_the_glob_that_excludes_them(wheel: Path, session: Session) -> None:
    job = make_job(spec=make_spec(image=ImageSpec(exclude_files=GLOBS)))
    files = {file.path: file for file in sized_files(job, [locked(wheel)], session)}
    engine, core = files["cud/lib/engine_a.so"], files["cud/lib/core.so"]
    assert (engine.wheel, engine.size, engine.excluded) == ("cudnn", 5000, "cud/lib/engine_*")
    assert engine.packed < 100, "it is compressed"
    assert (core.size, core.excluded) == (4096, "*")
    assert files["cudnn-9.1.dist-info/METADATA"].excluded is None, "metadata stays"


def test_the_largest_in_their_wheels_come_first(tmp_path: Path, wheel: Path, session: Session) -> None:
    other = make_wheel(tmp_path, "big", "1.0", files={"big/weights.bin": bytes(range(256)) * 100}, stored=True)
    job = make_job(spec=make_spec())
    first = sized_files(job, [locked(wheel), locked(other)], session)[0]
    assert (first.wheel, first.path, first.packed, first.excluded) == ("big", "big/weights.bin", 25600, None)


def test_a_wheel_on_a_server_is_not_downloaded(tmp_path: Path, session: Session) -> None:
    files = {f"large/{number}.bin": bytes(range(256)) * 4000 for number in range(4)}
    wheel = make_wheel(tmp_path, "large", "1.0", files=files, stored=True)
    with tiny_index() as server:
        server.add(wheel)
        url = f"http://{server.host}/files/{wheel.name}"
        found = sized_files(make_job(spec=make_spec()), [locked(wheel, url)], session)
        assert found[0].packed == 1024000
        assert len(server.asked) == 1, "the end of the file has the list"


def test_a_damaged_wheel_is_named(wheel: Path, session: Session) -> None:
    wheel.write_bytes(wheel.read_bytes()[:-40])
    with pytest.raises(IntegrityError) as caught:
        sized_files(make_job(spec=make_spec()), [locked(wheel)], session)
    assert caught.value.where == wheel.name


@pytest.fixture
def jbuild(tmp_path: Path, command_line: Any, monkeypatch: pytest.MonkeyPatch) -> Any:
    (tmp_path / "work" / "recipes").mkdir(parents=True)
    (tmp_path / "work" / "recipes" / "demo.toml").write_text(RECIPE)
    monkeypatch.chdir(tmp_path / "work")
    return command_line


def test_show_lists_the_largest_files_of_a_cell(jbuild: Any, wheel: Path) -> None:
    path = Workspace.current().lock("demo", "debian12")
    lockfile.write(path, make_lock(locked(wheel), cell="debian12"))
    code, out, err = jbuild("show", "demo", "--files", "2")
    assert code == 0, err
    heading, columns, *rows = out.splitlines()
    assert heading.startswith("debian12: 1 wheels, ")
    assert columns.split() == ["packed", "installed", "wheel", "file"]
    assert len(rows) == 2
    found = json.loads(jbuild("show", "demo", "--files", "9", "--json")[1])
    (cell,) = found["cells"]
    excluded = {file["path"]: file["excluded"] for file in cell["largest"]}
    assert excluded["cud/lib/engine_a.so"] == "cud/lib/engine_*"
    assert excluded["cud/lib/core.so"] is None
    assert cell["files"] == len(excluded)
    assert cell["size"] == sum(file["size"] for file in cell["largest"])


def test_without_a_lock_there_are_no_wheels_to_list(jbuild: Any) -> None:
    code, _, err = jbuild("show", "demo", "--files", "2")
    assert code == 4
    assert "`jbuild lock demo --cell debian12`" in err
    assert jbuild("show", "demo", "--files", "0")[0] == 2
