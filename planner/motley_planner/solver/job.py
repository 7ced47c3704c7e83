"""What goes into a solve and what comes out of it, while it runs and at its end."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Literal

from motley_planner.solver.blocks import Blocks
from motley_planner.solver.milp import Floats, Level, Milp

NOTHING = 1e-8  # of any level: rounding
JobStatus = Literal["solved", "infeasible", "unbounded", "none"]


@dataclass(frozen=True, slots=True)
class Job:
    """Levels to maximize in order, over one set of constraints.

    `milp` is searched for a plan; `relaxed` (same variables, wider rows) is what bounds are proved
    on where `milp` is narrower than the real problem. `starts` are complete points to begin from.
    `replica_rows` are the rows sum(time) <= replicas, used to price a whole replica out.
    """

    milp: Milp
    levels: tuple[Level, ...]
    relaxed: Milp | None = None
    blocks: Blocks | None = None
    starts: tuple[Floats, ...] = ()
    time_limit_s: float = 10.0
    relative_gap: float = 1e-4
    patience_s: float = float("inf")  # a level may stop when it has gained nothing for this long
    rates_only: bool = False  # the integers of the first start stay; only its rates are improved
    relaxation_only: bool = False  # the first level without integrality, for its duals

    def values_of(self, x: Floats) -> tuple[float, ...]:
        """What a point reaches at each level, rounded to what counts as a difference."""
        return tuple(_rounded(level.value_of(x)) for level in self.levels)


@dataclass(frozen=True, slots=True)
class Report:
    """One thing the solver found out: a better point, a bound of a level, or the end."""

    level: int
    x: Floats | None = None
    bound: float | None = None
    status: JobStatus | None = None
    duals: Floats | None = None


Emit = Callable[[Report], None]


@dataclass(slots=True)
class Outcome:
    """Everything reported so far; valid at any moment, so a killed worker still leaves a plan."""

    status: JobStatus = "none"
    x: Floats | None = None
    bounds: dict[int, float] = field(default_factory=dict)
    duals: Floats | None = None
    finished: bool = False
    out_of_time: bool = False  # the search took all the time that the job gave it

    def is_proved(self, job: Job) -> bool:
        """Whether every level is within the job's gap of its bound."""
        if self.x is None:
            return False
        for number, level in enumerate(job.levels):
            value = level.value_of(self.x)
            slack = job.relative_gap * abs(value) + NOTHING
            if self.bounds.get(number, float("inf")) - value > slack:
                return False
        return True

    def take(self, report: Report) -> None:
        """Adds one report."""
        if report.x is not None:
            self.x, self.status = report.x, "solved"
        if report.bound is not None:
            self.bounds[report.level] = min(
                report.bound, self.bounds.get(report.level, float("inf"))
            )
        if report.duals is not None and self.duals is None:
            self.duals = report.duals
        if report.status is not None:
            self.finished = True
            if self.x is None or report.status == "unbounded":
                self.status = report.status


def _rounded(value: float) -> float:
    return float(f"{value:.8g}") if abs(value) > NOTHING else 0.0
