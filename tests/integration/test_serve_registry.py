"""`jbuild pick` against real registries: what a device can run of what is really there."""

from __future__ import annotations

import json
import struct
import sys
from typing import TYPE_CHECKING, Any

import pytest
import tomli_w
import yaml
from project import Done, Running, assert_refused, clean_environment
from proofs import make_evidence
from publishing import push
from servers import Fault, Registry, make_image, registry, running_front

from builder.model.recipes import TagRule

if TYPE_CHECKING:
    from pathlib import Path

    from builder.model.verdicts import Level

__all__ = ["registry"]
RECIPE = {
    "description": "A demonstration",
    "matrix": {"vllm": ["0.15.1", "0.20.2"], "l4t": ["36.4.0", "39.2.0", "35.4.1"]},
    "packages": {"requires": ["vllm=={vllm}"]},
    "models": [{"name": "tiny", "source": "../tiny"}],
    "server": {"max-model-len": 1024},
    "smoke": {"questions": [{"ask": "Capital?", "expect": "Paris"}]},
    "publish": {"tags": ["{vllm}-r{l4t}"]},
}
NX = ("--board", "orin-nx-16", "--l4t", "36.4.3")
NEW, OLD = "0.20.2-r36.4.0", "0.15.1-r36.4.0"


class Shop:
    """A project that has built nothing, and a registry in which others have put images of its recipe."""

    def __init__(self, root: Path, host: str) -> None:
        self.root, self.host, self.layout = root / "work", host, root / "images"
        self.environment = clean_environment(root / "home", None) | {"JBUILD_CACHE": str(root / "cache")}
        self.write(RECIPE)
        (self.root / "jbuild.toml").write_text(f'[publish]\nregistries = ["{host}"]\n')
        self.model(300 << 20)

    def write(self, recipe: dict[str, Any]) -> None:
        path = self.root / "recipes" / "demo.toml"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(tomli_w.dumps(recipe))

    def model(self, size: int) -> None:
        """Make the recipe's model: a Llama whose weights (a hole) have that many bytes."""
        folder = self.root / "tiny"
        folder.mkdir(parents=True, exist_ok=True)
        shape = {"num_hidden_layers": 30, "hidden_size": 576, "num_attention_heads": 9, "num_key_value_heads": 3}
        more = {
            "vocab_size": 49152,
            "max_position_embeddings": 8192,
            "intermediate_size": 1536,
            "torch_dtype": "bfloat16",
        }
        config = {"model_type": "llama", "architectures": ["LlamaForCausalLM"], **shape, **more}
        (folder / "config.json").write_text(json.dumps(config))
        (folder / "tokenizer.json").write_text('{"version": "1.0"}')
        (folder / "tokenizer_config.json").write_text('{"chat_template": "{{ messages }}"}')
        header = json.dumps({"w": {"dtype": "BF16", "shape": [size // 2], "data_offsets": [0, size]}}).encode()
        with (folder / "model.safetensors").open("wb") as file:
            file.write(struct.pack("<Q", len(header)) + header)
            file.truncate(8 + len(header) + size)

    def put(self, tag: str, level: Level | None = "gpu") -> str:
        """Publish an image under a tag, with a verdict beside it unless `level` is None; return its digest."""
        image = make_image(self.layout, sizes=(1000,), labels=(("io.jbuild.recipe", "demo"),))
        evidence = {"evidence": make_evidence(image, self.root, level=level)} if level else {}
        push(image, self.layout, self.host, rules=(TagRule(name=tag),), **evidence)
        return image.digest

    def pick(self, *arguments: str) -> Done:
        return self.run("pick", *arguments)

    def run(self, verb: str, *arguments: str) -> Done:
        return Running([sys.executable, "-m", "builder", verb, "demo", *arguments], self.root, self.environment).wait()


@pytest.fixture
def shop(registry: Registry, tmp_path: Path) -> Shop:
    return Shop(tmp_path, registry.host)


def by_cell(done: Done) -> dict[str, dict[str, Any]]:
    return {row["cell"].replace("_", "."): row for row in done.json["candidates"]}


def test_the_best_for_a_board_and_why_not_the_others(shop: Shop) -> None:
    new = shop.put(NEW, "emulated-forward")
    old = shop.put(OLD)
    shop.put("0.20.2-r39.2.0")
    done = shop.pick(*NX, "--json")
    assert done.code == 0, done.stderr
    # The verdict of a GPU weighs more than a newer version.
    assert done.json["image"] == f"{shop.host}/vllm@{old}"
    assert done.json["host"]["name"] == "orin-nx-16"
    assert [row["tag"] for row in done.json["candidates"][:2]] == [OLD, NEW]
    rows = by_cell(done)
    assert (rows["v0.20.2-r36.4.0"]["digest"], rows["v0.20.2-r36.4.0"]["level"]) == (new, "emulated-forward")
    assert rows["v0.20.2-r36.4.0"]["out"] == []
    assert rows["v0.20.2-r39.2.0"]["out"] == [
        "JetPack 6's driver (540) refuses CUDA 13 [CUDA 13.0 release notes: it needs a driver of 580 or later]"
    ]
    (unpublished,) = [said for said in rows["v0.15.1-r39.2.0"]["out"] if "published" in said]
    assert unpublished == f"not published: there is no {shop.host}/vllm:0.15.1-r39.2.0"
    text = shop.pick(*NX)
    assert text.stdout.startswith(f"{shop.host}/vllm@{old} for orin-nx-16\n  runs  v0_15_1-r36_4_0 {OLD}, level gpu\n")


def test_a_level_can_be_asked_for(shop: Shop) -> None:
    digest = shop.put(NEW, "emulated")
    assert shop.pick(*NX, "--json").json["image"] == f"{shop.host}/vllm@{digest}"
    asked = shop.pick(*NX, "--level", "gpu", "--json")
    assert (asked.code, asked.json["image"]) == (11, None)
    assert by_cell(asked)["v0.20.2-r36.4.0"]["out"] == ["its verdict has the level emulated, not gpu or better"]


def test_an_image_that_nobody_vouches_for_is_out(shop: Shop) -> None:
    shop.put(NEW, None)
    done = shop.pick(*NX, "--json")
    assert done.code == 11
    assert by_cell(done)["v0.20.2-r36.4.0"]["out"] == ["it has no accepted verdict"]


def test_a_model_that_is_too_large_for_the_board(shop: Shop) -> None:
    shop.put(NEW)
    shop.model(9 << 30)
    assert shop.pick(*NX).code == 0
    done = shop.pick("--board", "orin-nano-8", "--l4t", "36.4.3", "--json")
    assert done.code == 11
    assert by_cell(done)["v0.20.2-r36.4.0"]["out"] == [
        "by estimate, its model does not fit orin-nano-8: `jbuild fit` shows the sum"
    ]


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("--board", "agx-thor-128", "--l4t", "39.2.0"), "error 801"),
        ((), "it is for arm64, not for this machine"),
    ],
)
def test_what_does_not_suit(shop: Shop, arguments: tuple[str, ...], said: str) -> None:
    shop.put(NEW)
    done = shop.pick(*arguments, "--json")
    assert done.code == 11
    assert any(said in reason for reason in by_cell(done)["v0.20.2-r36.4.0"]["out"]), done.stdout


def test_several_registries_and_one_that_refuses(shop: Shop, registry: Registry) -> None:
    shop.put(NEW)
    with running_front(registry, Fault(match="GET .*tags/list", kind="answer", status=403, times=None)) as front:
        done = shop.pick(*NX, "--registry", front.host, "--registry", shop.host, "--json")
        alone = shop.pick(*NX, "--registry", front.host, "--json")
    assert done.code == 0, done.stderr
    # What is not in the other one may be there.
    lost = [said for said in by_cell(done)["v0.15.1-r36.4.0"]["out"] if said.startswith("unknown")]
    assert len(lost) == 1
    assert front.host in lost[0]
    assert alone.code == 11
    assert any(said.startswith(f"unknown: {front.host}") for said in by_cell(alone)["v0.20.2-r36.4.0"]["out"])


def test_run_takes_what_pick_names_and_says_why_there_is_none(shop: Shop) -> None:
    shop.put(NEW)
    done = shop.run("run")
    assert_refused(done, 2, r"no image for this machine .*v0_20_2-r36_4_0: it is for arm64", "jbuild pick demo")
    assert_refused(shop.run("run", "--image", "x/y:1"), 2, "an image belongs to one cell, but 4 are selected")


def test_a_compose_file_for_what_others_have_made(shop: Shop) -> None:
    digest = shop.put(NEW)
    done = shop.run("compose", "--cell", "v0_20_2-r36_4_0", "--board", "orin-nano-8")
    assert done.code == 0, done.stderr
    server = yaml.safe_load(done.stdout)["services"]["vllm"]
    assert (server["image"], server["runtime"]) == (f"{shop.host}/vllm@{digest}", "nvidia")
    # vLLM takes 0.9 of the memory unless told otherwise, and so much is not free on a board that shares it.
    assert 0 < float(server["environment"]["JBUILD_GPU_MEMORY_UTILIZATION"]) < 0.9
    missing = shop.run("compose", "--cell", "v0_15_1-r36_4_0")
    assert_refused(missing, 2, "no image of demo/v0_15_1-r36_4_0", f"none is in {shop.host}")
    assert_refused(shop.run("compose"), 2, "4 cells are selected", "jbuild pick demo")
    wrong = shop.run("compose", "--cell", "v0_20_2-r36_4_0", "--board", "agx-thor-128")
    assert_refused(wrong, 2, "do not run on agx-thor-128")


@pytest.mark.parametrize(
    ("arguments", "code", "said"),
    [
        (("--board", "orin-nx"), 2, "there is no board `orin-nx`"),
        (("--l4t", "36.9.9"), 2, "unknown L4T release"),
        (("--cell", "nothing"), 2, "nothing"),
    ],
)
def test_wrong_words(shop: Shop, arguments: tuple[str, ...], code: int, said: str) -> None:
    assert_refused(shop.pick(*arguments), code, said, placed=False)


def test_a_recipe_that_goes_nowhere(shop: Shop) -> None:
    (shop.root / "jbuild.toml").write_text("")
    assert_refused(shop.pick(*NX), 2, "no registry")
