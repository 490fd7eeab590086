"""What a server's start compiles: read out of its container, counted, and packed into a layer."""

from __future__ import annotations

import io
import tarfile
from typing import IO, TYPE_CHECKING, Any, cast

import pytest

from builder.host.chunk_stream import as_file
from builder.host.config import LayerCompression
from builder.image.oci.layout import put, put_image, read_config
from builder.image.oci.warm_image import WARM_LABEL, make_warm_image
from builder.model.verdicts import Compilations, CompiledCount
from builder.smoke.start_caches import compiled_files, new_files

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from builder.host.engine.container import RunningContainer

FILES = {
    "/cache/vllm/modelinfos/vllm-llama.json": b"{}",
    "/cache/vllm/torch_compile_cache/torch_aot_compile/k/rank_0_0/model": b"graph",
    "/cache/vllm/torch_compile_cache/torch_aot_compile/k/rank_0_0/model.lock": b"",
    "/cache/vllm/torch_compile_cache/torch_aot_compile/k/inductor_cache/triton/0/x.cubin": b"code",
    "/cache/vllm/torch_compile_cache/torch_aot_compile/k/inductor_cache/triton/0/x.json": b"{}",
    "/cache/triton/y/launcher.so": b"launcher",
    "/cache/huggingface/token": b"secret",
}


class Container:
    """Stands in for an ended container: its files."""

    def __init__(self, files: dict[str, bytes]) -> None:
        self.files = files

    def files_below(self, folder: str) -> Iterator[tuple[str, int, IO[bytes]]]:
        for path, content in self.files.items():
            if path.startswith(f"{folder}/"):
                yield path[len(folder) + 1 :], 0o755 if path.endswith(".so") else 0o600, io.BytesIO(content)


def container(**changes: Any) -> RunningContainer:
    return cast("RunningContainer", Container({**FILES, **changes}))


def test_only_caches_are_read_and_unfinished_files_left(tmp_path: Path) -> None:
    files = new_files(container(), tmp_path)
    kept = {str(path.relative_to(tmp_path)): path for path in tmp_path.rglob("*") if path.is_file()}
    expected = sorted(path.removeprefix("/cache/") for path in FILES if "token" not in path and "lock" not in path)
    assert [file.path for file in files] == expected
    always = "vllm/modelinfos/vllm-llama.json"
    assert sorted(kept) == sorted(f"{'always' if path == always else 'cache'}/{path}" for path in expected)
    modes = {name: path.stat().st_mode & 0o777 for name, path in kept.items()}
    assert modes["cache/triton/y/launcher.so"] == 0o755
    assert modes["always/vllm/modelinfos/vllm-llama.json"] == 0o644


def test_new_and_changed_files_count_by_cache(tmp_path: Path) -> None:
    assert compiled_files(new_files(container())) == (
        CompiledCount(of="Triton kernels", files=1),
        CompiledCount(of="model classes", files=1),
        CompiledCount(of="graphs and their kernels", files=2),
    )
    in_image = {"/opt/jbuild/warm/conditions.json": b"{}"}
    for path, content in FILES.items():
        part = "always" if "modelinfos" in path else "cache"
        in_image[f"/opt/jbuild/warm/{part}/{path.removeprefix('/cache/')}"] = content
    assert new_files(container(**in_image), tmp_path) == ()
    assert list(tmp_path.iterdir()) == [], "not even empty folders"
    changed = {"/cache/triton/y/launcher.so": b"other", "/cache/triton/z.json": b"{}"}
    later = new_files(container(**in_image, **changed), tmp_path)
    assert [file.path for file in later] == ["triton/y/launcher.so", "triton/z.json"]
    assert compiled_files(later) == (CompiledCount(of="Triton kernels", files=1),)


@pytest.mark.parametrize(
    ("compilations", "text"),
    [
        (Compilations(), "nothing"),
        (Compilations(lines=2), "lines of the log (2)"),
        (
            Compilations(files=(CompiledCount(of="Triton kernels", files=3),), lines=1),
            "Triton kernels (3), lines of the log (1)",
        ),
    ],
)
def test_compilations_as_text(compilations: Compilations, text: str) -> None:
    assert str(compilations) == text


def test_the_same_files_give_the_same_warm_image(tmp_path: Path) -> None:
    layout = tmp_path / "layout"
    layer = put(layout, b"layer", "application/vnd.oci.image.layer.v1.tar")
    config = b'{"config":{"Labels":{"a":"b"}},"rootfs":{"type":"layers","diff_ids":["sha256:1"]},"history":[]}'
    image = put_image(layout, config, [layer], "linux/arm64")
    made = []
    for name in ("one", "two"):
        new_files(container(), tmp_path / name)
        made.append(
            make_warm_image(
                image, read_config(layout, image), "{}", tmp_path / name, layout, LayerCompression(), lambda _: None
            )
        )
    assert made[0] == made[1]
    warm = made[0]
    assert (warm.base, warm.image.layers[0]) == (image.digest, layer)
    assert dict(warm.image.labels) == {"a": "b", WARM_LABEL: image.digest}
    assert read_config(layout, warm.image)["rootfs"]["diff_ids"] == ["sha256:1", warm.diff_id]


def test_chunks_are_read_as_a_file() -> None:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as archive:
        entry = tarfile.TarInfo("a")
        entry.size = 5000
        archive.addfile(entry, io.BytesIO(b"x" * 5000))
    data = buffer.getvalue()
    chunks = [b"", *(data[at : at + 7] for at in range(0, len(data), 7)), b""]
    assert as_file(chunks).read() == data
