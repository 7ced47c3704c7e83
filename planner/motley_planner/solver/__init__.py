"""The MILP as plain arrays, and HiGHS behind it in a worker process."""

from motley_planner.solver.job import Job, Outcome
from motley_planner.solver.milp import Level, Milp, MilpBuilder
from motley_planner.solver.worker import a_worker, solve

__all__ = ["Job", "Level", "Milp", "MilpBuilder", "Outcome", "a_worker", "solve"]
