"""Which files of a model are taken."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from builder.errors import ModelError
from builder.model.recipes import Model
from builder.models.selection import FORMATS, Selection, is_weight, select

LLAMA = ("config.json", "generation_config.json", "tokenizer.json", "tokenizer_config.json", "model.safetensors")


def model(**values: Any) -> Model:
    return Model(**{"name": "m", "source": "./m", **values})


def chosen(*paths: str, **values: Any) -> Selection:
    return select(paths, model(**values))


def refused(*paths: str, **values: Any) -> ModelError:
    with pytest.raises(ModelError) as caught:
        chosen(*paths, **values)
    assert caught.value.where == "./m"
    return caught.value


def test_what_a_server_needs() -> None:
    junk = (
        ".gitattributes",
        ".cache/huggingface/x.json",
        "README.md",
        "assets/logo.png",
        "modeling_own.py",
        "training.log",
        "original/consolidated.00.pth",
        "original/params.json",
        "onnx/model.onnx",
        "tf_model.h5",
    )
    needed = (
        *LLAMA,
        "1_Pooling/config.json",
        "LICENSE.md",
        "NOTICE",
        "chat_template.jinja",
        "merges.txt",
        "tokenizer.model",
        "qwen.tiktoken",
    )
    found = chosen(*junk, *needed)
    assert found.paths == tuple(sorted(needed))
    assert found.left_out == ("tf_model.h5",)
    assert found.has_tokenizer


def test_other_formats_are_left_out_with_their_indexes() -> None:
    indexes = ("model.safetensors.index.json", "pytorch_model.bin.index.json")
    found = chosen(*LLAMA, *indexes, "pytorch_model.bin", "training_args.bin", "x.gguf")
    assert found.paths == tuple(sorted((*LLAMA, indexes[0])))
    assert found.indexes == (indexes[0],)
    assert found.left_out == ("pytorch_model.bin", "training_args.bin", "x.gguf")


def test_allowed_by_name() -> None:
    files = ("config.json", "pytorch_model.bin", "pytorch_model.bin.index.json", "model.safetensors")
    assert chosen(*files, formats=("bin",)).paths == files[:3]
    assert chosen(*files, "a.pkl", "b.pt", formats=("pickle",)).left_out == ("model.safetensors",)
    assert chosen("config.json", "onnx/model.onnx", formats=("onnx",)).paths == ("config.json", "onnx/model.onnx")


@pytest.mark.parametrize("ending", ["bin", "pt", "pth", "ckpt", "pkl"])
def test_pickles_alone_are_refused(ending: str) -> None:
    error = refused("config.json", f"model.{ending}")
    assert error.message == (
        f"model m has weights only in formats that the recipe does not allow: model.{ending} (allowed: safetensors)"
    )
    assert error.hint == (
        "convert them to safetensors (`save_pretrained` does), or, if you trust them, "
        f'set formats = ["{ending}"]; files in that format can run code when they are loaded'
    )


def test_other_formats_alone_are_refused() -> None:
    assert refused("config.json", "m.gguf").hint == (
        'convert them to safetensors (`save_pretrained` does), or, if you trust them, set formats = ["gguf"]'
    )
    assert refused("config.json", "m.h5").hint == "convert them to safetensors (`save_pretrained` does)"
    many = refused("config.json", *(f"m{i}.bin" for i in range(5)))
    assert "m0.bin, m1.bin, m2.bin and 2 more" in many.message


def test_no_weights() -> None:
    assert refused("config.json", "README.md").message == "model m has no weights (safetensors)"
    assert refused(*LLAMA, files=("*.json",)).hint == (
        "name the folder with the weights, or extend `files` in the recipe"
    )


def test_no_config() -> None:
    assert refused("model.safetensors", "sub/config.json").message == "model m has no config.json"


def test_globs_choose() -> None:
    found = chosen(*LLAMA, "modeling.py", "sub/more.py", "b.bin", files=("*.py", "model.safetensors", "*.bin"))
    assert found.paths == ("config.json", "model.safetensors", "modeling.py", "sub/more.py")
    assert found.left_out == ("b.bin",)
    assert not found.has_tokenizer


def test_a_glob_that_matches_nothing() -> None:
    error = refused(*LLAMA, files=("tokeniser.json", "*.safetensors"))
    assert error.message == "model m: `tokeniser.json` of `files` matches nothing"
    assert error.hint == "did you mean `tokenizer.json`?"


def test_a_format_that_is_none() -> None:
    error = refused(*LLAMA, formats=("safetensor",))
    assert (error.message, error.hint) == (
        "model m: `safetensor` is not a weight format",
        "did you mean `safetensors`?",
    )


def test_the_second_copy_of_mistrals_weights() -> None:
    twice = (*LLAMA, "consolidated.safetensors", "consolidated.safetensors.index.json")
    assert chosen(*twice).paths == tuple(sorted(LLAMA))
    assert "consolidated.safetensors" in chosen(*twice, files=("*",)).paths
    only = ("config.json", "consolidated.safetensors", "tekken.json")
    assert chosen(*only).paths == only


MISTRAL = ("consolidated.safetensors", "params.json", "tekken.json")
SHARDS = ("model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors", "model.safetensors.index.json")


def test_one_of_two_formats_is_taken() -> None:
    both = (*LLAMA, *MISTRAL, "consolidated.safetensors.index.json")
    assert chosen(*both).paths == tuple(sorted((*LLAMA, "tekken.json")))
    sharded = ("config.json", "tokenizer.json", *SHARDS)
    assert chosen(*sharded, *MISTRAL).paths == tuple(sorted((*sharded, "tekken.json")))
    assert not chosen(*both).is_mistral


def test_params_never_come_without_their_weights() -> None:
    assert "params.json" not in chosen(*LLAMA, "params.json").paths
    assert "params.json" not in chosen(*LLAMA, *MISTRAL, files=("*.json", "model.safetensors")).paths
    listed = chosen(*LLAMA, *MISTRAL, files=("*.json", "*.safetensors"))
    assert {"params.json", "consolidated.safetensors"} <= set(listed.paths)


def test_mistrals_format_alone() -> None:
    found = chosen(*MISTRAL, "tokenizer.model.v3", "LICENSE", "README.md")
    assert found.paths == ("LICENSE", *MISTRAL[:2], "tekken.json", "tokenizer.model.v3")
    assert (found.config, found.is_mistral, found.has_tokenizer) == ("params.json", True, True)
    assert chosen(*MISTRAL, files=("consolidated*",)).paths == MISTRAL[:2]


def test_mistrals_format_if_the_other_is_not_whole() -> None:
    """An incomplete set of shards, pickles, or a tokenizer for Mistral's library only."""
    whole = ("config.json", *MISTRAL)
    assert chosen(*whole, "tokenizer.json", SHARDS[0]).paths == tuple(sorted((*whole, "tokenizer.json")))
    assert chosen(*whole, "pytorch_model.bin").paths == tuple(sorted(whole))
    assert chosen(*whole, *SHARDS).paths == tuple(sorted(whole))
    assert chosen(*whole, *SHARDS).config == "config.json"


def test_weights_beside_mistrals_that_are_not_a_model() -> None:
    paths = ("config.json", *MISTRAL, "projector.safetensors", "tokenizer.json")
    assert chosen(*paths).paths == tuple(sorted(paths))
    without = tuple(path for path in paths if path != "params.json")
    assert chosen(*without).paths == tuple(sorted(without))


def test_params_alone_are_refused_with_the_formats_name() -> None:
    for paths in (("params.json",), ("params.json", "model.safetensors"), ("params.json", "consolidated.00.pth")):
        assert "its params.json is of Mistral's own format" in refused(*paths).message


@given(
    st.sets(st.sampled_from([*LLAMA, *MISTRAL, *SHARDS, "adapter_model.safetensors"])),
    st.sampled_from([(), ("*.json", "*.safetensors"), ("*",)]),
)
def test_formats_are_never_mixed(paths: set[str], files: tuple[str, ...]) -> None:
    try:
        found = chosen(*paths, files=files)
    except ModelError:
        return
    if "params.json" in found.paths:
        assert "consolidated.safetensors" in found.paths
    if "params.json" in found.paths and not files:
        assert not {"model.safetensors", *SHARDS} & set(found.paths)


@given(
    st.sets(st.sampled_from([*LLAMA, *(f"w.{e}" for ends in FORMATS.values() for e in ends), "r.md"])),
    st.sets(st.sampled_from(sorted(FORMATS)), min_size=1),
)
def test_never_a_weight_that_is_not_allowed(paths: set[str], formats: set[str]) -> None:
    try:
        found = chosen(*paths, formats=tuple(formats))
    except ModelError:
        return
    endings = {ending for name in formats for ending in FORMATS[name]}
    kept = [path for path in found.paths if is_weight(path)]
    assert kept
    assert all(path.rpartition(".")[2] in endings for path in kept)
    assert list(found.paths) == sorted(set(found.paths))
