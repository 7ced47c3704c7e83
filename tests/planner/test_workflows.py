"""Workflows: deadlines of steps, the order by urgency, admission, drawn traces, and their simulation."""

from __future__ import annotations

import math
from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from motley_planner.dispatch import (
    DispatchRule,
    Replica,
    RequestClass,
    ResourceRef,
    RoutingTable,
    Stage,
)
from motley_planner.dispatch.urgency import CreditQueue, latest_start_s
from motley_planner.dispatch.workflows import StepCall, Workflows, step_due_s
from motley_planner.simulator import (
    Deployment,
    FixedSteps,
    Kind,
    Route,
    Scenario,
    ServerSpec,
    drawn,
)
from motley_planner.simulator.workflow_traces import (
    ALONE_S,
    LENGTHS,
    TRACES,
    Call,
    drawn_queries,
    poisson_arrivals,
    seconds_per_token,
    shape_of,
    standard_slo_s,
)
from motley_planner.simulator.workflow_tuning import (
    GRID,
    least_of,
    tuned_alpha,
    tuned_plan_alpha,
)
from motley_planner.simulator.workflows import (
    GPUS,
    Fleet,
    Scheduling,
    simulate_workflows,
)

seconds = st.floats(0.01, 1e3)


@settings(deadline=None)
@given(st.floats(0, 1e4), seconds, st.lists(seconds, min_size=1, max_size=8))
def test_steps_that_take_their_share_end_exactly_at_the_deadline(
    now: float, slo: float, steps: list[float]
) -> None:
    """Whatever scale the deadline is at: each step is stretched by slo over the sum of steps."""
    deadline, stretch = now + slo, slo / sum(steps)
    for index, step in enumerate(steps):
        due = step_due_s(now, deadline, step, sum(steps[index + 1 :]))
        assert due - now == pytest.approx(step * stretch, rel=1e-6, abs=1e-6)
        now = due
    assert now == pytest.approx(deadline, rel=1e-9, abs=1e-6)


@settings(deadline=None)
@given(seconds, seconds, seconds, st.floats(-100, 100))
def test_lateness_is_spread_over_all_that_follows(
    slo: float, step: float, rest: float, late: float
) -> None:
    on_time = step_due_s(0.0, slo, step, rest)
    shifted = step_due_s(late, slo, step, rest) - late
    assert on_time - shifted == pytest.approx(late * step / (step + rest), rel=1e-6, abs=1e-9)


def test_what_follows_a_step_is_learned_without_a_template() -> None:
    """a, then b with probability 1/2 again and again, then c: rest(a) = 2 t(b) + t(c)."""
    book = Workflows(expected={"a": 1.0, "b": 3.0, "c": 5.0})
    rng = np.random.default_rng(1)
    rests = []
    for number in range(3000):
        row = ["a"]
        while rng.random() < 0.5:
            row.append("b")
        row.append("c")
        for position, step in enumerate(row):
            # A step that comes twice in a row is told apart by what it is called.
            book.due_s(StepCall(str(number), f"{step}{position % 2}" if step == "b" else step), 0.0)
        book.ended(str(number))
        if number >= 1000:
            rests.append(book.rest_s("", "a"))
    names = {"b0": 1.0, "b1": 1.0}  # unknown to `expected`: one second each
    mean = 1.0 * sum(names.values()) / 2 + 5.0
    assert np.mean(rests) == pytest.approx(mean, rel=0.05)
    assert abs(book.rest_s("", "c")) < 0.01
    assert len(book) == 0


def test_a_workflow_keeps_its_first_deadline_unless_a_call_says_otherwise() -> None:
    book = Workflows(slo_s=10.0)
    assert book.due_s(StepCall("w", "a"), 100.0) == 110.0
    assert book.due_s(StepCall("w", "a"), 104.0) == 110.0
    assert book.due_s(StepCall("w", "a", deadline_s=150.0), 105.0) == 150.0
    assert book.due_s(StepCall("w", "a"), 106.0) == 150.0


def test_workflows_that_are_not_seen_any_more_are_forgotten() -> None:
    book = Workflows(idle_s=5.0, capacity=50)
    for number in range(200):
        book.due_s(StepCall(str(number), "a"), 0.0)
        book.left(StepCall(str(number), "a"), 0.0)
    assert len(book) <= 50
    book.due_s(StepCall("x", "a"), 6.0)
    assert len(book) == 1


def test_a_late_workflow_goes_before_an_early_one() -> None:
    late = latest_start_s(step_due_s(10.0, 5.0, 1.0, 1.0), 1.0)
    early = latest_start_s(step_due_s(10.0, 60.0, 1.0, 1.0), 1.0)
    assert late < early


requests = st.lists(st.tuples(st.floats(-50, 50), st.floats(0.1, 20.0)), min_size=1, max_size=25)


@settings(deadline=None)
@given(requests, st.floats(-1e3, 1e3))
def test_the_order_of_urgency_does_not_depend_on_when_it_is_looked_at(
    rows: list[tuple[float, float]], now: float
) -> None:
    queue: CreditQueue[int] = CreditQueue()
    for index, (due, service) in enumerate(rows):
        queue.offer(index, latest_start_s(due, service))
    urgency = [service - (due - now) for due, service in rows]
    started = []
    while (found := queue.start()) is not None:
        started.append(found[1])
    for one, two in pairwise(started):
        assert urgency[one] >= urgency[two] - 1e-6


@settings(deadline=None)
@given(
    st.lists(st.tuples(st.floats(0, 9), st.floats(0.5, 60.0), st.booleans()), max_size=40),
    st.floats(1.0, 50.0),
)
def test_credits_are_never_overdrawn_and_all_come_back(
    rows: list[tuple[float, float, bool]], credit: float
) -> None:
    queue: CreditQueue[float] = CreditQueue(credit)
    at_work: dict[int, float] = {}
    ended = 0
    for key, tokens, withdraws in rows:
        number = queue.offer(tokens, key, tokens)
        if withdraws:
            queue.end(number)
            queue.end(number)
            ended += 1
        while (found := queue.start()) is not None:
            at_work[found[0]] = found[1]
        assert sum(at_work.values()) == pytest.approx(queue.used)
        assert queue.used <= credit + 1e-9 or len(at_work) == 1
    while at_work:
        queue.end(at_work.popitem()[0])
        ended += 1
        while (found := queue.start()) is not None:
            at_work[found[0]] = found[1]
    assert (ended, queue.used, len(queue)) == (len(rows), 0.0, 0)


@settings(deadline=None)
@given(st.lists(st.tuples(st.floats(0.5, 60.0), st.booleans()), max_size=40), st.floats(1.0, 50.0))
def test_taking_a_place_is_offering_and_starting_at_once_where_nobody_waits(
    rows: list[tuple[float, bool]], credit: float
) -> None:
    one: CreditQueue[int] = CreditQueue(credit)
    two: CreditQueue[int] = CreditQueue(credit)
    held: list[tuple[int, int]] = []
    for index, (tokens, ends) in enumerate(rows):
        number = one.take(tokens)
        offered = two.offer(index, 0.0, tokens)
        started = two.start()
        assert (number is None) == (started is None)
        if number is None:
            two.end(offered)
        else:
            held.append((number, offered))
        if ends and held:
            for queue, ended in zip((one, two), held.pop(0), strict=True):
                queue.end(ended)
        assert one.used == pytest.approx(two.used)
    one.offer(0, 0.0, 2 * credit)
    assert one.take(0.0) is None, "nobody goes past one that waits"


def test_a_large_request_is_not_starved_by_small_ones() -> None:
    queue: CreditQueue[str] = CreditQueue(10.0)
    first = queue.offer("first", 0.0, 6.0)
    assert queue.start() == (first, "first")
    queue.offer("large", 1.0, 9.0)
    queue.offer("small", 2.0, 1.0)
    assert queue.start() is None
    queue.end(first)
    assert [queue.start()[1] for _ in range(2)] == ["large", "small"]  # type: ignore[index]


@pytest.mark.parametrize("name", TRACES)
def test_drawn_queries_have_the_published_means(name: str) -> None:
    trace = TRACES[name]
    rng = np.random.default_rng(7)
    calls = [c for q in drawn_queries(trace, rng, 3000) for stage in q for c in stage]
    assert len(calls) / 3000 == pytest.approx(trace.calls_per_query, rel=0.02)
    assert np.mean([c.prompt_tokens for c in calls]) == pytest.approx(trace.prompt_tokens, rel=0.02)
    assert np.mean([c.output_tokens for c in calls]) == pytest.approx(trace.output_tokens, rel=0.02)
    longest = max(sum(len(stage) for stage in q) for q in drawn_queries(trace, rng, 300))
    assert longest <= 30  # 25 and 28 in the traces
    assert 0 < shape_of(trace).revisions < 10


def test_the_published_base_deadline_is_near_ours() -> None:
    """58.9 s is published for this hardware; the parallel candidates may count once or twice."""
    assert standard_slo_s(GPUS) == pytest.approx(58.9, rel=0.08)


@pytest.mark.parametrize("gpu", ALONE_S)
def test_engines_take_the_published_seconds_of_large_steps(gpu: str) -> None:
    prefill, decode = seconds_per_token(gpu)
    assert prefill > 0 and decode > 0
    for step, seconds in zip(LENGTHS, ALONE_S[gpu], strict=True):
        prompt, output = LENGTHS[step]
        assert prompt * prefill + output * decode == pytest.approx(seconds, rel=0.21, abs=0.05)


def test_one_query_alone_takes_the_sum_of_its_stages() -> None:
    """Closed form on one replica: stages one after another, the calls of one in a batch."""
    fleet = Fleet(("A100",))
    prefill, decode = seconds_per_token("A100")
    stages = (("a", 100.0, 5.0, 1), ("b", 2000.0, 50.0, 1), ("a", 300.0, 9.0, 1))
    query = tuple(tuple([Call("revise", p, o)] * n) for _, p, o, n in stages)
    run = simulate_workflows([query], [3.0], [1e3], Scheduling(), fleet)
    wanted = sum(p * prefill + (o - 1) * decode for _, p, o, _ in stages)
    assert run.latency_s == pytest.approx((wanted,), rel=1e-9)
    assert run.in_time == 1.0 and run.refused == 0.0


def test_every_query_is_answered_by_every_policy() -> None:
    rng = np.random.default_rng(3)
    queries = drawn_queries(TRACES["trace1"], rng, 12)
    arrivals = poisson_arrivals(12, 0.3, rng).tolist()
    for rule in (DispatchRule(), DispatchRule("hexgen", 0.3), DispatchRule("roundRobin")):
        for urgent in (True, False):
            how = Scheduling(rule, is_urgent_first=urgent)
            run = simulate_workflows(queries, arrivals, [100.0] * 12, how)
            assert not any(math.isnan(x) for x in run.latency_s)
            assert run == simulate_workflows(queries, arrivals, [100.0] * 12, how)


def test_alpha_of_a_plan_counts_what_is_never_answered_as_the_longest() -> None:
    """A fast and a slow replica: alpha 0 balances work, large alphas leave it to the fast one."""
    classes = (RequestClass("all", 100.0, 50.0),)
    steps = {"fast": 0.01, "slow": 0.05}
    replicas = tuple(
        Replica(name, f"sim://{name}", {}, {"all": 1.0 / (50 * step)})
        for name, step in steps.items()
    )
    table = RoutingTable(
        "hash",
        ResourceRef("ServingPool", "a", "b"),
        ("b",),
        classes,
        (Stage("main", "m", replicas),),
        (),
    )
    servers = {("main", n): ServerSpec(n, FixedSteps(s, 0.0), 1) for n, s in steps.items()}
    kinds = (Kind("all", 1.8, 100.0, 50.0),)
    arrivals = drawn(kinds, 200, seed=3)

    def scenario_of(rule: DispatchRule, end_s: float = 1e6) -> Scenario:
        deployment = Deployment(replace(table, dispatch=rule), servers, ((Route(("main",)),),))
        return Scenario(deployment, arrivals, end_s=end_s)

    found, default_s = tuned_plan_alpha(scenario_of)
    assert set(found) == set(GRID) and len(set(found.values())) > 1
    assert least_of(found)[1] == min(found.values()) < float("inf")
    assert default_s > 0
    never, _ = tuned_plan_alpha(lambda rule: scenario_of(rule, 1.0), grid=(0.0, 0.3))
    assert never == {0.0: float("inf"), 0.3: float("inf")}
    assert least_of(never)[0] == 0.0


def test_alpha_is_the_best_of_its_grid_on_the_replayed_trace() -> None:
    rng = np.random.default_rng(5)
    queries = drawn_queries(TRACES["trace1"], rng, 20)
    arrivals = poisson_arrivals(20, 0.3, rng).tolist()
    slo = [150.0] * 20
    grid = (0.0, 0.3, 0.6)
    alpha, p95_s = tuned_alpha(queries, arrivals, slo, grid)
    base = Scheduling(DispatchRule("hexgen", 0.0))
    every = {
        a: simulate_workflows(queries, arrivals, slo, replace(base, rule=DispatchRule("hexgen", a)))
        for a in grid
    }
    assert p95_s == min(run.p95_s for run in every.values()) == every[alpha].p95_s
