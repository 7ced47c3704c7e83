"""What a plan says about what it cannot give: the reason, the words, and a lift that is true."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import replace

import pytest

from motley_planner.catalog import load_catalog
from motley_planner.domain.demand import (
    Budget,
    Demand,
    Placement,
    RlDemand,
    RoutingPolicy,
    RunningUnit,
    ServingDemand,
    Slo,
    StageDemand,
    WorkloadClass,
)
from motley_planner.domain.hardware import Node, NodeClass
from motley_planner.domain.plan import Plan, Refusal, Slice
from motley_planner.domain.snapshot import Snapshot
from motley_planner.domain.solution import Solution
from motley_planner.errors import SnapshotError
from motley_planner.planning import plan
from motley_planner.planning.additions import Addition
from motley_planner.planning.assemble import assemble
from motley_planner.planning.refusals import refusals_of
from motley_planner.planning.wording import binding_words
from motley_planner.units import dollars, figure, gigabytes, milliseconds

CATALOG = load_catalog()
POOL, CASCADE, JOB = "ServingPool/a/chat", "ModelCascade/a/support", "RLJob/a/grpo"
PRICES = {"H100-SXM5-80GB": 6.88, "A100-SXM4-80GB": 3.43, "L40S": 1.86, "L4": 0.70}


def nodes(gpu: str, count: int, gpus: int = 8, first: int = 0) -> tuple[Node, ...]:
    node_class = NodeClass(gpu, "az-1", "on-demand", "", PRICES[gpu])
    return tuple(
        Node(f"{gpu}-{first + i}", node_class, gpus, 192_000, 2**41, 110, gpus)
        for i in range(count)
    )


def stage(name: str, model_id: str = "Qwen/Qwen3-8B", **changes: object) -> StageDemand:
    model = CATALOG.model(model_id)
    assert model is not None
    return replace(StageDemand(name, model, "bf16", "vllm"), **changes)  # type: ignore[arg-type]


def pool(rate: float, budget: Budget | None = None, key: str = POOL) -> ServingDemand:
    return ServingDemand(
        key=key,
        tenant="a",
        stages=(stage("main"),),
        classes=(WorkloadClass("chat", 900, 200, 3), WorkloadClass("rag", 3000, 150, 1)),
        requests_per_second=rate,
        slo=Slo(tpot_s={"p95": 0.08}),
        budget=budget or Budget(),
    )


def cascade(rate: float, budget: Budget) -> ServingDemand:
    return ServingDemand(
        key=CASCADE,
        tenant="a",
        stages=(stage("small"), stage("large", "Qwen/Qwen3-32B")),
        classes=(WorkloadClass("all", 900, 220),),
        requests_per_second=rate,
        policies=(
            RoutingPolicy("never", {"small": 0.0}, 0.70, 0.71, {"small": 1.0, "large": 0.0}),
            RoutingPolicy("some", {"small": 0.5}, 0.82, 0.83, {"small": 1.0, "large": 0.4}),
            RoutingPolicy("all", {"small": 1.1}, 0.90, 0.91, {"small": 1.0, "large": 1.0}),
        ),
        quality_floor=0.8,
        budget=budget,
    )


def job(budget: Budget | None = None) -> RlDemand:
    return RlDemand(
        key=JOB,
        tenant="a",
        rollout=stage("rollout", "Qwen/Qwen2.5-7B-Instruct", engine="sglang", min_replicas=2),
        trainer_backend="fsdp",
        trainer_placement=Placement(),
        batch_prompts=256,
        samples_per_prompt=8,
        max_prompt_tokens=1024,
        mean_new_tokens=3000,
        max_new_tokens=8192,
        max_staleness=4,
        steps=300,
        budget=budget or Budget(),
    )


def solve(snapshot: Snapshot) -> Plan:
    return plan(snapshot, CATALOG, use_worker=False)


def refusals(snapshot: Snapshot) -> tuple[Refusal, ...]:
    (part,) = solve(snapshot).slices
    return part.refusals


def lifted(snapshot: Snapshot, told: tuple[Refusal, ...]) -> Snapshot:
    """The snapshot after everything that the refusals ask for."""
    for refusal in told:
        if refusal.reason == "InsufficientGPUs":
            added: tuple[Node, ...] = ()
            for gpu, count, each in re.findall(r"free (\S+) GPUs \((\d+) x (\d+)", refusal.lift):
                added += nodes(gpu, int(count), int(each), first=100 + len(added))
            assert added
            snapshot = replace(snapshot, nodes=(*snapshot.nodes, *added))
            continue
        field, _, limit = refusal.lift.rpartition(" ")
        assert field.startswith(refusal.field)
        if refusal.field.startswith("Fleet."):
            snapshot = replace(snapshot, budget_usd_per_hour=float(limit))
            continue
        (demand,) = snapshot.demands
        usd, gpus = demand.budget.usd_per_hour, demand.budget.gpus
        budget = (
            Budget(float(limit), gpus) if "dollars" in refusal.field else Budget(usd, int(limit))
        )
        demand = replace(demand, budget=budget)
        kind = "jobs" if isinstance(demand, RlDemand) else "services"
        snapshot = replace(snapshot, **{kind: (demand,)})
    return snapshot


FLEET = (*nodes("H100-SXM5-80GB", 3), *nodes("L40S", 3, 4), *nodes("L4", 3, 4))


def of(fleet: tuple[Node, ...], *demands: Demand) -> Snapshot:
    return Snapshot(
        fleet,
        services=tuple(d for d in demands if isinstance(d, ServingDemand)),
        jobs=tuple(d for d in demands if isinstance(d, RlDemand)),
    )


def running(part: Slice) -> tuple[RunningUnit, ...]:
    return tuple(
        RunningUnit(
            f"{part.key}/{r.name}", part.key, r.stage, r.role, r.gpu, r.tensor_parallel,
            r.operating_batch, r.model, r.precision, r.nodes,
        )
        for r in part.replicas
    )  # fmt: skip


CASES = {
    "a small budget": (Snapshot(FLEET, (pool(40, Budget(2.0)),)), ["BudgetTooLow"]),
    "a budget of nothing": (Snapshot(FLEET, (pool(4, Budget(0.0)),)), ["BudgetTooLow"]),
    "a budget that leaves room for the cheapest replica only": (
        Snapshot(FLEET, (pool(60, Budget(6.0)),)),
        ["BudgetTooLow"],
    ),
    "a budget that nothing priced can use up": (
        Snapshot(nodes("H100-SXM5-80GB", 3), (pool(100, Budget(20.0)),)),
        ["BudgetTooLow"],
    ),
    "few GPUs allowed": (Snapshot(FLEET, (pool(60, Budget(gpus=1)),)), ["BudgetTooLow"]),
    "a fleet of few dollars": (
        Snapshot(FLEET, (pool(60),), budget_usd_per_hour=3.0),
        ["BudgetTooLow"],
    ),
    "a small fleet": (Snapshot(nodes("L4", 1, 1), (pool(50),)), ["InsufficientGPUs"]),
    "a small fleet and a small budget": (
        Snapshot(nodes("L4", 1, 1), (pool(50, Budget(1.0)),)),
        ["BudgetTooLow", "InsufficientGPUs"],
    ),
    "a cascade of a small budget": (
        Snapshot(FLEET, (cascade(20, Budget(4.0)),)),
        ["BudgetTooLow"],
    ),
    "a cascade that is served in part": (
        Snapshot(FLEET, (cascade(60, Budget(30.0)),)),
        ["BudgetTooLow"],
    ),
    "a cascade in a small fleet": (
        Snapshot(nodes("L40S", 1, 4), (cascade(40, Budget()),)),
        ["InsufficientGPUs"],
    ),
    "a job of a small budget": (Snapshot(FLEET, jobs=(job(Budget(5.0)),)), ["BudgetTooLow"]),
    "a job of few GPUs": (Snapshot(FLEET, jobs=(job(Budget(gpus=3)),)), ["BudgetTooLow"]),
    "a job in a small fleet": (
        Snapshot(nodes("H100-SXM5-80GB", 1, 2), jobs=(job(),)),
        ["InsufficientGPUs"],
    ),
}


@pytest.mark.parametrize("case", CASES, ids=list(CASES))
def test_the_reason_is_what_blocks_and_its_lift_is_enough(case: str) -> None:
    snapshot, reasons = CASES[case]
    told = refusals(snapshot)
    assert [refusal.reason for refusal in told] == reasons, told
    assert refusals(lifted(snapshot, told)) == ()


def test_a_budget_that_fits_the_cheapest_way_is_not_blamed_for_want_of_room() -> None:
    (told,) = refusals(Snapshot(nodes("L4", 1, 1), (pool(50, Budget(500.0)),)))
    assert told.reason == "InsufficientGPUs"


def test_what_is_held_says_so_and_asks_for_no_gpus() -> None:
    first = Snapshot(FLEET, (pool(1),), frozen=frozenset((POOL,)))
    (told,) = refusals(first)
    assert (told.reason, told.field) == ("Held", "spec.replan.mode")


def test_numbers_are_written_for_people() -> None:
    service = pool(4000)
    (told,) = refusals(Snapshot(nodes("L4", 1, 1), (service,)))
    assert told.message.endswith("of 4,000 requests/s cannot be served")
    assert [figure(v) for v in (0, 0.00123, 0.5, 12.5, 1234.5, 2e6, 999.7)] == [
        "0", "0.00123", "0.5", "12.5", "1,234", "2,000,000", "1,000",
    ]  # fmt: skip
    assert [milliseconds(v) for v in (0.06, 1.234, 4000.0)] == ["60 ms", "1,234 ms", "4,000 s"]
    assert [gigabytes(v) for v in (15.27e9, 9.999e11)] == ["15.3 GB", "1,000 GB"]
    assert [dollars(v) for v in (0, 2, 2.004, 9.3, 12000.0)] == ["0", "2", "2.01", "9.30", "12000"]


def test_what_binds_is_named_by_the_spec_or_the_nodes_and_never_by_a_row() -> None:
    for snapshot, _ in CASES.values():
        (part,) = solve(snapshot).slices
        assert part.binding or part.blocked
        for words in part.binding:
            assert not re.search(r"[\[\]|]|side|gpus,|\d{4}", words.replace("GPUs", "")), words


@pytest.mark.parametrize(
    ("row", "words"),
    [
        ("budget", "budget of Fleet"),
        (f"side[{POOL}|budget]", "spec.budget.dollarsPerHour"),
        (f"side[{POOL}-2|gpus]", f"spec.budget.gpus of {POOL}-2"),
        (f"side[{POOL}|main|spot]", "maxSpotShare"),
        (f"side[{POOL}|rollout|replicas]", "fewest replicas of rollout"),
        (f"side[{POOL}|trainer|gangs]", "one trainer gang"),
        (
            f"side[{POOL}|frozen|{POOL}/main|both|L4|x]",
            "what is held (paused, Preview or Disabled)",
        ),
        (f"side[hold|{POOL}/main|both|L4|x]", "what runs and may not be moved now"),
        ("gpus[L4,az-1|on-demand||0.7000|,4]", "L4 nodes in az-1"),
        ("gpus[L4,az-1|spot||0.7000|a,b,4]", "spot L4 nodes in az-1"),
        ("gpus[L4|spot||0.7000|,az-1,tp>=4]", "spot L4 nodes in az-1"),
        ("node[n0]", "GPUs of node n0"),
        ("slots[n0,4]", "GPUs of node n0"),
        (f"quality[{POOL}]", "spec.quality.floor"),
        (f"no column serves {POOL}/main/chat", "no configuration serves chat"),
    ],
)
def test_a_row_has_words(row: str, words: str) -> None:
    assert binding_words(row, POOL) == words


def test_what_binds_another_resource_is_not_told() -> None:
    other = pool(400, Budget(2.0), key=f"{POOL}-2")
    one, two = solve(Snapshot(FLEET, (pool(1), other))).slices
    assert one.binding == () and two.binding


@pytest.mark.parametrize(
    ("made", "budget"),
    [
        (pool, Budget(0.01)),
        (pool, Budget(gpus=0)),
        (cascade, Budget(0.72)),
        (lambda rate, budget: job(budget), Budget(1.0)),
        (lambda rate, budget: job(budget), Budget(gpus=2)),
    ],
    ids=["a pool", "a pool without GPUs", "a cascade", "a job", "a job of too few GPUs"],
)
def test_a_budget_below_one_replica_stops_nothing_and_others_keep_off_its_room(
    made: Callable[[float, Budget], Demand], budget: Budget
) -> None:
    fleet = nodes("H100-SXM5-80GB", 1)
    before, poor = made(4.0, Budget()), made(4.0, budget)
    (first,) = solve(of(fleet, before)).slices
    assert first.replicas and not first.refusals
    units = running(first)
    other = pool(500.0, key="ServingPool/b/other")
    after = solve(replace(of(fleet, poor, other), running=units, edited=frozenset((poor.key,))))
    parts = {part.key: part for part in after.slices}
    told = parts[poor.key].refusals
    assert parts[poor.key].blocked and parts[poor.key].replicas == ()
    assert [refusal.reason for refusal in told] == ["BudgetTooLow"]
    assert not [move for move in after.moves if move.key == poor.key]
    held = sum(unit.tensor_parallel * len(unit.nodes) for unit in units)
    assert sum(replica.gpus for replica in parts[other.key].replicas) == 8 - held
    again = lifted(replace(of(fleet, poor), running=units), told)
    assert refusals(again) == ()


def test_a_solver_that_ran_out_of_time_is_not_called_want_of_gpus() -> None:
    snapshot = Snapshot(FLEET, (pool(4),))
    table, assembly = assemble(snapshot, CATALOG)
    unserved = {name.name: 2.0 for name in table.classes}
    late = Solution("feasible", unserved=unserved, price_usd_per_hour=0.0)
    (told,) = refusals_of(snapshot.services[0], (), late, assembly, snapshot)
    assert (told.reason, told.field) == ("SolverTimeLimit", "Fleet.spec.solver.timeLimit")


@pytest.mark.parametrize("headroom", [0.94, 0.96, 0.9999, 0.99999999])
@pytest.mark.parametrize("slo", [Slo(tpot_s={"p95": 0.08}), Slo(ttft_s={"p99": 1.0})])
def test_however_much_is_kept_free_the_rest_is_planned(headroom: float, slo: Slo) -> None:
    """What waits leave is judged by what is planned for: with little of that there once was no end."""
    demand = replace(pool(0.02), headroom=headroom, slo=slo)
    made = plan(Snapshot(nodes("H100-SXM5-80GB", 4), (demand,)), CATALOG, use_worker=False)
    (part,) = made.slices
    assert part.replicas
    if part.refusals:
        assert [each.reason for each in part.refusals] == ["InsufficientGPUs"]
        assert made.gpus_used == 32
    else:
        assert part.served_requests_per_second == pytest.approx(0.02)


@pytest.mark.parametrize("headroom", [1.0, -0.1, float("nan")])
def test_a_headroom_that_leaves_nothing_is_named(headroom: float) -> None:
    snapshot = Snapshot(nodes("L4", 1), (replace(pool(1), headroom=headroom),))
    with pytest.raises(SnapshotError, match=re.escape(f"{POOL}.headroom: ")):
        plan(snapshot, CATALOG, use_worker=False)


def test_rollout_replicas_that_wait_for_a_trainer_are_told_with_what_keeps_them() -> None:
    (refusal,) = refusals(of(nodes("L4", 2, 4), job()))
    assert refusal.message.startswith("0 of 1 trainer replicas can be had; 2 of rollout are there")
    assert "spec.rollout.minReplicas" in refusal.message


def test_equal_needs_of_two_stages_are_one_need() -> None:
    made = assemble(of(FLEET, pool(4.0)), CATALOG)[1]
    one = next(iter(made.candidates.values()))
    twice = Addition(((one, 1), (replace(one, stage="other"), 2)))
    assert twice.describe() == Addition(((one, 3),)).describe()
