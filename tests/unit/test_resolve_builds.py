"""What a locked torch was built for, read from the wheel."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
from factories import locked, make_jetson, make_job, make_locked_wheel, make_platform, make_spec, make_wheel
from tiny_index import TinyIndex, tiny_index

from builder.errors import IntegrityError, NetworkError, NoWheelsError
from builder.host.config import Config
from builder.lock.wheel_properties import check_torch
from builder.remote.http import Retry
from builder.remote.index.index_client import IndexClient
from builder.remote.index.listing import IndexPins

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from builder.host.session import Session
    from builder.model.platforms import Platform
    from builder.model.wheels import LockedWheel

LIBRARY = {"torch/lib/libtorch_cuda.so": "x" * 1000}
VERSION = "__version__ = '2.8.0'\ndebug = False\ncuda: Optional[str] = '{}'\nhip: Optional[str] = None\n"


@pytest.fixture
def server() -> Iterator[TinyIndex]:
    """An index."""
    with tiny_index() as index:
        yield index


def torch(server: TinyIndex, folder: Path, files: dict[str, str]) -> LockedWheel:
    wheel = make_wheel(folder, "torch", "2.8.0", "cp310-cp310-linux_aarch64", files)
    server.add(wheel)
    return locked(wheel, url=f"http://{server.host}/files/{wheel.name}")


def build(server: TinyIndex, folder: Path, cuda: str = "12.6") -> LockedWheel:
    return torch(server, folder, LIBRARY | {"torch/version.py": VERSION.format(cuda)})


def check(session: Session, *wheels: LockedWheel, platform: Platform | None = None, **spec: Any) -> str | None:
    client = IndexClient(config=Config(), states=session.workspace.index_states, retry=Retry(tries=1))
    job = make_job(spec=make_spec(**spec), platform=platform or make_jetson())
    return check_torch(job, wheels, IndexPins(), client, session)


def refused(session: Session, *wheels: LockedWheel, **more: Any) -> NoWheelsError:
    with pytest.raises(NoWheelsError) as caught:
        check(session, *wheels, **more)
    return caught.value


@pytest.mark.parametrize("line", ["cuda: Optional[str] = '12.6'", 'cuda = "12.6"', "cuda='12.6.85'"])
def test_a_build_for_the_cells_cuda(server: TinyIndex, session: Session, tmp_path: Path, line: str) -> None:
    wheel = torch(server, tmp_path, LIBRARY | {"torch/version.py": f"x = 1\n{line}\n"})
    assert check(session, wheel, make_locked_wheel("other")) == "12.6"


def test_another_minor_version_of_cuda_will_do(server: TinyIndex, session: Session, tmp_path: Path) -> None:
    assert check(session, build(server, tmp_path, "12.9")) == "12.9"


@pytest.mark.parametrize(
    "files",
    [
        {"torch/version.py": "cuda: Optional[str] = None\n"},
        {"torch/version.py": "cuda: Optional[str] = '12.6'\n"},
        {**LIBRARY},
        {**LIBRARY, "torch/version.py": "cuda: Optional[str] = None\n"},
        {},
    ],
)
def test_a_build_for_the_cpu_is_refused(
    server: TinyIndex, session: Session, tmp_path: Path, files: dict[str, str]
) -> None:
    error = refused(session, torch(server, tmp_path, files))
    assert error.message == ("torch 2.8.0 from uv's own index is a CPU build, but the cell needs CUDA 12.6")
    assert error.exit_code == 4
    assert 'ignore-advisories = ["cpu-torch"]' in (error.hint or "")


def test_a_build_for_another_cuda_is_refused(server: TinyIndex, session: Session, tmp_path: Path) -> None:
    error = refused(session, build(server, tmp_path, "13.0"))
    assert error.message == "torch 2.8.0 from uv's own index is for CUDA 13.0, but the cell needs 12.6"
    assert 'ignore-advisories = ["other-cuda"]' in (error.hint or "")


def test_what_the_recipe_ignores_is_a_warning(
    server: TinyIndex, session: Session, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert check(session, torch(server, tmp_path / "a", {}), ignored_advisories=("cpu-torch",)) is None
    assert "warning: one: torch 2.8.0 from uv's own index is a CPU build" in capsys.readouterr().err
    other = build(server, tmp_path / "b", "11.4")
    assert check(session, other, ignored_advisories=("other-cuda",)) == "11.4"
    # One of the two does not go for the other.
    assert refused(session, other, ignored_advisories=("cpu-torch",))


def test_cells_without_a_gpu_or_torch_are_not_looked_at(server: TinyIndex, session: Session, tmp_path: Path) -> None:
    wheel = torch(server, tmp_path, {})
    assert check(session, wheel, platform=make_platform()) is None
    assert check(session, make_locked_wheel("torchvision")) is None
    assert server.asked == []


def test_a_wheel_is_looked_at_once(server: TinyIndex, session: Session, tmp_path: Path) -> None:
    wheel = build(server, tmp_path)
    assert check(session, wheel) == "12.6"
    asked = len(server.asked)
    assert check(session, wheel) == "12.6"
    assert len(server.asked) == asked


@pytest.mark.parametrize("content", ["", "[]", "{}", "null", "\x00"])
def test_a_spoilt_memory_is_no_memory(server: TinyIndex, session: Session, tmp_path: Path, content: str) -> None:
    wheel = build(server, tmp_path)
    path = session.workspace.metadata(wheel.sha256).with_suffix(".torch.json")
    path.parent.mkdir(parents=True)
    path.write_text(content)
    assert check(session, wheel) == "12.6"


def test_a_wheel_of_a_folder_is_read_where_it_is(session: Session, tmp_path: Path) -> None:
    wheel = make_wheel(
        tmp_path / "my wheels", "torch", "2.8.0", files=LIBRARY | {"torch/version.py": VERSION.format("12.6")}
    )
    assert check(session, locked(wheel, url=wheel.as_uri())) == "12.6"
    session.workspace.metadata(locked(wheel).sha256).with_suffix(".torch.json").unlink()
    assert check(session, locked(wheel)) == "12.6"


def test_a_wheel_that_cannot_be_read(server: TinyIndex, session: Session, tmp_path: Path) -> None:
    wheel = build(server, tmp_path)
    server.files[wheel.filename] = server.files[wheel.filename][:-40]
    with pytest.raises(IntegrityError, match="not a valid wheel"):
        check(session, wheel)
    server.files.clear()
    with pytest.raises(NetworkError, match="cannot be read"):
        check(session, wheel)
