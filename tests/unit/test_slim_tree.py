"""Trees of slimmed wheels: their RECORD is true, they tell what was done, and two processes share them."""

from __future__ import annotations

import base64
import csv
import hashlib
import json
import os
import signal
import subprocess
import sys
from typing import TYPE_CHECKING

import pytest
from elf_files import make_elf
from factories import locked, make_wheel
from gpu_code import make_cubin

from builder.errors import IntegrityError
from builder.image.wheels.slim_tree import slim_key, slimmed_wheel
from builder.image.wheels.tree import is_current, prepare
from builder.model.images import site_packages
from builder.model.slimming import SlimRules
from slimming.gpu_library import make_container, make_entry, make_library

if TYPE_CHECKING:
    from pathlib import Path

    from builder.host.session import Session
    from builder.model.wheels import LockedWheel

PYTHON = f"{sys.version_info[0]}.{sys.version_info[1]}"
ORIN = SlimRules(sms=(87,), same_major=False)
THOR = SlimRules(sms=(110,), same_major=False)
GPU = make_library((make_container(*(make_entry(f"sm_{sm}", size=9000) for sm in (80, 87, 90))),))
OWN = make_library((make_container(make_entry("sm_87", size=9000)),))


@pytest.fixture
def wheel(tmp_path: Path) -> LockedWheel:
    files = {"demo/__init__.py": "", "demo/_C.so": GPU, "demo/own.so": OWN, "demo/plain.so": make_elf()}
    return locked(make_wheel(tmp_path, files=files, scripts={"demo": "demo:main"}, executable=("demo/_C.so",)))


def unpacked(wheel: LockedWheel, session: Session, rules: SlimRules | None) -> Path:
    slim = {wheel.sha256: rules} if rules else {}
    return prepare([wheel], PYTHON, None, session, slim)[wheel.sha256]


def packages(tree: Path) -> Path:
    return tree / site_packages(PYTHON).lstrip("/")


def files_of(tree: Path) -> dict[str, bytes]:
    return {str(path.relative_to(tree)): path.read_bytes() for path in tree.rglob("*") if path.is_file()}


def check_record(folder: Path) -> int:
    (record,) = folder.glob("*.dist-info/RECORD")
    rows = [row for row in csv.reader(record.read_text().splitlines()) if row[1]]
    for name, digest, size in rows:
        content = (folder / name).read_bytes()
        expected = base64.urlsafe_b64encode(hashlib.sha256(content).digest()).rstrip(b"=").decode()
        assert (digest, size) == (f"sha256={expected}", str(len(content))), name
    listed = {(folder / row[0]).resolve() for row in csv.reader(record.read_text().splitlines())}
    assert {path.resolve() for path in folder.rglob("*") if path.is_file()} <= listed
    return len(rows)


def test_record_is_true_and_the_report_is_listed(session: Session, wheel: LockedWheel) -> None:
    plain, slim = (packages(unpacked(wheel, session, rules)) for rules in (None, ORIN))
    assert check_record(slim) == check_record(plain) + 1
    assert len((slim / "demo/_C.so").read_bytes()) <= len(GPU)
    assert (slim / "demo/_C.so").read_bytes() != GPU
    assert (slim / "demo/_C.so").stat().st_mode & 0o777 == (plain / "demo/_C.so").stat().st_mode & 0o777
    assert (slim / "demo/own.so").read_bytes() == OWN
    assert (slim / "demo/plain.so").read_bytes() == make_elf()


def test_cubins_that_are_files_go_as_a_whole(session: Session, tmp_path: Path) -> None:
    folder = "flashinfer_cubin/cubins"
    cubins = {f"{folder}/{sm}.cubin": make_cubin("k", sm=sm) for sm in (80, 90, 100)}
    wheel = locked(make_wheel(tmp_path, "flashinfer-cubin", files={**cubins, f"{folder}/checksums.txt": "90 90.cubin"}))
    plain = packages(unpacked(wheel, session, None))
    slim = packages(unpacked(wheel, session, SlimRules(sms=(87,), same_major=True)))
    assert sorted(path.name for path in (slim / folder).iterdir()) == ["80.cubin", "checksums.txt"]
    assert check_record(slim) == check_record(plain) + 1 - 2
    slimmed = slimmed_wheel(slim)
    assert slimmed is not None
    assert slimmed.before - slimmed.after == slimmed.removed == 2 * len(cubins[f"{folder}/90.cubin"])
    assert {path.name for path in (packages(unpacked(wheel, session, ORIN)) / folder).iterdir()} == {"checksums.txt"}


def test_report_names_the_original(session: Session, wheel: LockedWheel) -> None:
    slimmed = slimmed_wheel(packages(unpacked(wheel, session, ORIN)))
    assert slimmed is not None
    assert (slimmed.name, slimmed.version, slimmed.sha256) == ("demo", "1.0", wheel.sha256)
    assert slimmed.rules == ORIN
    assert slimmed.before == len(GPU)
    assert slimmed.after <= slimmed.before
    assert slimmed.removed > 18_000
    assert slimmed_wheel(packages(unpacked(wheel, session, None))) is None


def test_damaged_report_is_an_error(session: Session, wheel: LockedWheel) -> None:
    folder = packages(unpacked(wheel, session, ORIN))
    (report,) = folder.glob("*.dist-info/jbuild-slim.json")
    report.write_text(json.dumps({"format": "slim-1", "package": 1}))
    with pytest.raises(IntegrityError, match="damaged") as caught:
        slimmed_wheel(folder)
    assert caught.value.hint


def test_each_rule_has_its_tree_and_the_plain_one_stays(session: Session, wheel: LockedWheel) -> None:
    plain = unpacked(wheel, session, None)
    before = files_of(plain)
    trees = [unpacked(wheel, session, rules) for rules in (ORIN, THOR)]
    assert len({plain, *trees}) == 3
    assert files_of(plain) == before
    assert all(is_current(tree.name) for tree in (plain, *trees))
    assert not is_current(trees[0].name.replace("-slim2-", "-slim1-"))
    assert slim_key(ORIN) != slim_key(THOR)


def test_nothing_to_remove_gives_the_plain_content(session: Session, tmp_path: Path) -> None:
    wheel = locked(make_wheel(tmp_path, files={"demo/_C.so": OWN}))
    plain, slim = (unpacked(wheel, session, rules) for rules in (None, ORIN))
    assert files_of(plain) == files_of(slim)


def test_a_library_that_cannot_be_read_stays(session: Session, tmp_path: Path) -> None:
    # The container's size, beyond the end of its section.
    at = GPU.index(0xBA55ED50.to_bytes(4, "little")) + 8
    damaged = GPU[:at] + (1 << 40).to_bytes(8, "little") + GPU[at + 8 :]
    wheel = locked(make_wheel(tmp_path, files={"demo/_C.so": damaged, "demo/good.so": GPU}))
    folder = packages(unpacked(wheel, session, ORIN))
    assert (folder / "demo/_C.so").read_bytes() == damaged
    assert (folder / "demo/good.so").read_bytes() != GPU
    check_record(folder)


def test_the_same_tree_again_and_again(session: Session, wheel: LockedWheel, tmp_path: Path) -> None:
    tree = unpacked(wheel, session, ORIN)
    first = files_of(tree)
    tree.rename(tmp_path / "moved")
    assert files_of(unpacked(wheel, session, ORIN)) == first


_KILLED = """
import os, signal, sys
from pathlib import Path
from builder.host.config import Config
from builder.host.console import Console
from builder.host.paths import Workspace
from builder.host.session import Session
from builder.image.wheels import slim_tree
from builder.image.wheels.tree import unpack, unpacking
from builder.model.wheels import LockedWheel
from builder.model.slimming import SlimRules

def killed(*_):
    os.kill(os.getpid(), signal.SIGKILL)

slim_tree.updated_record = killed
workspace = Workspace(project=Path(sys.argv[1]), cache=Path(sys.argv[1]))
wheel = LockedWheel(name="demo", version="1.0", filename=sys.argv[2], url="", sha256=sys.argv[3])
unpack(unpacking(wheel, sys.argv[4], None, workspace, SlimRules(sms=(87,), same_major=False)))
"""


def test_a_killed_process_leaves_no_tree(session: Session, wheel: LockedWheel) -> None:
    unpacked(wheel, session, None)
    cache = str(session.workspace.cache)
    argv = [sys.executable, "-c", _KILLED, cache, wheel.filename, wheel.sha256, PYTHON]
    done = subprocess.run(argv, check=False, env={**os.environ, "JBUILD_CACHE": cache})
    assert done.returncode == -signal.SIGKILL
    trees = [path.name for path in session.workspace.trees.glob("??/*") if "-slim" in path.name]
    assert not [name for name in trees if not name.startswith(".") and not name.endswith(".lock")]
    check_record(packages(unpacked(wheel, session, ORIN)))
    assert not [path for path in session.workspace.trees.glob("??/.*") if "-slim" in path.name]
