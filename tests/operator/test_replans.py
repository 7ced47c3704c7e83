"""What a change of plan is called, how often pods may move for gain, and that a steady load moves none."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from motley_operator.decision import Decision, decide
from motley_operator.domain.actions import CreatePod, DeletePod
from motley_operator.domain.facts import Room
from motley_operator.domain.replans import Replan, Shown, Tier, is_replan, replan_of, replans
from motley_operator.metrics import Metrics
from motley_operator.settings import Settings
from motley_operator.testing import gpu_node, plan_of, pool, replica, slice_of
from motley_operator.testing.operated import CATALOG, SETTINGS, Operated, load
from motley_planner.domain.plan import Move, Slice

CHEAP = "NVIDIA-L40S"
COOLDOWN_S = 600.0  # the Fleet's default


class Counted(Operated):
    """Counts what is done to pods; `loss_s` is how long a node may be silent."""

    def __init__(self, *nodes: Any, loss_s: float = 0.0) -> None:
        super().__init__(0)
        self.world.add_node(*nodes)
        self.settings = replace(SETTINGS, node_loss_seconds=loss_s, time_limit_s=5.0)
        self.created = self.deleted = 0
        self.told: list[Replan] = []

    def cycle(self) -> Decision:
        made = decide(self.world.facts(), CATALOG, self.settings, self.planner)
        self.world.apply(made.statuses)
        self.world.apply(made.actions)
        self.created += sum(isinstance(action, CreatePod) for action in made.actions)
        self.deleted += sum(isinstance(action, DeletePod) for action in made.actions)
        self.told += made.replans
        return made

    def lasts(self, seconds: float, step_s: float = 10.0) -> None:
        """Time passes; a cycle each step."""
        end = self.world.now + seconds
        while self.world.now < end:
            self.cycle()
            self.world.settle()
            self.world.now += step_s

    def silence(self, name: str, seconds: float, step_s: float = 5.0) -> None:
        """A node is not ready for so long; its pods are not ready either, as the API then says."""
        node = self.world.nodes[name]
        since = self.world.now
        self.world.add_node(replace(node, ready=False, not_ready_since=since))
        for at, one in list(self.world.pods.items()):
            if one.node == name:
                self.world.pods[at] = replace(one, ready=False, unready_since=since)
        self.lasts(seconds, step_s=step_s)
        self.world.add_node(node)

    def last(self, key: str) -> dict[str, Any]:
        """status.lastReplan."""
        found: dict[str, Any] = self.status(key)["lastReplan"]
        return found


def test_a_tier_is_the_cheapest_that_a_change_needs() -> None:
    part = slice_of("k", [replica(), replica(ordinal=1, kept="k/main-0a1b2c3d-1")])
    start = Move("k", "main-0a1b2c3d-0", "start", ("h0",), "Grows")
    stop = Move("k", "main-0a1b2c3d-2", "stop", ("h0",), "Saves")
    foreign = replace(stop, key="another")

    def tier(*moves: Move, cause: str = "") -> tuple[Tier, str]:
        made = replan_of(part, replace(plan_of(part), moves=moves), cause)
        return made.tier, made.reason

    assert tier() == tier(foreign) == (Tier.ROUTING, "Rebalanced")
    assert tier(start, foreign) == (Tier.REPAIR, "Grows")
    assert tier(start, cause="NodeLeaving") == (Tier.REPAIR, "NodeLeaving")
    assert tier(cause="CannotStart") == (Tier.REPAIR, "CannotStart")
    assert tier(start, stop, cause="NodeLeaving") == (Tier.MOVE, "Grows")


def test_a_change_costs_what_its_own_moves_cost() -> None:
    part = slice_of("k", [replica(), replica(ordinal=1, kept="k/main-0a1b2c3d-1")])
    start = Move("k", "main-0a1b2c3d-0", "start", ("h0",), "Grows", 0.4)
    stop = Move("k", "main-0a1b2c3d-2", "stop", ("h0",), "Saves", 0.08)
    made = replan_of(part, replace(plan_of(part), moves=(start, stop, replace(stop, key="b"))), "")
    assert made.cost_usd == pytest.approx(0.48)
    assert made.cost == "at 0.48 $ of GPU time once (predicted)"
    assert replan_of(part, plan_of(part), "").cost == "at no cost"


def test_first_pods_are_added_and_a_move_for_money_stops_some() -> None:
    counted = Counted(gpu_node("dear", gpus=2))
    key = counted.world.add(pool())
    counted.lasts(60)
    assert (counted.last(key)["tier"], counted.last(key)["reason"]) == ("T1", "New")
    counted.world.add_node(gpu_node("cheap", product=CHEAP, gpus=2))
    counted.lasts(60)
    assert (counted.last(key)["tier"], counted.last(key)["reason"]) == ("T2", "Saves")
    assert [(one.tier, one.reason) for one in counted.told] == [("T1", "New"), ("T2", "Saves")]
    told = [e.message for e in counted.world.events if e.reason == "Replanned"]
    assert [message[:3] for message in told] == ["T1:", "T2:"]
    costs = [one.cost_usd for one in counted.told]
    assert min(costs) > 0.0
    assert float(counted.last(key)["costDollars"]) == pytest.approx(costs[1], abs=0.005)
    assert f"{costs[1]:.2f} $ of GPU time" in told[1]


def test_routing_alone_touches_no_pod() -> None:
    counted = Counted(gpu_node("h0", gpus=2))
    key = counted.world.add(pool(workload=load("2")))
    counted.lasts(60)
    before = counted.uids(key)
    counted.edit(key, workload=load("2.2"))
    counted.lasts(60)
    assert counted.uids(key) == before
    last = counted.last(key)
    assert (last["tier"], last["costDollars"]) == ("T0", "0")


def test_a_plan_without_a_replica_is_a_replan_only_of_what_had_one() -> None:
    empty, full = slice_of("k", [], digest="new"), slice_of("k", [replica()], digest="new")
    stop = Move("k", "main-0a1b2c3d-0", "stop", ("h0",), "Saves")

    def told(part: Slice, shown: Shown | None, *moves: Move) -> bool:
        plan = replace(plan_of(part), moves=moves)
        before = {} if shown is None else {"k": shown}
        assert len(replans(plan, before, {})) == is_replan(part, plan, shown)
        return is_replan(part, plan, shown)

    assert not told(empty, None) and not told(empty, Shown("old", 0))
    assert told(empty, Shown("old", 1))
    assert told(empty, None, stop)  # its status was lost, its replica was not
    assert not told(empty, None, replace(stop, key="another"))
    assert told(full, None) and told(full, Shown("old", 1))
    assert not told(full, Shown("new", 1))


def test_what_has_no_replica_and_had_none_has_had_no_replan() -> None:
    counted = Counted(gpu_node("h0", gpus=2))
    nowhere, anywhere = {"nodeSelector": {"there-is": "none"}}, {"zones": ["az-1"]}
    key = counted.world.add(pool(placement=nowhere))

    def events() -> list[str]:
        return [e.message[:2] for e in counted.world.events if e.reason == "Replanned"]

    def edited(**spec: Any) -> None:
        counted.edit(key, **spec)
        counted.lasts(60)

    counted.lasts(60)
    edited(placement={"zones": ["az-none"]})
    assert counted.status(key)["plan"]["hash"] and "lastReplan" not in counted.status(key)
    assert (counted.told, events()) == ([], [])

    edited(placement=anywhere)
    assert counted.last(key)["tier"] == "T1"
    edited(workload=load("0"))
    assert counted.uids(key) == set() and counted.last(key)["tier"] == "T2"
    last = counted.last(key)
    edited(placement=nowhere, workload=load("2"))
    assert counted.uids(key) == set() and counted.last(key) == last
    assert [one.tier for one in counted.told] == events() == ["T1", "T2"]


def test_changes_are_counted_by_tier_and_reason() -> None:
    metrics = Metrics()
    metrics.replanned([Replan(Tier.REPAIR, "NodeLost", 1, 0, 2, 0.5)] * 2)
    labels = {"tier": "T1", "reason": "NodeLost"}
    assert metrics.registry.get_sample_value("motley_replans_total", labels) == 2.0
    cost = metrics.registry.get_sample_value("motley_replan_cost_usd_total", {"tier": "T1"})
    assert cost == pytest.approx(1.0)


def half_price(name: str) -> Any:
    return gpu_node(name, product=CHEAP, gpus=2, labels={"motley.dev/price-usd-per-hour": "0.5"})


def test_money_moves_a_resource_once_a_cooldown_whatever_is_repaired_meanwhile() -> None:
    counted = Counted(gpu_node("dear", gpus=2))
    key = counted.world.add(pool())
    counted.lasts(30)
    counted.world.add_node(gpu_node("cheap-0", product=CHEAP, gpus=2))
    counted.lasts(60)
    moved_at = counted.last(key)["movedAt"]
    counted.edit(key, workload=load("2.2"))  # a change of routing, which starts no cooldown
    counted.lasts(30)
    assert counted.last(key)["tier"] == "T0"
    assert counted.last(key)["movedAt"] == moved_at
    counted.restart()
    counted.lasts(30)
    before = counted.uids(key)
    counted.world.add_node(half_price("cheapest-0"))
    counted.lasts(60)
    assert counted.uids(key) == before
    counted.lasts(COOLDOWN_S)
    counted.world.add_node(half_price("cheapest-1"))
    counted.lasts(60)
    assert not counted.uids(key) & before
    assert counted.last(key)["movedAt"] > moved_at


def test_a_loss_is_repaired_and_an_edit_is_carried_out_within_the_cooldown() -> None:
    counted = Counted(gpu_node("dear", gpus=2))
    key = counted.world.add(pool())
    counted.lasts(30)
    counted.world.add_node(gpu_node("cheap", product=CHEAP, gpus=2))
    counted.lasts(30)
    assert counted.nodes(key) == ["cheap"]
    counted.world.lose_node("cheap")
    counted.lasts(30)
    assert counted.nodes(key) == ["dear"]
    assert (counted.last(key)["tier"], counted.last(key)["reason"]) == ("T1", "ReplicaLost")
    counted.edit(key, workload=load(60))
    counted.lasts(30)
    assert len(counted.nodes(key)) > 1


def test_a_node_that_is_silent_for_less_than_its_pods_bear_changes_nothing() -> None:
    counted = Counted(*(gpu_node(f"h{i}", gpus=2) for i in range(3)), loss_s=30.0)
    key = counted.world.add(pool(workload=load(40)))
    counted.lasts(60)
    before, made = counted.uids(key), counted.created
    for _ in range(20):
        counted.silence(counted.nodes(key)[0], 25.0)
        counted.lasts(30, step_s=15.0)
    assert counted.uids(key) == before
    assert (counted.created, counted.deleted) == (made, 0)


def at_defaults(*nodes: Any) -> Counted:
    return Counted(*nodes, loss_s=Settings().node_loss_seconds)


@pytest.mark.parametrize(
    ("seconds", "is_replaced"),
    [
        pytest.param(2.0, False, id="two seconds are borne"),
        pytest.param(4.0, False, id="four seconds are borne"),
        pytest.param(6.0, True, id="six seconds are a loss"),
    ],
)
def test_by_default_a_node_is_waited_for_as_long_as_its_pods_tolerate_it(
    seconds: float, is_replaced: bool
) -> None:
    counted = at_defaults(*(gpu_node(f"h{i}", gpus=2) for i in range(3)))
    key = counted.world.add(pool(workload=load(40)))
    counted.lasts(60)
    flapping, before = counted.nodes(key)[0], counted.uids(key)
    there = {pod.uid for pod in counted.world.engine_pods(key) if pod.node == flapping}
    told, solves, made = counted.status(key)["plan"], counted.planner.solves, counted.created
    counted.silence(flapping, seconds, step_s=1.0)
    counted.lasts(30, step_s=1.0)
    if is_replaced:
        assert counted.created - made >= len(there) > 0
        assert before - counted.uids(key) == there
        return
    assert counted.uids(key) == before
    assert (counted.created, counted.deleted) == (made, 0)
    assert (counted.status(key)["plan"], counted.planner.solves) == (told, solves)


def test_nothing_is_started_on_a_node_that_may_be_lost_any_moment_until_it_is_ready() -> None:
    counted = at_defaults(gpu_node("h0", gpus=2), gpu_node("h1", gpus=2))
    running = counted.world.add(pool(workload=load(1)))
    counted.lasts(60)
    (flapping,) = counted.nodes(running)
    before = counted.uids(running)
    node, (other,) = counted.world.nodes[flapping], {"h0", "h1"} - {flapping}
    counted.world.add_node(replace(node, ready=False, not_ready_since=counted.world.now))
    more = [counted.world.add(pool(f"more-{i}", workload=load(1))) for i in range(3)]
    counted.lasts(4, step_s=1.0)
    assert [counted.nodes(key) for key in more].count([other]) == 2
    assert counted.uids(running) == before
    counted.world.add_node(node)
    counted.lasts(30, step_s=1.0)
    assert sorted(counted.nodes(key)[0] for key in more) == sorted([other, other, flapping])
    assert counted.uids(running) == before


def test_a_node_that_has_never_been_ready_is_not_waited_for() -> None:
    counted = at_defaults(gpu_node("h0", gpus=2))
    key = counted.world.add(pool())
    counted.lasts(60)
    solves, now = counted.planner.solves, counted.world.now
    fresh = gpu_node("h1", ready=False, not_ready_since=now, created_at=now - 1)
    counted.world.add_node(fresh)
    counted.lasts(10, step_s=1.0)
    assert counted.planner.solves == solves
    assert counted.nodes(key) == ["h0"]


def test_engine_pods_tolerate_a_silent_node_for_as_long_as_the_planner_waits_for_it() -> None:
    counted = at_defaults(gpu_node("h0", gpus=2))
    counted.world.add(pool())
    counted.lasts(10)
    (spec,) = counted.world.specs.values()
    borne = {
        t["key"]: t["tolerationSeconds"] for t in spec["tolerations"] if "tolerationSeconds" in t
    }
    assert borne == dict.fromkeys(
        ("node.kubernetes.io/not-ready", "node.kubernetes.io/unreachable"),
        Settings().node_loss_seconds,
    )


@pytest.mark.parametrize("key", ["node.kubernetes.io/out-of-service", "deleted"])
def test_a_node_that_is_surely_gone_is_not_waited_for(key: str) -> None:
    counted = at_defaults(*(gpu_node(f"h{i}", gpus=2) for i in range(2)))
    running = counted.world.add(pool(workload=load(1)))
    counted.lasts(60)
    (gone,), before = counted.nodes(running), counted.uids(running)
    if key == "deleted":
        counted.world.lose_node(gone)
    else:
        out = gpu_node(gone, gpus=2, taints=[(key, "nodeshutdown", "NoExecute")])
        now = counted.world.now
        counted.world.add_node(replace(out, ready=False, not_ready_since=now))
    counted.lasts(3, step_s=1.0)
    assert gone not in counted.nodes(running)
    assert not before & counted.uids(running)
    assert counted.uids(running)


@pytest.mark.parametrize("nodes", [1, 3], ids=["nowhere else", "room elsewhere"])
def test_a_node_that_flaps_costs_each_replica_one_replacement_a_cooldown(nodes: int) -> None:
    counted = Counted(*(gpu_node(f"h{i}", gpus=2) for i in range(nodes)))
    key = counted.world.add(pool())
    counted.lasts(60)
    flapping = counted.nodes(key)[0]
    replicas, made, began = len(counted.uids(key)), counted.created, counted.world.now
    for _ in range(20):
        counted.silence(flapping, 20.0)
        counted.lasts(60, step_s=20.0)
    cooldowns = (counted.world.now - began) / COOLDOWN_S
    assert counted.created - made <= replicas * (1 + cooldowns)
    assert (counted.created > made) == (nodes > 1)


def test_a_node_that_is_deleted_and_made_again_does_not_pull_its_replica_back_at_once() -> None:
    counted = Counted(gpu_node("dear", gpus=2), gpu_node("cheap", product=CHEAP, gpus=2))
    key = counted.world.add(pool())
    counted.lasts(60)
    assert counted.nodes(key) == ["cheap"]
    made = counted.created
    for _ in range(5):
        node = counted.world.nodes["cheap"]
        counted.world.lose_node("cheap")
        counted.lasts(40)
        counted.world.add_node(node)
        counted.lasts(60)
    assert counted.created == made + 1
    assert counted.nodes(key) == ["dear"]


def test_an_hour_of_steady_load_touches_no_pod() -> None:
    counted = Counted(*(gpu_node(f"h{i}", gpus=4) for i in range(3)))
    counted.world.add_node(gpu_node("cheap", product=CHEAP, gpus=4))
    keys = [counted.world.add(pool(f"p{i}", workload=load(4 + i))) for i in range(3)]
    counted.lasts(120)
    before = [counted.uids(key) for key in keys]
    created, solves = counted.created, counted.planner.solves
    for minute in range(60):
        agent = Room(cpu_milli=100, memory_bytes=2**28)
        counted.world.foreign_pod(f"agent-{minute}", f"h{minute % 3}", agent)
        if minute:
            del counted.world.pods[("other", f"agent-{minute - 1}")]
        node = counted.world.nodes["h0"]  # a heartbeat: equal facts in a new object
        counted.world.add_node(replace(node, labels={**node.labels, "agent/seen": str(minute)}))
        if minute % 20 == 10:
            counted.restart()
        counted.lasts(60, step_s=30.0)
    assert [counted.uids(key) for key in keys] == before
    assert (counted.created, counted.deleted) == (created, 0)
    assert counted.planner.solves <= max(solves, 3)
