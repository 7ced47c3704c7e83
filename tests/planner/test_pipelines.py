"""Pipelines over unlike GPUs: costs against one replica, layers and dominance against brute force."""

from __future__ import annotations

import re
import time
import tomllib
from dataclasses import replace
from importlib import resources
from itertools import product

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from motley_planner.candidates.layering import split_layers
from motley_planner.candidates.pipeline_grid import BATCHES, Problem, grid_of
from motley_planner.candidates.pipeline_points import Load, class_sets, evaluate
from motley_planner.candidates.pipelines import (
    PipelinePoint,
    cache_counts,
    enumerate_pipelines,
    pipelines,
    queued_pipelines,
)
from motley_planner.candidates.targets import targets_of, tpot_ratio
from motley_planner.catalog import load_catalog
from motley_planner.catalog.schema import EngineEntry
from motley_planner.costs.capacity import first_token_wait_s, most_sequences
from motley_planner.costs.pipeline import Pipeline, pipeline_of
from motley_planner.costs.replica import Replica, replica_of
from motley_planner.costs.steps import decode_step_s, prefill_s
from motley_planner.domain.demand import Slo, WorkloadClass
from motley_planner.domain.fragments import ReplicaFragment
from motley_planner.domain.hardware import Catalog

SHIPPED = load_catalog()
HEXGEN = replace(SHIPPED.engines["vllm"], name="hexgen", unequal_tensor_parallel=True)
CATALOG: Catalog = replace(SHIPPED, engines={**SHIPPED.engines, "hexgen": HEXGEN})
CHAT, RAG = WorkloadClass("chat", 900, 250), WorkloadClass("rag", 3500, 180)
EIGHT = (
    "H100-SXM5-80GB",
    "A100-SXM4-80GB",
    "A100-SXM4-40GB",
    "L40S",
    "RTX-A6000",
    "A10",
    "L4",
    "RTX-4090",
)


def problem(
    model: str = "meta-llama/Llama-3.1-70B-Instruct",
    gpus: tuple[str, ...] = ("A100-SXM4-40GB", "L40S", "A10"),
    depth: int = 3,
    **changes: object,
) -> Problem:
    """The pipelines of a 70B model on three GPU types."""
    spec = CATALOG.model(model)
    assert spec is not None and CATALOG.efficiency is not None and CATALOG.fabric is not None
    made = Problem(
        model=spec,
        precision="bf16",
        engine=HEXGEN,
        efficiency=CATALOG.efficiency,
        fabric=CATALOG.fabric,
        gpus=tuple(CATALOG.gpus[gpu] for gpu in gpus),
        classes=(CHAT, RAG),
        targets=targets_of(Slo(ttft_s={"p95": 8.0}, tpot_s={"p95": 0.25})),
        busy=0.85,
        max_tensor=8,
        depth=depth,
    )
    return replace(made, **changes)  # type: ignore[arg-type]


def use_of(one: PipelinePoint) -> tuple[tuple[str, int], ...]:
    """The pipeline's kinds of fragment."""
    return tuple((f.gpu, f.tensor_parallel) for f in one.fragments)


@pytest.mark.parametrize(
    ("name", "ranks"),
    [
        ("Qwen/Qwen3-8B", 1),
        ("meta-llama/Llama-3.1-70B-Instruct", 4),
        ("mistralai/Mixtral-8x7B-v0.1", 4),
        ("deepseek-ai/DeepSeek-V2-Lite", 2),
        ("google/gemma-2-9b", 2),
    ],
)
def test_one_fragment_costs_what_a_replica_costs(name: str, ranks: int) -> None:
    model, gpu = CATALOG.model(name), CATALOG.gpus["H100-SXM5-80GB"]
    assert model is not None and CATALOG.efficiency is not None
    whole = replica_of(model, "bf16", gpu, ranks, HEXGEN, CATALOG.efficiency)
    assert isinstance(whole, Replica)
    cut = (ReplicaFragment(gpu.name, ranks, model.layers),)
    one = pipeline_of(model, "bf16", cut, HEXGEN, CATALOG)
    assert isinstance(one, Pipeline)
    for batch in (1.0, 16.0, 128.0):
        got, want = one.decode_step_s(batch, 2000.0), decode_step_s(whole, batch, 2000.0)
        assert got == pytest.approx(want, rel=0.01)
    for prompt in (100.0, 4000.0):
        assert one.prefill_s(prompt) == pytest.approx(prefill_s(whole, prompt), rel=0.01)
    assert one.most_sequences(900, 250) == pytest.approx(most_sequences(whole, 900, 250), rel=1e-9)


def test_two_equal_fragments_hold_twice_the_cache_and_never_beat_twice_the_speed() -> None:
    model = CATALOG.model("Qwen/Qwen3-32B")
    assert model is not None
    alone = pipeline_of(model, "bf16", (ReplicaFragment("L40S", 4, 64),), HEXGEN, CATALOG)
    both = (ReplicaFragment("L40S", 4, 32), ReplicaFragment("L40S", 4, 32))
    two = pipeline_of(model, "bf16", both, HEXGEN, CATALOG)
    assert isinstance(alone, Pipeline) and isinstance(two, Pipeline)
    assert two.most_sequences(900, 250) > 2.0 * alone.most_sequences(900, 250)
    for batch in (2.0, 32.0, 256.0):
        assert two.decode_step_s(batch, 1000.0) > 0.5 * alone.decode_step_s(batch, 1000.0)
    assert two.prefill_s(2000.0) > alone.prefill_s(2000.0)  # a prompt passes both, and the link


def test_slower_links_make_slower_pipelines() -> None:
    fragments = (ReplicaFragment("L40S", 4, 40), ReplicaFragment("L40S", 4, 40))
    model, fabric = CATALOG.model("meta-llama/Llama-3.1-70B-Instruct"), CATALOG.fabric
    assert model is not None and fabric is not None
    before = (0.0, 0.0)
    for slower in (1.0, 10.0, 1000.0):
        thin = replace(fabric, nic_bytes_per_s={"L40S": 6.25e9 / slower})
        made = pipeline_of(model, "bf16", fragments, HEXGEN, replace(CATALOG, fabric=thin))
        assert isinstance(made, Pipeline)
        now = made.decode_step_s(64.0, 1000.0), made.prefill_s(2000.0)
        assert now[0] >= before[0] and now[1] > before[1]
        before = now
    assert before[1] > 5.0  # 2,000 tokens x 16 KiB at 6 MB/s


@given(st.data())
@settings(max_examples=200, deadline=None)
def test_no_split_of_the_layers_is_better_than_the_one_found(data: st.DataObject) -> None:
    stages = data.draw(st.integers(1, 3))
    layers = data.draw(st.integers(1, 12))
    some = st.floats(0.01, 1.0)
    cost = [data.draw(some) for _ in range(stages)]
    fixed = [data.draw(st.floats(0.0, 0.5)) for _ in range(stages)]
    most = [data.draw(st.integers(0, 13)) for _ in range(stages)]
    found = split_layers(np.array(cost), np.array(fixed), np.array(most, dtype=float), layers)
    splits = [
        split
        for split in product(*(range(1, min(m, layers) + 1) for m in most))
        if sum(split) == layers
    ]
    if not splits:
        assert (found == 0).all()
        return

    def slowest(split: tuple[int, ...]) -> float:
        return max(f + n * c for f, n, c in zip(fixed, split, cost, strict=True))

    assert found.sum() == layers and (found >= 1).all() and (found <= most).all()
    assert slowest(tuple(found.tolist())) <= min(map(slowest, splits)) * (1 + 1e-9)


def test_the_arrays_say_what_each_pipeline_alone_says() -> None:
    asked = problem()
    grid = grid_of(asked)
    assert grid is not None
    random = np.random.default_rng(7)
    admitted = (0, 1)
    for size in (1, 2, 3):
        combos = np.sort(random.integers(0, len(grid.parts), (size, 40)), axis=0)
        load = Load(grid, combos, np.array(BATCHES, dtype=float), admitted)
        layers = load.balanced_layers()
        points = evaluate(load, layers)
        seen = 0
        for i, b in product(range(combos.shape[1]), range(len(BATCHES))):
            if not layers[:, i, b].all():
                continue
            parts = tuple(grid.parts[k] for k in combos[:, i])
            alone = Pipeline(parts, tuple(layers[:, i, b].tolist()), asked.fabric)
            step = alone.decode_step_s(float(BATCHES[b]), max(grid.context_tokens))
            assert points.step_s[i, b] == pytest.approx(step)
            fits = min(alone.most_sequences(c.prompt_tokens, c.output_tokens) for c in grid.classes)
            assert fits >= BATCHES[b] * (1 - 1e-9)
            seen += 1
        assert seen > 30


def expected_rate(whole: Replica, asked: Problem, c: WorkloadClass, batch: int) -> float:
    """Requests/s of one class alone on one replica, 0 where memory or a target says no."""
    prompt, output = float(c.prompt_tokens), float(c.output_tokens)
    prefill = prefill_s(whole, prompt)
    step = decode_step_s(whole, batch, prompt + output / 2.0)
    tpot = step + (batch - 1.0) * prefill / output
    busy = asked.busy * batch * prefill / output / (tpot + prefill / output)
    first = whole.engine.first_token_overhead_s + step + prefill
    holds = most_sequences(whole, prompt, output) >= batch and busy < 1.0
    for target in asked.targets:
        slow = tpot * tpot_ratio(whole.efficiency.tpot_quantiles, target.quantile)
        late = first + first_token_wait_s(busy, prefill, target.quantile)
        value = {"tpot": slow, "ttft": late}.get(target.what, late + output * slow)
        holds = holds and value <= target.limit_s
    ttft = first + first_token_wait_s(busy, prefill, 0.0)
    return asked.busy * batch / (ttft + output * tpot) if holds else 0.0


@pytest.mark.parametrize("c", [CHAT, RAG], ids=lambda c: c.name)
@pytest.mark.parametrize("what", ["ttft", "tpot", "e2e", ""])
def test_one_fragment_serves_what_a_replica_serves(c: WorkloadClass, what: str) -> None:
    limit = {"ttft": 2.0, "tpot": 0.05, "e2e": 12.0}.get(what, 0.0)
    targets = targets_of(Slo(**{f"{what}_s": {"p95": limit}})) if what else ()
    name = "Qwen/Qwen3-32B"
    asked = problem(name, ("A100-SXM4-80GB",), classes=(c,), targets=targets)
    grid = grid_of(asked)
    assert grid is not None
    held = 0
    for kind, part in enumerate(grid.parts):
        load = Load(grid, np.array([[kind]]), np.array(BATCHES, dtype=float), (0,))
        points = evaluate(load, load.balanced_layers())
        for b, batch in enumerate(BATCHES):
            want = expected_rate(part.whole, asked, c, batch)
            assert points.capacity[0, 0, b] == pytest.approx(want, rel=0.02)
            held += want > 0
    assert held > (4 if what else 20)


def test_a_dropped_pipeline_is_replaced_by_parts_that_serve_as_much() -> None:
    asked = problem(targets=())
    everything = list(enumerate_pipelines(asked, prune=False))
    kept = list(enumerate_pipelines(asked))
    assert set(map(repr, kept)) < set(map(repr, everything))
    grid = grid_of(asked)
    assert grid is not None
    best: dict[tuple[tuple[str, int], ...], list[dict[str, float]]] = {}
    for one in everything:
        best.setdefault(use_of(one), []).append(one.point.capacity)
    for k in range(len(grid.parts)):  # replicas of one fragment are listed elsewhere
        part = grid.parts[k]
        for admitted in class_sets(len(grid.classes)):
            load = Load(grid, np.array([[k]]), np.array(BATCHES, dtype=float), admitted)
            rates = evaluate(load, load.balanced_layers()).capacity[:, 0, :].max(axis=-1)
            names = [grid.classes[c].name for c in admitted]
            alone = dict(zip(names, rates.tolist(), strict=True))
            best.setdefault(((part.whole.gpu.name, part.whole.tensor_parallel),), []).append(alone)
    staying = set(map(repr, kept))
    for one in everything:
        if repr(one) in staying:
            continue
        kinds = use_of(one)
        cuts = [
            [i for i in range(len(kinds)) if mask >> i & 1]
            for mask in range(1, 2 ** len(kinds) - 1)
        ]
        assert any(
            all(
                a.get(n, 0.0) + b.get(n, 0.0) >= rate * (1 - 1e-6)
                for n, rate in one.point.capacity.items()
            )
            for cut in cuts
            for a in best.get(tuple(kinds[i] for i in cut), [{}])
            for b in best.get(tuple(k for i, k in enumerate(kinds) if i not in cut), [{}])
        ), one


def test_every_pipeline_holds_its_weights_and_meets_its_targets() -> None:
    asked = problem()
    found = pipelines(asked)
    assert {len(one.fragments) for one in found} == {2, 3}
    for one in found:
        assert sum(f.layers for f in one.fragments) == asked.model.layers
        made = pipeline_of(asked.model, "bf16", one.fragments, HEXGEN, CATALOG)
        assert isinstance(made, Pipeline)
        names = set(one.point.capacity)
        held = [c for c in asked.classes if c.name in names]
        fits = [made.most_sequences(c.prompt_tokens, c.output_tokens) for c in held]
        if one.point.kv_share:  # then a row says how many of the longest
            assert min(fits) < one.point.batch <= max(fits)
        else:
            assert min(fits) >= one.point.batch * (1 - 1e-9)
        assert all(value <= 0.25 for value in one.point.tpot_s.values())
        assert all(value <= 8.0 for value in one.point.ttft_s.values())
        assert all(rate > 0 for rate in one.point.capacity.values())


def test_engines_with_equal_stages_get_equal_stages_of_any_gpus() -> None:
    found = pipelines(problem(engine=SHIPPED.engines["vllm"], targets=()))
    assert found
    assert all(len({f.tensor_parallel for f in one.fragments}) == 1 for one in found)
    assert any(len({f.gpu for f in one.fragments}) > 1 for one in found)
    assert any(len({f.layers for f in one.fragments}) > 1 for one in found)


def test_the_same_problem_is_worked_out_once() -> None:
    asked = problem(busy=0.8125)
    first = pipelines(asked)
    hits, misses, kept = cache_counts()
    # An equal problem, not the same object: a catalog that was read again.
    again = problem(busy=0.8125, gpus=("A100-SXM4-40GB", "L40S", "A10"))
    assert pipelines(replace(again)) == first
    assert cache_counts() == (hits + 1, misses, kept)
    pipelines(problem(busy=0.8126, depth=2))
    assert cache_counts()[1] == misses + 1


@pytest.mark.parametrize(
    "change",
    [
        {"targets": targets_of(Slo(tpot_s={"p95": 0.1}))},
        {"classes": (CHAT,)},
        {"precision": "fp8"},
        {"engine": SHIPPED.engines["vllm"]},
        {"busy": 0.5},
        {"max_tensor": 4},
        {"depth": 2},
    ],
)
def test_the_kept_answer_is_the_answer_to_the_question_that_was_asked(
    change: dict[str, object],
) -> None:
    other: Problem = replace(problem(), **change)  # type: ignore[arg-type]
    pipelines(problem())
    found = pipelines(other)
    assert found == tuple(queued_pipelines(other))


def test_eight_gpu_types_three_stages_and_five_models_take_a_few_seconds_of_cpu() -> None:
    # 1.3 s here; the limit leaves room for slower machines.
    models = (
        "meta-llama/Llama-3.1-70B-Instruct",
        "Qwen/Qwen3-32B",
        "Qwen/Qwen2.5-72B",
        "Qwen/Qwen3-8B",
        "mistralai/Mixtral-8x22B-v0.1",
    )
    before = time.process_time()
    found = [len(list(enumerate_pipelines(problem(name, EIGHT)))) for name in models]
    assert time.process_time() - before < 5.0
    assert sum(found) > 5000


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"launch": None}, "needs a [launch.pipeline] block"),
        ({"pipeline_parallel": False, "unequal_tensor_parallel": True}, "needs pipeline_parallel"),
    ],
)
def test_an_engine_that_could_not_start_pipelines_may_not_claim_them(
    change: dict[str, object], says: str
) -> None:
    shipped = resources.files("motley_planner.catalog").joinpath("engines/vllm.toml")
    entry = tomllib.loads(shipped.read_text(encoding="utf-8"))
    assert EngineEntry.model_validate(entry).to_domain().pipeline_parallel
    with pytest.raises(ValidationError, match=re.escape(says)):
        EngineEntry.model_validate(entry | change)
