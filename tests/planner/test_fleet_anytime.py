"""The anytime search: its shortcuts change no optimum, and cut short it still leaves a plan."""

from __future__ import annotations

import math
import subprocess
import threading
import time
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from motley_planner.checker import check
from motley_planner.domain.table import FleetTable
from motley_planner.errors import SnapshotError
from motley_planner.formulations import packing
from motley_planner.formulations.fleet import solve_table
from motley_planner.formulations.gains import widen
from motley_planner.formulations.program import formulate
from motley_planner.formulations.starts import find_starts
from motley_planner.solver import dives, fills, first_parts, refine, relaxing
from motley_planner.solver.blocks import Structured
from motley_planner.solver.highs import solve_lp
from motley_planner.solver.search import Search
from motley_planner.solver.sifting import sift
from motley_planner.solver.worker import end_workers
from motley_planner.testing.fleets import fleet, loaded, lose, lp_capacity, running
from motley_planner.testing.oracle import Unbounded, best_value
from motley_planner.testing.tables import tiny_table

SHORTCUTS = ("ladder", "box", "dives")


def soon() -> float:
    return time.monotonic() + 60


def force_shortcuts(monkeypatch: pytest.MonkeyPatch, kind: str) -> None:
    """Makes even the smallest table go through sifting, box or ladder, fixing, cuts, neighbours."""
    monkeypatch.setattr(relaxing, "FEW_BLOCKS", 0)
    monkeypatch.setattr(fills, "FIRST", 1)
    monkeypatch.setattr(fills, "ROUND", 1)
    monkeypatch.setattr(first_parts, "BOX_BLOCKS", 1)
    monkeypatch.setattr(first_parts, "HURRY_BLOCKS", 1)
    monkeypatch.setattr(first_parts, "LADDER", (1, 2))
    monkeypatch.setattr(first_parts, "FEW_REPLICAS", 60 if kind == "ladder" else 0)
    monkeypatch.setattr(dives, "MANY_GROUPS", 0 if kind == "dives" else 12)
    monkeypatch.setattr(dives, "IDLE", 2)
    monkeypatch.setattr(dives, "WIDTHS", (1, 2))
    monkeypatch.setattr(refine, "CUT_GAP", -1.0)
    monkeypatch.setattr(refine, "WIDTH", 2)
    monkeypatch.setattr(refine, "NEIGHBOURS", 2)


def agrees_with_enumeration(table: FleetTable) -> bool:
    """Whether enumeration and the search had a plan to compare; fails where they differ."""
    try:
        solution = solve_table(table, use_worker=False)
    except SnapshotError as error:
        if "unbounded" in str(error):
            with pytest.raises(Unbounded):
                best_value(table)
        return False
    assert check(table, solution) == ()
    best = best_value(table)
    if best is None:
        assert solution.status == "infeasible"
        return False
    found = [-(v.value or 0.0) if v.name == "price" else v.value for v in solution.levels]
    assert solution.status == "optimal"
    assert found == pytest.approx(best, rel=1e-6, abs=1e-6)
    return True


@pytest.mark.parametrize("kind", SHORTCUTS)
def test_with_every_shortcut_the_search_finds_what_enumeration_finds(
    kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    force_shortcuts(monkeypatch, kind)
    first = 20_000 + 10_000 * ("box", "ladder", "dives").index(kind)
    compared = sum(agrees_with_enumeration(tiny_table(s)) for s in range(first, first + 80))
    assert compared >= 40


@pytest.mark.slow
@pytest.mark.parametrize("kind", SHORTCUTS)
@pytest.mark.parametrize("block", range(15))
def test_with_every_shortcut_on_thousands_more(
    kind: str, block: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    force_shortcuts(monkeypatch, kind)
    for seed in range(40_000 + block * 100, 40_000 + (block + 1) * 100):
        agrees_with_enumeration(tiny_table(seed))


@pytest.mark.parametrize("seed", range(60))
def test_the_sifted_relaxation_is_the_direct_one(
    seed: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(fills, "FIRST", 1)
    monkeypatch.setattr(fills, "ROUND", 1)
    milp, index = formulate(tiny_table(seed))
    for level in index.levels:
        same_relaxation(Structured(milp, index.blocks), level.cost)


@pytest.mark.parametrize("family", ["A", "B", "C"])
@pytest.mark.parametrize("objective", ["max_min", "budget", "goodput", "min_cost"])
def test_the_sifted_relaxation_of_a_fleet_is_the_direct_one(family: str, objective: str) -> None:
    base = fleet(family, 64, seed=3)
    table = loaded(base, objective, lp_capacity(base))
    milp, index = formulate(table)
    for level in index.levels:
        same_relaxation(Structured(milp, index.blocks), level.cost)


def same_relaxation(program: Structured, cost: np.ndarray) -> None:
    """Same status, same optimum, and a point that keeps all rows and bounds."""
    direct = solve_lp(program.milp, cost, soon())
    sifted = sift(program, cost, soon())
    assert sifted.status == direct.status
    if direct.status != "optimal":
        return
    assert sifted.bound == pytest.approx(direct.value, rel=1e-6, abs=1e-7)
    assert sifted.x is not None and sifted.profit is not None
    relaxed = replace(program.milp, integer=np.zeros(program.milp.num_cols, dtype=np.bool_))
    assert relaxed.violation(sifted.x) <= 1e-6
    assert float(cost @ sifted.x) == pytest.approx(sifted.bound, rel=1e-6, abs=1e-7)


def test_no_replica_is_worth_more_than_its_profit_says() -> None:
    """Forcing one replica of a block costs the relaxation at least its reduced cost."""
    table = loaded(base := fleet("A", 32, seed=1), "min_cost", lp_capacity(base))
    milp, index = formulate(table)
    program, cost = Structured(milp, index.blocks), index.levels[0].cost
    found = sift(program, cost, soon())
    assert found.profit is not None
    for block in np.argsort(-found.profit)[::7].tolist():
        lower = milp.col_lower.copy()
        lower[index.blocks.count[block]] = 1.0
        forced = solve_lp(milp.with_bounds(lower, milp.col_upper), cost, soon())
        if forced.value is not None:
            assert forced.value <= found.bound + found.profit[block] + 1e-6


@pytest.mark.parametrize("objective", ["max_min", "goodput", "min_cost"])
def test_reduced_cost_fixing_changes_no_optimum(
    objective: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    for seed in range(3):
        base = fleet("A", 24, seed)
        if lp_capacity(base) <= 0:
            continue
        table = loaded(base, objective, lp_capacity(base))
        table = replace(table, relative_gap=1e-7, time_limit_s=20.0)
        fixed = solve_table(table, use_worker=False)
        with monkeypatch.context() as patch:
            patch.setattr(Search, "most_counts", lambda self: self.program.blocks.limit)
            whole = solve_table(table, use_worker=False)
        assert fixed.status == whole.status
        if fixed.status != "infeasible":
            assert fixed.objective == pytest.approx(whole.objective, rel=1e-6)


def test_relaxed_rows_are_those_of_a_program_made_with_them(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(packing, "EXACT_NODES", -1)
    different = 0
    for seed in range(400):
        table = tiny_table(seed)
        if table.previous is None:
            continue
        safe, index = formulate(table)
        relaxed, _ = formulate(table, "relaxed")
        found = widen(safe, index.packing.gains)
        x = np.random.default_rng(seed).random(safe.num_cols)
        assert np.allclose(found.activity(x), relaxed.activity(x))
        assert np.array_equal(found.row_upper, relaxed.row_upper)
        different += not np.array_equal(found.row_upper, safe.row_upper)
    assert different >= 3


def test_starts_are_feasible_and_one_exists_for_every_objective() -> None:
    base = fleet("B", 512, seed=2)
    capacity = lp_capacity(base)
    for objective in ("max_min", "budget", "goodput", "min_cost"):
        for priced in (False, True):
            table = loaded(base, objective, capacity)
            if priced:
                nodes = tuple(replace(n, price_usd_per_hour=1.5 * n.gpus) for n in table.nodes)
                table = replace(table, nodes=nodes)
            milp, index = formulate(table)
            starts = find_starts(milp, index)
            assert all(milp.violation(x) <= 1e-6 for x in starts)
            values = [index.levels[0].value_of(x) for x in starts]
            assert values and max(values) != 0.0


class Killer:
    """Starts processes as usual and kills each after a while."""

    def __init__(self, after_s: float) -> None:
        self.after_s, self.real, self.killed = after_s, subprocess.Popen, 0

    def __call__(self, *args: Any, **options: Any) -> subprocess.Popen[bytes]:
        process: subprocess.Popen[bytes] = self.real(*args, **options)

        def kill() -> None:
            process.kill()
            self.killed += 1

        threading.Timer(self.after_s, kill).start()
        return process


@pytest.mark.parametrize("objective", ["max_min", "goodput", "min_cost"])
@pytest.mark.parametrize("after_s", [0.0, 1.5])
def test_a_killed_worker_leaves_its_last_or_the_greedy_plan(
    objective: str, after_s: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    base = fleet("C", 128, seed=4)
    table = loaded(base, objective, lp_capacity(base))
    table = replace(table, time_limit_s=30.0, relative_gap=1e-9)
    killer = Killer(after_s)
    end_workers()
    monkeypatch.setattr("motley_planner.solver.worker.subprocess.Popen", killer)
    solution = solve_table(table)
    assert killer.killed == 1
    assert solution.solve_seconds < 25.0
    assert solution.status == "feasible"
    assert check(table, solution) == ()
    assert solution.replicas


@pytest.fixture(scope="module")
def fleet_that_runs() -> FleetTable:
    """A fleet with its plan running."""
    base = fleet("C", 256, seed=5)
    return running(loaded(base, "max_min", lp_capacity(base)), limit_s=1.0)


def losses(table: FleetTable) -> Iterator[FleetTable]:
    for share, seed in ((0.0, 1), (0.1, 2), (0.3, 3)):
        yield replace(lose(table, share, seed), time_limit_s=1.5)


def test_a_replan_is_never_worse_than_the_repair(fleet_that_runs: FleetTable) -> None:
    for table in losses(fleet_that_runs):
        milp, index = formulate(table)
        level = index.levels[0]
        program = Structured(milp, index.blocks)
        best = -math.inf
        for start in find_starts(milp, index):
            whole = np.where(milp.integer, np.round(start), 0.0)
            lower = np.where(milp.integer, whole, milp.col_lower)
            upper = np.where(milp.integer, whole, milp.col_upper)
            fixed = program.milp.with_bounds(lower, upper)
            run = solve_lp(fixed, level.cost, soon())
            best = max(best, (run.value or 0.0) + level.constant)
        solution = solve_table(table, use_worker=False)
        assert check(table, solution) == ()
        assert solution.objective is not None and solution.objective >= best - 1e-9


def test_dear_moves_leave_only_the_routing(fleet_that_runs: FleetTable) -> None:
    for table in losses(fleet_that_runs):
        dear = replace(table, penalty_per_started_gpu=1e3, penalty_per_stopped_gpu=1e3)
        solution = solve_table(dear, use_worker=False)
        assert (solution.started, solution.stopped) == (0, 0)


def test_free_moves_are_no_worse_than_a_plan_from_scratch_minus_what_cannot_move(
    fleet_that_runs: FleetTable,
) -> None:
    assert fleet_that_runs.previous is not None
    for table in losses(fleet_that_runs):
        free = replace(table, penalty_per_started_gpu=0.0, penalty_per_stopped_gpu=0.0)
        moved = solve_table(replace(free, relative_gap=2e-3), use_worker=False)
        assert free.previous is not None
        empty = replace(free, previous=replace(free.previous, replicas=()), relative_gap=2e-3)
        scratch = solve_table(empty, use_worker=False)
        assert moved.objective is not None and scratch.bound is not None
        assert moved.bound is not None and scratch.objective is not None
        assert moved.objective <= scratch.bound + 1e-9
        assert scratch.objective <= moved.bound + 1e-9


def test_nothing_moves_in_a_good_plan_when_nothing_is_lost(fleet_that_runs: FleetTable) -> None:
    gpus = sum(n.gpus for n in fleet_that_runs.previous.nodes) if fleet_that_runs.previous else 1
    table = replace(
        fleet_that_runs, penalty_per_started_gpu=2.0 / gpus, penalty_per_stopped_gpu=2.0 / gpus
    )
    solution = solve_table(replace(table, time_limit_s=1.5), use_worker=False)
    assert (solution.started, solution.stopped) == (0, 0)
