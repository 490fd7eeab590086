"""Members of wheels: what is unpacked where, and how RECORD protects it."""

from __future__ import annotations

import base64
import hashlib
import zipfile
from typing import TYPE_CHECKING

import pytest
from build_factory import make_tool

from builder.errors import IntegrityError
from builder.foundry.cuda_tree import _path
from builder.foundry.wheel_members import member_names, record_hash, unpack_members
from builder.model.wheels import LockedWheel

if TYPE_CHECKING:
    from pathlib import Path

    from builder.host.session import Session
    from builder.model.builds import ToolFile

NAME = "nvidia_cublas-13.1.0.3-py3-none-manylinux_2_27_aarch64.whl"
HEADER = "nvidia/cu13/include/cublas.h"
RECORD = "nvidia_cublas-13.1.0.3.dist-info/RECORD"


def _tool(session: Session, content: bytes, recorded: bytes, more: dict[str, bytes] | None = None) -> ToolFile:
    """Put a wheel with a header into the wheelhouse; `recorded` is the content that its RECORD has."""
    digest = base64.urlsafe_b64encode(hashlib.sha256(recorded).digest()).rstrip(b"=").decode()
    record = f"{HEADER},sha256={digest},{len(recorded)}\n".encode()
    path = session.workspace.wheel("c" * 64, NAME)
    path.parent.mkdir(parents=True)
    with zipfile.ZipFile(path, "w") as archive:
        for name, text in {HEADER: content, RECORD: record, **(more or {})}.items():
            archive.writestr(name, text)
    return make_tool(NAME, "cuda-headers", record=hashlib.sha256(record).hexdigest())


def test_wanted_members_are_unpacked(session: Session, tmp_path: Path) -> None:
    tool = _tool(session, b"int x;", b"int x;")
    unpack_members(tool, session, lambda name: tmp_path / "x.h" if name == HEADER else None)
    assert (tmp_path / "x.h").read_bytes() == b"int x;"
    assert member_names(tool, session) == (HEADER, RECORD)


def test_a_member_that_differs_from_its_record_is_refused(session: Session, tmp_path: Path) -> None:
    tool = _tool(session, b"evil", b"int x;")
    with pytest.raises(IntegrityError, match=r"cublas\.h does not match its RECORD"):
        unpack_members(tool, session, lambda name: tmp_path / "x.h" if name == HEADER else None)
    assert not (tmp_path / "x.h").exists()


def test_a_record_that_differs_from_the_lock_is_refused(session: Session, tmp_path: Path) -> None:
    _tool(session, b"evil", b"evil")
    with pytest.raises(IntegrityError, match="its RECORD differs"):
        unpack_members(make_tool(NAME, "cuda-headers", record="0" * 64), session, lambda name: tmp_path / name)


def test_members_outside_the_folder_are_skipped(session: Session, tmp_path: Path) -> None:
    tool = _tool(session, b"int x;", b"int x;", {"../evil.h": b"x", "/evil.h": b"x"})
    seen: list[str] = []
    unpack_members(tool, session, lambda name: seen.append(name) or None)  # type: ignore[func-returns-value]
    assert seen == [HEADER, RECORD]


def test_the_hash_of_a_record_is_what_a_lock_needs(session: Session) -> None:
    tool = _tool(session, b"int x;", b"int x;")
    wheel = LockedWheel(name="x", version="1", filename=NAME, url="https://index.example/x", sha256="c" * 64)
    assert record_hash(wheel, session) == tool.record


@pytest.mark.parametrize(
    ("name", "role", "path"),
    [
        ("nvidia/cu13/include/cublas.h", "cuda-headers", "include/cublas.h"),
        ("nvidia/cuda_runtime/include/crt/host_config.h", "cuda-runtime", "include/crt/host_config.h"),
        ("nvidia/cu13/lib/libcublas.so.13", "cuda-headers", None),
        ("nvidia/cu13/lib/libcudart.so.13", "cuda-runtime", "lib/libcudart.so.13"),
        ("nvidia/cu13/bin/nvcc", "nvcc", "bin/nvcc"),
        ("nvidia/cu13/nvvm/bin/cicc", "nvcc", "nvvm/bin/cicc"),
        ("nvidia/cuda_cccl/include/__init__.py", "cuda-headers", None),
        ("nvidia_cublas-13.1.0.3.dist-info/RECORD", "cuda-headers", None),
    ],
)
def test_members_have_their_place_in_the_toolkit(name: str, role: str, path: str | None, tmp_path: Path) -> None:
    assert _path(name, make_tool(NAME, role), tmp_path) == (tmp_path / path if path else None)
