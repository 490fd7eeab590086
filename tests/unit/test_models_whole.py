"""A model's folder as a whole: files with other content than their names say, disagreeing shards, adapters."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import pytest
from factories import make_session
from model_files import make_folder, weights

from builder.errors import ModelError
from builder.host.config import Config
from builder.model.recipes import Model
from builder.models.content_flaws import is_page, pointer_size
from builder.models.fetch import fetch_model
from builder.models.fit.weights import local_files
from builder.models.model_lock import lock_model
from builder.models.shards import absent_numbers

if TYPE_CHECKING:
    from pathlib import Path

    from builder.model.model_files import LockedModel

ONE, TWO = "model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors"
INDEX = "model.safetensors.index.json"


def pointer(size: int) -> bytes:
    return b"version https://git-lfs.github.com/spec/v1\noid sha256:%s\nsize %d\n" % (b"4" * 64, size)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return make_folder(tmp_path / "recipes" / "tiny")


def lock(folder: Path, **values: Any) -> LockedModel:
    model = Model(**{"name": "tiny", "source": "./tiny", **values})
    return lock_model(model, folder.parent, make_session(folder.parent.parent / "models"))


def refused(folder: Path, **values: Any) -> ModelError:
    with pytest.raises(ModelError) as caught:
        lock(folder, **values)
    assert (caught.value.exit_code, bool(caught.value.hint), bool(caught.value.where)) == (9, True, True)
    return caught.value


def sharded(folder: Path, **shards: dict[str, Any]) -> Path:
    """Write two shards with tensors `a` and `b`, and an index; `shards` replaces the tensors of `one` or `two`."""
    (folder / "model.safetensors").unlink()
    tensor = ("F32", [4, 4])
    (folder / ONE).write_bytes(weights(shards.get("one", {"a": tensor})))
    (folder / TWO).write_bytes(weights(shards.get("two", {"b": tensor})))
    (folder / INDEX).write_text(json.dumps({"weight_map": {"a": ONE, "b": TWO}}))
    return folder


@pytest.mark.parametrize(
    "name", ["tokenizer.json", "model.safetensors", "config.json", "merges.txt", "tokenizer.model"]
)
def test_a_git_lfs_pointer(folder: Path, name: str) -> None:
    (folder / name).write_bytes(pointer(11421896))
    error = refused(folder)
    assert error.message == f"model tiny: {name} is a Git LFS pointer to a file of 11421896 bytes"
    assert error.where == str(folder)
    assert error.hint == f"install Git LFS and run `git lfs pull` in that folder, or download {name}"


def test_several_pointers_are_one_error(folder: Path) -> None:
    for name in ("model.safetensors", "tokenizer.json", "merges.txt", "a.json", "b.json", "c.json"):
        (folder / name).write_bytes(pointer(1))
    assert refused(folder).message == (
        "model tiny: a.json is a Git LFS pointer to a file of 1 bytes; so are b.json, c.json, merges.txt and 2 more"
    )


def test_a_pointer_that_is_not_selected_is_not_read(folder: Path) -> None:
    (folder / "pytorch_model.bin").write_bytes(pointer(1))
    lock(folder)


@pytest.mark.parametrize(
    ("head", "size"),
    [
        (pointer(7), 7),
        (pointer(0), 0),
        (pointer(8).replace(b"\n", b"\r\n"), 8),
        (b"version https://hawser.github.com/spec/v1\noid sha256:1\nsize 5\n", 5),
        (b"version https://git-lfs.github.com/spec/v1\next-0-foo sha256:1\noid sha256:1\nsize 5", 5),
        (b"version 1\nsize 5\n", None),
        (b"{}", None),
        (b"", None),
    ],
)
def test_pointers_are_recognised(head: bytes, size: int | None) -> None:
    assert pointer_size(head) == size


@pytest.mark.parametrize(
    "page", [b"<!DOCTYPE html><html>", b"\xef\xbb\xbf\n <!doctype HTML>", b"<html lang='en'>", b"\n<HTML>", b"<head>"]
)
@pytest.mark.parametrize("name", ["tokenizer.json", "merges.txt", "model.safetensors", "chat_template.jinja"])
def test_an_html_page(folder: Path, name: str, page: bytes) -> None:
    (folder / name).write_bytes(page + b"Sign in")
    error = refused(folder)
    assert error.message == f"model tiny: {name} is an HTML page"
    assert error.hint is not None
    assert error.hint.startswith(f"download {name} again: the server sent a page")


def test_what_may_begin_like_a_page(folder: Path) -> None:
    (folder / "LICENSE.txt").write_bytes(b"<html>MIT</html>")
    (folder / "chat_template.jinja").write_bytes(b"<header>{{ messages }}")
    lock(folder)
    assert not is_page("vocab.txt", b"<htmlx>")


@pytest.mark.parametrize(
    ("name", "data", "flaw"),
    [
        ("tokenizer.json", b'{"a": ', "is not JSON: Expecting value: line 1 column 7 (char 6)"),
        ("tokenizer_config.json", b"Invalid username or password.", "is not JSON: Expecting value: line 1"),
        ("generation_config.json", b"", "is empty"),
        ("1.json", b"\xff\xfe\xff", "is not JSON: it cannot be decoded"),
    ],
)
def test_every_json_file_parses(folder: Path, name: str, data: bytes, flaw: str) -> None:
    (folder / name).write_bytes(data)
    assert refused(folder).message.startswith(f"model tiny: {name} {flaw}")


def test_shards_and_index_agree(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert len(lock(sharded(folder)).files) == 5
    assert capsys.readouterr().err == ""


def test_an_index_that_names_an_absent_tensor(folder: Path) -> None:
    sharded(folder, two={"c": ("F32", [1])})
    error = refused(folder)
    assert error.message == f"model tiny: {INDEX} puts tensor 'b' into {TWO}, whose header lacks it"
    assert error.hint == "download the index and its shards again, all from one revision"
    model = Model(name="tiny", source="./tiny")
    with pytest.raises(ModelError, match="whose header lacks it"):
        local_files(model, folder.parent, Config())


def test_tensors_and_files_that_the_index_does_not_name(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    sharded(folder, two={"b": ("F32", [1]), "c": ("F32", [1]), "d": ("F32", [1])})
    (folder / "extra.safetensors").write_bytes(weights())
    lock(folder)
    assert capsys.readouterr().err == (
        f"warning: model tiny: {INDEX} does not name extra.safetensors: "
        "servers that follow the index do not load it\n"
        f"warning: model tiny: {TWO} has tensor 'c' and 1 more, which {INDEX} does not name\n"
    )


def test_numbered_shards_without_an_index(folder: Path) -> None:
    sharded(folder)
    (folder / INDEX).unlink()
    lock(folder)
    (folder / ONE).unlink()
    assert refused(folder).message == f"model tiny: shard '{ONE}' of the numbered weight files is missing"


@pytest.mark.parametrize(
    ("paths", "absent"),
    [
        ((ONE, TWO), ()),
        ((TWO,), (ONE,)),
        (("m-0-of-3.gguf", "m-2-of-3.gguf"), ("m-1-of-3.gguf",)),
        (("a/m-00001-of-00002.bin", "m-00002-of-00002.bin"), ("a/m-00002-of-00002.bin", "m-00001-of-00002.bin")),
        (("model.safetensors", "x-of-2.bin", "m-1-of-0.bin"), ()),
    ],
)
def test_gaps_in_numbered_names(paths: tuple[str, ...], absent: tuple[str, ...]) -> None:
    assert absent_numbers(paths) == absent


def adapter(folder: Path, **changes: Any) -> Path:
    config = {"peft_type": "LORA", "base_model_name_or_path": "acme/base", "r": 8} | changes
    for path in folder.iterdir():
        path.unlink()
    (folder / "adapter_config.json").write_text(json.dumps(config))
    (folder / "adapter_model.safetensors").write_bytes(weights())
    return folder


def test_a_lora_adapter(folder: Path) -> None:
    error = refused(adapter(folder))
    assert error.message == "model tiny: this is a LoRA adapter for acme/base"
    assert error.hint == (
        'name the base model as the recipe\'s model (source = "hf://acme/base@main"), and load the adapter with '
        "--enable-lora --lora-modules NAME=FOLDER in the server's `arguments`"
    )
    with pytest.raises(ModelError, match="this is a LoRA adapter for acme/base"):
        local_files(Model(name="tiny", source="./tiny"), folder.parent, Config())


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"base_model_name_or_path": None}, "a LoRA adapter for a base model that it does not name"),
        ({"base_model_name_or_path": "/data/x\n"}, "a LoRA adapter for /data/x\\n"),
        ({"peft_type": "IA3"}, "an IA3 adapter for acme/base"),
        ({"peft_type": None}, "a LoRA adapter for acme/base"),
    ],
)
def test_other_adapters(folder: Path, changes: dict[str, Any], words: str) -> None:
    assert refused(adapter(folder, **changes)).message == f"model tiny: this is {words}"


def test_what_trainers_leave_beside_an_adapter(folder: Path) -> None:
    adapter(folder)
    (folder / "config.json").write_text("{}")
    (folder / "training_args.bin").write_bytes(b"x")
    assert "this is a LoRA adapter" in refused(folder).message
    (folder / "adapter_config.json").write_bytes(pointer(3))
    assert "a base model that it does not name" in refused(folder).message


def test_an_adapter_beside_a_model_is_of_the_model(folder: Path) -> None:
    (folder / "vision-lora").mkdir()
    (folder / "vision-lora" / "adapter_config.json").write_text("{}")
    (folder / "adapter_config.json").write_text("{}")
    assert len(lock(folder).files) == 5


def native(folder: Path) -> Path:
    for path in folder.iterdir():
        path.unlink()
    (folder / "params.json").write_text('{"dim": 64, "n_layers": 2}')
    (folder / "tekken.json").write_text("{}")
    (folder / "consolidated.safetensors").write_bytes(weights())
    return folder


def test_mistrals_own_format(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    locked = lock(native(folder))
    assert [file.path for file in locked.files] == ["consolidated.safetensors", "params.json", "tekken.json"]
    assert "is in Mistral's own format (params.json, consolidated*.safetensors)" in capsys.readouterr().err
    fetch_model(locked, folder.parent, make_session(folder.parent.parent / "models"))
    (folder / "params.json").write_text("[]")
    assert refused(folder).message == "model tiny: params.json is not a JSON object"


def test_mistrals_own_format_without_weights(folder: Path) -> None:
    (native(folder) / "consolidated.safetensors").unlink()
    assert refused(folder).message == (
        "model tiny has no config.json, and its params.json is of Mistral's own format, "
        "whose weights (consolidated*.safetensors) are missing or not selected"
    )
