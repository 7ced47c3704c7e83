"""The roofline: parameter counts, memory, monotony, and measured rows."""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from motley_planner.catalog import load_catalog
from motley_planner.costs.capacity import first_token_wait_s, most_sequences
from motley_planner.costs.dtypes import ExecutionPath, execution_path
from motley_planner.costs.memory import kv_bytes, kv_replication, weight_bytes
from motley_planner.costs.parameters import active_parameters, parameter_count, touched_parameters
from motley_planner.costs.replica import Replica, replica_of
from motley_planner.costs.steps import (
    decode_step_s,
    linear_s,
    prefill_attention_s,
    prefill_s,
)
from motley_planner.costs.training import TrainingStep, gang_of, training_flop, training_step_s
from motley_planner.costs.work import ROUTING_SPREAD
from motley_planner.domain.engines import EngineSpec
from motley_planner.domain.models import ModelSpec

CATALOG = load_catalog()
KINDS = {
    "dense": "Qwen/Qwen3-32B",
    "moe": "Qwen/Qwen3-30B-A3B",
    "mla": "deepseek-ai/DeepSeek-V2-Lite",
    "window": "google/gemma-3-27b",
}


def build(
    model: str = "Qwen/Qwen3-32B",
    precision: str = "bf16",
    gpu: str = "H100-SXM5-80GB",
    ranks: int = 2,
    engine: EngineSpec = CATALOG.engines["vllm"],
) -> Replica:
    spec = CATALOG.model(model)
    assert spec is not None and CATALOG.efficiency is not None
    found = replica_of(spec, precision, CATALOG.gpus[gpu], ranks, engine, CATALOG.efficiency)
    assert isinstance(found, Replica), found
    return found


@pytest.mark.parametrize("model", CATALOG.models.values(), ids=lambda model: model.name)
def test_the_parameter_count_is_within_one_percent_of_the_stated_one(model: ModelSpec) -> None:
    assert parameter_count(model) == pytest.approx(model.parameters, rel=0.01)


# Active parameters with lm_head: Hugging Face configs by hand, retyped from model_archs notes.
@pytest.mark.parametrize(
    ("name", "billions"),
    [("Qwen/Qwen3-30B-A3B", 3.029), ("openai/gpt-oss-120b", 5.118), ("Qwen/Qwen3-8B", 7.568)],
)
def test_active_parameters_count_the_chosen_experts_and_the_head(
    name: str, billions: float
) -> None:
    assert active_parameters(CATALOG.models[name]) == pytest.approx(billions * 1e9, rel=0.01)


@pytest.mark.parametrize(
    ("name", "bytes_per_token"),
    [("Qwen/Qwen3-8B", 147_456), ("deepseek-ai/DeepSeek-V3", 70_272), ("Qwen/Qwen2.5-7B", 57_344)],
)
def test_kv_bytes_a_token_are_those_of_the_architecture(name: str, bytes_per_token: int) -> None:
    assert kv_bytes(CATALOG.models[name], 1000, 2.0) == pytest.approx(1000 * bytes_per_token)


def test_windowed_layers_stop_growing_at_the_window() -> None:
    gemma = CATALOG.models["google/gemma-3-27b"]
    short, longer = kv_bytes(gemma, 1024, 2.0), kv_bytes(gemma, 10_240, 2.0)
    full = gemma.full_attention_layers / gemma.layers
    assert longer == pytest.approx(short * (1 - full) + 10 * short * full)


def test_mla_and_few_kv_heads_store_the_cache_more_than_once() -> None:
    assert kv_replication(CATALOG.models["deepseek-ai/DeepSeek-V3"], 8) == 8
    assert kv_replication(CATALOG.models["Qwen/Qwen3-8B"], 8) == 1
    assert kv_replication(CATALOG.models["Qwen/Qwen2.5-7B"], 8) == 2


@pytest.mark.parametrize(
    ("gpu", "precision", "compute", "weight_only"),
    [
        ("H100-SXM5-80GB", "fp8", "fp8", False),
        ("A100-SXM4-80GB", "fp8", "bf16", True),
        ("A100-SXM4-80GB", "int8", "int8", False),
        ("A100-SXM4-80GB", "int4", "bf16", True),
        ("T4", "bf16", "fp16", False),
        ("T4", "int4", "fp16", True),
        ("V100-SXM2-16GB", "bf16", "fp16", False),
        ("MI300X", "fp8", "fp8", False),
    ],
)
def test_a_dtype_the_gpu_lacks_is_widened_where_a_kernel_exists(
    gpu: str, precision: str, compute: str, weight_only: bool
) -> None:
    path = execution_path(CATALOG.gpus[gpu], CATALOG.models["Qwen/Qwen3-8B"], precision)
    assert isinstance(path, ExecutionPath)
    assert (path.compute_dtype, path.weight_only) == (compute, weight_only)


@pytest.mark.parametrize(
    ("gpu", "precision"),
    [("T4", "fp8"), ("V100-SXM2-16GB", "int4"), ("MI210", "fp8"), ("L4", "fp3")],
)
def test_a_dtype_that_no_kernel_runs_is_refused_with_a_reason(gpu: str, precision: str) -> None:
    path = execution_path(CATALOG.gpus[gpu], CATALOG.models["Qwen/Qwen3-8B"], precision)
    assert isinstance(path, str) and precision in path


def test_a_quantized_checkpoint_keeps_its_dtype() -> None:
    oss = CATALOG.models["openai/gpt-oss-120b"]
    assert weight_bytes(oss, "bf16") == weight_bytes(oss, "fp8")
    assert weight_bytes(oss, "bf16") < 70e9  # published size: about 65 GB


kinds = st.sampled_from(sorted(KINDS.values()))
ranks = st.sampled_from([1, 2, 4, 8])
gpus = st.sampled_from(["H100-SXM5-80GB", "A100-PCIE-80GB", "L40S", "T4", "MI300X"])


@given(kinds, gpus, ranks, st.integers(1, 512), st.integers(1, 30_000))
def test_a_step_takes_longer_with_more_sequences_and_longer_contexts(
    model: str, gpu: str, tp: int, batch: int, context: int
) -> None:
    replica = build(model, "bf16", gpu, tp)
    base = decode_step_s(replica, batch, context)
    assert 0 < base <= decode_step_s(replica, batch + 1, context)
    assert base <= decode_step_s(replica, batch, context + 100)
    assert prefill_s(replica, context) <= prefill_s(replica, context + 100)


@given(kinds, gpus, ranks, st.integers(1, 512), st.integers(1, 30_000))
def test_tensor_parallelism_never_beats_the_ideal_speed_up(
    model: str, gpu: str, tp: int, batch: int, context: int
) -> None:
    one, many = build(model, "bf16", gpu, 1), build(model, "bf16", gpu, tp)
    slack = 1 + 1e-9
    assert decode_step_s(one, batch, context) <= tp * decode_step_s(many, batch, context) * slack
    assert prefill_s(one, context) <= tp * prefill_s(many, context) * slack


@given(kinds, gpus, st.integers(1, 512))
def test_no_step_beats_the_datasheet_roofline(model: str, gpu: str, batch: int) -> None:
    replica = build(model, "bf16", gpu, 1)
    spec, card = replica.model, replica.gpu
    flop = 2 * active_parameters(spec) * batch / card.flop_per_s["fp16"]
    read = touched_parameters(spec, ROUTING_SPREAD * batch) * 2 / card.hbm_bytes_per_s
    assert linear_s(replica, batch) >= max(flop, read)


def test_a_windowed_layer_attends_to_fewer_pairs() -> None:
    windowed = build("google/gemma-3-27b")
    full = replace(windowed, model=replace(windowed.model, sliding_window_tokens=0))
    assert prefill_attention_s(windowed, 16_384) < 0.5 * prefill_attention_s(full, 16_384)
    assert prefill_attention_s(windowed, 512) == pytest.approx(prefill_attention_s(full, 512))


def test_a_model_larger_than_the_memory_fits_no_sequence() -> None:
    assert most_sequences(build("meta-llama/Llama-3.1-70B-Instruct", ranks=1), 100, 100) == 0
    assert most_sequences(build("meta-llama/Llama-3.1-70B-Instruct", ranks=4), 100, 100) > 10


def test_prompts_wait_as_in_an_md1_queue() -> None:
    assert first_token_wait_s(0.5, 1.0, 0.0) == pytest.approx(0.5)
    assert first_token_wait_s(0.04, 1.0, 0.95) == 0.0
    assert first_token_wait_s(0.5, 1.0, 0.95) < first_token_wait_s(0.5, 1.0, 0.99)
    assert first_token_wait_s(1.0, 1.0, 0.0) == float("inf")


STEP = TrainingStep(samples=512, mean_tokens=2048, longest_tokens=4096)


def test_a_training_step_counts_six_flop_a_parameter_and_token() -> None:
    model = CATALOG.models["Qwen/Qwen2.5-7B"]
    linear = 6 * active_parameters(model) * 512 * 2048
    assert linear < training_flop(model, STEP) < 1.1 * linear


def test_a_larger_gang_holds_more_and_never_beats_the_ideal_speed_up() -> None:
    model, gpu = CATALOG.models["Qwen/Qwen2.5-7B"], CATALOG.gpus["H100-SXM5-80GB"]
    assert CATALOG.efficiency is not None
    gangs = []
    for shape in ((1, 1), (2, 1), (4, 1), (8, 1), (8, 2), (8, 4)):
        gang = gang_of(model, gpu, shape, CATALOG.engines["fsdp"], CATALOG.efficiency)
        assert not isinstance(gang, str)
        gangs.append(gang)
    for small, large in pairwise(gangs):
        assert large.free_bytes(STEP) > small.free_bytes(STEP)
        speed_up = training_step_s(small, STEP) / training_step_s(large, STEP)
        assert speed_up <= large.gpus / small.gpus
    assert gangs[0].free_bytes(STEP) < 0 < gangs[3].free_bytes(STEP)


def test_a_gpu_without_bf16_cannot_train() -> None:
    model = CATALOG.models["Qwen/Qwen2.5-7B"]
    assert CATALOG.efficiency is not None
    gang = gang_of(model, CATALOG.gpus["T4"], (8, 1), CATALOG.engines["fsdp"], CATALOG.efficiency)
    assert isinstance(gang, str) and "bf16" in gang
