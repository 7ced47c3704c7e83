"""Lower thresholds under load: the certified quality never falls below the floor."""

from __future__ import annotations

import asyncio
import math
from collections.abc import Sequence
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from motley_planner.dispatch import Policy, PolicyMixer, ReliefRule, parse_routing, routing_document
from motley_runtime.gateway.relief import Account, mixture_quality


def policy(identity: str, share: float, threshold: float, quality: float) -> Policy:
    return Policy(identity, share, {"small": threshold}, (), quality)


qualities = st.integers(0, 100).map(lambda each: each / 100)
PLANS = st.tuples(
    st.lists(st.tuples(qualities, st.integers(1, 9)), min_size=1, max_size=4),
    st.lists(qualities, max_size=6),
    st.floats(0.0, 1.0),
)


@settings(max_examples=200, deadline=None)
@given(
    PLANS,
    st.lists(st.tuples(st.booleans(), st.floats(0.0, 30.0)), min_size=1, max_size=150),
    st.floats(1.0, 600.0),
)
def test_relief_takes_from_no_prefix_what_the_floor_needs(
    plan: tuple[list[tuple[float, int]], list[float], float],
    requests: Sequence[tuple[bool, float]],
    window_s: float,
) -> None:
    own, cheaper, part = plan
    total = sum(weight for _, weight in own)
    policies = [
        policy(f"p{i}", weight / total, 0.9, quality) for i, (quality, weight) in enumerate(own)
    ]
    mean = mixture_quality(policies)
    floor = part * mean
    relief = tuple(policy(f"r{i}", 0.0, 0.1, quality) for i, quality in enumerate(cheaper))
    rule, now_s = ReliefRule(floor, relief, 20.0, window_s), [0.0]
    account, mixer = Account(lambda: now_s[0]), PolicyMixer(policies)
    followed = off = 0.0
    for count, (is_busy, pause_s) in enumerate(requests, start=1):
        now_s[0] += pause_s
        drawn = mixer.draw()
        assert drawn is not None and drawn.quality is not None
        followed += account.chosen(drawn, rule, mean, is_busy).quality or 0.0
        off += drawn.quality - mean
        assert account.slack >= 0.0
        assert followed >= floor * count + off - 1e-9
        # And the mixture itself is never off by more than one request of each policy.
        assert off >= -sum(abs((each.quality or 0.0) - mean) for each in policies) - 1e-9


@settings(max_examples=100, deadline=None)
@given(qualities, st.lists(qualities, max_size=6), st.lists(st.booleans(), max_size=150))
def test_with_one_policy_no_prefix_is_ever_below_the_floor(
    own: float, cheaper: list[float], busy: list[bool]
) -> None:
    floor = 0.8 * own
    relief = tuple(policy(f"r{i}", 0.0, 0.1, quality) for i, quality in enumerate(cheaper))
    rule, account = ReliefRule(floor, relief), Account(lambda: 0.0)
    drawn, total = policy("p", 1.0, 0.9, own), 0.0
    for is_busy in busy:
        total += (account.chosen(drawn, rule, own, is_busy).quality or 0.0) - floor
        assert total >= -1e-9


def test_a_plan_below_its_floor_gives_nothing_to_spend() -> None:
    rule, account = ReliefRule(0.9, (policy("r", 0, 0.1, 0.7),)), Account(lambda: 0.0)
    drawn = policy("p", 1.0, 0.9, 0.8)
    assert {account.chosen(drawn, rule, 0.8, True).id for _ in range(100)} == {"p"}


def test_what_was_saved_is_spent_under_load_and_the_mean_comes_down_to_the_floor() -> None:
    rule = ReliefRule(0.80, (policy("r1", 0, 0.5, 0.81), policy("r2", 0, 0.2, 0.70)), 20.0, 1e9)
    account, drawn = Account(lambda: 0.0), policy("p", 1.0, 0.9, 0.85)
    calm = [account.chosen(drawn, rule, drawn.quality, False).id for _ in range(1000)]
    assert set(calm) == {"p"} and account.slack == pytest.approx(50.0)
    under = [account.chosen(drawn, rule, drawn.quality, True).id for _ in range(2000)]
    assert under[0] == "r2" and set(under) == {"r1", "r2"}
    mean = (1000 * 0.85 + sum({"r1": 0.81, "r2": 0.70}[each] for each in under)) / 3000
    assert 0.80 <= mean < 0.82
    assert account.slack == pytest.approx(3000 * (mean - 0.80))


def test_slack_fades_with_the_window_and_is_not_there_after_a_quiet_night() -> None:
    now_s = [0.0]
    rule = ReliefRule(0.8, (policy("r", 0, 0.2, 0.7),), 20.0, 600.0)
    account, drawn = Account(lambda: now_s[0]), policy("p", 1.0, 0.9, 0.9)
    for _ in range(100):
        account.chosen(drawn, rule, drawn.quality, False)
    now_s[0] = 600.0
    account.chosen(drawn, rule, drawn.quality, False)
    assert account.slack == pytest.approx(10.0 / math.e + 0.1)
    now_s[0] = 1e5
    assert account.chosen(drawn, rule, drawn.quality, True).id == "p"


def test_only_policies_that_accept_all_that_the_drawn_one_does_take_its_place() -> None:
    def two(identity: str, first: float, second: float, quality: float) -> Policy:
        return Policy(identity, 0.0, {"a": first, "b": second}, (), quality)

    rule = ReliefRule(0.5, (two("cross", 0.1, 0.9, 0.6), two("lower", 0.4, 0.5, 0.7)), 20.0)
    assert Account().chosen(two("p", 0.5, 0.5, 0.8), rule, 0.8, True).id == "lower"


@pytest.fixture
def cascade(start_engine: Any, start_gateway: Any, routing_of: Any, replica_of: Any) -> Any:
    async def start(relief: dict[str, Any] | None, **engine: Any) -> Any:
        small = await start_engine("small", token_probability=0.6)
        large = await start_engine("large", delay_s=1.5)
        policies = [{"id": "p", "share": 1.0, "thresholds": {"small": 0.9}, "quality": 0.9}]
        fields = {} if relief is None else {"relief": relief}
        document = routing_of(
            ("small", [replica_of(small, capacity={"all": 1000.0})]),
            ("large", [replica_of(large, rates={"all": 0.5}, capacity={"all": 0.5})]),
            policies=policies,
            **fields,
        )
        return await start_gateway(document), small, large

    return start


RELIEF = {
    "floor": 0.8,
    "busy_s": 3.0,
    "window_s": 600.0,
    "policies": [{"id": "easy", "thresholds": {"small": 0.5}, "quality": 0.82}],
}


async def stages_of(gateway: Any, times: int) -> list[str]:
    found = []
    for _ in range(times):
        found.append(asyncio.create_task(gateway.chat()))
        await asyncio.sleep(0.02)
    return [response.headers["x-motley-stage"] for response in await asyncio.gather(*found)]


async def test_while_the_last_stage_is_busy_answers_above_the_lower_threshold_are_returned(
    cascade: Any,
) -> None:
    gateway, _, large = await cascade(RELIEF)
    # Two seconds of planned work a call: busy from the second one on, until the first is done.
    assert await stages_of(gateway, 8) == ["large"] * 2 + ["small"] * 6
    assert len(large.seen) == 2
    assert await gateway.metric('motley_gateway_relaxed_requests_total{policy="p"}') == 6
    # 2 at 0.9 and 6 at 0.82 against a floor of 0.8, hardly faded.
    slack = await gateway.metric("motley_gateway_quality_slack")
    assert slack == pytest.approx(2 * 0.1 + 6 * 0.02, abs=0.01)
    assert await stages_of(gateway, 1) == ["large"]


async def test_without_relief_in_the_plan_load_changes_no_threshold(cascade: Any) -> None:
    gateway, *_ = await cascade(None)
    assert await stages_of(gateway, 4) == ["large"] * 4


async def test_a_busy_first_stage_is_not_given_more(cascade: Any) -> None:
    gateway, _, _ = await cascade({**RELIEF, "busy_s": 0.0})
    document = gateway.gateway.live.current
    for _ in range(3):  # work that stays on the first stage
        assert document.choose("small", "all", 0.0) is not None
    assert await stages_of(gateway, 3) == ["large"] * 3


def test_relief_survives_the_routing_document(routing_of: Any, replica_of: Any) -> None:
    class Engine:
        name, url = "e", "http://e"

    stages = ("small", [replica_of(Engine)]), ("large", [replica_of(Engine)])
    policies = [{"id": "p", "share": 1.0, "thresholds": {"small": 0.9}, "quality": 0.9}]
    table = parse_routing(routing_of(*stages, policies=policies, relief=RELIEF))
    assert parse_routing(routing_document(table)) == table
    assert table.relief is not None and table.relief.policies[0].quality == 0.82
