"""Strategies against the exact planner on one table: plans, values, CPU time, and who is better."""

from __future__ import annotations

import time
from dataclasses import dataclass, replace

from motley_planner import strategies
from motley_planner.checker import check
from motley_planner.domain.solution import Solution
from motley_planner.domain.table import FleetTable
from motley_planner.errors import SnapshotError
from motley_planner.formulations.fleet import solve_table
from motley_planner.solver.clock import CLOCK
from motley_planner.strategies.listing import STRATEGIES
from motley_planner.strategies.views import is_better, level_values

LEAST_CPU_S = 1.0  # what exact may always use
TOLERANCE = 1e-6
OVERSHOOT = 1.1  # CPU that exact may use of its allowance: an LP cannot be cut in the middle
USED_UP = 0.8  # share of its allowance that exact must have used to count as beaten
TRIES = 8
OTHERS = tuple(s.name for s in STRATEGIES if s.name != "exact")


@dataclass(frozen=True, slots=True)
class Entry:
    """What one strategy made of a table; `refused` says why it does not apply."""

    strategy: str
    cpu_s: float
    solution: Solution | None = None
    complaints: tuple[str, ...] = ()
    refused: str | None = None

    @property
    def values(self) -> tuple[float, ...] | None:
        """Values of the plan's levels, more is better; None without a plan."""
        return None if self.solution is None else level_values(self.solution)


def enter(strategy: str, table: FleetTable) -> Entry:
    """One strategy's plan, what the checker says of it, and the CPU seconds it took."""
    started = time.process_time()
    try:
        solution = strategies.run(strategy, table)
    except SnapshotError as error:
        return Entry(strategy, time.process_time() - started, refused=str(error))
    used = time.process_time() - started
    return Entry(strategy, used, solution, check(table, solution))


def exact_entry(table: FleetTable, cpu_s: float) -> Entry:
    """The exact planner's plan with a limit on CPU seconds, in this process."""
    started = time.process_time()
    CLOCK.count_cpu_seconds()
    try:
        solution = solve_table(replace(table, time_limit_s=cpu_s), use_worker=False)
    finally:
        CLOCK.count_wall_seconds()
    used = time.process_time() - started
    return Entry("exact", used, solution, check(table, solution))


def exact_at_least_as_good(table: FleetTable, entry: Entry, first: Entry) -> Entry | None:
    """Exact's plan if it is not worse than `entry` on no more CPU (at least 1 s); None if it is.

    `first` is exact with 1 s. A run that went over its allowance by more than a step is made again
    with less, one that ended far below it with more.
    """
    allowed, exact = max(LEAST_CPU_S, entry.cpu_s), first
    limit_s = allowed
    for _ in range(TRIES):
        fair = exact.cpu_s <= OVERSHOOT * allowed
        if fair and not is_better(entry.values, exact.values, TOLERANCE):
            return exact
        if fair and exact is not first and exact.cpu_s >= USED_UP * allowed:
            return None
        exact = exact_entry(table, limit_s)
        limit_s *= min(2.0, max(0.5, allowed / max(exact.cpu_s, 0.01)))
    return None
