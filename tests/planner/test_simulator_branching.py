"""Simulated branches: against order statistics alone, and against the plan's factor in a batch."""

from __future__ import annotations

import numpy as np
import pytest

from motley_planner.costs.order_statistics import branch_steps, branch_tokens, log_deviation
from motley_planner.dispatch import BranchRule, Pruning
from motley_planner.simulator.branching import Branched, simulate_branches
from motley_planner.simulator.requests import Job
from motley_planner.simulator.server import Server
from motley_planner.simulator.steps import FixedSteps, Line

MEAN, SPREAD = 100.0, 0.5


class Engine(FixedSteps):
    """A step that gets longer with the batch."""

    def decode(self, batch: int, context_tokens: float) -> Line:
        return Line(0.02 + 0.0005 * batch, 0.0)


BUSY = Engine(prefill_s_per_token=1e-5, chunk_tokens=8192.0)
CALM = FixedSteps(prefill_s_per_token=1e-6, decode_step_s=0.02)


def drawn(requests: int, samples: int, gap_s: float, **more: object) -> list[Branched]:
    scale, rng = log_deviation(SPREAD), np.random.default_rng(3)
    rows = MEAN * np.exp(scale * rng.standard_normal((requests, samples)) - scale * scale / 2)
    lengths = np.maximum(1, np.rint(rows)).tolist()
    return [Branched(i * gap_s, 200.0, tuple(row), **more) for i, row in enumerate(lengths)]  # type: ignore[arg-type]


@pytest.mark.parametrize(("samples", "stop"), [(4, 4), (8, 4), (8, 2), (16, 4), (1, 1)])
def test_alone_on_a_replica_branches_take_what_order_statistics_say(
    samples: int, stop: int
) -> None:
    run = simulate_branches(drawn(400, samples, 1e3), BranchRule(samples, stop), CALM, 64)
    assert len(run.latency_s) == 400
    steps = float(np.mean(run.latency_s)) / 0.02 / MEAN
    assert steps == pytest.approx(branch_steps(samples, stop, SPREAD), rel=0.05)
    tokens = float(np.mean(run.tokens)) / MEAN
    assert tokens == pytest.approx(branch_tokens(samples, stop, SPREAD), rel=0.05)


@pytest.mark.parametrize(("samples", "stop"), [(4, 4), (8, 4), (8, 2)])
def test_a_full_replica_serves_at_least_what_the_plan_counts_on(samples: int, stop: int) -> None:
    alone = simulate_branches(drawn(400, 1, 0.0), BranchRule(1, 1), BUSY, 48)
    branched = simulate_branches(drawn(400, samples, 0.0), BranchRule(samples, stop), BUSY, 48)
    factor = branched.end_s / alone.end_s
    planned = branch_tokens(samples, stop, SPREAD)
    assert 0.8 * planned <= factor <= 1.03 * planned


def test_scores_decide_who_is_given_up_and_when() -> None:
    lengths = (100.0, 40.0, 60.0, 30.0)
    asked = [Branched(0.0, 10.0, lengths, (0.2, 0.6, 0.9, 0.3))]
    rule = BranchRule(4, 2, Pruning(0.5, 1, 10))
    run = simulate_branches(asked, rule, CALM, 8)
    # At 10 tokens the first goes (0.2), the cap of one is reached; 30 tokens: 0.3 ends, the bar stays
    # 0.5; 40 tokens: 0.6 ends and that is enough. The others are a token behind the first.
    assert run.pruned == 1
    assert run.latency_s == pytest.approx([41 * 0.02 + 10e-6 - 0.02], abs=0.021)
    assert run.tokens == pytest.approx([10 + 40 + 40 + 30], abs=2)


def test_what_is_taken_out_of_a_server_leaves_nothing_behind() -> None:
    server = Server("r", CALM, 2)
    jobs = [Job(0.0, 0, "a", 10.0, 50.0) for _ in range(4)]
    for job in jobs:
        server.accept(job, 0.0)
    server.cancel(jobs[3], 0.0)
    while server.batch < 2:
        server.advance()
    now = server.segment_start_s
    server.cancel(jobs[0], now)
    assert jobs[3] not in server.queue
    ended = []
    while server.due_s < float("inf"):
        server.advance()
        ended += server.ended
        server.ended = []
    assert ended == [jobs[1], jobs[2]]
    assert server.is_empty and server.batch == 0
    assert server.context == pytest.approx(0.0)
