"""HexGen's case study under its own cost model, and its search on tables.

Llama-2-70B (80 layers, hidden 8192, 8 KV heads of 128) on 4 x A6000, 2 x A5000 and 2 x A4000, each
kind in a machine of its own. Datasheet figures; links, batch and lengths are the constants of the
released optimizer (1 us, 100 GB/s inside a machine; batch 1, 32 prompt and 128 new tokens).
"""

from __future__ import annotations

from itertools import combinations

import pytest

from motley_planner.strategies.hexgen import evolve
from motley_planner.strategies.hexgen_cost import (
    Device,
    Job,
    Link,
    Stage,
    Transformer,
    memory_bytes,
    pipeline_s,
    refusal,
    stage_s,
)
from motley_planner.strategies.hexgen_layout import Machine, best_pipeline, spread_layers
from motley_planner.strategies.scorer import Scorer
from motley_planner.testing.corpus import cost_efficient_example

A6000 = Device("A6000", 48e9, 768e9, 154.8e12)
A5000 = Device("A5000", 24e9, 768e9, 111.1e12)
A4000 = Device("A4000", 16e9, 448e9, 76.7e12)
INSIDE, BETWEEN = Link(1e-6, 1e11), Link(1e-4, 1.25e9)
LLAMA_70B = Transformer(80, 8192, 12.75 * 8192**2, 1024, 32_000)
JOB = Job(1, 32, 128)
MACHINES = (Machine(A6000, 4, INSIDE), Machine(A5000, 2, INSIDE), Machine(A4000, 2, INSIDE))
ALL = (A6000,) * 4 + (A5000,) * 2 + (A4000,) * 2


def case_study() -> tuple[Stage, ...]:
    found = best_pipeline(LLAMA_70B, MACHINES, BETWEEN, JOB)
    assert found is not None
    return found


def test_the_case_study_gets_tp_4_2_2_with_layers_near_48_20_12() -> None:
    stages = case_study()
    assert [s.tp for s in stages] == [4, 2, 2]
    assert [s.devices[0].name for s in stages] == ["A6000", "A5000", "A4000"]
    for stage, published in zip(stages, (48, 20, 12), strict=True):
        assert abs(stage.layers - published) <= 4
    assert refusal(LLAMA_70B, stages, JOB) is None


def test_pure_tensor_parallelism_is_refused_for_memory() -> None:
    why = refusal(LLAMA_70B, [Stage(ALL, BETWEEN, 80)], JOB)
    assert why is not None and "A4000" in why


@pytest.mark.parametrize(
    "stages",
    [
        [
            Stage((A6000,) * 4, INSIDE, 27),
            Stage((A5000,) * 2, INSIDE, 27),
            Stage((A4000,) * 2, INSIDE, 26),
        ],
        [Stage((d,), INSIDE, 10) for d in ALL],
    ],
    ids=["TP 4/2/2 with equal layers", "PP 8 with equal layers"],
)
def test_pipelines_of_equal_layers_are_refused_for_memory(stages: list[Stage]) -> None:
    why = refusal(LLAMA_70B, stages, JOB)
    assert why is not None and "needs" in why


def test_an_uneven_pipeline_of_eight_is_accepted_and_slower() -> None:
    stages = spread_layers(LLAMA_70B, [Stage((d,), INSIDE) for d in ALL], JOB)
    assert stages is not None
    assert refusal(LLAMA_70B, stages, JOB) is None
    ratio = pipeline_s(LLAMA_70B, stages, BETWEEN, JOB) / pipeline_s(
        LLAMA_70B, case_study(), BETWEEN, JOB
    )
    assert ratio > 2.0  # predicted 2.6; the paper measures up to 19


def test_grouped_query_attention_is_a_correction_of_the_papers_memory() -> None:
    long = Job(16, 2000, 48)
    stage = Stage((A6000,) * 4, INSIDE, 48)
    ours = memory_bytes(LLAMA_70B, stage, long, 1)
    paper = memory_bytes(LLAMA_70B.original(), stage, long, 1)
    kv = 2 * 2.0 * 16 * 2048 * 48 / 4  # bytes for each unit of KV width
    assert paper - ours == pytest.approx(
        kv * (8192 - 1024) - 2 * 48 / 4 * 0.75 * 8192**2 - 2 * 32_000 * 8192 / 4, rel=1e-9
    )


def test_layers_by_dynamic_programming_are_as_good_as_trying_all() -> None:
    model = Transformer(12, 4096, 12.0 * 4096**2 * 5, 1024, 0)
    groups = [Stage((A6000,) * 2, INSIDE), Stage((A5000,), INSIDE), Stage((A4000,), INSIDE)]
    found = spread_layers(model, groups, JOB)
    assert found is not None

    def slowest(layers: tuple[int, ...]) -> float:
        stages = [Stage(g.devices, g.link, n) for g, n in zip(groups, layers, strict=True)]
        if refusal(model, stages, JOB) is not None:
            return float("inf")
        return max(stage_s(model, s, JOB) for s in stages)

    every = [(a, b - a, 12 - b) for a, b in combinations(range(1, 12), 2)]
    best = min(slowest(layers) for layers in every)
    assert max(stage_s(model, s, JOB) for s in found) == pytest.approx(best)


def test_a_model_that_fits_on_no_cut_of_the_machines_has_no_pipeline() -> None:
    small = (Machine(A4000, 2, INSIDE),)
    assert best_pipeline(LLAMA_70B, small, BETWEEN, JOB) is None


def test_the_genetic_search_never_ends_below_its_start() -> None:
    scorer = Scorer(cost_efficient_example())
    best, empty = evolve(scorer), scorer.score(scorer.nothing)
    assert best is not None and empty is not None
    assert best.values > empty.values
    assert 1 / best.values[0] <= 28.67
