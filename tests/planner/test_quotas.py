"""Quotas over several resources, through plan(), against enumeration, and before the checker."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from motley_planner.catalog import load_catalog
from motley_planner.checker import check
from motley_planner.domain.demand import RunningUnit, ServingDemand, Slo, StageDemand, WorkloadClass
from motley_planner.domain.hardware import Node, NodeClass
from motley_planner.domain.plan import Plan, Slice
from motley_planner.domain.quotas import PodUse, Quota
from motley_planner.domain.snapshot import Snapshot
from motley_planner.domain.solution import ReplicaCount
from motley_planner.formulations.fleet import solve_table
from motley_planner.planning import plan
from motley_planner.planning.assemble import assemble
from motley_planner.planning.worth import running_units
from motley_planner.testing.agreement import compare
from motley_planner.testing.limited import quota_table

CATALOG = load_catalog()
GIB = 2**30
PRICES = {"L4": 0.70, "L40S": 1.86, "MI300X": 4.0}


def nodes(gpu: str, count: int, gpus: int = 4) -> tuple[Node, ...]:
    kind = NodeClass(gpu, "az-1", "on-demand", "", PRICES[gpu])
    return tuple(
        Node(f"{gpu.lower()}-{i}", kind, gpus, 192_000, 2**41, 110, gpus) for i in range(count)
    )


def pool(name: str, tenant: str, rate: float, model_id: str = "Qwen/Qwen3-8B") -> ServingDemand:
    model = CATALOG.model(model_id)
    assert model is not None
    return ServingDemand(
        key=f"ServingPool/{tenant}/{name}",
        tenant=tenant,
        stages=(StageDemand("main", model, "bf16", "vllm"),),
        classes=(WorkloadClass("chat", 900, 200),),
        requests_per_second=rate,
        slo=Slo(tpot_s={"p95": 0.08}),
    )


def quota(
    services: tuple[ServingDemand, ...], hard: int, per_gpu: int = 1, per_pod: int = 0
) -> Quota:
    amounts = tuple(per_pod + per_gpu * gpus for gpus in range(1, 17))
    uses = tuple(PodUse(s.key, "main", "nvidia", amounts) for s in services)
    return Quota("ResourceQuota a/all: requests.nvidia.com/gpu", uses, at_most=hard, hard=hard)


def solve(snapshot: Snapshot) -> Plan:
    return plan(snapshot, CATALOG, use_worker=False)


def taken(made: Plan, limit: Quota) -> int:
    """What the plan takes of the quota, pod by pod."""
    uses = {use.key: use for use in limit.uses}
    return sum(
        uses[part.key].of(replica.gpus_on(rank))
        for part in made.slices
        for replica in part.replicas
        if part.key in uses and CATALOG.gpus[replica.gpu].vendor == uses[part.key].vendor
        for rank in range(len(replica.nodes))
    )


def gpus_of(part: Slice) -> int:
    return sum(replica.gpus for replica in part.replicas)


def again(made: Plan) -> tuple[RunningUnit, ...]:
    return running_units(made)


@pytest.mark.parametrize("block", range(6))
def test_the_milp_finds_what_enumeration_finds_under_quotas(block: int) -> None:
    seen = Counter(compare(quota_table(seed)) for seed in range(block * 20, block * 20 + 20))
    assert {"max_min", "goodput"} <= set(seen)


def test_the_instances_have_quotas_that_bind() -> None:
    bound = 0
    for seed in range(40):
        table = quota_table(seed)
        free = replace(table, side_rows=tuple(r for r in table.side_rows if "|" not in r.name))
        with_quota, without = compare(table), compare(free)
        if {with_quota, without} <= {"goodput", "max_min"}:
            ours = solve_table(table, use_worker=False).objective
            theirs = solve_table(free, use_worker=False).objective
            bound += (ours or 0.0) < (theirs or 0.0) - 1e-6
    assert bound >= 5


def test_a_quota_limits_all_resources_of_a_namespace_together() -> None:
    inside = (pool("one", "a", 500.0), pool("two", "a", 500.0))
    services = (*inside, pool("chat", "b", 500.0))
    limit = quota(inside, 5)
    made = solve(Snapshot(nodes("L4", 4), services=services, quotas=(limit,)))
    assert taken(made, limit) <= 5
    assert sum(map(gpus_of, made.slices)) == 16
    made = solve(Snapshot(nodes("L4", 4), services=inside, quotas=(limit,)))
    assert taken(made, limit) == 5
    refusals = [part.refusals for part in made.slices if "/a/" in part.key]
    for refusal in (each[0] for each in refusals if each):
        assert (refusal.reason, refusal.field) == ("QuotaTooLow", limit.name)
        assert refusal.lift.startswith("5 -> ")
    assert any(refusals)
    binding = {words for part in made.slices if "/a/" in part.key for words in part.binding}
    assert limit.name in binding


def test_what_a_lift_names_is_enough() -> None:
    asked = pool("chat", "a", 12.0)
    short = solve(Snapshot(nodes("L4", 8), services=(asked,), quotas=(quota((asked,), 2),)))
    (refusal,) = short.slices[0].refusals
    wanted = int(refusal.lift.partition(" -> ")[2])
    assert 2 < wanted < 32
    enough = quota((asked,), wanted)
    made = solve(Snapshot(nodes("L4", 8), services=(asked,), quotas=(enough,)))
    assert made.slices[0].refusals == ()
    assert made.slices[0].served_requests_per_second == pytest.approx(12.0)


def test_a_quota_of_pods_is_met_by_fewer_and_larger_ones() -> None:
    asked = pool("chat", "a", 1e4)
    limit = quota((asked,), 2, per_gpu=0, per_pod=1)
    made = solve(Snapshot(nodes("L4", 4), services=(asked,), quotas=(limit,)))
    assert taken(made, limit) == len(made.slices[0].replicas) == 2
    assert all(replica.tensor_parallel > 1 for replica in made.slices[0].replicas)


def test_bytes_are_counted_to_the_last_one() -> None:
    asked = pool("chat", "a", 1e4)
    for hard, most in ((64 * GIB, 4), (64 * GIB - 1, 3)):
        limit = quota((asked,), hard, per_gpu=16 * GIB)
        made = solve(Snapshot(nodes("L4", 4), services=(asked,), quotas=(limit,)))
        assert gpus_of(made.slices[0]) == most


def test_pods_on_gpus_of_another_vendor_take_nothing_of_a_quota_of_one() -> None:
    asked = pool("chat", "a", 20.0)
    fleet = (*nodes("L4", 1), *nodes("MI300X", 1))
    limit = quota((asked,), 0)
    made = solve(Snapshot(fleet, services=(asked,), quotas=(limit,)))
    assert made.slices[0].served_requests_per_second == pytest.approx(20.0)
    assert {replica.gpu for replica in made.slices[0].replicas} == {"MI300X"}


def test_a_pod_size_that_is_not_admitted_is_not_planned_and_said_by_name() -> None:
    asked = pool("wide", "a", 1.0, "Qwen/Qwen3-32B")
    fleet = nodes("L40S", 2)
    free = solve(Snapshot(fleet, services=(asked,)))
    assert max(r.tensor_parallel for r in free.slices[0].replicas) > 1
    forbidden = PodUse(asked.key, "main", "nvidia", (0, *(1,) * 15))
    limit = Quota("LimitRange a/small", (forbidden,), 0, 0, reason="PodNotAdmitted", lift="more")
    made = solve(Snapshot(fleet, services=(asked,), quotas=(limit,)))
    assert made.slices[0].replicas == ()
    (refusal,) = made.slices[0].refusals
    words = (refusal.reason, refusal.field, refusal.lift)
    assert words == ("PodNotAdmitted", "LimitRange a/small", "more")


def test_what_runs_stays_under_a_lowered_quota_and_nothing_is_added() -> None:
    asked, fleet = pool("chat", "a", 12.0), nodes("L4", 8)
    first = solve(Snapshot(fleet, services=(asked,)))
    runs = again(first)
    limit = quota((asked,), 1)
    assert taken(first, limit) > 1
    more = replace(asked, requests_per_second=24.0)
    made = solve(Snapshot(fleet, services=(more,), running=runs, quotas=(limit,)))
    assert made.kept == len(runs) == len(made.slices[0].replicas)
    (refusal,) = made.slices[0].refusals
    assert (refusal.reason, refusal.lift.partition(" -> ")[0]) == ("QuotaTooLow", "1")
    assert int(refusal.lift.partition(" -> ")[2]) > taken(first, limit)


def test_the_checker_refuses_a_plan_over_a_quota_without_a_solver() -> None:
    asked = pool("chat", "a", 1e4)
    limit = quota((asked,), 3)
    table, _ = assemble(Snapshot(nodes("L4", 2), services=(asked,), quotas=(limit,)), CATALOG)
    solution = solve_table(table, use_worker=False)
    assert check(table, solution) == ()
    more = tuple(ReplicaCount(r.column, r.count + 3) for r in solution.replicas)
    complaints = check(table, replace(solution, replicas=more))
    assert any(limit.name in complaint for complaint in complaints)


@settings(max_examples=15, deadline=None)
@given(
    hard=st.integers(0, 20),
    per=st.sampled_from([(1, 0), (0, 1), (4000, 250), (16 * GIB, 0), (3, 1)]),
    rates=st.tuples(st.sampled_from([1.0, 30.0, 1e4]), st.sampled_from([1.0, 1e4])),
)
def test_no_plan_takes_more_than_a_quota(
    hard: int, per: tuple[int, int], rates: tuple[float, float]
) -> None:
    services = (pool("one", "a", rates[0]), pool("two", "a", rates[1]))
    limit = quota(services, hard * max(1, per[0]), *per)
    fleet = (*nodes("L4", 2), *nodes("MI300X", 1))
    made = solve(Snapshot(fleet, services=services, quotas=(limit,), time_limit_s=1.0))
    assert taken(made, limit) <= limit.at_most
    for part in made.slices:
        full = part.served_requests_per_second >= part.requests_per_second * (1 - 1e-6)
        assert full or part.refusals


def test_what_a_pod_takes_goes_on_growing_beyond_the_table() -> None:
    for amounts, expected in (((4, 8), 40), ((1, 1), 1), ((5, 9), 41), ((1, 0), 0), ((3,), 30)):
        assert PodUse("k", "main", "nvidia", amounts).of(10) == expected


def test_larger_pods_are_offered_where_smaller_ones_are_not_admitted() -> None:
    asked = pool("chat", "a", 1e4)
    forbidden = PodUse(asked.key, "main", "nvidia", (1, *(0,) * 15))
    limit = Quota("LimitRange a/large", (forbidden,), 0, 0, reason="PodNotAdmitted")
    made = solve(Snapshot(nodes("L40S", 1, 2), services=(asked,), quotas=(limit,)))
    assert [replica.tensor_parallel for replica in made.slices[0].replicas] == [2]
