"""The fleet planner end to end, on snapshots with real catalog entries."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from motley_planner.catalog import load_catalog
from motley_planner.domain.demand import (
    Budget,
    Placement,
    RlDemand,
    RoutingPolicy,
    ServingDemand,
    Slo,
    StageDemand,
    WorkloadClass,
)
from motley_planner.domain.hardware import Node, NodeClass
from motley_planner.domain.plan import Plan
from motley_planner.domain.snapshot import Snapshot
from motley_planner.planning import plan
from motley_planner.planning.worth import running_units

CATALOG = load_catalog()
GPU_PRICE = {"H100-SXM5-80GB": 6.88, "A100-SXM4-80GB": 3.43, "L40S": 1.86, "L4": 0.70}


def nodes_of(gpu: str, count: int, gpus: int = 8, zone: str = "az-1") -> list[Node]:
    """`count` equal empty nodes."""
    node_class = NodeClass(gpu, zone, "on-demand", "", GPU_PRICE[gpu])
    return [
        Node(f"{gpu}-{zone}-{i}", node_class, gpus, 192_000, 2**41, 110, gpus) for i in range(count)
    ]


def pool(
    key: str = "ServingPool/team-a/chat", rate: float = 10.0, **changes: object
) -> ServingDemand:
    """An 8B chat pool."""
    model = CATALOG.model("Qwen/Qwen3-8B")
    assert model is not None
    demand = ServingDemand(
        key=key,
        tenant="team-a",
        stages=(StageDemand("main", model, "bf16", "vllm"),),
        classes=(WorkloadClass("chat", 900, 200, 3), WorkloadClass("rag", 3000, 150, 1)),
        requests_per_second=rate,
        slo=Slo(tpot_s={"p95": 0.08}),
    )
    return replace(demand, **changes)  # type: ignore[arg-type]


def cascade(rate: float = 10.0, floor: float = 0.8) -> ServingDemand:
    """Two stages; quality 0.70 small, 0.90 large, 0.82 at 40 % escalation."""
    small, large = CATALOG.model("Qwen/Qwen3-8B"), CATALOG.model("Qwen/Qwen3-32B")
    assert small is not None and large is not None
    return ServingDemand(
        key="ModelCascade/team-a/support",
        tenant="team-a",
        stages=(
            StageDemand("small", small, "bf16", "vllm"),
            StageDemand("large", large, "fp8", "vllm"),
        ),
        classes=(WorkloadClass("all", 900, 220),),
        requests_per_second=rate,
        policies=(
            RoutingPolicy("never", {"small": 0.0}, 0.70, 0.71, {"small": 1.0, "large": 0.0}),
            RoutingPolicy("some", {"small": 0.5}, 0.82, 0.83, {"small": 1.0, "large": 0.4}),
            RoutingPolicy("all", {"small": 1.1}, 0.90, 0.91, {"small": 1.0, "large": 1.0}),
        ),
        quality_floor=floor,
    )


def job() -> RlDemand:
    """GRPO of a 7B model."""
    model = CATALOG.model("Qwen/Qwen2.5-7B-Instruct")
    assert model is not None
    return RlDemand(
        key="RLJob/research/grpo",
        tenant="research",
        rollout=StageDemand("rollout", model, "bf16", "sglang", min_replicas=2),
        trainer_backend="fsdp",
        trainer_placement=Placement(),
        batch_prompts=256,
        samples_per_prompt=8,
        max_prompt_tokens=1024,
        mean_new_tokens=3000,
        max_new_tokens=8192,
        max_staleness=4,
        steps=300,
    )


def mixed_fleet() -> tuple[Node, ...]:
    """3 x 8 H100, 3 x 8 A100, 3 x 4 L40S, 3 x 4 L4."""
    return tuple(
        nodes_of("H100-SXM5-80GB", 3)
        + nodes_of("A100-SXM4-80GB", 3, zone="az-2")
        + nodes_of("L40S", 3, 4)
        + nodes_of("L4", 3, 4, zone="az-2")
    )


def solve(snapshot: Snapshot) -> Plan:
    """Plan in this process, after checking nothing but the inputs."""
    return plan(snapshot, CATALOG, use_worker=False)


def assert_fits(made: Plan, snapshot: Snapshot) -> None:
    """No node holds more GPUs than it has, and names are unique."""
    used: Counter[str] = Counter()
    for part in made.slices:
        names = [r.name for r in part.replicas]
        assert len(names) == len(set(names))
        for replica in part.replicas:
            for node in replica.nodes:
                used[node] += replica.tensor_parallel
    room = {node.name: node.gpus for node in snapshot.nodes}
    assert set(used) <= set(room)
    assert all(used[name] <= room[name] for name in used)


def test_a_pool_is_served_in_full_at_the_cheapest_price_and_fits() -> None:
    snapshot = Snapshot(mixed_fleet(), services=(pool(),))
    made = solve(snapshot)
    assert_fits(made, snapshot)
    (part,) = made.slices
    assert part.served_requests_per_second == pytest.approx(10.0)
    assert not part.refusals
    assert made.gap is not None and made.gap <= 1e-3
    capacity = sum(
        sum(rate / r.capacity[name] for name, rate in r.rates.items()) for r in part.replicas
    )
    assert capacity <= len(part.replicas) + 1e-6


def test_rates_of_replicas_add_up_to_the_demand_of_each_class() -> None:
    (part,) = solve(Snapshot(mixed_fleet(), services=(pool(),))).slices
    total: Counter[str] = Counter()
    for replica in part.replicas:
        total.update(replica.rates)
    assert total["chat"] == pytest.approx(7.5)
    assert total["rag"] == pytest.approx(2.5)


def test_a_cascade_meets_its_floor_with_the_policies_it_mixes() -> None:
    (part,) = solve(Snapshot(mixed_fleet(), services=(cascade(),))).slices
    assert part.served_requests_per_second == pytest.approx(10.0)
    assert part.expected_quality is not None and part.expected_quality >= 0.8 - 1e-9
    assert sum(p.share for p in part.policies) == pytest.approx(1.0)
    assert {r.stage for r in part.replicas} == {"small", "large"}


def test_a_job_gets_one_trainer_and_rollouts_that_keep_up_with_it() -> None:
    (part,) = solve(Snapshot(mixed_fleet(), jobs=(job(),))).slices
    trainers = [r for r in part.replicas if r.role == "trainer"]
    rollouts = [r for r in part.replicas if r.role == "rollout"]
    assert len(trainers) == 1 and len(rollouts) >= 2
    trained = sum(r.rates["trainer"] for r in trainers)
    generated = sum(r.rates.get("rollout", 0.0) for r in rollouts)
    assert trained == pytest.approx(generated, rel=1e-6)
    assert part.steps_per_hour == pytest.approx(3600 * trained)


def test_all_three_share_one_fleet() -> None:
    snapshot = Snapshot(mixed_fleet(), services=(pool(), cascade()), jobs=(job(),))
    made = solve(snapshot)
    assert_fits(made, snapshot)
    assert all(part.replicas and not part.refusals for part in made.slices)


def test_planning_again_over_what_runs_moves_nothing() -> None:
    snapshot = Snapshot(mixed_fleet(), services=(pool(), cascade()), jobs=(job(),))
    first = solve(snapshot)
    second = solve(replace(snapshot, running=running_units(first)))
    assert second.moves == ()
    assert [p.hash for p in second.slices] == [p.hash for p in first.slices]


def test_losing_a_node_stops_nothing_that_ran_elsewhere() -> None:
    snapshot = Snapshot(mixed_fleet(), services=(pool(), cascade()), jobs=(job(),))
    first = solve(snapshot)
    running = running_units(first)
    lost = running[0].nodes[0]
    survivors = tuple(u for u in running if lost not in u.nodes)
    left = tuple(n for n in snapshot.nodes if n.name != lost)
    made = solve(replace(snapshot, nodes=left, running=survivors))
    assert_fits(made, replace(snapshot, nodes=left))
    assert not [m for m in made.moves if m.action == "stop"]
    assert made.kept == len(survivors)


def test_a_cordoned_node_keeps_what_it_has_and_gets_nothing_new() -> None:
    snapshot = Snapshot(mixed_fleet(), services=(pool(),))
    first = solve(snapshot)
    running = running_units(first)
    cordoned = {u.nodes[0] for u in running}
    nodes = tuple(replace(n, cordoned=n.name in cordoned) for n in snapshot.nodes)
    grown = solve(Snapshot(nodes, services=(pool(rate=20.0),), running=running))
    new = [r for r in grown.slices[0].replicas if r.kept is None]
    assert new and not [r for r in new if r.nodes[0] in cordoned]


def test_an_empty_fleet_is_a_plan_with_a_refusal_and_not_an_error() -> None:
    (part,) = solve(Snapshot((), services=(pool(),))).slices
    assert part.replicas == () and part.served_requests_per_second == 0.0
    assert part.refusals


def test_too_little_room_says_how_much_is_missing_and_what_would_lift_it() -> None:
    snapshot = Snapshot(tuple(nodes_of("L4", 1, 1)), services=(pool(rate=50.0),))
    (part,) = solve(snapshot).slices
    (refusal,) = [r for r in part.refusals if r.reason == "InsufficientGPUs"]
    assert refusal.unserved_requests_per_second > 0
    assert "L4" in refusal.lift


def test_a_small_budget_is_named_with_its_field() -> None:
    service = pool(rate=200.0, budget=Budget(usd_per_hour=2.0))
    (part,) = solve(Snapshot(mixed_fleet(), services=(service,))).slices
    assert part.price_usd_per_hour <= 2.0 + 1e-9
    assert [r.field for r in part.refusals] == ["spec.budget.dollarsPerHour"]


def test_a_frozen_resource_keeps_exactly_what_it_runs() -> None:
    snapshot = Snapshot(mixed_fleet(), services=(pool(),))
    first = solve(snapshot)
    frozen = replace(
        snapshot,
        services=(pool(rate=60.0),),
        running=running_units(first),
        frozen=frozenset({"ServingPool/team-a/chat"}),
    )
    made = solve(frozen)
    assert made.moves == ()


def test_a_name_that_is_still_taken_is_not_given_again() -> None:
    snapshot = Snapshot(mixed_fleet(), services=(pool(),))
    first = solve(snapshot)
    taken = frozenset(f"{p.key}/{r.name}" for p in first.slices for r in p.replicas)
    again = solve(replace(snapshot, reserved=taken))
    assert not taken & {f"{p.key}/{r.name}" for p in again.slices for r in p.replicas}


def test_higher_priority_is_served_first_where_room_is_short() -> None:
    fleet = tuple(nodes_of("L4", 2, 2))
    low, high = pool("ServingPool/a/low", 30.0), pool("ServingPool/a/high", 6.0, priority=10)
    made = solve(Snapshot(fleet, services=(low, high)))
    alone = solve(Snapshot(fleet, services=(high,)))
    served = {p.key: p.served_requests_per_second for p in made.slices}
    assert served["ServingPool/a/high"] == pytest.approx(
        alone.slices[0].served_requests_per_second, rel=1e-3
    )


@settings(max_examples=15, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(
    counts=st.tuples(*[st.integers(0, 2)] * 3),
    rate=st.floats(0.5, 60.0),
    seed=st.randoms(use_true_random=False),
)
def test_order_of_nodes_changes_nothing_and_more_nodes_never_serve_less(
    counts: tuple[int, int, int], rate: float, seed: object
) -> None:
    h100, l40s, l4 = counts
    fleet = nodes_of("H100-SXM5-80GB", h100) + nodes_of("L40S", l40s, 4) + nodes_of("L4", l4, 4)
    snapshot = Snapshot(tuple(fleet), services=(pool(rate=rate),))
    made = solve(snapshot)
    assert_fits(made, snapshot)
    (part,) = made.slices
    assert part.refusals or part.served_requests_per_second == pytest.approx(rate)
    shuffled = list(fleet)
    seed.shuffle(shuffled)  # type: ignore[attr-defined]
    other = solve(replace(snapshot, nodes=tuple(shuffled)))
    assert other.price_usd_per_hour == pytest.approx(made.price_usd_per_hour, rel=2e-3)
    more = solve(replace(snapshot, nodes=(*fleet, *nodes_of("L4", 1, 4, zone="az-3"))))
    assert more.slices[0].served_requests_per_second >= part.served_requests_per_second - 1e-6


def test_a_cascade_holds_its_end_to_end_target_over_all_its_stages() -> None:
    service = replace(cascade(), slo=Slo(e2e_s={"p95": 12.0}))
    (part,) = solve(Snapshot(mixed_fleet(), services=(service,))).slices
    promised = {p.what: p.value for p in part.promises}
    total = sum(
        promised[f"ttft_s {stage} all"] + 220 * promised[f"tpot_s {stage} all"]
        for stage in ("small", "large")
    )
    assert part.served_requests_per_second == pytest.approx(10.0)
    assert total <= 12.0


def test_a_floor_that_no_policy_reaches_is_refused_with_what_is_reachable() -> None:
    (part,) = solve(Snapshot(mixed_fleet(), services=(cascade(floor=0.95),))).slices
    assert [r.reason for r in part.refusals] == ["QualityUnreachable"]
    assert part.replicas == () and part.served_requests_per_second == 0.0


def test_what_an_impossible_spec_runs_keeps_its_room_and_is_not_stopped() -> None:
    fleet = tuple(nodes_of("L4", 2, 2))
    first = solve(Snapshot(fleet, services=(pool("ServingPool/a/one", 8.0),)))
    impossible = pool("ServingPool/a/one", 8.0, slo=Slo(tpot_s={"p95": 0.0001}))
    both = Snapshot(
        fleet,
        services=(impossible, pool("ServingPool/a/two", 50.0)),
        running=running_units(first),
    )
    made = solve(both)
    held = sum(r.gpus for r in first.slices[0].replicas)
    taken = sum(r.gpus for part in made.slices for r in part.replicas)
    assert held > 0 and taken == 4 - held
    assert not [m for m in made.moves if m.action == "stop"]


def sizes(made: Plan) -> tuple[list[int], int]:
    """GPUs of each trainer gang, and the number of rollout replicas."""
    (part,) = made.slices
    gangs = [r.gpus for r in part.replicas if r.role == "trainer"]
    return gangs, sum(r.role == "rollout" for r in part.replicas)


def test_a_trainer_gang_keeps_to_its_least_and_most_gpus() -> None:
    free, _ = sizes(solve(Snapshot(mixed_fleet(), jobs=(job(),))))
    small = replace(job(), trainer_max_gpus=max(free) // 2)
    large = replace(job(), trainer_min_gpus=max(free) + 1)
    assert max(sizes(solve(Snapshot(mixed_fleet(), jobs=(small,))))[0]) <= max(free) // 2
    assert min(sizes(solve(Snapshot(mixed_fleet(), jobs=(large,))))[0]) > max(free)


def test_a_gang_that_runs_and_is_too_large_now_is_replaced() -> None:
    before = solve(Snapshot(mixed_fleet(), jobs=(job(),)))
    most = max(sizes(before)[0]) // 2
    small = replace(job(), trainer_max_gpus=most)
    after = solve(Snapshot(mixed_fleet(), jobs=(small,), running=running_units(before)))
    assert max(sizes(after)[0]) <= most
    assert "NoLongerAllowed" in {m.reason for m in after.moves}


def test_a_gang_of_a_size_that_nobody_builds_is_refused_with_the_sizes() -> None:
    odd = replace(job(), trainer_min_gpus=3, trainer_max_gpus=3)
    (part,) = solve(Snapshot(mixed_fleet(), jobs=(odd,))).slices
    (told,) = part.refusals
    assert (told.reason, told.field) == ("ModelDoesNotFit", "spec.trainer.minGpus")
    assert "1, 2, 4, 8, 16, 32" in told.lift and part.blocked


def test_rollout_replicas_keep_to_their_most() -> None:
    _, free = sizes(solve(Snapshot(mixed_fleet(), jobs=(job(),))))
    _, few = sizes(solve(Snapshot(mixed_fleet(), jobs=(replace(job(), max_rollout_replicas=2),))))
    assert few == 2 < free


def test_money_moves_a_resource_only_when_it_has_cooled_down() -> None:
    dear = tuple(nodes_of("H100-SXM5-80GB", 1))
    first = solve(Snapshot(dear, services=(pool(rate=0.5),)))
    cheap = replace(
        Snapshot((*dear, *nodes_of("L4", 2, 4)), services=(pool(rate=0.5),)),
        running=running_units(first),
    )
    moved, cooling = solve(cheap), replace(cheap, cooling=frozenset({"ServingPool/team-a/chat"}))
    assert moved.price_usd_per_hour < first.price_usd_per_hour
    assert solve(cooling).moves == ()
    edited = solve(replace(cooling, edited=cooling.cooling))
    assert edited.price_usd_per_hour == pytest.approx(moved.price_usd_per_hour)


def test_a_resource_that_asks_for_more_than_a_move_saves_stays_where_it_is() -> None:
    dear = tuple(nodes_of("H100-SXM5-80GB", 1))
    other = pool("ServingPool/team-a/other", rate=0.5)
    first = solve(Snapshot(dear, services=(pool(rate=0.5), other)))
    cheaper = Snapshot(
        (*dear, *nodes_of("L4", 4, 4)),
        services=(pool(rate=0.5), other),
        running=running_units(first),
    )
    assert {m.key for m in solve(cheaper).moves} == {other.key, "ServingPool/team-a/chat"}
    stubborn = replace(cheaper, improvements={"ServingPool/team-a/chat": 0.99})
    assert {m.key for m in solve(stubborn).moves} == {other.key}


def test_a_resource_that_cools_down_holds_up_no_other() -> None:
    dear = tuple(nodes_of("H100-SXM5-80GB", 1))
    other = pool("ServingPool/team-a/other", rate=0.5)
    first = solve(Snapshot(dear, services=(pool(rate=0.5), other)))
    made = solve(
        Snapshot(
            (*dear, *nodes_of("L4", 4, 4)),
            services=(pool(rate=0.5), other),
            running=running_units(first),
            cooling=frozenset({"ServingPool/team-a/chat"}),
        )
    )
    assert {m.key for m in made.moves} == {other.key}


def test_a_loss_is_repaired_while_a_resource_cools_down() -> None:
    snapshot = Snapshot(mixed_fleet(), services=(pool(),))
    running = running_units(solve(snapshot))
    lost = running[0].nodes[0]
    left = replace(
        snapshot,
        nodes=tuple(n for n in snapshot.nodes if n.name != lost),
        running=tuple(u for u in running if lost not in u.nodes),
        cooling=frozenset({"ServingPool/team-a/chat"}),
    )
    (part,) = solve(left).slices
    assert part.served_requests_per_second == pytest.approx(10.0) and not part.refusals
