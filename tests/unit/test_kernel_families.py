"""Which families of kernels a server and its model ask for, and the verdict on them for a GPU."""

from __future__ import annotations

from array import array
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import pytest
import zstandard
from preflight_parts import FACTS, make_context, make_served

from builder.audit.kernel_audit import proof_of
from builder.audit.kernel_families import KernelNeeds, kernel_families, kernel_needs
from builder.audit.kernel_rules import (
    GpuFacts,
    brief,
    detail,
    kernel_findings,
    kernel_verdicts,
    kernels_of_family,
    refusal,
)
from builder.model.audits import GpuTarget
from builder.model.kernels import KernelModule, LibraryKernels
from builder.model.verdicts import GpuComputation, Verdict
from builder.models.preflight.server_facts import QuantizationFacts
from builder.models.preflight.wheel_sources import Release, Sources

if TYPE_CHECKING:
    from builder.model.kernel_verdicts import KernelVerdict

C, FA2 = "vllm/_C.abi3.so", "vllm/vllm_flash_attn/_vllm_fa2_C.abi3.so"
# A name as in vLLM 0.33.0: types of activations, weights, results and scales.
MARLIN = "_ZN6marlin6MarlinILl1125899906909960ELl1125899906843648ELl1125899906909960ELl1125899906909960ELi256EEEvv"
REPACK = "_ZN6marlin24gptq_marlin_repack_kernelEv"
FP8 = {"quant_method": "fp8", "activation_scheme": "dynamic"}
AWQ: dict[str, Any] = {"quantization_config": {"quant_method": "awq", "bits": 4}}
SERVED: dict[str, Any] = {"head_dim": 64}
FLASHINFER = {"vllm": "0.20.2", "flashinfer-python": "0.6.8"}
ORIN_6 = GpuFacts(sm=87, l4t="36.4.3", driver=(12, 6))
ORIN_7 = GpuFacts(sm=87, l4t="39.2.0", driver=(13, 2))
THOR = GpuFacts(sm=110, l4t="39.2.0", driver=(13, 2))


def library(path: str, *modules: tuple[int, str, list[str]]) -> LibraryKernels:
    """Return a library of modules: container, target such as sm_80 or ptx_80, kernels."""
    names = sorted({name for *_, kernels in modules for name in kernels})
    made = [
        KernelModule(
            container=container,
            target=target_of(target),
            isa=(9, 0) if target.startswith("ptx") else (0, 0),
            unpacked=6_000_000,
            indices=array("I", sorted(names.index(name) for name in kernels)).tobytes(),
        )
        for container, target, kernels in modules
    ]
    return LibraryKernels(path=path, modules=tuple(made), packed_names=zstandard.compress("\n".join(names).encode()))


def target_of(text: str) -> GpuTarget:
    kind, sm = text.split("_")
    variant: Any = sm[-1] if sm[-1] in "af" else ""
    return GpuTarget("ptx" if kind == "ptx" else "sass", int(sm.rstrip("af")), variant)


def asked(sm: int, environment: Any = (), arguments: tuple[str, ...] = (), **config: Any) -> KernelNeeds:
    changes = {key: config.pop(key) for key in ("versions", "sources") if key in config}
    model = make_served(**SERVED | config)
    context = make_context(model, *arguments, environment=environment, boards={"board": sm}, **changes)
    return kernel_needs(context, sm)


def names_of(needs: KernelNeeds) -> set[str]:
    return {need.family.name for need in needs.families}


def verdict_on(family: str, needs: KernelNeeds, gpu: GpuFacts, *libraries: LibraryKernels) -> KernelVerdict:
    return next(row for row in kernel_verdicts(needs, libraries, gpu) if row.family == family)


def test_every_row_has_libraries_and_a_source_and_is_for_a_gpu() -> None:
    for row in kernel_families():
        assert bool(row.files) != bool(row.compiler), row.name
        assert any(row.is_for(sm) for sm in (72, 87, 89, 90, 100, 110, 120)), row.name


@pytest.mark.parametrize(
    ("sm", "config", "families"),
    [
        (87, {}, {"torch", "norms", "cache", "sampling", "compiled-graph", "flash-attention-2"}),
        (110, {}, {"torch", "norms", "cache", "sampling", "compiled-graph", "flash-attention-2"}),
        (90, {}, {"torch", "norms", "cache", "sampling", "compiled-graph", "flash-attention-3", "deep-gemm"}),
        (
            87,
            AWQ,
            {"torch", "norms", "cache", "sampling", "compiled-graph", "flash-attention-2", "marlin", "marlin-repack"},
        ),
        (
            87,
            {"num_experts": 8},
            {"torch", "norms", "cache", "sampling", "compiled-graph", "flash-attention-2", "moe-routing", "triton-moe"},
        ),
    ],
)
def test_what_a_model_asks_for(sm: int, config: dict[str, Any], families: set[str]) -> None:
    needs = asked(sm, **config)
    assert names_of(needs) == families
    assert needs.unknown == ()


def test_experts_with_weights_of_four_bits_ask_for_marlin_of_experts() -> None:
    assert names_of(asked(87, num_experts=8, **AWQ)) >= {"marlin", "marlin-moe", "moe-routing"}


@pytest.mark.parametrize(
    ("config", "method"),
    [
        ({"weights": {"type": "int", "num_bits": 4}, "input_activations": None}, {"marlin", "marlin-repack"}),
        ({"weights": {"type": "int", "num_bits": 8}, "input_activations": {"type": "int"}}, {"scaled-mm-int8"}),
        ({"weights": {"type": "float", "num_bits": 8}, "input_activations": {"type": "float"}}, {"marlin-fp8"}),
    ],
)
def test_compressed_tensors_ask_by_their_numbers(config: dict[str, Any], method: set[str]) -> None:
    quantizations = {**FACTS.quantizations, "compressed-tensors": QuantizationFacts(min_sm=70)}
    section = {"quant_method": "compressed-tensors", "config_groups": {"group_0": config}}
    model = make_served(**SERVED, quantization_config=section)
    context = make_context(model, facts=replace(FACTS, quantizations=quantizations), boards={"board": 87})
    assert names_of(kernel_needs(context, 87)) >= method


@pytest.mark.parametrize(
    ("sm", "environment", "config", "feature"),
    [
        (87, (), {"kv_lora_rank": 512}, "multi-head latent attention"),
        (87, (("VLLM_ATTENTION_BACKEND", "XFORMERS"),), {}, "attention backend XFORMERS"),
        (100, (), {}, "attention backend FLASHINFER"),
        (87, (), {"head_dim": 512}, "attention with head size 512"),
        (87, (), {"quantization_config": {"quant_method": "bitsandbytes"}}, "quantisation bitsandbytes"),
        (110, (), {"quantization_config": FP8, "num_experts": 8}, "experts with quantisation fp8 token"),
        (90, (), {"quantization_config": FP8 | {"weight_block_size": [128, 128]}}, "quantisation fp8 block"),
        (110, (), {"quantization_config": {"quant_method": "modelopt_fp4"}}, "quantisation modelopt_fp4"),
        (120, (), {"num_experts": 8}, "experts without quantisation"),
    ],
)
def test_what_no_row_describes_is_unknown(
    sm: int, environment: tuple[tuple[str, str], ...], config: dict[str, Any], feature: str
) -> None:
    needs = asked(sm, environment, **config)
    assert feature in [name for name, _ in needs.unknown]
    (row,) = [row for row in kernel_verdicts(needs, (), ORIN_7) if row.family == feature]
    assert row.verdict == "unknown"
    assert "does not know" in brief(row)


@pytest.mark.parametrize(
    ("sm", "section", "families"),
    [
        (87, FP8, {"marlin-fp8", "marlin-repack"}),
        (87, FP8 | {"weight_block_size": [128, 128]}, {"marlin-fp8", "marlin-repack"}),
        (90, FP8, {"scaled-mm-fp8", "quant-fp8"}),
        (110, FP8, {"scaled-mm-fp8", "quant-fp8"}),
        (110, FP8 | {"activation_scheme": "static"}, {"flashinfer-mm-fp8", "quant-fp8"}),
        (110, FP8 | {"weight_block_size": [128, 128]}, {"scaled-mm-fp8-block", "quant-fp8"}),
        (90, {"quant_method": "gptq", "bits": 4, "sym": True}, {"machete"}),
        (90, {"quant_method": "gptq", "bits": 4, "sym": True, "group_size": 128}, {"machete"}),
        (90, {"quant_method": "gptq", "bits": 4, "sym": True, "group_size": 32}, {"marlin", "marlin-repack"}),
        (90, {"quant_method": "awq", "bits": 4}, {"machete"}),
        (110, {"quant_method": "gptq", "bits": 4, "sym": True}, {"marlin", "marlin-repack"}),
    ],
)
def test_families_of_a_quantisation(sm: int, section: dict[str, Any], families: set[str]) -> None:
    plain, needs = names_of(asked(sm, versions=FLASHINFER)), asked(sm, versions=FLASHINFER, quantization_config=section)
    assert names_of(needs) - plain == families
    assert needs.unknown == ()


def test_a_server_without_deep_gemm_does_not_warm_it_up() -> None:
    assert "deep-gemm" not in names_of(asked(90, {"VLLM_USE_DEEP_GEMM": "0"}))


def test_machete_takes_awq_since_a_release() -> None:
    older = Sources(vllm=Release(name="vllm", version="0.9.2", facts=FACTS))
    needs = asked(90, sources=older, **AWQ)
    assert "machete" not in names_of(needs)
    assert ("quantisation awq_marlin", "model m") in needs.unknown


@pytest.mark.parametrize(("release", "family"), [("auto_awq", "marlin"), ("other", "awq")])
def test_newer_releases_take_marlin_whatever_the_server_names(release: str, family: str) -> None:
    facts = replace(FACTS, quantizations={**FACTS.quantizations, release: QuantizationFacts(min_sm=75)})
    context = make_context(make_served(**SERVED, **AWQ), facts=facts, quantization="awq", boards={"board": 87})
    assert {"marlin", "awq"} & names_of(kernel_needs(context, 87)) == {family}


def test_experts_in_fp8_are_marlin_where_the_gpu_has_no_fp8() -> None:
    assert "marlin-moe" in names_of(asked(87, num_experts=8, quantization_config=FP8))


@pytest.mark.parametrize(
    ("arguments", "environment", "config", "family", "compiler"),
    [
        ((), (), {"num_experts": 8}, "triton-moe", "Triton"),
        (("--kv-cache-dtype=fp8",), (), {}, "flashinfer-attention", "FlashInfer"),
        ((), (("VLLM_ATTENTION_BACKEND", "TRITON_ATTN"),), {}, "triton-attention", "Triton"),
        ((), (), {"architectures": ["GptOssForCausalLM"]}, "triton-attention", "Triton"),
        ((), (), {}, "compiled-graph", "torch.compile"),
    ],
)
def test_kernels_that_a_compiler_makes_at_first_use(
    arguments: tuple[str, ...],
    environment: tuple[tuple[str, str], ...],
    config: dict[str, Any],
    family: str,
    compiler: str,
) -> None:
    needs = asked(110, environment, arguments, versions=FLASHINFER, **config)
    row = verdict_on(family, needs, THOR)
    assert (row.verdict, row.compiler, row.files) == ("first-use", compiler, ())
    assert f"compiled by {compiler} at first use" in brief(row)
    assert "whatever the wheel has" in detail(row)
    assert list(kernel_findings({"11.0": [row]}, "native", {})) == []


@pytest.mark.parametrize(
    ("sm", "release", "variable", "asks"),
    [(110, "0.33.0", "1", True), (110, "0.33.0", "0", False), (110, "0.20.2", "1", False), (87, "0.33.0", "1", False)],
)
def test_flashinfer_samples_on_large_gpus_unless_it_is_off(sm: int, release: str, variable: str, asks: bool) -> None:
    sources = Sources(vllm=Release(name="vllm", version=release, facts=FACTS))
    needs = asked(sm, (("VLLM_USE_FLASHINFER_SAMPLER", variable),), versions=FLASHINFER, sources=sources)
    assert ("flashinfer-sampling" in names_of(needs)) is asks


def test_kernels_of_a_family_have_their_origin() -> None:
    code = library(C, (0, "sm_80", [MARLIN]), (0, "sm_87", [REPACK]), (1, "ptx_80", [REPACK]))
    needs = {need.family.name: need for need in asked(87, **AWQ).families}
    (marlin,) = kernels_of_family(needs["marlin"], [code], ORIN_7)
    assert (marlin.file, marlin.mangled, marlin.origin) == (C, MARLIN, "borrowed")
    assert marlin.name.startswith("void marlin::Marlin<")
    assert [kernel.origin for kernel in kernels_of_family(needs["marlin"], [code], ORIN_6)] == ["absent"]
    # The container with PTX alone decides, since its copy is compiled.
    assert [kernel.origin for kernel in kernels_of_family(needs["marlin-repack"], [code], ORIN_7)] == ["compiled"]


def test_an_eager_server_compiles_no_graph() -> None:
    assert "compiled-graph" not in names_of(asked(87, (), ("--enforce-eager",)))


@pytest.mark.parametrize(
    ("config", "pattern"),
    [
        ({"vision_config": {"hidden_size": 1280, "num_heads": 16}}, "ILi(96)E"),
        ({"vision_config": {"embed_dim": 1280, "num_heads": 16}, "audio_config": {"head_dim": 64}}, "ILi(96|64)E"),
    ],
)
def test_encoders_have_head_sizes_of_their_own(config: dict[str, Any], pattern: str) -> None:
    needs = asked(87, architectures=["Qwen2VLForConditionalGeneration"], **config)
    (need,) = [need for need in needs.families if need.family.name == "flash-attention-2-encoder"]
    assert pattern in need.kernels
    assert "80" in need.reason


def test_an_encoder_without_head_sizes_is_unknown() -> None:
    needs = asked(87, architectures=["Qwen2VLForConditionalGeneration"], vision_config={"depth": 2})
    assert ("attention of encoders", "model m") in needs.unknown
    served = asked(87, (), ("--language-model-only",), architectures=["Qwen2VLForConditionalGeneration"])
    assert served.unknown == ()


def test_without_a_model_only_torch_is_asked_for() -> None:
    assert names_of(kernel_needs(make_context(boards={"board": 87}), 87)) == {"torch"}


@pytest.mark.parametrize(
    ("gpu", "modules", "verdict"),
    [
        (ORIN_6, [(0, "sm_87", [MARLIN])], "native"),
        (ORIN_6, [(0, "sm_80", [MARLIN])], "absent"),
        (ORIN_7, [(0, "sm_80", [MARLIN])], "borrowed"),
        (ORIN_7, [(0, "sm_80", [MARLIN]), (0, "sm_87", [MARLIN])], "native"),
        (ORIN_7, [(0, "sm_80a", [MARLIN])], "absent"),
        (ORIN_7, [(0, "sm_86", [MARLIN]), (0, "ptx_80", [MARLIN])], "borrowed"),
        (ORIN_6, [(0, "ptx_80", [MARLIN])], "absent"),
        (THOR, [(0, "sm_80", [MARLIN]), (0, "ptx_80", [MARLIN])], "compiled"),
        (THOR, [(0, "sm_110f", [MARLIN])], "native"),
        (THOR, [(0, "sm_100f", [MARLIN])], "absent"),
        (THOR, [(0, "ptx_120", [MARLIN])], "absent"),
        (THOR, [(0, "ptx_90a", [MARLIN])], "absent"),
        (ORIN_7, [(0, "sm_87", [REPACK])], "unknown"),
    ],
)
def test_where_a_kernel_comes_from(gpu: GpuFacts, modules: list[tuple[int, str, list[str]]], verdict: str) -> None:
    assert verdict_on("marlin", asked(gpu.sm, **AWQ), gpu, library(C, *modules)).verdict == verdict


def test_a_container_lends_nothing_to_another() -> None:
    """The driver looks a kernel up in the container that registered it."""
    code = library(C, (0, "sm_87", [MARLIN]), (1, "sm_80", [MARLIN]), (1, "ptx_80", [MARLIN]))
    row = verdict_on("marlin", asked(87, **AWQ), ORIN_7, code)
    assert (row.verdict, row.native, row.borrowed, row.borrowed_from) == ("borrowed", 1, 1, ("sm_80",))


def test_modules_to_compile_are_counted_with_their_minutes() -> None:
    code = library(C, (0, "ptx_80", [MARLIN]), (1, "ptx_80", [REPACK]), (2, "ptx_80", [MARLIN, REPACK]))
    row = verdict_on("marlin", asked(110, **AWQ), THOR, code)
    assert (row.compiled, row.modules, row.files) == (2, 2, (C,))
    assert row.minutes > 0
    assert "2 modules" in brief(row)
    assert row.examples == (MARLIN, MARLIN)


def test_flash_attention_is_narrowed_to_head_size_and_type() -> None:
    kernels = [
        f"_ZN5flash24flash_fwd_splitkv_kernelI23Flash_fwd_kernel_traitsILi{head}ELi64EN7cutlass{dtype}E"
        for head in (64, 128)
        for dtype in ("6half_t", "10bfloat16_t")
    ]
    code = library(FA2, *((number, "sm_80", [name]) for number, name in enumerate(kernels)))
    assert verdict_on("flash-attention-2", asked(87), ORIN_7, code).kernels == 1


@pytest.mark.parametrize(
    ("section", "types"),
    [
        ({"quant_method": "awq", "bits": 4, "zero_point": True}, {"u4"}),
        ({"quant_method": "gptq", "bits": 4, "sym": True}, {"u4b8"}),
        ({"quant_method": "awq", "bits": 4, "zero_point": False}, {"u4", "u4b8"}),
    ],
)
def test_marlin_is_narrowed_to_the_types_of_weights_and_results(section: dict[str, Any], types: set[str]) -> None:
    weights = {"u4": "1125899906843648", "u4b8": "1125899907892224"}
    results = ("1125899906909960", "1125899906910725")
    modules = {
        (name, result): f"_ZN6marlin6MarlinILl{result}ELl{weight}ELl{result}ELl{result}ELi256EEEvv"
        for name, weight in weights.items()
        for result in results
    }
    code = library(C, *((number, "ptx_80", [name]) for number, name in enumerate(modules.values())))
    row = verdict_on("marlin", asked(110, quantization_config=section), THOR, code)
    assert row.modules == len(types)


def test_activations_that_the_server_quantises_have_kernels_of_their_own() -> None:
    int8 = MARLIN.replace("ILl1125899906909960", "ILl1125899906909952")
    code = library(C, (0, "ptx_80", [MARLIN]), (1, "sm_110", [int8]))
    needs = asked(110, (("VLLM_MARLIN_INPUT_DTYPE", "int8"),), **AWQ)
    assert verdict_on("marlin", needs, THOR, code).verdict == "native"


def test_evidence_of_the_platform_and_of_a_smoke_run() -> None:
    code = library(C, (0, "sm_80", [MARLIN]))
    needs = asked(87, **AWQ)
    assumed = verdict_on("marlin", needs, ORIN_7, code)
    assert assumed.evidence == "assumed"
    assert "assumed to run on this platform" in detail(assumed)
    computation = GpuComputation(device="Orin", sm="8.7", arch_list=(), errors=())
    passed = Verdict(level="gpu", digest="sha256:1", passed=True, when="2026-11-28", log=None, gpu=computation)  # type: ignore[arg-type]
    proof = proof_of((None, passed), "8.7")
    assert proof == "proven by the smoke run of 2026-11-28 on Orin"
    assert proof_of((passed,), "11.0") is None
    proven = verdict_on("marlin", needs, replace(ORIN_7, proof=proof), code)
    assert (proven.evidence, proven.note) == ("proven", proof)
    assert proof in detail(proven)


@pytest.mark.parametrize(
    ("target", "demand", "severity"),
    [
        ("sm_87", "native", None),
        ("sm_80", "any", "info"),
        ("sm_80", "no-jit", "info"),
        ("sm_80", "native", "error"),
        ("ptx_80", "any", "warning"),
        ("ptx_80", "no-jit", "error"),
        ("sm_90", "any", "error"),
    ],
)
def test_what_a_recipe_demands(target: str, demand: Any, severity: str | None) -> None:
    row = verdict_on("marlin", asked(87, **AWQ), ORIN_7, library(C, (0, target, [MARLIN])))
    rows = list(kernel_findings({"8.7": [row]}, demand, {C: "vllm 0.20.2"}))
    assert [(finding.severity, finding.wheel) for finding in rows] == ([(severity, "vllm 0.20.2")] if severity else [])
    assert (refusal(row) is not None) == (target == "sm_90")


def test_a_library_that_cannot_be_read_is_unknown_with_its_flaw() -> None:
    row = verdict_on("marlin", asked(87, **AWQ), ORIN_7, LibraryKernels(path=C, flaw="its GPU code is cut off"))
    assert (row.verdict, row.note) == ("unknown", "its GPU code is cut off")
