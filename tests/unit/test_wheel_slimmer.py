"""Layers of slimmed wheels: their RECORD is true, and they tell what was done."""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING

import pytest
from elf_files import make_elf
from factories import locked, make_wheel
from gpu_code import make_cubin
from layer_files import installed, wheels_layer
from slim_layers import GPU, ORIN, check_record

from builder.image.layers.pack_layers import pack_layers
from builder.image.oci.layout import blob
from builder.image.wheels import wheel_entries
from builder.image.wheels.wheel_slimmer import slim_key
from builder.model.slimming import SlimRules
from slimming.gpu_library import make_container, make_entry, make_library

if TYPE_CHECKING:
    from pathlib import Path

    from builder.host.session import Session
    from builder.model.wheels import LockedWheel

THOR = SlimRules(sms=(110,), same_major=False)
OWN = make_library((make_container(make_entry("sm_87", size=9000)),))


@pytest.fixture
def wheel(tmp_path: Path) -> LockedWheel:
    files: dict[str, str | bytes] = {
        "demo/__init__.py": "",
        "demo/_C.so": GPU,
        "demo/own.so": OWN,
        "demo/plain.so": make_elf(),
    }
    return locked(make_wheel(tmp_path, files=files, scripts={"demo": "demo:main"}, executable=("demo/_C.so",)))


def test_record_is_true_and_the_report_is_listed(session: Session, wheel: LockedWheel) -> None:
    plain, slim = (installed(wheel, session, rules).packages for rules in (None, ORIN))
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
    plain = installed(wheel, session, None).packages
    made = installed(wheel, session, SlimRules(sms=(87,), same_major=True))
    slim = made.packages
    assert sorted(path.name for path in (slim / folder).iterdir()) == ["80.cubin", "checksums.txt"]
    assert check_record(slim) == check_record(plain) + 1 - 2
    (slimmed,) = made.slimmed
    assert slimmed.before - slimmed.after == slimmed.removed == 2 * len(cubins[f"{folder}/90.cubin"])
    assert {path.name for path in (installed(wheel, session, ORIN).packages / folder).iterdir()} == {"checksums.txt"}


def test_report_names_the_original(session: Session, wheel: LockedWheel) -> None:
    made = installed(wheel, session, ORIN)
    (slimmed,) = made.slimmed
    record = made.packages / "demo-1.0.dist-info" / "RECORD"
    assert slimmed.record == hashlib.sha256(record.read_bytes()).hexdigest()
    assert (slimmed.name, slimmed.version, slimmed.sha256) == ("demo", "1.0", wheel.sha256)
    assert slimmed.rules == ORIN
    assert slimmed.before == len(GPU)
    assert slimmed.after <= slimmed.before
    assert slimmed.removed > 18_000
    assert installed(wheel, session).slimmed == ()


def test_each_rule_has_its_key() -> None:
    assert slim_key(ORIN) != slim_key(THOR)


def test_nothing_to_remove_gives_the_plain_content(session: Session, tmp_path: Path) -> None:
    wheel = locked(make_wheel(tmp_path, files={"demo/_C.so": OWN}))
    plain, slim = (installed(wheel, session, rules) for rules in (None, ORIN))
    assert slim.slimmed == ()
    assert plain.tar == slim.tar


def test_a_library_that_cannot_be_read_stays(session: Session, tmp_path: Path) -> None:
    # The container's size, beyond the end of its section.
    at = GPU.index(0xBA55ED50.to_bytes(4, "little")) + 8
    damaged = GPU[:at] + (1 << 40).to_bytes(8, "little") + GPU[at + 8 :]
    wheel = locked(make_wheel(tmp_path, files={"demo/_C.so": damaged, "demo/good.so": GPU}))
    folder = installed(wheel, session, ORIN).packages
    assert (folder / "demo/_C.so").read_bytes() == damaged
    assert (folder / "demo/good.so").read_bytes() != GPU
    check_record(folder)


def test_a_large_library_is_slimmed_as_a_small_one(
    session: Session, wheel: LockedWheel, monkeypatch: pytest.MonkeyPatch
) -> None:
    small = installed(wheel, session, ORIN)
    monkeypatch.setattr(wheel_entries, "_LARGE", 1)
    assert installed(wheel, session, ORIN) == small
    assert [path.name for path in session.workspace.cache.iterdir()] == ["wheels"]


def test_a_packed_layer_tells_what_went(session: Session, wheel: LockedWheel) -> None:
    layer = wheels_layer([wheel], session, {wheel.sha256: ORIN})
    (first,) = pack_layers([layer], None, "one", session)
    assert first.slimmed == installed(wheel, session, ORIN).slimmed
    assert pack_layers([layer], None, "one", session) == (first,)
    blob(session.workspace.images, first.blob.digest).unlink()
    assert pack_layers([layer], None, "one", session) == (first,)
