"""What is asked of workflows on four unequal replicas: simulated in full, and live in short."""

from __future__ import annotations

import asyncio
import importlib.util
import os
import statistics
from collections.abc import Iterator

import pytest
from e2e.engines.models import path_of
from tests.bench import live_workflows
from tests.bench import llamacpp_workflows as real
from tests.bench.cpu_limit import NoLimitError
from tests.bench.workflows import BASELINE, alpha_of, ratio_of, run, sample_of

from motley_planner.dispatch import DispatchRule, WorkflowRule
from motley_planner.dispatch.routing import ADMISSIONS
from motley_planner.simulator.workflows import MILDER, Scheduling, WorkflowRun

SEEDS = 10


@pytest.fixture
def own_cores() -> Iterator[None]:
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {max(before)})
    yield
    os.sched_setaffinity(0, before)


@pytest.mark.parametrize("trace", ["trace1", "trace3"])
@pytest.mark.parametrize(("rate", "faster", "more"), [(0.5, 1.4, 1.1), (0.15, 1.25, 1.03)])
def test_all_of_the_interval_is_above_what_is_asked(
    trace: str, rate: float, faster: float, more: float
) -> None:
    """Ten seeds, alpha from replays of others, and the 95 % interval's lower end on both counts."""
    ours = Scheduling(DispatchRule("hexgen", alpha_of(trace, rate, MILDER)))
    samples = [sample_of(trace, rate, seed) for seed in range(SEEDS)]
    base, found = ([run(each, how, MILDER) for each in samples] for how in (BASELINE, ours))
    assert ratio_of([r.p95_s for r in found], [r.p95_s for r in base]).low >= faster
    pace = ([1 / r.answered_per_s for r in runs] for runs in (found, base))
    assert ratio_of(*pace).low >= more


def test_the_interval_is_students_on_logarithms() -> None:
    """Of 1, 2 and 4 times: mean 2, and log 2 x 4.3027 / sqrt(3) to either side."""
    found = ratio_of([1.0, 1.0, 1.0], [1.0, 2.0, 4.0])
    assert found.mean == pytest.approx(2.0)
    assert found.high / found.mean == pytest.approx(2 ** (4.302653 / 3**0.5), rel=1e-5)
    assert found.low * found.high == pytest.approx(4.0)


@pytest.mark.slow
@pytest.mark.usefixtures("own_cores")
def test_the_gateway_itself_serves_workflows_sooner_than_round_robin() -> None:
    """One seed of 20 workflows through a gateway process; measured 1.3 to 2 times, and more a second."""
    sample = live_workflows.sample_for(0.5, 0, 20)
    turns = live_workflows.Policy(DispatchRule("roundRobin"), by_step=False)
    ours = live_workflows.Policy(DispatchRule("hexgen", 0.3))
    base, found = (asyncio.run(live_workflows.run(sample, each)) for each in (turns, ours))
    assert not any(map(bool, (base.refused, found.refused)))
    assert found.p95_s < base.p95_s
    assert found.answered_per_s > base.answered_per_s


@pytest.mark.slow
@pytest.mark.usefixtures("own_cores")
def test_workflows_run_on_real_engines_that_are_as_unequal_as_they_are_meant_to_be() -> None:
    """Two queries through the gateway to four llama.cpp servers with limits on their CPU."""
    if importlib.util.find_spec("xllamacpp") is None or not path_of(real.MODEL).exists():
        pytest.skip("xllamacpp or its model is not here (e2e/README.md)")

    async def measured() -> tuple[list[real.Profile], WorkflowRun]:
        async with real.llamacpp_engines() as urls:
            profiles = await real.profiles_of(urls)
            sample = real.sample_for(profiles, 3.0, 0, 2)
            policy = live_workflows.Policy(DispatchRule("hexgen"))
            return profiles, await live_workflows.run(sample, policy, real.rig_of(profiles, urls))

    try:
        profiles, found = asyncio.run(measured())
    except NoLimitError as error:
        pytest.skip(str(error))
    assert len(found.latency_s) == 2 and found.refused == 0.0
    assert all(0.0 < taken < 300.0 for taken in found.latency_s)
    fast, slow = (
        statistics.fmean(p.decode_s for p in part) for part in (profiles[:2], profiles[2:])
    )
    assert 1.3 < slow / fast < 2.6, "1.8 times by the limits"


@pytest.mark.slow
@pytest.mark.usefixtures("own_cores")
def test_admission_in_overload_lets_fewer_in_and_more_of_them_be_in_time() -> None:
    """One draw on the mock engines; in the simulator 3 to 10 times as many are in time."""
    sample = live_workflows.overload_of(0.4, 7, 60)
    rules = [WorkflowRule(name) for name in ADMISSIONS]
    policies = [live_workflows.Policy(DispatchRule("hexgen"), admission=rule) for rule in rules]
    free, kept = (live_workflows.overloaded(sample, each) for each in policies)
    assert free.refused == 0.0 < kept.refused < 0.9
    assert kept.in_time > free.in_time
    assert kept.p95_s < free.p95_s


@pytest.mark.usefixtures("own_cores")
def test_three_workflows_run_through_a_gateway_to_their_end() -> None:
    sample = live_workflows.sample_for(0.5, 0, 3)
    found = asyncio.run(live_workflows.run(sample, live_workflows.Policy(DispatchRule("hexgen"))))
    assert found.refused == 0.0
    # No query is faster than all its calls' prompts and tokens on the fastest replica.
    prefill, decode = MILDER.seconds_per_token("A100")
    for query, taken in zip(sample.queries, found.latency_s, strict=True):
        stages = (max(c.output_tokens - 1 for c in s) * decode for s in query)
        prompts = (max(c.prompt_tokens for c in s) * prefill for s in query)
        assert taken >= 0.98 * (sum(stages) + sum(prompts))
