"""Memory that LoRA adapters take beside their model."""

from __future__ import annotations

from dataclasses import replace

import pytest

from motley_planner.catalog import load_catalog
from motley_planner.costs.memory import adapter_bytes
from motley_planner.costs.parameters import attention_parameters, linear_layers, mlp_parameters
from motley_planner.costs.replica import Replica, replica_of
from motley_planner.domain.models import ModelSpec

CATALOG = load_catalog()


def model(name: str, slots: int = 1, rank: int = 16) -> ModelSpec:
    found = CATALOG.model(name)
    assert isinstance(found, ModelSpec)
    return replace(found, adapter_slots=slots, adapter_rank=rank)


# `print_trainable_parameters()` of PEFT for adapters on all seven linear layers, as users report it.
@pytest.mark.parametrize(
    ("name", "rank", "parameters"),
    [("meta-llama/Llama-2-7b", 8, 19_988_480), ("meta-llama/Llama-3.1-8B", 16, 41_943_040)],
)
def test_one_slot_holds_what_peft_counts(name: str, rank: int, parameters: int) -> None:
    assert adapter_bytes(model(name, rank=rank), 1) == 2 * parameters


def test_slots_and_ranks_multiply_and_none_is_nothing() -> None:
    one = adapter_bytes(model("Qwen/Qwen3-8B"), 1)
    assert adapter_bytes(model("Qwen/Qwen3-8B", slots=3, rank=64), 1) == 12 * one
    assert adapter_bytes(model("Qwen/Qwen3-8B", slots=0), 4) == 0.0


def test_ranks_share_less_than_all_of_a_slot() -> None:
    for name in ("Qwen/Qwen3-8B", "meta-llama/Llama-3.1-70B"):
        whole = [adapter_bytes(model(name), tp) for tp in (1, 2, 4, 8)]
        assert whole == sorted(whole)
        per_gpu = [total / tp for total, tp in zip(whole, (1, 2, 4, 8), strict=True)]
        assert per_gpu == sorted(per_gpu, reverse=True)


@pytest.mark.parametrize("name", sorted({m.name for m in CATALOG.models.values()}))
def test_the_linear_layers_hold_the_parameters_of_attention_and_mlps(name: str) -> None:
    found = CATALOG.model(name)
    assert isinstance(found, ModelSpec)
    layers = linear_layers(found)
    attention = sum(n * a * b for n, a, b, _ in layers[:3])
    if not found.kv_lora_rank:
        bias = (found.heads + 2 * found.kv_heads) * found.head_dim if found.qkv_bias else 0
        assert attention == found.layers * (attention_parameters(found) - bias)
    dense = found.layers if not found.experts else found.dense_layers_first
    rest = sum(n * a * b for n, a, b, _ in layers[3:5])
    assert rest == dense * mlp_parameters(found, found.intermediate)
    routed = sum(n * a * b for n, a, b, _ in layers[5:7])
    sparse = found.layers - dense
    assert routed == sparse * found.experts * mlp_parameters(found, found.moe_intermediate)


def test_a_replica_with_adapters_has_so_much_less_left_for_its_cache() -> None:
    plain = model("Qwen/Qwen3-8B", slots=0)
    adapted = model("Qwen/Qwen3-8B", slots=4, rank=64)
    made = [
        replica_of(
            each, "bf16", CATALOG.gpus["H100-SXM5-80GB"], 2, CATALOG.engines["vllm"],
            CATALOG.efficiency,
        )
        for each in (plain, adapted)
    ]  # fmt: skip
    one, other = made
    assert isinstance(one, Replica) and isinstance(other, Replica)
    assert one.free_bytes - other.free_bytes == pytest.approx(adapter_bytes(adapted, 2))
