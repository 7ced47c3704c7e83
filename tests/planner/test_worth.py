"""What changes are worth: nothing but what they do, whatever the searches around them found."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import pytest

from motley_planner.catalog import load_catalog
from motley_planner.domain.demand import ServingDemand, Slo, StageDemand, WorkloadClass
from motley_planner.domain.hardware import Catalog, Node, NodeClass
from motley_planner.domain.plan import Plan
from motley_planner.domain.snapshot import Snapshot
from motley_planner.domain.solution import Level
from motley_planner.planning import plan, worth
from motley_planner.planning.worth import after_change, small_changes, worths

CATALOG = load_catalog()
MODEL = CATALOG.models["Qwen/Qwen3-8B"]


def pool(rate: float, **changes: object) -> ServingDemand:
    made = ServingDemand(
        key="ServingPool/a/chat",
        tenant="a",
        stages=(StageDemand("main", MODEL, "bf16", "vllm"),),
        classes=(WorkloadClass("chat", 900, 200),),
        requests_per_second=rate,
    )
    return replace(made, **changes)  # type: ignore[arg-type]


def snapshot(rate: float, nodes: int = 2, **changes: object) -> Snapshot:
    kind = NodeClass("L4", "az-1", "on-demand", "", 0.7)
    there = tuple(Node(f"l4-{i}", kind, 4, 192_000, 2**41, 110, 4) for i in range(nodes))
    return Snapshot(there, services=(pool(rate, **changes),), time_limit_s=3.0)


class Searches:
    """Plans as searches that were cut short find them: each a price, and a bound if it has one."""

    def __init__(self, made: Plan, *prices: float, bound: float | None = None) -> None:
        self.made, self.prices, self.bound = made, list(prices), bound
        self.starts: list[Sequence[Plan]] = []

    def __call__(self, snapshot: Snapshot, catalog: Catalog, starts: Sequence[Plan] = ()) -> Plan:
        self.starts.append(starts)
        price = self.prices.pop(0)
        level = Level("price", price, self.bound, None)
        return replace(self.made, levels=(level,), price_usd_per_hour=price)


@pytest.fixture(scope="module")
def made() -> Plan:
    return plan(snapshot(2.0), CATALOG, use_worker=False)


def at_20_usd(made: Plan) -> Plan:
    """The plan as if it cost 20 $/h."""
    return replace(made, levels=(Level("price", 20.0, None, None),), price_usd_per_hour=20.0)


def one_change(monkeypatch: pytest.MonkeyPatch, searches: Searches) -> None:
    monkeypatch.setattr(worth, "make_plan", searches)
    monkeypatch.setattr(worth, "small_changes", lambda snapshot: iter(["+1 L4"]))


def test_what_a_search_finds_without_the_change_too_is_no_worth_of_it(
    made: Plan, monkeypatch: pytest.MonkeyPatch
) -> None:
    searches = Searches(made, 20.0, 15.0, 15.0)  # as it is; with a node; offered to it as it is
    one_change(monkeypatch, searches)
    alone, node = worths(snapshot(2.0), CATALOG, at_20_usd(made))
    assert alone.change == worth.LONGER
    assert not node.is_something
    assert [len(starts) for starts in searches.starts] == [1, 1, 2]


def test_what_only_the_change_allows_is_seen_and_proved_where_it_beats_the_bound(
    made: Plan, monkeypatch: pytest.MonkeyPatch
) -> None:
    given = at_20_usd(made)
    one_change(monkeypatch, Searches(made, 20.0, 15.0, 20.0, bound=10.0))
    (seen,) = worths(snapshot(2.0), CATALOG, given)
    assert (seen.price_usd_per_hour, seen.proved) == (-5.0, False)
    one_change(monkeypatch, Searches(made, 20.0, 15.0, bound=18.0))
    (proved,) = worths(snapshot(2.0), CATALOG, given)
    assert (proved.price_usd_per_hour, proved.proved) == (-5.0, True)


def test_the_fleet_as_it_is_is_never_worse_than_the_plan_that_is_explained(made: Plan) -> None:
    hurried = replace(snapshot(2.0), time_limit_s=0.02)
    again = plan(hurried, CATALOG, use_worker=False, starts=(made,))
    assert again.price_usd_per_hour <= made.price_usd_per_hour + 1e-9
    (part,) = again.slices
    assert part.served_requests_per_second == pytest.approx(2.0)


def test_no_change_is_worth_anything_where_all_is_served_and_nothing_can_be_saved(
    made: Plan,
) -> None:
    assert not any(one.is_something for one in worths(snapshot(2.0), CATALOG, made))


def test_a_changed_plan_is_compared_with_planning_again_without_the_change(made: Plan) -> None:
    _, after, unchanged = after_change(snapshot(2.0), made, ("+1 L4",), CATALOG)
    assert after.price_usd_per_hour == pytest.approx(unchanged.price_usd_per_hour)
    assert not unchanged.moves


def test_latency_targets_are_asked_about_in_steps_of_50_ms() -> None:
    slo = Slo(ttft_s={"p95": 1.0}, tpot_s={"p95": 0.1}, e2e_s={"p95": 12.0})
    asked = [text for text in small_changes(snapshot(2.0, slo=slo)) if text.endswith("ms")]
    assert [text.split()[1:] for text in asked] == [[f, "+50ms"] for f in ("ttft", "tpot", "e2e")]
