"""HiGHS behind its function, the lexicographic search, and the worker process."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from dataclasses import replace

import numpy as np
import pytest
from scipy.optimize import LinearConstraint
from scipy.optimize import milp as scipy_milp
from scipy.sparse import csc_matrix

from motley_planner.calling_off import unless
from motley_planner.errors import CalledOff
from motley_planner.formulations.program import formulate
from motley_planner.solver import Job, Level, Milp, MilpBuilder, a_worker, solve
from motley_planner.solver.highs import MipLimits, solve_lp, solve_mip
from motley_planner.solver.worker import end_workers
from motley_planner.testing.tables import large_table, tiny_table


def knapsack(seed: int) -> tuple[Milp, np.ndarray]:
    """A random bounded knapsack with three rows, and its values."""
    rng = np.random.default_rng(seed)
    builder = MilpBuilder()
    for _ in range(8):
        builder.variable(0, 3, integer=bool(rng.random() < 0.8))
    for _ in range(3):
        builder.row([(j, float(rng.uniform(0.5, 3))) for j in range(8)], upper=11.0)
    return builder.build(), rng.uniform(1, 4, 8)


def small_job() -> Job:
    """A search that soon ends, however busy the machine is."""
    milp, index = formulate(tiny_table(1))
    return Job(milp, index.levels, relative_gap=1e-9, time_limit_s=60.0)


def by_scipy(milp: Milp, cost: np.ndarray) -> float:
    matrix = csc_matrix((milp.value, milp.index, milp.start), (milp.num_rows, milp.num_cols))
    found = scipy_milp(
        -cost,
        constraints=LinearConstraint(matrix, milp.row_lower, milp.row_upper),
        bounds=(milp.col_lower, milp.col_upper),
        integrality=milp.integer.astype(int),
        options={"mip_rel_gap": 1e-9},
    )
    return -float(found["fun"])


@pytest.mark.parametrize("seed", range(10))
def test_the_optimum_is_that_of_another_route_to_a_solver(seed: int) -> None:
    milp, cost = knapsack(seed)
    run = solve_mip(milp, cost, MipLimits(time.monotonic() + 20, 1e-9))
    assert run.status == "optimal"
    assert run.value == pytest.approx(by_scipy(milp, cost), rel=1e-6)
    lp = solve_lp(milp, cost, time.monotonic() + 20)
    assert lp.value is not None and run.value is not None
    assert lp.value >= run.value - 1e-9


def test_infeasible_and_unbounded_are_told_apart() -> None:
    builder = MilpBuilder()
    x = builder.variable()
    free = builder.build()
    builder.row([(x, 1.0)], lower=2.0, upper=1.0)
    cost = np.ones(1)
    assert solve_lp(free, cost, time.monotonic() + 5).status == "unbounded"
    assert solve_lp(builder.build(), cost, time.monotonic() + 5).status == "infeasible"


def test_points_are_told_as_they_are_found() -> None:
    milp, cost = knapsack(3)
    seen: list[float] = []
    limits = MipLimits(time.monotonic() + 20, 1e-9)
    run = solve_mip(milp, cost, limits, lambda x, value: seen.append(value))
    assert seen and max(seen) == pytest.approx(run.value)


def test_a_lower_level_does_not_spoil_a_higher_one() -> None:
    builder = MilpBuilder()
    a, b = builder.variable(0, 4, integer=True), builder.variable(0, 4, integer=True)
    builder.row([(a, 1.0), (b, 1.0)], upper=5.0)
    levels = (Level("sum", np.array([1.0, 1.0])), Level("a", np.array([-1.0, 0.0])))
    outcome = solve(Job(builder.build(), levels, relative_gap=1e-9), use_worker=False)
    assert outcome.x is not None
    assert outcome.x.round().tolist() == [1.0, 4.0]
    assert outcome.bounds == pytest.approx({0: 5.0, 1: -1.0})


@pytest.mark.parametrize("seed", [1, 2, 3, 4])
def test_the_worker_finds_what_the_process_itself_finds(seed: int) -> None:
    milp, index = formulate(tiny_table(seed))
    job = Job(milp, index.levels, relative_gap=1e-9)
    here, there = solve(job, use_worker=False), solve(job, use_worker=True)
    assert here.status == there.status
    assert there.finished
    for level in index.levels:
        if here.x is not None and there.x is not None:
            assert level.value_of(there.x) == pytest.approx(level.value_of(here.x))


def test_a_worker_that_ended_in_time_takes_the_next_job_and_one_that_died_none() -> None:
    job = small_job()
    end_workers()
    with a_worker() as first:
        whole = first.solve(job)
    assert whole.finished
    with a_worker() as second:
        assert second is first
        again = second.solve(job)
        assert again.finished and again.status == whole.status
        second.close()
    with a_worker() as third:
        assert third is not first
        late = third.solve(replace(job, time_limit_s=-1.0))  # over before the process is up
        assert not late.finished
        assert not third.is_fit
    end_workers()


def test_the_worker_is_killed_at_the_limit_and_leaves_its_plan() -> None:
    table = replace(large_table(128, 400), objective="max_min")
    milp, index = formulate(table)
    zero = np.zeros(milp.num_cols)
    assert solve(small_job()).finished  # its process is up and waits for the next
    start = time.monotonic()
    job = Job(milp, index.levels, blocks=index.blocks, starts=(zero,), time_limit_s=1.5)
    outcome = solve(replace(job, relative_gap=1e-9))
    assert (
        time.monotonic() - start < 1.5 + 15.0
    )  # on an idle machine 0.3 s: a search goes on for minutes
    assert outcome.x is not None
    assert milp.violation(outcome.x) <= 1e-6


def test_a_search_that_is_called_off_ends_at_once_and_leaves_no_process() -> None:
    milp, index = formulate(replace(large_table(128, 400), objective="max_min"))
    zero = np.zeros(milp.num_cols)
    job = Job(milp, index.levels, blocks=index.blocks, starts=(zero,), time_limit_s=60.0)
    end_workers()
    called_at: list[float] = []

    def called_off() -> bool:
        if time.monotonic() < begun + 1.0:
            return False
        called_at.append(time.monotonic())
        return True

    with a_worker() as worker:
        process, begun = worker._process, time.monotonic()
        with pytest.raises(CalledOff), unless(called_off):
            worker.solve(replace(job, relative_gap=1e-9))
        took_s = time.monotonic() - called_at[0]
        assert not worker.is_fit
    assert len(called_at) == 1
    assert took_s < 20.0  # of the 60 s that it had
    with pytest.raises(ProcessLookupError):  # ended, and no zombie either
        os.kill(process.pid, 0)
    with a_worker() as other:  # nobody gets the dead one, or what it had found
        assert other is not worker
        found = other.solve(small_job()).x
        assert found is not None and len(found) == small_job().milp.num_cols
    end_workers()


def test_what_is_called_off_before_a_solve_begins_starts_none() -> None:
    milp, index = formulate(tiny_table(1))
    job = Job(milp, index.levels)
    for use_worker in (False, True):
        with pytest.raises(CalledOff), unless(lambda: True):
            solve(job, use_worker=use_worker)
    with unless(lambda: False):
        assert solve(job, use_worker=False).finished
    assert solve(job, use_worker=False).finished  # outside nobody is asked


def test_the_start_is_the_plan_when_there_is_no_time() -> None:
    milp, index = formulate(large_table(10_000, 5_000))
    zero = np.zeros(milp.num_cols)
    outcome = solve(Job(milp, index.levels, starts=(zero,), time_limit_s=0.01), use_worker=False)
    assert outcome.x is not None


def test_planning_imports_no_solver_until_it_solves() -> None:
    """highspy and scipy stay out of the parent: the worker alone pays for them."""
    program = (
        "import sys, motley_planner.formulations.fleet\n"
        "print([m for m in ('highspy', 'scipy') if m in sys.modules])"
    )
    found = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True
    )
    assert found.stdout.strip() == "[]"
