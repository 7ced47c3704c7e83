"""Speeds told from simulated engines: the factor is found, and what is no speed is not taken for one."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from motley_operator.api.fleetstatus import LEAST_FACTOR, MOST_FACTOR, Correction
from motley_operator.demand.corrections import (
    BAND,
    MOST_MOVE,
    bounded,
    is_at_rest,
    learned_of,
    settled,
)
from motley_operator.demand.learning import (
    FEWEST_STEPS,
    Estimate,
    Judged,
    Source,
    Verdict,
    judge_speed,
)
from motley_operator.domain.measurement import EngineSteps, Steps
from motley_planner.catalog import load_catalog
from motley_planner.costs.learned import key_of, slowed
from motley_planner.costs.replica import Replica, replica_of
from motley_planner.dispatch import Replica as Backend
from motley_planner.dispatch import RequestClass, ResourceRef, RoutingTable, Stage
from motley_planner.domain.demand import ServingDemand, Slo, StageDemand, WorkloadClass
from motley_planner.domain.hardware import Catalog, Node, NodeClass
from motley_planner.domain.measurements import Learned
from motley_planner.domain.plan import Slice
from motley_planner.domain.snapshot import Snapshot
from motley_planner.planning import plan
from motley_planner.simulator import (
    Arrivals,
    Kind,
    Report,
    Scenario,
    Terms,
    deployment_of,
    drawn,
    kinds_of,
    report_of,
    simulate,
    stages_of,
)
from motley_planner.simulator.scenario import Deployment, Route, ServerSpec
from motley_planner.simulator.steps import CostedSteps
from motley_planner.simulator.world import Run

CATALOG = load_catalog()
STEP_S, STEPS, WARM_S = 60.0, 10, 60.0
EDGES = np.arange(STEPS + 1) * STEP_S + WARM_S
NOW, WINDOW_S = 1_800_000_000.0, STEP_S * STEPS
H100, A100 = ("Qwen/Qwen3-8B", "H100-SXM5-80GB", 1), ("Qwen/Qwen3-32B", "A100-SXM4-80GB", 4)
CHAT = (Kind("chat", 6.0, 900.0, 200.0),)
LONG = (Kind("long", 5.0, 300.0, 600.0),)
MIX = (Kind("short", 3.0, 200.0, 100.0), Kind("large", 0.6, 6000.0, 250.0))


def replica(name: str, gpu: str, tp: int) -> Replica:
    engine, efficiency = CATALOG.engines["vllm"], CATALOG.efficiency
    assert efficiency is not None
    made = replica_of(CATALOG.models[name], "bf16", CATALOG.gpus[gpu], tp, engine, efficiency)
    assert isinstance(made, Replica)
    return made


def deployed(engine: Replica, slots: int, replicas: int) -> Deployment:
    """Equal engines behind one gateway."""
    names = [f"r{i}" for i in range(replicas)]
    backends = tuple(Backend(n, f"sim://{n}", {"all": 1.0}, {"all": 9.0}) for n in names)
    table = RoutingTable(
        plan_hash="",
        resource=ResourceRef("ServingPool", "a", "b"),
        served_model_names=("m",),
        classes=(RequestClass("all", 900, 200),),
        stages=(Stage("main", "m", backends),),
        policies=(),
    )
    times = CostedSteps(engine)
    servers = {("main", n): ServerSpec(n, times, slots) for n in names}
    return Deployment(table, servers, ((Route(("main",)),),))


def steps_of(run: Run, replicas: int) -> EngineSteps:
    """What the engines of a run count in each step, as their histograms and gauges would."""
    done = [job for job in run.jobs if job.answered_s > 0.0]
    ends, firsts = np.array([j.answered_s for j in done]), np.array([j.first_s for j in done])
    outputs = np.array([j.output for j in done])
    tpot = (ends - firsts) / np.maximum(1.0, outputs - 1.0)

    def summed(values: NDArray[np.float64]) -> Steps:
        return tuple(np.histogram(ends, EDGES, weights=values)[0].tolist())

    begun = [j for j in run.jobs if j.first_s > 0.0]
    spans = [(j.first_s, j.answered_s if j.answered_s > 0.0 else EDGES[-1]) for j in begun]
    inside = np.clip(np.array(spans)[:, :, None], EDGES[:-1], EDGES[1:])
    return EngineSteps(
        alive=(float(replicas),) * STEPS,
        up=(float(replicas),) * STEPS,
        requests=summed(np.ones_like(ends)),
        prompt=summed(np.array([j.prompt for j in done])),
        output=summed(outputs),
        tpot_total_s=summed(tpot),
        tpot_count=summed(np.ones_like(ends)),
        ttft_total_s=summed(firsts - np.array([j.arrival_s for j in done])),
        ttft_count=summed(np.ones_like(ends)),
        running=tuple(((inside[:, 1] - inside[:, 0]).sum(axis=0) / STEP_S).tolist()),
        kv_usage=(0.4,) * STEPS,
    )


def observed(
    engine: Replica,
    kinds: Sequence[Kind],
    *,
    slots: int = 64,
    replicas: int = 2,
    seed: int = 1,
    burst: float = 1.0,
) -> Source:
    """What simulated engines count over a window; lengths vary inside each class."""
    rate = sum(kind.requests_per_second for kind in kinds)
    count = int(rate * (EDGES[-1] + 5.0))
    arrivals = drawn(kinds, count, seed=seed, variation=burst, length_variation=0.5)
    arrivals = Arrivals(  # one class for the gateway
        ("all",), arrivals.time_s, np.zeros(count, dtype=np.int64),
        arrivals.prompt_tokens, arrivals.output_tokens,
    )  # fmt: skip
    end = float(EDGES[-1])
    run = simulate(Scenario(deployed(engine, slots, replicas), arrivals, end_s=end, seed=seed))
    lengths = arrivals.output_tokens
    return Source(
        steps_of(run, replicas), replicas, slots, float(lengths.var() / lengths.mean() ** 2)
    )


def told(engine: Replica, source: Source) -> Estimate:
    judged = judge_speed(engine, [source], STEP_S)
    assert judged.verdict is Verdict.LEARNED
    assert judged.estimate is not None
    return judged.estimate


@pytest.mark.parametrize("factor", [0.7, 1.0, 1.6])
@pytest.mark.parametrize("kinds", [CHAT, LONG, MIX], ids=["chat", "long", "mix"])
@pytest.mark.parametrize("what", [H100, A100], ids=["8B on H100", "32B on 4 A100"])
def test_a_simulated_engine_of_another_speed_is_found_within_the_interval(
    what: tuple[str, str, int], kinds: Sequence[Kind], factor: float
) -> None:
    engine = replica(*what)
    found = told(engine, observed(slowed(engine, factor), kinds))
    assert found.low <= factor <= found.high
    assert found.value == pytest.approx(factor, rel=0.08)
    assert found.samples > 1000


@pytest.mark.parametrize("factor", [1.0, 1.6])
def test_bursts_are_not_taken_for_another_speed(factor: float) -> None:
    engine = replica(*H100)
    found = told(engine, observed(slowed(engine, factor), CHAT, burst=2.0))
    assert found.low <= factor <= found.high


def test_a_queue_is_not_taken_for_a_slow_engine() -> None:
    engine = replica(*H100)
    found = told(engine, observed(engine, (Kind("chat", 12.0, 300.0, 600.0),), slots=16))
    assert found.ttft is not None and found.ttft > 20.0
    assert found.low <= 1.0 <= found.high


def test_light_load_tells_the_speed_as_soon_as_enough_requests_came() -> None:
    engine = replica(*H100)
    few = judge_speed(engine, [observed(engine, (Kind("chat", 0.1, 900.0, 200.0),))], STEP_S)
    assert few == Judged(Verdict.FEW_REQUESTS)
    found = told(slowed(engine, 1.0), observed(slowed(engine, 1.4), (Kind("c", 0.5, 900, 200),)))
    assert found.low <= 1.4 <= found.high


def test_columns_of_one_configuration_speak_together() -> None:
    engine = replica(*H100)
    slow = slowed(engine, 1.3)
    sources = [observed(slow, CHAT, seed=1), observed(slow, LONG, slots=32, seed=2)]
    found = judge_speed(engine, sources, STEP_S).estimate
    assert found is not None
    assert found.low <= 1.3 <= found.high


def changed(source: Source, **steps: Steps) -> Source:
    return replace(source, steps=replace(source.steps, **steps))


@pytest.fixture(scope="module")
def engine() -> Replica:
    return replica(*H100)


@pytest.fixture(scope="module")
def source(engine: Replica) -> Source:
    return observed(slowed(engine, 1.6), CHAT)


def verdict(engine: Replica, source: Source) -> Verdict:
    judged = judge_speed(engine, [source], STEP_S)
    assert (judged.estimate is None) == (judged.verdict is not Verdict.LEARNED)
    return judged.verdict


def test_what_is_no_speed_is_named_and_not_learned(engine: Replica, source: Source) -> None:
    half = (2.0,) * 5 + (1.0,) * 5
    lost = (2.0,) * 5 + (None,) * 5
    assert verdict(engine, source) is Verdict.LEARNED
    for steps in (half, lost, (0.0,) * STEPS, ()):
        assert verdict(engine, changed(source, up=steps)) is Verdict.NOT_SCRAPED
    assert verdict(engine, changed(source, alive=lost)) is Verdict.NOT_SCRAPED
    assert verdict(engine, replace(source, replicas=3)) is Verdict.NOT_SCRAPED  # one is starting
    assert verdict(engine, replace(source, replicas=1)) is Verdict.NOT_SCRAPED  # one drains
    assert verdict(engine, Source(EngineSteps(), 2, 64)) is Verdict.NOT_SCRAPED
    assert verdict(engine, changed(source, kv_usage=(0.99,) * STEPS)) is Verdict.CACHE_FULL
    idle = dict.fromkeys(("requests", "output", "tpot_count", "tpot_total_s"), (0.0,) * STEPS)
    assert verdict(engine, changed(source, **idle)) is Verdict.FEW_REQUESTS
    assert verdict(engine, changed(source, tpot_total_s=())) is Verdict.FEW_REQUESTS
    # A histogram in milliseconds, or of something else than a token's time.
    thousand = tuple(1000.0 * (one or 0.0) for one in source.steps.tpot_total_s)
    assert verdict(engine, changed(source, tpot_total_s=thousand)) is Verdict.INCONSISTENT
    assert judge_speed(engine, [], STEP_S) == Judged(Verdict.NOT_SCRAPED)
    tiny = {"tpot_total_s": (1e-6,) * STEPS, "running": (0.0,) * STEPS}
    assert verdict(engine, changed(source, **tiny)) is Verdict.INCONSISTENT


def test_one_hiccup_widens_the_interval_and_noise_ends_it(engine: Replica, source: Source) -> None:
    total = [one or 0.0 for one in source.steps.tpot_total_s]
    hiccup = changed(source, tpot_total_s=(*total[:-1], 1.35 * total[-1]))
    found = told(engine, hiccup)
    assert found.value == pytest.approx(1.6, rel=0.03)
    assert found.high > 1.25 * found.value
    noisy = changed(
        source, tpot_total_s=tuple(t * f for t, f in zip(total, (0.7, 1.4) * 5, strict=True))
    )
    assert verdict(engine, noisy) is Verdict.NOISY


def test_a_load_that_changes_inside_the_window_waits(engine: Replica) -> None:
    slow = observed(slowed(engine, 1.0), (Kind("chat", 1.0, 300.0, 600.0),))
    fast = observed(slowed(engine, 1.0), (Kind("chat", 24.0, 300.0, 600.0),), slots=256)
    both = {
        field: getattr(slow.steps, field)[:5] + getattr(fast.steps, field)[5:]
        for field in EngineSteps.__slots__
    }
    mixed = Source(EngineSteps(**both), 2, 256)
    assert verdict(engine, mixed) is Verdict.UNSTEADY


def test_a_few_lost_steps_do_not_matter(engine: Replica, source: Source) -> None:
    gone = STEPS - FEWEST_STEPS
    up = (None,) * gone + (2.0,) * FEWEST_STEPS
    assert verdict(engine, changed(source, up=up)) is Verdict.LEARNED
    assert verdict(engine, changed(source, up=(None, *up[:-1]))) is Verdict.NOT_SCRAPED


KEY = key_of(replica(*H100), "bf16")


def windows(seen: Sequence[Estimate | None], before: Correction | None = None) -> list[Correction]:
    """The correction after each of some windows."""
    found = []
    for at, one in enumerate(seen):
        before = settled(KEY, before, one, NOW + at * WINDOW_S, WINDOW_S)
        if before is not None:
            found.append(before)
    return found


def estimate(value: float, low: float, high: float) -> Estimate:
    return Estimate(value, low, high, 1000)


def exactly(value: float, width: float = 1.02) -> Estimate:
    return estimate(value, value / width, value * width)


factors = st.floats(1e-9, 1e9)
widths = st.floats(1.0, 1.22)


@settings(deadline=None)
@given(factors, widths, st.integers(1, 30))
def test_equal_windows_move_it_a_few_times_and_then_never(
    factor: float, width: float, more: int
) -> None:
    found = windows([exactly(factor, width)] * (12 + more))
    values = [1.0, *(one.value for one in found)]
    moves = [b / a for a, b in pairwise(values) if a != b]
    assert len(moves) <= 4
    assert all(1.0 / MOST_MOVE - 1e-3 <= move <= MOST_MOVE + 1e-3 for move in moves)
    assert all(LEAST_FACTOR <= value <= MOST_FACTOR for value in values)
    assert len({one.model_dump_json() for one in found[5:]}) == 1  # nothing is written either
    last = found[-1].value
    inside = factor / width <= 1.0 <= factor * width and last == 1.0
    assert inside or last == pytest.approx(bounded(factor), rel=BAND + 1e-3)


@st.composite
def noisy_windows(draw: st.DrawFn) -> tuple[float, list[Estimate | None]]:
    """A speed, and windows whose intervals all hold it, or that tell nothing."""
    factor = draw(st.floats(LEAST_FACTOR, MOST_FACTOR))
    seen: list[Estimate | None] = []
    for _ in range(draw(st.integers(10, 40))):
        if draw(st.booleans()):
            low, high = factor / draw(widths), factor * draw(widths)
            seen.append(estimate(draw(st.floats(low, high)), low, high))
        else:
            seen.append(None)
    return factor, seen


@settings(deadline=None)
@given(noisy_windows())
def test_no_noise_moves_what_rests_while_every_interval_holds_the_speed(
    case: tuple[float, list[Estimate | None]],
) -> None:
    factor, seen = case
    found = windows(seen)
    rests = next((i for i, one in enumerate(found) if is_at_rest(one)), len(found))
    assert len({one.model_dump_json() for one in found[rests:]}) <= 1
    if rests < len(found):
        assert found[-1].low <= factor <= found[-1].high
    assert len({one.value for one in found}) <= 8


@settings(deadline=None)
@given(st.lists(st.one_of(st.none(), st.builds(exactly, factors, widths)), max_size=30))
def test_whatever_comes_it_stays_within_bounds_and_moves_slowly(
    seen: list[Estimate | None],
) -> None:
    values = [1.0, *(one.value for one in windows(seen))]
    for a, b in pairwise(values):
        assert LEAST_FACTOR <= b <= MOST_FACTOR
        assert max(a, b) / min(a, b) <= MOST_MOVE + 2e-3


def test_a_window_must_pass_between_two_moves() -> None:
    first = settled(KEY, None, exactly(1.8), NOW, WINDOW_S)
    assert first is not None and first.value == pytest.approx(1.216, abs=1e-3)
    assert settled(KEY, first, exactly(1.8), NOW + WINDOW_S - 1.0, WINDOW_S) is first
    second = settled(KEY, first, exactly(1.8), NOW + WINDOW_S, WINDOW_S)
    assert second is not None and second.value == pytest.approx(1.48, abs=1e-2)


def test_nothing_measured_changes_nothing() -> None:
    (resting,) = windows([exactly(1.2)])
    assert settled(KEY, None, None, NOW, WINDOW_S) is None
    assert settled(KEY, resting, None, NOW + 9 * WINDOW_S, WINDOW_S) is resting


def test_a_new_speed_is_followed_both_ways() -> None:
    found = windows([exactly(1.25), *[exactly(0.8)] * 6, *[exactly(1.5)] * 6])
    assert found[6].value == pytest.approx(0.8, rel=1e-3)
    assert found[-1].value == pytest.approx(1.5, rel=1e-3)


def test_a_model_that_is_right_is_kept_as_evidence() -> None:
    (found,) = windows([exactly(1.03)])
    assert (found.value, found.measured, found.samples) == (1.0, 1.03, 1000)


def demand() -> ServingDemand:
    model = CATALOG.models["Qwen/Qwen3-8B"]
    return ServingDemand(
        key="ServingPool/team-a/pool",
        tenant="team-a",
        stages=(StageDemand("main", model, "bf16", "vllm", max_tensor_parallel=1),),
        classes=(WorkloadClass("chat", 900, 200),),
        requests_per_second=40.0,
        slo=Slo(ttft_s={"p95": 1.5}, tpot_s={"p95": 0.03}),
    )


def planned(catalog: Catalog) -> Slice:
    node_class = NodeClass("A100-SXM4-80GB", "z", "on-demand", "", 3.43)
    nodes = tuple(Node(f"n{i}", node_class, 8, 192_000, 2**41, 110, 8) for i in range(4))
    snapshot = Snapshot(nodes, services=(demand(),), time_limit_s=3)
    (part,) = plan(snapshot, catalog, use_worker=False).slices
    assert part.served_requests_per_second == pytest.approx(40.0)
    return part


def served(part: Slice, truth: Catalog, seed: int) -> tuple[Run, Report]:
    """The plan at its own rates on engines as they truly are."""
    kinds = [kind for kind in kinds_of(part) if kind.requests_per_second > 0.0]
    arrivals = drawn(kinds, int(40.0 * (EDGES[-1] + 5.0)), seed=seed)
    end = float(EDGES[-1])
    run = simulate(Scenario(deployment_of(part, truth), arrivals, end_s=end, seed=seed))
    return run, report_of(run, part.key, stages_of(part), Terms(part.slo, WARM_S))


def source_of(part: Slice, run: Run) -> Source:
    """What the engines of a plan with one column count."""
    (slots,) = {r.operating_batch for r in part.replicas}
    count = len(part.replicas)
    return Source(steps_of(run, count), count, slots, 0.0)


def kept(report: Report) -> bool:
    return all(a.share is not None and a.share >= a.wanted - 0.01 for a in report.attainment)


@pytest.mark.parametrize("factor", [1.4, 1.7])
def test_a_plan_made_with_what_was_learned_keeps_the_promise_that_the_first_one_broke(
    factor: float,
) -> None:
    first = planned(CATALOG)
    assert kept(served(first, CATALOG, 1)[1])
    engine = replica("Qwen/Qwen3-8B", "A100-SXM4-80GB", 1)
    key = key_of(engine, "bf16")
    truth = replace(CATALOG, learned={key: Learned(key, factor, factor, factor)})
    run, report = served(first, truth, 1)
    assert not kept(report)

    found = judge_speed(engine, [source_of(first, run)], STEP_S).estimate
    assert found is not None
    last = windows([found] * 3)[-1]
    assert found.low <= factor <= found.high
    assert last.low <= last.value <= last.high
    learned = replace(CATALOG, learned={key: replace(learned_of(last), key=key)})
    second = planned(learned)
    run, report = served(second, truth, 2)
    assert kept(report)
    (promise,) = [p for p in second.promises if p.what.startswith("tpot_s")]
    assert promise.provenance == "learned"
    measured = next(c.tpot.mean_s for c in report.classes)
    assert measured is not None and measured <= promise.high
    modeled = {p.what: p for p in first.promises}[promise.what]
    assert modeled.provenance == "modeled"
    assert promise.high - promise.low < (modeled.high - modeled.low) / modeled.value * promise.value
    # What the first plan promised, it did not keep.
    _, again = served(first, truth, 3)
    late = next(c.tpot.mean_s for c in again.classes)
    assert late is not None and late > modeled.value
