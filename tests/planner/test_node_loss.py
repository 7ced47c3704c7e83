"""Plans that hold when any node is lost: the promise measured anew, and against enumeration."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterator
from dataclasses import replace
from itertools import combinations, product
from random import Random

import pytest

from motley_planner.catalog import load_catalog
from motley_planner.checker import check
from motley_planner.checker.best_rates import Rates
from motley_planner.checker.recourse import served_by
from motley_planner.domain.demand import ServingDemand, StageDemand, WorkloadClass
from motley_planner.domain.snapshot import Snapshot
from motley_planner.domain.solution import PlacedReplica, Solution
from motley_planner.domain.table import (
    Column,
    FleetTable,
    Fragment,
    Previous,
    RequestClass,
    RunningReplica,
    Scenario,
    TableNode,
)
from motley_planner.formulations.fleet import solve_table
from motley_planner.planning import losses
from motley_planner.planning.assembly import Assembly
from motley_planner.planning.losses import demand_scenarios, solve_for_losses

MODEL = load_catalog().models["Qwen/Qwen3-8B"]


def service(losses: int = 1, classes: int = 1, **changes: object) -> ServingDemand:
    """A pool "p" whose classes are k0, k1, ..."""
    names = tuple(WorkloadClass(f"k{i}", 100, 100) for i in range(classes))
    made = ServingDemand(
        key="p",
        tenant="t",
        stages=(StageDemand("main", MODEL, "bf16", "vllm"),),
        classes=names,
        requests_per_second=1.0,
        node_loss_tolerance=losses,
    )
    return replace(made, **changes)  # type: ignore[arg-type]


def tiny(seed: int) -> FleetTable:
    """Two to four nodes of two types, two configurations, one or two classes."""
    random = Random(seed)
    columns = []
    classes = random.choice((1, 1, 2))
    for i, gpu in enumerate(random.choice((("A", "A"), ("A", "B")))):
        tp = random.choice((1, 2))
        speed = {f"p/main/k{k}": round(tp * random.uniform(0.7, 1.3), 2) for k in range(classes)}
        price = round(tp * random.uniform(0.8, 1.2), 2)
        columns.append(
            Column(f"c{i}", "p/main", "z", (Fragment(gpu, tp),), speed, price_usd_per_hour=price)
        )
    nodes = [
        TableNode(
            f"n{i}", random.choice((columns[0].fragments[0].gpu, "B")), "z", random.choice((2, 3))
        )
        for i in range(random.choice((2, 3, 3, 4)))
    ]
    rates = [round(random.uniform(0.5, 3.0), 2) for _ in range(classes)]
    return FleetTable(
        classes=tuple(RequestClass(f"p/main/k{k}", "p/main", rate) for k, rate in enumerate(rates)),
        columns=tuple(columns),
        objective="goodput",
        previous=Previous(tuple(nodes)),
        penalty_in_price=True,
        time_limit_s=20.0,
        relative_gap=1e-7,
    )


def names_of(table: FleetTable) -> tuple[str, ...]:
    return tuple(c.name for c in table.classes)


def worst_share(table: FleetTable, placement: tuple[PlacedReplica, ...], losses: int = 1) -> float:
    """The least share that is still served after any loss, by LPs of scipy."""
    nodes = sorted({n for p in placement for n in p.nodes})
    scenario = Scenario("loss", names_of(table))
    worst = 1.0 if nodes else 0.0
    for gone in combinations(nodes, min(losses, len(nodes))):
        left = Counter(p.column for p in placement if not set(gone) & set(p.nodes))
        worst = min(worst, served_by(table, scenario, left))
    return worst


def placements(table: FleetTable) -> Iterator[tuple[PlacedReplica, ...]]:
    """Every way to put single-fragment replicas on the nodes."""
    assert table.previous is not None
    per_node = []
    for node in table.previous.nodes:
        fitting = [c for c in table.columns if c.fragments[0].gpu == node.gpu]
        options = []
        for counts in product(*(range(node.gpus // c.gpus + 1) for c in fitting)):
            if sum(n * c.gpus for n, c in zip(counts, fitting, strict=True)) <= node.gpus:
                options.append(
                    tuple(
                        PlacedReplica(c.id, (node.name,), None)
                        for n, c in zip(counts, fitting, strict=True)
                        for _ in range(n)
                    )
                )
        per_node.append(options)
    for chosen in product(*per_node):
        yield tuple(p for options in chosen for p in options)


def best_of_all(table: FleetTable) -> tuple[float, float, float]:
    """(served share, share after the worst loss, -price) of the lexicographically best plan."""
    prices = {c.id: c.price_usd_per_hour for c in table.columns}
    most_usd = math.inf if table.budget_usd_per_hour is None else table.budget_usd_per_hour
    weights = sum(c.weight * c.requests_per_second for c in table.classes)
    best = (0.0, 0.0, 0.0)
    seen: set[tuple[tuple[tuple[str, int], ...], ...]] = set()
    for placement in placements(table):
        by_node: dict[str, Counter[str]] = {}
        for p in placement:
            by_node.setdefault(p.nodes[0], Counter())[p.column] += 1
        key = tuple(sorted(tuple(sorted(c.items())) for c in by_node.values()))
        if key in seen:
            continue
        seen.add(key)
        counts = Counter(p.column for p in placement)
        if sum(prices[c] * n for c, n in counts.items()) > most_usd + 1e-9:
            continue
        (served,) = Rates(table).best(tuple(counts[c.id] for c in table.columns)) or (0.0,)
        assert weights > 0
        price = sum(prices[c] * n for c, n in counts.items())
        worst = worst_share(table, placement)
        best = max(best, (round(served, 7), round(worst, 7), round(-price, 7)))
    return best


def solved(table: FleetTable, *services: ServingDemand) -> tuple[Solution, float]:
    snapshot = Snapshot((), services=services)
    assembly = Assembly()
    solution, tests = solve_for_losses(table, assembly, snapshot, use_worker=False)
    return solution, tests[0].share if tests else 1.0


def value_of(solution: Solution, name: str) -> float:
    return next(lv.value or 0.0 for lv in solution.levels if lv.name.startswith(name))


@pytest.mark.usefixtures("cpu_seconds")
@pytest.mark.parametrize("seed", range(16))
def test_the_plan_tolerates_a_loss_as_well_as_the_best_of_all_placements(seed: int) -> None:
    table = tiny(seed)
    solution, promised = solved(table, service(classes=len(table.classes)))
    measured = worst_share(table, solution.placement)
    assert min(1.0, promised) == pytest.approx(measured, abs=1e-6)
    served, worst, price = best_of_all(table)
    assert value_of(solution, "goodput") == pytest.approx(served, abs=1e-6)
    assert measured == pytest.approx(worst, abs=1e-6)
    if worst >= 1.0:
        assert value_of(solution, "price") == pytest.approx(-price, abs=1e-5)


def without_tolerance(solution: Solution) -> Solution:
    """The solution without the level that no row of the bare table speaks of."""
    levels = tuple(level for level in solution.levels if level.name != "tolerance")
    return replace(solution, levels=levels)


def bounded(seed: int) -> FleetTable:
    """A tiny table with a shape in two parts beside, and a budget that does not buy everything."""
    table, random = tiny(seed), Random(seed * 7 + 1)
    gpu = table.columns[0].fragments[0].gpu
    speed = {k: round(random.uniform(2.2, 3.2), 2) for k in table.columns[0].requests_per_second}
    price = round(random.uniform(1.6, 2.4), 2)
    parts = (Fragment(gpu, 1), Fragment(gpu, 1))
    wide = Column("w", "p/main", "z", parts, speed, price_usd_per_hour=price)
    budget = round(random.uniform(3, 7), 1)
    columns = (*table.columns, wide)
    return replace(table, columns=columns, budget_usd_per_hour=budget, time_limit_s=10.0)


@pytest.mark.parametrize("seed", [19, 34, 37])
def test_within_a_budget_no_placement_of_whole_replicas_on_nodes_promises_more(seed: int) -> None:
    table = bounded(seed)
    solution, promised = solved(table, service(classes=len(table.classes)))
    assert check(table, without_tolerance(solution)) == ()
    measured = worst_share(table, solution.placement)
    assert min(1.0, promised) == pytest.approx(measured, abs=1e-6)
    served, worst, _ = best_of_all(table)
    assert value_of(solution, "goodput") >= served - 1e-6
    assert measured >= worst - 1e-6


def test_the_level_tolerance_is_what_the_test_of_every_loss_measured() -> None:
    table = bounded(37)
    solution, promised = solved(table, service(classes=len(table.classes)))
    (level,) = [lv for lv in solution.levels if lv.name == "tolerance"]
    assert promised < 1.0
    assert level.value == pytest.approx(promised - 1.0)
    assert level.bound == 0.0


def again(table: FleetTable, placement: tuple[PlacedReplica, ...], **changes: object) -> FleetTable:
    """The table with what was placed running."""
    assert table.previous is not None
    running = tuple(RunningReplica(f"r{i}", p.column, p.nodes) for i, p in enumerate(placement))
    previous = replace(table.previous, replicas=running)
    return replace(table, previous=previous, **changes)  # type: ignore[arg-type]


@pytest.mark.parametrize("seed", [19])
def test_what_runs_and_promises_more_is_not_given_up_for_a_lower_price(
    seed: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    table = bounded(seed)
    asked = service(classes=len(table.classes))
    first, promised = solved(table, asked)
    assembly = Assembly()
    assembly.candidates = {c.id: Owned("p") for c in table.columns}  # type: ignore[misc]
    monkeypatch.setattr(losses, "node_table", lambda *_: None)  # the rounds alone find less
    later = again(table, first.placement)
    _, tests = solve_for_losses(later, assembly, Snapshot((), services=(asked,)), use_worker=False)
    assert tests[0].share >= promised - 1e-6


@pytest.mark.parametrize("seed", [19])
def test_a_search_that_begins_from_a_plan_promises_no_less_and_charges_its_starts(
    seed: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    table = replace(bounded(seed), penalty_per_started_gpu=0.01)
    asked = service(classes=len(table.classes))
    first, promised = solved(table, asked)
    monkeypatch.setattr(losses, "node_table", lambda *_: None)
    begun = replace(table, starts=(first.placement,))
    second, share = solved(begun, asked)
    assert share >= promised - 1e-6
    assert check(table, without_tolerance(second)) == ()
    assert all(p.kept is None for p in second.placement)
    assert value_of(second, "price") <= value_of(first, "price") + 1e-6


def test_without_tolerance_nothing_is_kept_for_a_loss_and_nothing_promised() -> None:
    table = tiny(3)
    solution, _ = solved(table, service(0, len(table.classes)))
    alone = solve_table(table, use_worker=False)
    assert [lv.value for lv in solution.levels] == [lv.value for lv in alone.levels]


def test_two_nodes_lost_at_once_leave_what_is_promised() -> None:
    nodes = tuple(TableNode(f"n{i}", "A", "z", 2) for i in range(5))
    column = Column("c", "p/main", "z", (Fragment("A", 1),), {"p/main/k0": 1.0}, "both", 1.0)
    table = FleetTable(
        (RequestClass("p/main/k0", "p/main", 3.0),),
        (column,),
        previous=Previous(nodes),
        penalty_in_price=True,
        time_limit_s=60.0,  # a proven optimum, on a busy machine too
        relative_gap=1e-7,
    )
    solution, promised = solved(table, service(2))
    # 3 of 5 nodes must carry 3 replicas: one on each.
    assert [r.count for r in solution.replicas] == [5]
    assert promised == pytest.approx(1.0)
    assert worst_share(table, solution.placement, 2) == pytest.approx(1.0)


def test_a_replica_over_two_nodes_goes_with_either() -> None:
    nodes = tuple(TableNode(f"n{i}", "A", "z", 2) for i in range(4))
    wide = Column(
        "w", "p/main", "z", (Fragment("A", 2), Fragment("A", 2)), {"p/main/k0": 2.0}, "both", 1.0
    )
    table = FleetTable(
        (RequestClass("p/main/k0", "p/main", 2.0),),
        (wide,),
        previous=Previous(nodes),
        penalty_in_price=True,
    )
    solution, promised = solved(table, service(1))
    assert [r.count for r in solution.replicas] == [2]
    assert promised == pytest.approx(worst_share(table, solution.placement)) == pytest.approx(1.0)


def test_what_runs_and_holds_its_promise_is_left_alone() -> None:
    table = tiny(22)
    asked = service(classes=len(table.classes))
    first, promised = solved(table, asked)
    assert promised >= 1.0 and table.previous is not None
    running = tuple(
        RunningReplica(f"r{i}", p.column, p.nodes) for i, p in enumerate(first.placement)
    )
    again = replace(
        table,
        previous=replace(table.previous, replicas=running),
        penalty_per_started_gpu=0.05,
        penalty_per_stopped_gpu=0.01,
    )
    assembly = Assembly()
    assembly.candidates = {c.id: Owned("p") for c in table.columns}  # type: ignore[misc]
    second, _ = solve_for_losses(again, assembly, Snapshot((), services=(asked,)), use_worker=False)
    assert (second.started, second.stopped) == (0, 0)


class Owned:
    """As much of a candidate as holding what runs asks for."""

    def __init__(self, key: str) -> None:
        self.key = key


@pytest.mark.parametrize("seed", range(8))
def test_demand_error_gives_the_counts_of_a_demand_that_much_larger(seed: int) -> None:
    table = tiny(seed)
    asked = service(0, len(table.classes), demand_error=0.3)
    robust, _ = solved(table, asked)
    larger = tuple(
        replace(c, requests_per_second=1.3 * c.requests_per_second, weight=c.weight / 1.3)
        for c in table.classes
    )
    alone = solve_table(replace(table, classes=larger), use_worker=False)
    if max((alone.unserved or {}).values()) > 1e-9:
        pytest.skip("the larger demand does not fit this fleet")
    assert check(replace(table, scenarios=demand_scenarios((asked,))), robust) == ()
    assert value_of(robust, "price") == pytest.approx(value_of(alone, "price"), abs=1e-6)
    assert value_of(robust, "tolerance") == pytest.approx(0.0, abs=1e-7)
