"""The MILP as plain arrays, and HiGHS behind it in a worker process."""

from motley_planner.solver.job import Job, Outcome
from motley_planner.solver.milp import Level, Milp, MilpBuilder
from motley_planner.solver.worker import Worker, solve

__all__ = ["Job", "Level", "Milp", "MilpBuilder", "Outcome", "Worker", "solve"]
