"""The scripts of the proof on a GPU: variants of the recipe, golden tokens that must fail, bundles in parts."""

from __future__ import annotations

import io
import json
import sys
import tarfile
from typing import TYPE_CHECKING

import pytest

from builder.model.verdicts import Token
from builder.smoke import golden
from gpu_proof import far_side, variants, wrong_golden

if TYPE_CHECKING:
    from pathlib import Path

ANSWER = golden.Golden(
    prompt="0" * 16,
    model="1" * 16,
    title="What is the capital of France?",
    source="a reference run",
    tokens=(
        Token(text="It is", logprob=-1.2, top=(("It is", -1.2), ("The", -1.3))),
        Token(text=" Paris", logprob=-0.01, top=((" Paris", -0.01), (" Lyon", -6.0))),
    ),
)


def test_wrong_golden_tokens_differ_from_the_right_answer_at_the_surest_token(tmp_path: Path) -> None:
    golden.write(tmp_path / "right.toml", [ANSWER])

    wrong_golden.write_wrong_golden(tmp_path / "right.toml", tmp_path / "wrong.toml")

    (wrong,) = golden.read(tmp_path / "wrong.toml")
    assert golden.compare(ANSWER, ANSWER.tokens, 0.5).difference is None
    agreement = golden.compare(wrong, ANSWER.tokens, 0.5)
    assert agreement.tokens == 1
    assert agreement.difference == "token 2 is ' Paris', recorded ' wrong' at log-probability -0.01"


def test_variants_get_the_golden_tokens_and_a_recipe_with_wrong_ones(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    golden.write(tmp_path / "right.toml", [ANSWER])
    monkeypatch.setattr(sys, "argv", ["variants.py", str(tmp_path), "--golden", str(tmp_path / "right.toml")])

    variants.main()

    folder = tmp_path / "recipes" / "golden"
    assert golden.read(folder / "gpu-slim.toml") == golden.read(tmp_path / "right.toml")
    assert golden.read(folder / "gpu-golden.toml") != golden.read(tmp_path / "right.toml")
    assert (tmp_path / "recipes" / "gpu-golden.toml").is_file()


def test_only_the_chosen_variants_are_written_in_the_order_of_building(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    argv = ["variants.py", str(tmp_path), "--only", "gpu-least", "--only", "gpu-slim"]
    monkeypatch.setattr(sys, "argv", argv)

    variants.main()

    assert capsys.readouterr().out.split() == ["gpu-slim", "gpu-least"]
    assert sorted(path.name for path in (tmp_path / "recipes").iterdir()) == ["gpu-least.toml", "gpu-slim.toml"]


def test_a_quantised_variant_needs_its_model(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    argv = ["variants.py", str(tmp_path), "--only", "gpu-gptq"]
    monkeypatch.setattr(sys, "argv", argv)

    with pytest.raises(SystemExit):
        variants.main()
    assert "there is no variant gpu-gptq: they are gpu-slim, gpu-whole" in capsys.readouterr().err

    monkeypatch.setattr(sys, "argv", [*argv, "--quantised", str(tmp_path / "model")])
    variants.main()
    recipe = (tmp_path / "recipes" / "gpu-gptq.toml").read_text()
    assert f'source = "{tmp_path / "model"}"' in recipe


@pytest.mark.parametrize("split", [False, True])
def test_a_bundle_names_its_image_whole_or_in_parts(tmp_path: Path, *, split: bool) -> None:
    document = json.dumps({"recipe": "gpu-lean", "cell": "vllm0.20.2-sm90"}).encode()
    if split:
        content = io.BytesIO()
        with tarfile.open(fileobj=content, mode="w") as archive:
            member = tarfile.TarInfo("bundle.json")
            member.size = len(document)
            archive.addfile(member, io.BytesIO(document))
        (tmp_path / "parts").mkdir()
        whole = content.getvalue()
        (tmp_path / "parts" / "0001").write_bytes(whole[:1536])
        (tmp_path / "parts" / "0002").write_bytes(whole[1536:])
    else:
        (tmp_path / "bundle.json").write_bytes(document)

    assert far_side.command("bench", tmp_path, ["--concurrency=1"]) == [
        "bench",
        "jbuild/gpu-lean:vllm0.20.2-sm90",
        "--json",
        "--concurrency=1",
    ]
