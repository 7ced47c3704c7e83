"""Learned factors in the cost model: exact where one holds, absent where none does."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from motley_planner.candidates import Candidate, stage_candidates
from motley_planner.candidates.learned import LEARNED_BAND, labelled, tpot_band
from motley_planner.catalog import load_catalog
from motley_planner.costs.learned import (
    MeasuredLoad,
    as_learned,
    key_of,
    predicted_tpot,
    slowed,
)
from motley_planner.costs.replica import Replica, replica_of
from motley_planner.costs.steps import decode_step_s, interference_s, prefill_s
from motley_planner.domain.demand import Slo, StageDemand, WorkloadClass
from motley_planner.domain.hardware import Catalog, NodeClass
from motley_planner.domain.measurements import Learned, LearnedKey
from motley_planner.profiles import read_profile

CATALOG = load_catalog()
KINDS = {  # dense, experts, latent attention; on one GPU and on eight
    ("Qwen/Qwen3-8B", "bf16", "L40S", 1),
    ("Qwen/Qwen3-32B", "fp8", "H100-SXM5-80GB", 2),
    ("Qwen/Qwen3-235B-A22B", "fp8", "H200-SXM-141GB", 8),
    ("deepseek-ai/DeepSeek-V3", "fp8", "B200-SXM-180GB", 8),
}
CHAT = WorkloadClass("chat", 1000, 200, 1)
NODE = NodeClass("H100-SXM5-80GB", "z", "on-demand", "", 6.88)
FIFTY_MS = Slo(tpot_s={"p95": 0.05})
KEY = LearnedKey("Qwen/Qwen3-8B", "H100-SXM5-80GB", 1, "bf16", "vllm")


def replica(model: str, precision: str, gpu: str, tp: int) -> Replica:
    engine, efficiency = CATALOG.engines["vllm"], CATALOG.efficiency
    assert efficiency is not None
    found = CATALOG.models[model]
    made = replica_of(found, precision, CATALOG.gpus[gpu], tp, engine, efficiency)
    assert isinstance(made, Replica)
    return made


@pytest.mark.parametrize("kind", sorted(KINDS))
@settings(deadline=None)
@given(st.floats(0.5, 2.0), st.integers(1, 256), st.integers(1, 30_000))
def test_a_factor_scales_every_step_and_every_prefill_and_no_memory(
    kind: tuple[str, str, str, int], factor: float, batch: int, tokens: int
) -> None:
    made = replica(*kind)
    other = slowed(made, factor)
    for seconds in (
        lambda r: decode_step_s(r, batch, tokens),
        lambda r: prefill_s(r, tokens),
        lambda r: interference_s(r, tokens),
    ):
        assert seconds(other) == pytest.approx(factor * seconds(made), rel=1e-9)
    assert other.free_bytes == made.free_bytes


def learned(value: float, low: float = 0.0, high: float = 0.0, key: LearnedKey = KEY) -> Catalog:
    one = Learned(key, value, low or 0.98 * value, high or 1.02 * value)
    return replace(CATALOG, learned={key: one})


def candidates(
    catalog: Catalog, precision: str = "bf16", engine: str = "vllm", slo: Slo = FIFTY_MS
) -> list[Candidate]:
    model, sizes = CATALOG.models["Qwen/Qwen3-8B"], frozenset((1, 2, 4, 8))  # none is dropped
    stage = StageDemand("main", model, precision, engine, uneven_sizes=sizes)
    found, _ = stage_candidates(stage, (CHAT,), slo, [NODE], catalog, headroom=0.0, key="P/a/b")
    return [labelled(one, catalog.learned) for one in found]


def test_only_the_configuration_that_it_is_of_changes() -> None:
    before = {c.id: c for c in candidates(CATALOG, slo=Slo())}
    after = {c.id: c for c in candidates(learned(1.5), slo=Slo())}
    assert before.keys() == after.keys()
    assert len({c.tensor_parallel for c in before.values()}) == 4
    for name, one in after.items():
        if one.tensor_parallel > 1:
            assert one == before[name]
            continue
        assert one.provenance == "learned"
        assert one.tpot_s["chat"] == pytest.approx(1.5 * before[name].tpot_s["chat"])
        assert one.capacity["chat"] == pytest.approx(before[name].capacity["chat"] / 1.5)
    for other in ({"precision": "fp8"}, {"engine": "sglang"}):
        assert candidates(learned(1.5), **other) == candidates(CATALOG, **other)
    slower = [max(c.operating_batch for c in candidates(one)) for one in (CATALOG, learned(1.5))]
    assert slower[1] <= slower[0]  # a target is met at fewer requests


def test_a_factor_of_one_changes_no_figure_and_is_evidence_all_the_same() -> None:
    before, after = candidates(CATALOG), candidates(learned(1.0))
    assert [replace(c, provenance="modeled") for c in after] == before
    assert {c.provenance for c in after if c.tensor_parallel == 1} == {"learned"}
    made = replica("Qwen/Qwen3-8B", "bf16", "H100-SXM5-80GB", 1)
    assert as_learned(made, "bf16", learned(1.0)) is made
    assert key_of(made, "bf16") == KEY


def test_a_profile_goes_before_what_was_learned_and_that_before_the_model() -> None:
    header = "model,gpu,tp,precision,prompt_tokens,output_tokens,batch,ttft_ms,tpot_ms"
    rows = [
        f"Qwen/Qwen3-8B,NVIDIA-H100-80GB-HBM3,1,bf16,1000,200,{batch},900,40"
        for batch in (128, 192, 256)
    ]
    profile = read_profile("\n".join((header, *rows)), CATALOG)
    both = replace(learned(1.5), profiles={"": profile})
    (measured,) = [c for c in candidates(both) if c.tensor_parallel == 1]
    assert measured.provenance == "profiled"
    assert measured.tpot_s["chat"] == pytest.approx(0.040)
    assert measured.ttft_s["chat"] == pytest.approx(0.900)
    far = read_profile(
        "\n".join((header, rows[0].replace("1000,200,128,900,40", "9,9,1,1,1"))), CATALOG
    )
    away, alone = candidates(replace(learned(1.5), profiles={"": far})), candidates(learned(1.5))
    for one, other in zip(away, alone, strict=True):
        assert (one.column, one.provenance) == (other.column, other.provenance)
        assert one.tpot_s == pytest.approx(other.tpot_s)
        assert one.capacity == pytest.approx(other.capacity)


def test_the_band_holds_what_was_measured_and_is_never_narrower_than_known() -> None:
    low, high = tpot_band(Learned(KEY, 1.5, 1.47, 1.53))
    assert (low, high) == (1.0 - LEARNED_BAND, 1.0 + LEARNED_BAND)
    low, high = tpot_band(Learned(KEY, 1.25, 1.7, 1.9))  # on its way
    assert (1.25 * low, 1.25 * high) == (pytest.approx(1.125), pytest.approx(1.9))


@settings(deadline=None)
@given(st.floats(0.0, 500.0), st.integers(1, 256))
def test_no_load_is_predicted_beyond_a_full_batch(in_flight: float, slots: int) -> None:
    made = replica("Qwen/Qwen3-8B", "bf16", "H100-SXM5-80GB", 1)
    load = MeasuredLoad(in_flight, 1000.0, 200.0, slots, 0.0)
    full = decode_step_s(made, slots, 1100.0) + (slots - 1) * prefill_s(made, 1000.0) / 200.0
    alone = decode_step_s(made, 1.0, 1100.0)
    assert alone * (1 - 1e-9) <= predicted_tpot(made, load).seconds <= full * (1 + 1e-9)
