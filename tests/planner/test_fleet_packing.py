"""Nested floors against bin packing by search; re-plans with many awkward nodes."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from itertools import product
from random import Random

import pytest

from motley_planner.checker import check
from motley_planner.checker.packing import cheapest_packing
from motley_planner.domain.table import (
    Column,
    FleetTable,
    Fragment,
    Previous,
    RequestClass,
    RunningReplica,
    TableNode,
)
from motley_planner.formulations import packing
from motley_planner.formulations.finishing import keep_instead, leave_out_idle
from motley_planner.formulations.fleet import solve_table
from motley_planner.formulations.gains import bounding_gains, slot_gains
from motley_planner.formulations.handing_over import hand_over
from motley_planner.formulations.program import formulate
from motley_planner.formulations.starts import find_starts
from motley_planner.solver import Job
from motley_planner.testing.oracle import fits
from motley_planner.testing.tables import tiny_table


@pytest.mark.parametrize("seed", range(8))
def test_nested_floors_are_bin_packing(seed: int) -> None:
    random = Random(seed)
    outcomes = Counter[bool]()
    for _ in range(150):
        bins = [random.randint(0, 9) for _ in range(random.randint(1, 4))]
        sizes = [random.choice((1, 1, 2, 2, 4, 8)) for _ in range(random.randint(1, 9))]
        floors = all(
            sum(s for s in sizes if s >= q) <= sum(q * (b // q) for b in bins) for q in set(sizes)
        )
        searched = fits(
            tuple(sorted(("A", "z", s) for s in sizes)), tuple(sorted(("A", "z", b) for b in bins))
        )
        packed = cheapest_packing(Counter(sizes), Counter((b, 0.0) for b in bins)) is not None
        assert floors == searched == packed, (bins, sizes)
        outcomes[floors] += 1
    assert min(outcomes.values()) >= 10


def test_gains_bound_what_any_subset_of_residents_frees() -> None:
    random = Random(7)
    for _ in range(300):
        sizes = tuple(random.choice((1, 2, 4)) for _ in range(random.randint(1, 4)))
        free, q = random.randint(0, 7), random.choice((1, 2, 4, 8))
        additive, alone = slot_gains(free, sizes, q)
        low = bounding_gains(free, sizes, q, "safe")
        high = bounding_gains(free, sizes, q, "relaxed")
        exact = True
        for stopped in product((0, 1), repeat=len(sizes)):
            freed = sum(s for s, gone in zip(sizes, stopped, strict=True) if gone)
            gain = q * ((free + freed) // q - free // q)
            totals = [
                sum(g for g, gone in zip(gains, stopped, strict=True) if gone)
                for gains in (low, alone, high)
            ]
            assert totals[0] <= gain <= totals[2] + 1e-9
            exact = exact and totals[1] == gain
        assert exact == additive


def test_conservative_rows_place_and_their_bound_holds(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where a re-plan is too large for slot counts: still a plan, with a bound no plan breaks."""
    narrower = 0
    for seed in range(400):
        table = tiny_table(seed)
        if table.previous is None or table.objective != "max_min" or table.side_rows:
            continue
        if not any(c.requests_per_second for c in (*table.classes, *table.cascades)):
            continue
        exact = solve_table(table, use_worker=False)
        monkeypatch.setattr(packing, "EXACT_NODES", -1)
        safe = solve_table(table, use_worker=False)
        monkeypatch.setattr(packing, "EXACT_NODES", 48)
        assert check(table, safe) == ()
        assert exact.objective is not None and safe.objective is not None
        assert safe.bound is not None and safe.bound >= exact.objective - 1e-6
        assert safe.objective <= exact.objective + 1e-6
        narrower += safe.objective < exact.objective - 1e-6
    assert narrower < 20


def test_many_awkward_nodes_are_replanned_with_a_bound() -> None:
    nodes = tuple(TableNode(f"n{i}", "A", "z", 8) for i in range(60))
    small = Column("small", "m", "z", (Fragment("A", 2),), {"k": 1.0})
    large = Column("large", "m", "z", (Fragment("A", 8),), {"k": 9.0})
    running = tuple(
        RunningReplica(f"r{i}-{j}", "small", (f"n{i}",)) for i in range(60) for j in (0, 1, 2)
    )
    table = FleetTable(
        (RequestClass("k", "m", 100.0),),
        (small, large),
        objective="max_min",
        previous=Previous(nodes, running),
        penalty_per_stopped_gpu=1e-4,
        time_limit_s=3.0,
    )
    solution = solve_table(table, use_worker=False)
    assert check(table, solution) == ()
    assert solution.objective is not None and solution.objective >= 2.4 - 1e-6  # fills the holes
    assert solution.bound is not None and solution.bound >= 5.4 - 60 * 6e-4 - 1e-6  # all large
    again = solve_table(replace(table, lost_nodes=frozenset({"n0"})), use_worker=False)
    assert check(replace(table, lost_nodes=frozenset({"n0"})), again) == ()


@pytest.mark.parametrize("seed", range(12))
def test_a_plan_that_shrinks_leaves_as_many_nodes_empty_as_any(seed: int) -> None:
    random = Random(seed)
    nodes = tuple(TableNode(f"n{i}", "A", "z", 8) for i in range(random.randint(2, 5)))
    others = [random.choice((0, 0, 0, 1, 2)) for _ in nodes]  # of a class that needs them all
    mine = [random.randint(1, 8 - count) for count in others]
    running = [
        RunningReplica(f"{kind}-{node.name}-{j}", kind, (node.name,))
        for kind, counts in (("mine", mine), ("other", others))
        for node, count in zip(nodes, counts, strict=True)
        for j in range(count)
    ]
    random.shuffle(running)
    needed = random.randint(1, sum(mine))
    table = FleetTable(
        (RequestClass("k", "m", float(needed)), RequestClass("j", "o", float(sum(others)))),
        (
            Column("mine", "m", "z", (Fragment("A", 1),), {"k": 1.0}, price_usd_per_hour=1.0),
            Column("other", "o", "z", (Fragment("A", 1),), {"j": 1.0}, price_usd_per_hour=1.0),
            # Too dear to be used, but the room for it tells nodes apart.
            Column("wide", "m", "z", (Fragment("A", 4),), {"k": 1.0}, price_usd_per_hour=9.0),
        ),
        objective="min_cost",
        previous=Previous(nodes, tuple(running)),
        penalty_per_started_gpu=0.01,
        penalty_per_stopped_gpu=0.01,
        time_limit_s=5.0,
    )
    solution = solve_table(table, use_worker=False)
    assert check(table, solution) == ()
    kept = Counter(placed.column for placed in solution.placement if placed.kept)
    assert kept == Counter(mine=needed, other=sum(others)) and solution.started == 0
    used = {name for placed in solution.placement for name in placed.nodes}
    fewest = min(
        sum(taken)
        for taken in product((0, 1), repeat=len(nodes))
        if all(taken[i] for i, count in enumerate(others) if count)
        and sum(count for count, t in zip(mine, taken, strict=True) if t) >= needed
    )
    assert len(used) == fewest, (mine, others, needed)


def test_what_could_be_kept_is_not_started_elsewhere() -> None:
    """A point that stops two replicas for two of the same column keeps them; the rest stays."""
    nodes = tuple(TableNode(f"n{i}", "A", "z", 4) for i in range(3))
    column = Column("c", "m", "z", (Fragment("A", 2),), {"k": 1.0})
    running = (RunningReplica("r0", "c", ("n0",)), RunningReplica("r1", "c", ("n0",)))
    table = FleetTable(
        (RequestClass("k", "m", 3.0),),
        (column,),
        objective="goodput",
        previous=Previous(nodes, running),
        penalty_per_started_gpu=1e-3,
    )
    milp, index = formulate(table)
    x = find_starts(milp, index)[-1]  # nothing of what runs is kept
    assert sum(x[g.variable] for g in index.packing.kept) == 0
    assert sum(x[index.packing.new]) == 3
    better = keep_instead(Job(milp, index.levels), index, x)
    assert milp.violation(better) <= 1e-7
    assert sum(better[g.variable] for g in index.packing.kept) == 2
    assert sum(better[index.packing.new]) == 1


def one_and_more(rate: float) -> FleetTable:
    """A replica that runs and serves 3/s, and room for six more that serve 1/s each."""
    nodes = tuple(TableNode(f"n{i}", "A", "z", 4) for i in range(2))
    large = Column("c", "m", "z", (Fragment("A", 2),), {"k": 3.0}, max_count=1)
    small = Column("d", "m", "z", (Fragment("A", 1),), {"k": 1.0}, price_usd_per_hour=1.0)
    return FleetTable(
        (RequestClass("k", "m", rate),),
        (large, small),
        objective="goodput",
        previous=Previous(nodes, (RunningReplica("r0", "c", ("n0",)),)),
    )


@pytest.mark.parametrize("rate, needed", [(3.0, 0), (4.5, 2), (6.0, 3)])
def test_new_replicas_that_serve_nothing_are_left_out(rate: float, needed: int) -> None:
    """One that runs serves 3/s; of six more that serve 1/s each those stay that are needed."""
    milp, index = formulate(one_and_more(rate))
    job = Job(milp, index.levels)
    (kept,), added = (g.variable for g in index.packing.kept), index.packing.new[1]
    x = next(s for s in find_starts(milp, index) if s[kept] == 1 and s[added] == needed)
    more = x.copy()
    more[added] = 6
    more[list(index.counts.used.values())] = 1
    assert milp.violation(more) <= 1e-7
    better = leave_out_idle(job, index, more)
    assert milp.violation(better) <= 1e-7
    assert better[index.packing.new].tolist() == [0, needed]
    assert better[kept] == 1
    assert job.values_of(better) == job.values_of(x)


@pytest.mark.parametrize("rate, needed", [(3.0, 0), (2.0, 0), (4.5, 2), (6.0, 3)])
def test_new_replicas_whose_load_the_others_can_carry_are_left_out(
    rate: float, needed: int
) -> None:
    """As above, but the load is spread over all seven, so that none is idle."""
    milp, index = formulate(one_and_more(rate))
    job = Job(milp, index.levels)
    (kept,), added = (g.variable for g in index.packing.kept), index.packing.new[1]
    starts = [s for s in find_starts(milp, index) if s[kept] == 1 and s[added] == needed]
    least = max(starts, key=job.values_of)
    spread, rates = least.copy(), index.demand.rates
    spread[added] = 6
    spread[list(index.counts.used.values())] = 1
    for at, column in enumerate(rates.column.tolist()):
        share = (3.0, 6.0)[column] / 9.0
        spread[rates.variable[at]] = share * rate / rates.unit[at]
    assert milp.violation(spread) <= 1e-7
    busy = leave_out_idle(job, index, spread)
    assert busy[added] > needed
    better = hand_over(job, index, busy)
    assert milp.violation(better) <= 1e-7
    assert better[index.packing.new].tolist() == [0, needed]
    assert job.values_of(better) == pytest.approx(job.values_of(least))
