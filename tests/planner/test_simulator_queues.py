"""The simulator against queues with known means, and its cost in CPU time."""

from __future__ import annotations

import math
import time
from collections.abc import Callable

import numpy as np
import pytest
from numpy.typing import NDArray

from motley_planner.dispatch import Replica, RequestClass, ResourceRef, RoutingTable, Stage
from motley_planner.simulator import (
    Arrivals,
    Deployment,
    FixedSteps,
    Route,
    Scenario,
    ServerSpec,
    StepTimes,
    simulate,
)

Floats = NDArray[np.float64]
Lengths = Callable[[np.random.Generator, int], Floats]
SHORT, LONG = 40_000, 400_000


def pool(count: int, times: StepTimes, max_batch: int) -> Deployment:
    replicas = tuple(Replica(f"r{i}", "sim://r", {"a": 1.0}, {"a": 1.0}) for i in range(count))
    table = RoutingTable(
        "h",
        ResourceRef("ServingPool", "t", "p"),
        ("p",),
        (RequestClass("a", 1, 1),),
        (Stage("main", "m", replicas),),
        (),
    )
    servers = {("main", r.name): ServerSpec(r.name, times, max_batch) for r in replicas}
    return Deployment(table, servers, ((Route(("main",)),),))


def sojourn_s(
    deployment: Deployment, rate: float, count: int, prompt: Lengths, output: Lengths
) -> float:
    """Mean time in the system, the first tenth of the requests left out."""
    rng = np.random.default_rng(11)
    times = np.cumsum(rng.exponential(1.0 / rate, count))
    index = np.zeros(count, dtype=np.int64)
    arrivals = Arrivals(("a",), times, index, prompt(rng, count), output(rng, count))
    run = simulate(Scenario(deployment, arrivals))
    return float(np.mean([job.answered_s - job.arrival_s for job in run.jobs[count // 10 :]]))


def ones(rng: np.random.Generator, count: int) -> Floats:
    return np.ones(count)


def none(rng: np.random.Generator, count: int) -> Floats:
    return np.zeros(count)


def exponential(rng: np.random.Generator, count: int) -> Floats:
    return rng.exponential(1.0, count)


def sizes(load: float) -> list[object]:
    """A short run by default, a long one as a slow test."""
    return [
        pytest.param(load, SHORT),
        *(pytest.param(each, LONG, marks=pytest.mark.slow) for each in (0.5, 0.8)),
    ]


@pytest.mark.parametrize(("load", "count"), sizes(0.5))
def test_one_exponential_server_has_the_mean_of_m_m_1(load: float, count: int) -> None:
    found = sojourn_s(pool(1, FixedSteps(1.0), 1), load, count, exponential, ones)
    assert found == pytest.approx(1.0 / (1.0 - load), rel=0.05)


@pytest.mark.parametrize(("load", "count"), sizes(0.5))
def test_one_constant_server_has_the_mean_of_m_d_1(load: float, count: int) -> None:
    found = sojourn_s(pool(1, FixedSteps(1.0), 1), load, count, ones, ones)
    assert found == pytest.approx(1.0 + load / (2.0 * (1.0 - load)), rel=0.05)


@pytest.mark.parametrize(("load", "count"), sizes(0.5))
def test_slots_of_a_batch_have_the_mean_of_m_m_c(load: float, count: int) -> None:
    slots, step = 4, 0.002

    def tokens(rng: np.random.Generator, count: int) -> Floats:
        return np.maximum(1.0, np.rint(rng.exponential(1.0 / step, count))) + 1.0

    found = sojourn_s(pool(1, FixedSteps(0.0, step), slots), load * slots, count, none, tokens)
    offered = load * slots
    below = sum(offered**k / math.factorial(k) for k in range(slots))
    full = offered**slots / math.factorial(slots) / (1.0 - load)
    expected = 1.0 + full / (below + full) / (slots - offered)
    assert found == pytest.approx(expected, rel=0.05)


def test_sharing_a_processor_has_the_mean_of_m_g_1_ps_whatever_the_lengths() -> None:
    """A step twice as long for twice the batch is processor sharing: T = S / (1 - load)."""

    class Shared(FixedSteps):
        def decode(self, batch: int, context_tokens: float) -> tuple[float, float]:  # type: ignore[override]
            return 0.01 * batch, 0.0

    for tokens in (lambda rng, n: np.full(n, 101.0), lambda rng, n: 1.0 + rng.geometric(0.01, n)):
        found = sojourn_s(pool(1, Shared(0.0), 10_000), 0.6, SHORT // 3, none, tokens)
        assert found == pytest.approx(1.0 / (1.0 - 0.6), rel=0.06)


def test_two_hundred_thousand_requests_take_less_than_a_minute_of_cpu() -> None:
    """Ten replicas, batches of about 50, 200 tokens each; measured on a tenth of that."""
    deployment = pool(10, FixedSteps(0.00001, 0.02), 256)
    rng = np.random.default_rng(3)
    count = 20_000
    times = np.cumsum(rng.exponential(1.0 / 125.0, count))
    index = np.zeros(count, dtype=np.int64)
    arrivals = Arrivals(("a",), times, index, np.full(count, 900.0), np.full(count, 200.0))
    start = time.process_time()
    run = simulate(Scenario(deployment, arrivals))
    spent = time.process_time() - start
    assert all(job.answered_s > 0 for job in run.jobs)
    assert spent < 6.0
