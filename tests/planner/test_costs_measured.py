"""Layer times of GPUs that no fitted row has: A100-40GB, V100, L4 and T4.

Rows: Thesys-lab/Helix-ASPLOS25@148b733, one layer of LLaMA-30B and Llama-2-70B in fp16. The rows do
not state the context of their decode steps; 512 tokens are taken.
"""

from __future__ import annotations

import csv
from collections import defaultdict
from dataclasses import replace
from pathlib import Path
from statistics import fmean

import pytest

from motley_planner.catalog import load_catalog
from motley_planner.costs.replica import Replica, replica_of
from motley_planner.costs.steps import (
    allreduce_s,
    decode_attention_s,
    linear_s,
    prefill_attention_s,
)

CATALOG = load_catalog()
ROWS = Path(__file__).parents[3] / "shared/data/perf/helix_layer_ms.csv"
GPUS = {"A100-40GB": "A100-SXM4-40GB", "V100-16GB": "V100-SXM2-16GB", "L4": "L4", "T4": "T4"}
MODELS = {"llama1_30b": "llama-30b", "llama2_70b": "llama-2-70b"}
CONTEXT_TOKENS = 512.0
# An L4 has no peer-to-peer copies: pairs of them are measured a third slower than predicted.
LIMITS = {"prompt": 0.10, "decode": 0.25, "prompt L4 2": 0.30}


def layer_s(gpu: str, model: str, ranks: int, phase: str, tokens: float) -> float:
    """Predicted seconds of one layer over `tokens` prompt tokens, or for so many sequences."""
    name = next(name for name in CATALOG.models if name.lower().endswith(MODELS[model]))
    bare = replace(CATALOG.models[name], vocabulary=0, parameters=None)
    assert CATALOG.efficiency is not None
    engine = CATALOG.engines["vllm"]
    replica = replica_of(bare, "fp16", CATALOG.gpus[GPUS[gpu]], ranks, engine, CATALOG.efficiency)
    assert isinstance(replica, Replica)
    whole = linear_s(replica, tokens) + allreduce_s(replica, tokens)
    if phase == "prompt":
        prompts = max(1.0, tokens / CONTEXT_TOKENS)
        whole += prompts * prefill_attention_s(replica, tokens / prompts)
    else:
        whole += decode_attention_s(replica, tokens, CONTEXT_TOKENS)
    return whole / bare.layers + replica.engine.layer_overhead_s


@pytest.mark.skipif(not ROWS.exists(), reason="measured rows are not on this machine")
def test_layers_on_gpus_that_were_not_fitted_take_about_as_long_as_measured() -> None:
    errors: dict[tuple[str, str, str, str], list[float]] = defaultdict(list)
    for row in csv.DictReader(ROWS.read_text().splitlines()):
        key = (row["model"], row["gpu"], row["tp"], row["phase"])
        tokens, measured = float(row["tokens_or_batch"]), float(row["layer_ms"]) / 1e3
        predicted = layer_s(row["gpu"], row["model"], int(row["tp"]), row["phase"], tokens)
        errors[key].append(abs(predicted / measured - 1.0))
    assert len(errors) >= 28
    for (model, gpu, ranks, phase), found in errors.items():
        limit = LIMITS.get(f"{phase} {gpu} {ranks}", LIMITS[phase])
        assert fmean(found) <= limit, f"{model} on {ranks} x {gpu}, {phase}: {fmean(found):.0%}"
