"""The branch executor on virtual time: latency and tokens as order statistics say, and no leaks."""

from __future__ import annotations

import asyncio
import math
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.bench import branches as bench
from tests.bench.branch_engine import STEP_S, Drawn, Rig, StepEngine, lengths, run_virtual
from tests.bench.branches import simulated

from motley_planner.costs.order_statistics import branch_steps
from motley_planner.dispatch import BranchRule, Confidence, Pruning
from motley_planner.dispatch.branching import BranchBook
from motley_runtime.gateway.errors import UpstreamError


def test_latency_and_tokens_are_what_order_statistics_predict_within_five_per_cent() -> None:
    for row in bench.rows(((4, 4), (8, 4), (8, 2)), requests=300):
        steps, tokens = row.predicted
        assert row.seconds == pytest.approx(steps, rel=0.05)
        assert row.tokens == pytest.approx(tokens, rel=0.05)
        absolute = row.run.seconds / STEP_S / bench.MEAN
        shape = row.rule.samples, row.rule.stop_after
        assert absolute == pytest.approx(branch_steps(*shape, bench.SPREAD), rel=0.05)
        unneeded = (shape[0] - shape[1]) * 300
        assert unneeded * 0.9 <= row.run.aborted <= unneeded, "some end in the same step"


def test_pruning_pays_in_tokens_for_stopping_early_as_the_simulator_says() -> None:
    (row,) = bench.pruned_rows(((8, 4),), requests=120)
    drawn = lengths(120, 8, bench.SPREAD, bench.MEAN, seed=1)
    plain = simulated(BranchRule(8, 4, choose="Vote"), drawn, None)
    four = simulated(BranchRule(4, 4, choose="Vote"), drawn, None)
    seconds, tokens, pruned = row.simulated
    assert row.seconds == pytest.approx(seconds, rel=0.03)
    assert row.tokens == pytest.approx(tokens, rel=0.03)
    assert row.run.pruned == pytest.approx(pruned, rel=0.05) and pruned > 2.0
    assert row.tokens < 0.9 * plain[1] / four[1], "fewer than stopping early alone"
    assert row.seconds < 1.0, "and still sooner than waiting for all of four"


def walked(rule: BranchRule, tokens: list[int], p: list[float]) -> tuple[set[int], set[int], int]:
    """The same request step by step: who ended, who was given up, in how many steps.

    The first branch is a step ahead. Scores are steady, so a branch is judged as often as it likes.
    """
    live, ended, pruned, bar = set(range(len(tokens))), [], set(), 0.0
    prune = rule.prune
    assert prune is not None
    for step in range(1, 10_000):
        made = {b: step - (b > 0) for b in live}
        for b in sorted(live):
            is_asked = made[b] >= prune.every_tokens
            may = len(pruned) < prune.most and len(live) > 1
            if is_asked and (p[b] < bar if ended else may and p[b] < prune.below):
                live.discard(b)
                pruned.add(b)
        for b in sorted(live):
            if made[b] >= tokens[b]:
                live.discard(b)
                ended.append(b)
                if len(ended) == 1:
                    bar = max(prune.below, p[b])
                    asked = {o for o in live if made[o] >= prune.every_tokens and p[o] < bar}
                    live -= asked
                    pruned |= asked
            if len(ended) >= rule.stop_after:
                break
        if len(ended) >= rule.stop_after or not live:
            return set(ended), pruned, step
    raise AssertionError("endless")


def test_equal_confidences_are_equal_whatever_their_number_of_tokens() -> None:
    book = BranchBook(BranchRule(3, 1, Pruning(0.5, 1, 5)), live={0, 1})
    nine, ten = (math.exp(math.fsum([math.log(0.6)] * n) / n) for n in (9, 10))
    low, high = sorted((nine, ten, math.nextafter(nine, 0.0)))[0::2]
    assert low < high and not book.scored(1, low)
    assert book.end(0, high) == ()


@settings(max_examples=40, deadline=None)
@given(st.data())
def test_one_request_goes_as_a_walk_step_by_step_says(data: Any) -> None:
    samples = data.draw(st.integers(2, 6))
    # Lengths apart by more than the first branch's lead, so that no two branches end together.
    order = data.draw(st.permutations(range(samples)))
    tokens = [10 + 5 * o for o in order]
    p = [data.draw(st.sampled_from([0.2, 0.4, 0.6, 0.8])) for _ in range(samples)]
    low = sum(each < 0.5 for each in p)
    prune = Pruning(0.5, min(low, samples - 1), data.draw(st.integers(2, 20)))
    if low == samples:
        p[data.draw(st.integers(0, samples - 1))] = 0.8
    rule = BranchRule(samples, data.draw(st.integers(1, samples)), prune, Confidence("Mean"))
    ended, pruned, steps = walked(rule, tokens, p)
    started = iter(range(samples))

    def draw(_: str) -> Drawn:
        branch = next(started)
        return Drawn(tokens[branch], str(branch), [math.log(p[branch])] * tokens[branch])

    async def work() -> None:
        rig = Rig(StepEngine(draw), rule)
        job = rig.job("one")
        answer, seconds = await rig.ask(job)
        assert job.branched == (samples, len(ended), len(pruned))
        assert seconds == pytest.approx(steps * STEP_S)
        text = answer["choices"][0]["message"]["content"]
        best = max(p[b] for b in ended)
        assert any(f"{{{b}}}" in text for b in ended if p[b] == best)
        assert rig.engine.live == 0 and rig.dispatcher.in_flight() == 0
        assert rig.engine.aborted == samples - rig.engine.whole

    run_virtual(work)


def test_many_requests_and_clients_that_leave_hold_nothing_afterwards() -> None:
    drawn = lengths(120, 6, 0.8, 30.0, seed=9)
    order: dict[str, int] = {}

    def draw(name: str) -> Drawn:
        branch = order[name] = order.get(name, -1) + 1
        if (int(name) + branch) % 11 == 0:
            raise UpstreamError("disconnected", "this one never begins")
        return Drawn(int(drawn[int(name), branch % 6]))

    async def work() -> None:
        rig = Rig(StepEngine(draw), BranchRule(6, 3, choose="Vote"), replicas=3, kv_tokens=4000)
        tasks = []
        for number in range(120):
            tasks.append(asyncio.create_task(rig.ask(rig.job(str(number), max_tokens=50))))
            await asyncio.sleep(0.05)
            if number % 4 == 0:
                tasks[-1].cancel()
        found = await asyncio.gather(*tasks, return_exceptions=True)
        gone = sum(isinstance(each, asyncio.CancelledError) for each in found)
        wrong = [e for e in found if isinstance(e, Exception)]
        assert 20 < gone <= 30 and not wrong
        assert (rig.engine.live, rig.dispatcher.in_flight()) == (0, 0)
        assert all(queue.used == 0.0 for queue in rig.credits.queues.values())
        assert len(asyncio.all_tasks()) == 1

    run_virtual(work)


def test_a_deadline_before_any_answer_waits_for_the_first() -> None:
    async def work() -> None:
        lasts = iter([60, 90, 120])
        rig = Rig(StepEngine(lambda _: Drawn(next(lasts))), BranchRule(3, 3, choose="Vote"))
        loop = asyncio.get_running_loop()
        _, seconds = await rig.ask(rig.job("one", deadline_s=loop.time() + 0.5))
        assert seconds == pytest.approx(60 * STEP_S)

    run_virtual(work)


@pytest.mark.skipif(not bench.DATA.exists(), reason="the recorded answers are not here")
def test_votes_of_branches_are_right_more_often_than_one_answer() -> None:
    for is_best in (False, True):
        asked = bench.questions("llama2-13b", is_best)
        one = bench.expected_single(asked)
        eight = bench.accuracy(BranchRule(8, 4, choose="Vote"), asked, seeds=1)
        assert eight > one + 0.02
