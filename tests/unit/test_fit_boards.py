"""Estimates for boards: the sum, the verdict, the command, and the warning of a lock."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import pytest
from factories import make_jetson, make_job, make_lock, make_model, make_platform, make_session, make_spec
from fit_parts import GEMMA_3_4B, LLAMA_3_1_8B, QWEN3_8B, write_weights

from builder.errors import DocumentError, ModelError, UsageError
from builder.lock.resolve import warn_of_boards
from builder.model.model_files import ModelFile
from builder.model.recipes import Model, ServerSpec
from builder.models.fit.cell_fit import fit_cell, warning
from builder.models.fit.fit_defaults import defaults, encoders, overheads
from builder.recipe.load import load

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from builder.host.session import Session
    from builder.models.fit.memory_estimate import CellFit

GIB = 1 << 30
LLAMA = 8_030_261_248
RECIPE = """description = "A model in a folder"
{boards}
[matrix]
vllm = ["0.20.2"]
{axis}

[packages]
requires = ["vllm=={{vllm}}"]

[[models]]
name = "tiny"
source = "../model"

[server]
max-model-len = 8192
arguments = {arguments}

[[smoke.questions]]
ask = "What is the capital of France?"
expect = "Paris"
"""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A model of Llama 3 8B's shape and size; its numbers are a hole in the file."""
    path = tmp_path / "model"
    path.mkdir()
    (path / "config.json").write_text(json.dumps(LLAMA_3_1_8B))
    (path / "tokenizer.json").write_text("{}")
    write_weights(path / "model.safetensors", {"w": ("BF16", [LLAMA], 2 * LLAMA)})
    return path


def fit_of(folder: Path, *boards: str, server: ServerSpec | None = None, **platform: Any) -> CellFit:
    spec = make_spec(
        requires=("vllm==0.20.2",),
        models=(Model(name="tiny", source=str(folder)),),
        server=server or ServerSpec(model="tiny", max_model_len=8192),
    )
    on = make_jetson(**platform) if platform.pop("gpu", True) else make_platform()
    job = make_job(spec=spec, platform=on, path=folder / "recipe.toml")
    return fit_cell(job, None, make_session(folder / "models"), boards)


def test_the_sum_for_a_board_that_is_large_enough(folder: Path) -> None:
    (fit,) = fit_of(folder, "agx-orin-64").boards
    sizes = {line.name: line.size for line in fit.lines}
    assert sizes["weights"] == 2 * LLAMA
    assert sizes["activations"] == 2048 * (3 * 14336 + 4 * 4096) * 2 + 256 * 128256 * 16
    assert fit.fixed == sum(sizes.values())
    assert fit.machine is not None
    usable = 62841 << 20
    assert (fit.machine.usable, fit.machine.measured) == (usable, True)
    assert fit.machine.share == int(usable * 0.92)
    assert fit.left == fit.machine.share - fit.fixed
    assert (fit.kv_token, fit.kv_sequence) == (131072, 8192 * 131072)
    assert (fit.verdict, fit.longest, fit.longest_one) == ("fits", 131072, 131072)
    assert fit.whole == round(fit.left / fit.kv_sequence, 2)


def test_what_vllm_found_for_activations_is_less_than_the_estimate(folder: Path) -> None:
    """vllm#10511, Llama 3 8B, batches of 8192: 1.26 GiB."""
    server = ServerSpec(model="tiny", max_model_len=8192, arguments=("--max-num-batched-tokens=8192",))
    size = next(
        line.size for line in fit_of(folder, "agx-orin-64", server=server).boards[0].lines if line.name == "activations"
    )
    assert 1.26 * GIB <= size <= 1.26 * 1.12 * GIB


def test_a_board_that_is_too_small(folder: Path) -> None:
    (fit,) = fit_of(folder, "orin-nano-8").boards
    assert (fit.verdict, fit.whole, fit.longest, fit.longest_one) == ("no", 0.0, None, None)
    assert fit.left is not None
    assert fit.left < 0


def test_sequences_that_have_no_room_together(folder: Path) -> None:
    server = ServerSpec(
        model="tiny", max_model_len=65536, arguments=("--max-num-seqs=8", "--gpu-memory-utilization=0.9")
    )
    (fit,) = fit_of(folder, "agx-orin-64", server=server).boards
    assert fit.verdict == "fewer"
    assert fit.longest is not None
    assert fit.left is not None
    assert fit.longest < 65536 < (fit.longest_one or 0)
    assert 8 * -(-fit.longest // 16) * 16 * 131072 <= fit.left < 8 * (fit.longest + 16) * 131072


def test_what_the_system_needs_limits_the_servers_share(folder: Path) -> None:
    (fit,) = fit_of(folder, "agx-orin-32").boards
    assert fit.machine is not None
    outside = sum(line.size for line in fit.machine.outside)
    assert fit.machine.share == (30697 << 20) - outside < int(0.92 * (30697 << 20))
    assert fit.machine.utilization == 0.87
    assert any("set 0.87 or less" in remark for remark in fit.remarks)
    modest = ServerSpec(model="tiny", max_model_len=8192, arguments=("--gpu-memory-utilization", "0.7"))
    (fit,) = fit_of(folder, "agx-orin-32", server=modest).boards
    assert fit.machine is not None
    assert fit.machine.share == int(0.7 * (30697 << 20))
    assert fit.remarks == ()


def test_eight_bits_for_the_cache_double_the_context(folder: Path) -> None:
    server = ServerSpec(model="tiny", max_model_len=8192, arguments=("--kv-cache-dtype=fp8",))
    (half,) = fit_of(folder, "agx-orin-32", server=server).boards
    (whole,) = fit_of(folder, "agx-orin-32").boards
    assert 2 * half.kv_token == whole.kv_token
    assert (half.longest or 0) > (whole.longest or 0)


def test_a_checkpoint_that_asks_for_eight_bits(folder: Path) -> None:
    (whole,) = fit_of(folder, "agx-orin-64").boards
    scheme = {"num_bits": 8, "type": "float", "dynamic": False}
    quantised = {"quant_method": "modelopt", "quant_algo": "FP8", "kv_cache_scheme": scheme}
    (folder / "config.json").write_text(json.dumps(LLAMA_3_1_8B | {"quantization_config": quantised}))
    (half,) = fit_of(folder, "agx-orin-64").boards
    assert (half.settings.kv_dtype, 2 * half.kv_token) == ("fp8", whole.kv_token)
    cache, weights = (remark for remark in half.remarks if "8.7" in remark)
    assert cache.startswith("SM 8.7 of agx-orin-64 has no fp8e4nv, Triton's type for an fp8 KV cache")
    assert weights == "ModelOpt's FP8 weights need SM 8.9 in vLLM 0.15.1 and 0.20.2; agx-orin-64 has SM 8.7"
    (folder / "config.json").write_text(json.dumps(LLAMA_3_1_8B))
    (folder / "hf_quant_config.json").write_text(
        '{"producer": {"name": "modelopt"}, "quantization": {"quant_algo": "FP8", "kv_cache_quant_algo": "FP8"}}'
    )
    (same,) = fit_of(folder, "agx-orin-64").boards
    assert (same.kv_token, same.remarks) == (half.kv_token, half.remarks)
    thor = fit_of(folder, "agx-thor-128").boards[0].remarks
    assert not any("fp8e4nv" in remark or "ModelOpt" in remark for remark in thor)


@pytest.mark.parametrize("gpu", [True, False])
def test_an_encoder_has_no_cache(folder: Path, gpu: bool) -> None:
    (folder / "config.json").write_text(json.dumps(LLAMA_3_1_8B | {"model_type": "bert"}))
    server = ServerSpec(model="tiny", max_model_len=8192, environment=(("VLLM_CPU_KVCACHE_SPACE", "60"),))
    (fit,) = fit_of(folder, "agx-orin-64", server=server, gpu=gpu).boards
    assert (fit.kv_token, fit.kv_sequence, fit.whole, fit.verdict, fit.longest) == (0, 0, None, "fits", 131072)
    assert fit.machine is not None
    assert fit.left == fit.machine.share - fit.fixed
    assert "bert is an encoder: it has no KV cache" in fit.remarks
    assert not any("KVCACHE" in remark for remark in fit.remarks)
    assert fit_of(folder, "orin-nano-8", server=server, gpu=gpu).boards[0].verdict == "no"


def test_without_cuda_graphs_there_is_more_room(folder: Path) -> None:
    eager = ServerSpec(model="tiny", max_model_len=8192, arguments=("--enforce-eager",))
    names = {line.name for line in fit_of(folder, "agx-orin-64", server=eager).boards[0].lines}
    assert "CUDA graphs" not in names
    assert "CUDA graphs" in {line.name for line in fit_of(folder, "agx-orin-64").boards[0].lines}


def test_boards_of_the_platform_unless_some_are_named(folder: Path) -> None:
    names = [fit.machine.board for fit in fit_of(folder).boards if fit.machine]
    assert names == ["orin-nano-4", "orin-nano-8", "orin-nx-8", "orin-nx-16", "agx-orin-32", "agx-orin-64"]
    assert [fit.verdict for fit in fit_of(folder).boards] == ["no", "no", "no", "no", "fits", "fits"]
    with pytest.raises(UsageError, match="there is no board `orin`"):
        fit_of(folder, "orin")


def test_a_cell_for_one_gpu_leaves_out_boards_with_another(folder: Path) -> None:
    def machines(sms: str, *boards: str) -> set[str]:
        job = make_job(platform=make_jetson(l4t="39.2.0", sms=tuple(sms.split("+"))), path=folder / "recipe.toml")
        spec = replace(job.spec, models=(Model(name="tiny", source=str(folder)),), server=ServerSpec(model="tiny"))
        recipe = replace(job.recipe, boards=boards)
        job = replace(job, spec=spec, recipe=recipe, cell=replace(job.cell, values=(("sm", sms),)))
        found = fit_cell(job, None, make_session(folder / "models")).boards
        return {board.machine.board for board in found if board.machine}

    assert machines("11.0") == {"agx-thor-128"}
    assert "agx-thor-128" not in machines("8.7")
    assert machines("8.7", "orin-nx-16", "agx-thor-128") == {"orin-nx-16"}
    assert machines("8.7+11.0", "orin-nx-16", "agx-thor-128") == {"orin-nx-16", "agx-thor-128"}


def test_a_gpu_with_its_own_memory_has_no_operating_system_in_it(folder: Path) -> None:
    machine: dict[str, Any] = {
        "name": "gpu-cuda-13.0",
        "architecture": "amd64",
        "l4t": None,
        "cuda": "13.0",
        "sms": ("9.0",),
    }
    fits = fit_of(folder, **machine).boards
    assert [fit.machine.board for fit in fits if fit.machine] == ["h100-80", "h200-141"]
    (fit,) = fit_of(folder, "h100-80", **machine).boards
    assert fit.machine is not None
    assert [item.name for item in fit.machine.outside] == ["CUDA context"]
    assert fit.machine.share == int((81559 << 20) * 0.92)
    assert (fit.verdict, fit.lower_to) == ("fits", None)
    assert "memory of h100-80 is the GPU's own; the system's is not counted" in fit.remarks
    (fit,) = fit_of(folder, "rtx-4090-24", **machine).boards
    assert fit.refusals == ("images for gpu-cuda-13.0 (SM 9.0) do not run on rtx-4090-24 (SM 8.9)",)
    assert (fit.verdict, any("do not run" in remark for remark in fit.remarks)) == ("refused", False)


def test_a_server_on_the_cpu_needs_no_board_and_sets_its_cache_aside(folder: Path) -> None:
    server = ServerSpec(model="tiny", max_model_len=8192, environment=(("VLLM_CPU_KVCACHE_SPACE", "4"),))
    (fit,) = fit_of(folder, gpu=False, server=server).boards
    assert (fit.machine, fit.left, fit.verdict) == (None, 4 * GIB, "fits")
    assert fit.longest == 32768
    (on,) = fit_of(folder, "orin-nx-16", gpu=False, server=server).boards
    assert on.verdict == "no"
    assert "VLLM_CPU_KVCACHE_SPACE is more than the memory left on orin-nx-16" in on.remarks
    (large,) = fit_of(folder, "agx-orin-64", gpu=False, server=server).boards
    assert (large.verdict, large.left) == ("fits", 4 * GIB)


def test_a_cache_that_is_too_small_for_one_sequence(folder: Path) -> None:
    server = ServerSpec(model="tiny", max_model_len=65536, environment=(("VLLM_CPU_KVCACHE_SPACE", "4"),))
    assert fit_of(folder, gpu=False, server=server).boards[0].verdict == "no"
    silent = ServerSpec(model="tiny", max_model_len=8192)
    (fit,) = fit_of(folder, gpu=False, server=silent).boards
    assert (fit.verdict, fit.left) == ("unknown", None)
    (fit,) = fit_of(folder, "agx-orin-64", gpu=False, server=silent).boards
    assert fit.left == min((62841 << 20) // 2, fit.left or 0)
    assert any("half of the memory" in remark for remark in fit.remarks)


def test_a_model_whose_state_is_not_known_is_still_too_large(folder: Path) -> None:
    (folder / "config.json").write_text(json.dumps(LLAMA_3_1_8B | {"model_type": "jamba"}))
    fits = {fit.machine.board: fit for fit in fit_of(folder).boards if fit.machine}
    assert (fits["orin-nx-16"].verdict, fits["agx-orin-64"].verdict) == ("no", "unknown")
    assert fits["agx-orin-64"].longest is None
    assert "jbuild cannot estimate the state of a jamba model" in fits["agx-orin-64"].remarks


def test_the_models_own_length_is_the_limit(folder: Path) -> None:
    (folder / "config.json").write_text(json.dumps(QWEN3_8B))
    (fit,) = fit_of(folder, "agx-thor-128", l4t="39.2.0", sms=("11.0",)).boards
    assert fit.longest == 40960


def test_windows_make_contexts_cheap(folder: Path) -> None:
    (folder / "config.json").write_text(json.dumps(GEMMA_3_4B))
    write_weights(folder / "model.safetensors", {"w": ("BF16", [4_300_079_472], 8_600_158_944)})
    with_windows = fit_of(folder, "orin-nx-16").boards[0]
    apart = ServerSpec(model="tiny", max_model_len=8192, arguments=("--disable-hybrid-kv-cache-manager",))
    without = fit_of(folder, "orin-nx-16", server=apart).boards[0]
    assert (with_windows.longest or 0) > 3 * (without.longest or 0) > 0


def test_a_board_without_a_measured_memory_is_an_estimate(folder: Path) -> None:
    (fit,) = fit_of(folder, "orin-nx-8").boards
    assert fit.machine is not None
    assert not fit.machine.measured
    assert any("the estimate assumes 93 %" in remark for remark in fit.remarks)


def test_a_board_that_the_images_are_not_for_is_refused(folder: Path) -> None:
    (fit,) = fit_of(folder, "agx-thor-128").boards
    assert fit.refusals == ("images for l4t-36.4.0 (SM 8.7) do not run on agx-thor-128 (SM 11.0, L4T 38, 39)",)
    assert (fit.verdict, any("do not run" in remark for remark in fit.remarks)) == ("refused", False)
    assert fit_of(folder, "agx-orin-64").boards[0].refusals == ()
    assert fit_of(folder, "agx-thor-128", gpu=False).boards[0].refusals == ()


def test_the_memory_of_a_gpu_is_not_that_of_a_server_on_the_cpu(folder: Path) -> None:
    (fit,) = fit_of(folder, "h100-80", gpu=False).boards
    assert (fit.machine, fit.verdict) == (None, "unknown")
    assert fit.remarks[-1] == "jbuild does not know the main memory of h100-80, which a server on the CPU needs"


def test_a_model_on_a_hub_must_be_locked(session: Session) -> None:
    spec = make_spec(models=(Model(name="tiny", source="hf://org/tiny@main"),), server=ServerSpec(model="tiny"))
    with pytest.raises(ModelError, match="not locked, and its source is not a folder") as caught:
        fit_cell(make_job(spec=spec), None, session)
    assert "jbuild models lock RECIPE" in (caught.value.hint or "")


def test_a_locked_models_sizes_serve_until_its_weights_are_here(folder: Path, session: Session) -> None:
    from builder.host.files import sha256_of  # noqa: PLC0415
    from builder.models import model_store  # noqa: PLC0415

    config = folder / "config.json"
    sha256 = sha256_of(config)
    blob = model_store.blob(session.workspace.models, sha256)
    blob.parent.mkdir(parents=True)
    blob.write_bytes(config.read_bytes())
    locked = make_model(
        files=(
            ModelFile(path="config.json", sha256=sha256, size=config.stat().st_size),
            ModelFile(path="model.safetensors", sha256="b" * 64, size=16_060_556_376),
        )
    )
    spec = make_spec(requires=("vllm==0.20.2",), server=ServerSpec(model="tiny", max_model_len=8192))
    job = make_job(spec=spec, platform=make_jetson())
    (fit,) = fit_cell(job, (locked,), session, ("agx-orin-64",)).boards
    assert (fit.lines[0].size, fit.lines[0].basis) == (16_060_556_376, "estimate")
    blob.unlink()
    with pytest.raises(ModelError, match=r"config.json of model tiny is not on this machine"):
        fit_cell(job, (locked,), session, ("agx-orin-64",))


def test_the_warning_of_a_lock(folder: Path) -> None:
    assert warning(fit_of(folder, "agx-orin-64"), named=True) is None
    assert warning(fit_of(folder), named=False) == (
        "model tiny: by estimate, it does not fit orin-nano-4, orin-nano-8, orin-nx-8, orin-nx-16; "
        "`jbuild fit` shows the sum"
    )
    message = warning(fit_of(folder, "agx-orin-32"), named=True)
    assert message is not None
    assert "on agx-orin-32 the server starts with --gpu-memory-utilization 0.87" in message
    assert warning(fit_of(folder, "agx-orin-32"), named=False) is None


def _lock(folder: Path, session: Session, boards: tuple[str, ...] = ()) -> None:
    spec = make_spec(
        models=(Model(name="tiny", source=str(folder)),), server=ServerSpec(model="tiny", max_model_len=8192)
    )
    job = make_job(spec=spec, platform=make_jetson(), path=folder.parent / "recipe.toml")
    job = replace(job, recipe=replace(job.recipe, boards=boards))
    files = tuple(
        ModelFile(path=path.name, sha256="a" * 64, size=path.stat().st_size) for path in sorted(folder.iterdir())
    )
    model = make_model(source=str(folder), origin="folder", revision=None, files=files)
    warn_of_boards(job, make_lock(models=(model,)), session)


def test_a_lock_warns_of_boards(folder: Path, session: Session, capsys: pytest.CaptureFixture[str]) -> None:
    write_weights(folder / "model.safetensors", {"w": ("BF16", [100_000], 200_000)})
    _lock(folder, session)
    assert capsys.readouterr().err == ""
    _lock(folder, session, boards=("orin-nano-4",))
    assert "warning: model tiny: by estimate, it does not fit orin-nano-4; " in capsys.readouterr().err
    (folder / "config.json").write_text(json.dumps(LLAMA_3_1_8B | {"num_hidden_layers": 9000}))
    _lock(folder, session)
    assert "warning: model tiny: by estimate, it does not fit orin-nano-4, " in capsys.readouterr().err


def test_an_estimate_never_fails_a_lock(folder: Path, session: Session) -> None:
    write_weights(folder / "model.safetensors", {"w": ("BF16", [100], 200)})
    configs: tuple[dict[str, Any], ...] = (
        {"model_type": "other"},
        {"hidden_size": "wide"},
        {"text_config": []},
        {"num_hidden_layers": -1},
    )
    for config in configs:
        (folder / "config.json").write_text(json.dumps(config))
        _lock(folder, session, boards=("orin-nano-4",))
    (folder / "model.safetensors").write_bytes(b"damaged")
    _lock(folder, session)


def write_recipe(tmp_path: Path, *, boards: str = "", axis: str = 'l4t = ["36.4.0"]', arguments: str = "[]") -> None:
    (tmp_path / "recipes").mkdir(exist_ok=True)
    text = RECIPE.format(boards=boards, axis=axis, arguments=arguments)
    (tmp_path / "recipes" / "demo.toml").write_text(text)


@pytest.fixture
def jbuild(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, command_line: Callable[..., tuple[int, str, str]]
) -> Callable[..., tuple[int, str, str]]:
    monkeypatch.chdir(tmp_path)
    return command_line


def test_the_command(jbuild: Any, tmp_path: Path) -> None:
    write_recipe(tmp_path, arguments='["--max-num-seqs=8"]')
    code, out, err = jbuild("fit", "demo", "--board", "agx-orin-64", "--board", "orin-nx-16")
    assert (code, err) == (0, "")
    lines = out.splitlines()
    assert lines[0] == "v0_20_2-r36_4_0: tiny (llama)"
    assert any(line.split()[:3] == ["weights", "14.96", "exact"] for line in lines)
    kv = "131072 bytes a token in bfloat16: 32 layers with keys and values of 8 heads of 128"
    assert any(line.startswith("  KV cache, 8 of 8192 tokens") and line.endswith(kv) for line in lines)
    (orin,) = [line.split() for line in lines if line.startswith("  agx-orin-64 ")]
    assert orin[:3] == ["agx-orin-64", "61.37", "56.46"]
    assert orin[-1] == "fits"
    assert any(line.startswith("  orin-nx-16 ") and line.endswith("does not fit") for line in lines)
    assert any("estimate: tegrastats" in line for line in lines)


def test_a_board_that_wants_another_setting_does_not_simply_fit(jbuild: Any, folder: Path, tmp_path: Path) -> None:
    write_weights(folder / "model.safetensors", {"w": ("BF16", [100_000], 200_000)})
    write_recipe(tmp_path, arguments='["--max-num-seqs=8"]')
    _, out, _ = jbuild("fit", "demo", "--board", "orin-nx-16", "--board", "agx-orin-64", "--board", "orin-nano-4")
    words = {line.split()[0]: line for line in out.splitlines() if line.startswith(("  orin-", "  agx-"))}
    assert words["orin-nx-16"].endswith("  fits, with --gpu-memory-utilization 0.74")
    assert words["agx-orin-64"].endswith("  fits")
    assert words["orin-nano-4"].endswith("  does not fit")


def test_cells_with_equal_needs_are_printed_once(jbuild: Any, tmp_path: Path) -> None:
    write_recipe(tmp_path, axis='l4t = ["36.4.0", "36.4.3", "38.2.0"]')
    _, out, _ = jbuild("fit", "demo", "--board", "agx-orin-64")
    assert [line for line in out.splitlines() if ": tiny (llama)" in line] == [
        "v0_20_2-r36_4_0, v0_20_2-r36_4_3: tiny (llama)",
        "v0_20_2-r38_2_0: tiny (llama)",
    ]
    assert out.count("  memory ") == 2


def test_the_command_as_json(jbuild: Any, tmp_path: Path) -> None:
    write_recipe(tmp_path)
    code, out, _ = jbuild("fit", "demo", "--json", "--board", "orin-nano-8")
    (cell,) = json.loads(out)["cells"]
    assert code == 9
    assert (cell["cell"], cell["model"], cell["fits_somewhere"]) == ("v0_20_2-r36_4_0", "tiny", False)
    (board,) = cell["boards"]
    assert (board["machine"]["board"], board["verdict"]) == ("orin-nano-8", "no")
    assert board["lines"][0] == {
        "name": "weights",
        "size": 2 * LLAMA,
        "basis": "exact",
        "why": "safetensors headers: BF16 16.061 GB",
    }


def test_the_recipes_boards(jbuild: Any, tmp_path: Path) -> None:
    write_recipe(tmp_path, boards='boards = ["agx-orin-32"]')
    assert load(tmp_path / "recipes" / "demo.toml").boards == ("agx-orin-32",)
    code, out, _ = jbuild("fit", "demo", "--json")
    assert code == 0
    assert [board_fit["machine"]["board"] for board_fit in json.loads(out)["cells"][0]["boards"]] == ["agx-orin-32"]


def test_boards_that_no_cell_is_for_get_a_warning(jbuild: Any, tmp_path: Path) -> None:
    write_recipe(tmp_path, boards='boards = ["agx-orin-32", "h100-80"]', axis='l4t = ["39.2.0"]\nsm = ["8.7", "11.0"]')
    code, _, err = jbuild("fit", "demo", "--cell", "sm=11.0")
    assert (code, err.count("warning")) == (0, 1)
    assert "demo.toml: `boards`: no cell is for h100-80 (SM 9.0)" in err
    write_recipe(tmp_path, boards='boards = ["h100-80"]', axis='distribution = ["debian-12"]')
    code, out, err = jbuild("fit", "demo")
    assert (code, err) == (0, "")
    assert "note: jbuild does not know the main memory of h100-80, which a server on the CPU needs" in out


def test_an_unknown_board_in_a_recipe_is_located(tmp_path: Path) -> None:
    write_recipe(tmp_path, boards='boards = ["agx-orin-23", "orin-nx-16"]')
    with pytest.raises(DocumentError) as caught:
        load(tmp_path / "recipes" / "demo.toml")
    (problem,) = caught.value.problems
    assert (problem.line, problem.key) == (2, "boards[0]")
    assert (problem.message, problem.hint) == ("there is no board `agx-orin-23`", "did you mean `agx-orin-32`?")


def test_a_cpu_platform_asks_for_a_board(jbuild: Any, tmp_path: Path) -> None:
    write_recipe(tmp_path, axis='distribution = ["debian-12"]')
    code, out, _ = jbuild("fit", "demo")
    assert code == 0
    assert "compared with no board; --board NAME names one, such as agx-orin-64" in out


def test_errors_of_the_command(jbuild: Any, tmp_path: Path) -> None:
    write_recipe(tmp_path)
    code, _, err = jbuild("fit", "demo", "--board", "orin-nx-61")
    assert (code, "did you mean `orin-nx-16`?" in err) == (2, True)
    (tmp_path / "model" / "model.safetensors").write_bytes(b"short")
    code, _, err = jbuild("fit", "demo")
    assert (code, "model.safetensors is truncated" in err) == (9, True)
    write_recipe(tmp_path, axis='l4t = ["36.4.0"]\npython = ["3.8"]')
    code, _, err = jbuild("fit", "demo")
    assert (code, "none of the selected cells of demo can be built" in err) == (3, True)


def test_rows_have_sources() -> None:
    assert all(row.source for row in defaults().values())
    assert all(row.source for row in overheads())
    assert {"bert", "XLMRobertaModel"} <= encoders()
    assert {row.of for row in overheads()} == {"gpu", "system", "device", "cpu"}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('name = "x"\nmib = 1\nof = "gpus"\nsource = "s"', "unknown kind of memory `gpus`"),
        ('name = "x"\nmib = -1\nof = "gpu"\nsource = "s"', "-1 is out of bounds"),
        ('name = "x"\nmib = 1\nof = "gpu"', "`source` is missing"),
        ('name = "x"\nmib = 1\nof = "gpu"\nsource = "s"\nunless = "eager"', "`eager` is not an option of the server"),
    ],
)
def test_bad_overheads(tmp_path: Path, text: str, message: str) -> None:
    path = tmp_path / "overheads.toml"
    path.write_text(f"[[overheads]]\n{text}\n")
    with pytest.raises(DocumentError) as caught:
        overheads(path)
    assert message in [problem.message for problem in caught.value.problems]


def test_bad_encoders(tmp_path: Path) -> None:
    path = tmp_path / "encoders.toml"
    path.write_text('[[encoders]]\nmodel-type = "BERT"\nsource = "s"\n[[encoders]]\nsource = "s"\n')
    with pytest.raises(DocumentError) as caught:
        encoders(path)
    assert [problem.key for problem in caught.value.problems] == ["encoders[0].model-type", "encoders[1]"]


def test_bad_defaults(tmp_path: Path) -> None:
    path = tmp_path / "defaults.toml"
    path.write_text('[[defaults]]\nmodel-type = "Llama 3"\nvalues = { vocab_size = "many" }\nsliding-every = 1\n')
    with pytest.raises(DocumentError) as caught:
        defaults(path)
    assert [problem.key for problem in caught.value.problems] == [
        "defaults[0]",
        "defaults[0].model-type",
        "defaults[0].values.vocab_size",
        "defaults[0].sliding-every",
    ]
