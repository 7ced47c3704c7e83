"""What-if changes: what the words mean, and what a change is worth by planning again."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from motley_planner.catalog import load_catalog
from motley_planner.domain.demand import (
    Budget,
    RoutingPolicy,
    RunningUnit,
    ServingDemand,
    Slo,
    StageDemand,
    WorkloadClass,
)
from motley_planner.domain.hardware import Node, NodeClass
from motley_planner.domain.snapshot import Snapshot
from motley_planner.errors import SnapshotError
from motley_planner.planning import plan
from motley_planner.planning.changes import Amount, changed
from motley_planner.planning.worth import after_change, small_changes, worths

CATALOG = load_catalog()
POOL, CASCADE = "ServingPool/a/chat", "ModelCascade/a/support"


def node(name: str, gpu: str = "L40S", gpus: int = 4, zone: str = "az-1") -> Node:
    kind = NodeClass(gpu, zone, "on-demand", "", 1.0)
    return Node(name, kind, gpus, 64_000, 2**38, 100, gpus)


def stage(name: str = "main") -> StageDemand:
    model = CATALOG.model("Qwen/Qwen3-8B")
    assert model is not None
    return StageDemand(name, model, "bf16", "vllm")


def pool(rate: float = 5.0, usd_per_hour: float | None = None) -> ServingDemand:
    classes = (WorkloadClass("all", 500, 100),)
    slo = Slo(ttft_s={"p95": 1.0}, tpot_s={"p95": 0.05})
    return ServingDemand(POOL, "a", (stage(),), classes, rate, slo, budget=Budget(usd_per_hour))


def cascade() -> ServingDemand:
    policy = RoutingPolicy("p", {"small": 0.5}, 0.8, 0.8, {"small": 1.0, "large": 0.5})
    classes = (WorkloadClass("all", 500, 100),)
    stages = (stage("small"), stage("large"))
    return ServingDemand(CASCADE, "a", stages, classes, 1.0, policies=(policy,), quality_floor=0.75)


def snapshot(*services: ServingDemand) -> Snapshot:
    nodes = (node("l-1"), node("l-2"), node("h-1", "H100-SXM5-80GB", 8, "az-2"))
    return Snapshot(nodes, services=services or (pool(),), time_limit_s=4.0)


def names(found: Snapshot) -> list[str]:
    return [one.name for one in found.nodes]


@pytest.mark.parametrize("text", ["+2 H100", "+2 h100-node", "+2 h100-nodes@az-2", "+2 H100-SXM5"])
def test_nodes_that_join_are_empty_copies_of_the_ones_there(text: str) -> None:
    found = changed(snapshot(), text)
    joined = found.nodes[3:]
    assert [n.name for n in joined] == ["new-1", "new-2"]
    assert {(n.node_class, n.gpus) for n in joined} == {(found.nodes[2].node_class, 8)}


def test_the_fullest_node_of_a_gpu_is_the_one_that_is_lost() -> None:
    unit = RunningUnit("u", POOL, "main", "serve", "L40S", 1, 8, "m", "bf16", ("l-2",))
    found = changed(replace(snapshot(), running=(unit,)), "-1 L40S")
    assert names(found) == ["l-1", "h-1"]
    assert found.running == ()
    assert found.steady


def test_a_node_can_be_lost_by_name() -> None:
    assert names(changed(snapshot(), "lose l-1")) == ["l-2", "h-1"]


@pytest.mark.parametrize(
    ("text", "read", "value"),
    [
        ("chat rate +20%", lambda d: d.requests_per_second, 6.0),
        ("a/chat rate =7", lambda d: d.requests_per_second, 7.0),
        (f"{POOL} rate -5", lambda d: d.requests_per_second, 0.0),
        ("chat ttft +50ms", lambda d: d.slo.ttft_s["p95"], 1.05),
        ("chat tpot =80 ms", lambda d: d.slo.tpot_s["p95"], 0.08),
        ("chat budget =$12.5", lambda d: d.budget.usd_per_hour, 12.5),
        ("chat gpus =3", lambda d: d.budget.gpus, 3),
        ("chat headroom +10%", lambda d: d.headroom, 0.25),
    ],
)
def test_a_field_of_a_resource_changes_as_written(text: str, read: object, value: float) -> None:
    assert callable(read)
    found = changed(snapshot(), text)
    assert read(found.services[0]) == pytest.approx(value)
    assert found.edited == {POOL}


def test_a_point_of_the_floor_is_a_hundredth() -> None:
    found = changed(snapshot(cascade()), "support floor -1pt")
    assert found.services[0].quality_floor == pytest.approx(0.74)


def test_the_fleets_budget_changes() -> None:
    found = changed(replace(snapshot(), budget_usd_per_hour=10.0), "budget +10%")
    assert found.budget_usd_per_hour == pytest.approx(11.0)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("more", "is not understood"),
        ("+1 V100", "no such GPU; the fleet has H100-SXM5-80GB, L40S"),
        ("+1 L40S@az-9", "no L40S node in zone 'az-9'"),
        ("-3 L40S", "only 2 such nodes"),
        ("lose l-9", "no node 'l-9'"),
        ("budget +5", "write 'budget =60'"),
        ("chat budget +5", "write '=VALUE'"),
        ("other rate +1", f"there are: {POOL}"),
        ("chat rate more", "is no amount"),
        ("chat floor -1pt", "is no cascade"),
        ("chat e2e +1s", "no e2e target"),
    ],
)
def test_a_change_that_cannot_be_says_why_and_what_there_is(text: str, words: str) -> None:
    with pytest.raises(SnapshotError, match="change ") as caught:
        changed(snapshot(), text)
    assert words in str(caught.value)


@given(st.floats(0, 1e6), st.floats(0, 1e6), st.sampled_from("+-="), st.booleans())
def test_an_amount_never_leaves_a_negative_value(
    old: float, value: float, sign: str, relative: bool
) -> None:
    assert Amount(sign, value, relative).of(old) >= 0.0


def test_losing_the_busiest_node_is_planned_around_what_still_runs() -> None:
    asked = snapshot()
    first = plan(asked, CATALOG, use_worker=False)
    (busy,) = {n for r in first.slices[0].replicas for n in r.nodes}
    left, after, _ = after_change(asked, first, (f"lose {busy}",), CATALOG)
    assert busy not in names(left)
    assert all(busy not in r.nodes for r in after.slices[0].replicas)
    assert after.slices[0].served_requests_per_second == pytest.approx(5.0)


def test_a_dollar_is_worth_what_it_buys_and_more_latency_nothing() -> None:
    """A replica costs 1 USD/h here and the budget pays for two of those that are asked for."""
    one = plan(Snapshot((node("l-1", gpus=1),), services=(pool(rate=1e3),)), CATALOG)
    capacity = one.slices[0].served_requests_per_second
    asked = snapshot(pool(rate=1e3, usd_per_hour=2.0))
    asked = replace(asked, nodes=asked.nodes[:2])
    found = {worth.change: worth for worth in worths(asked, CATALOG)}
    assert set(found) == set(small_changes(asked))
    dollar = found[f"{POOL} budget +1"]
    assert dollar.gained[POOL] == pytest.approx(capacity, rel=1e-3)
    assert dollar.price_usd_per_hour == pytest.approx(1.0)
    assert dollar.proved
    assert not found["+1 L40S"].is_something
