"""`python -m tests.bench.workflows [--write]`: workflows on four unequal replicas, simulated.

Queries are drawn from the published statistics of HexGen-Text2SQL's traces; every seed draws queries
and Poisson arrivals anew and all policies run on the same ones. A ratio is the geometric mean of the
seeds' ratios against round robin with first come first served, with a 95 % confidence interval
(Student's t on logarithms). Alpha is tuned by replay of other seeds than those measured.
"""

from __future__ import annotations

import argparse
import math
import statistics
import sys
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy.stats import t as student
from tests.bench import page

from motley_planner.dispatch import DispatchRule
from motley_planner.simulator.workflow_traces import (
    TRACES,
    Query,
    drawn_queries,
    poisson_arrivals,
    standard_slo_s,
)
from motley_planner.simulator.workflow_tuning import tuned_alpha
from motley_planner.simulator.workflows import (
    GPUS,
    MILDER,
    PUBLISHED,
    Fleet,
    Scheduling,
    WorkflowRun,
    simulate_workflows,
)

SEEDS = 12
RATES = (0.15, 0.5)
SLO_SCALE = 3.0  # the tightest deadline that the paper sweeps
FIRST_TUNING_SEED = 1000
BASELINE = Scheduling(DispatchRule("roundRobin"), is_urgent_first=False, by_step=False)


@dataclass(frozen=True, slots=True)
class Ratio:
    """A mean ratio and its 95 % confidence interval."""

    mean: float
    low: float
    high: float

    def __str__(self) -> str:
        return f"{self.mean:.2f} ({self.low:.2f}-{self.high:.2f})"


def ratio_of(ours: Sequence[float], theirs: Sequence[float]) -> Ratio:
    """Geometric mean of theirs / ours by seed, with Student's interval on logarithms."""
    logs = [math.log(b / a) for a, b in zip(ours, theirs, strict=True)]
    mean, n = statistics.fmean(logs), len(logs)
    half = float(student.ppf(0.975, n - 1)) * statistics.stdev(logs) / math.sqrt(n)
    return Ratio(math.exp(mean), math.exp(mean - half), math.exp(mean + half))


@dataclass(frozen=True, slots=True)
class Sample:
    """One draw of queries, arrivals and deadlines."""

    queries: list[Query]
    arrival_s: list[float]
    slo_s: list[float]


def sample_of(trace: str, queries_per_s: float, seed: int) -> Sample:
    """The draw of a seed."""
    rng = np.random.default_rng(seed)
    queries = drawn_queries(TRACES[trace], rng)
    arrivals = poisson_arrivals(len(queries), queries_per_s, rng).tolist()
    return Sample(queries, arrivals, [SLO_SCALE * standard_slo_s(GPUS)] * len(queries))


def run(sample: Sample, how: Scheduling, fleet: Fleet) -> WorkflowRun:
    """One simulation."""
    return simulate_workflows(sample.queries, sample.arrival_s, sample.slo_s, how, fleet)


def alpha_of(trace: str, rate: float, fleet: Fleet, replays: int = 3) -> float:
    """The median of the alphas that replays of other seeds choose."""
    chosen = []
    for seed in range(FIRST_TUNING_SEED, FIRST_TUNING_SEED + replays):
        sample = sample_of(trace, rate, seed)
        chosen.append(tuned_alpha(sample.queries, sample.arrival_s, sample.slo_s, fleet=fleet)[0])
    return statistics.median(chosen)


def policies(alpha: float) -> dict[str, Scheduling]:
    """The compared policies by name; the baseline first, what we recommend last."""
    ours = DispatchRule("hexgen", alpha)
    return {
        "round robin, FCFS": BASELINE,
        "round robin, urgency": Scheduling(DispatchRule("roundRobin"), by_step=False),
        "earliest finish at shares, urgency": Scheduling(),
        f"alpha {alpha:.1f}, FCFS": Scheduling(ours, is_urgent_first=False),
        f"alpha {alpha:.1f}, urgency, admission": Scheduling(ours, admits=True),
        f"alpha {alpha:.1f}, urgency": Scheduling(ours),
    }


def measured(
    trace: str, rate: float, fleet: Fleet, seeds: int = SEEDS
) -> dict[str, list[WorkflowRun]]:
    """All policies on the same draws."""
    compared = policies(alpha_of(trace, rate, fleet))
    runs: dict[str, list[WorkflowRun]] = {name: [] for name in compared}
    for seed in range(seeds):
        sample = sample_of(trace, rate, seed)
        for name, how in compared.items():
            runs[name].append(run(sample, how, fleet))
    return runs


def rows(trace: str, rate: float, fleet: Fleet, seeds: int) -> list[str]:
    """Lines of the table for one trace and rate."""
    runs = measured(trace, rate, fleet, seeds)
    base = runs["round robin, FCFS"]
    label = "table" if fleet == PUBLISHED else "milder"
    lines = []
    for name, ours in runs.items():
        faster = ratio_of([r.p95_s for r in ours], [r.p95_s for r in base])
        more = ratio_of([1 / r.answered_per_s for r in ours], [1 / r.answered_per_s for r in base])
        mean = [
            statistics.fmean(get(r) for r in ours)
            for get in (
                lambda r: r.p95_s,
                lambda r: r.answered_per_s,
                lambda r: r.in_time,
                lambda r: r.refused,
            )
        ]
        is_base = name == "round robin, FCFS"
        lines.append(
            f"| {label} | {trace} | {rate:g} | {name} | {mean[0]:.0f} | {mean[1]:.3f} "
            f"| {'1' if is_base else faster} | {'1' if is_base else more} "
            f"| {mean[2]:.0%} | {mean[3]:.0%} |"
        )
    return lines


def table(seeds: int = SEEDS) -> str:
    """The whole table, as the page holds it."""
    head = (
        "| engines | trace | queries/s | policy | P95, s | answered/s | P95 better, x (95 % CI) "
        "| throughput, x (95 % CI) | in time | refused |\n|---|---|---|---|---|---|---|---|---|---|"
    )
    lines = [head]
    for fleet in (MILDER, PUBLISHED):
        for trace in ("trace1", "trace3"):
            for rate in RATES:
                lines += rows(trace, rate, fleet, seeds)
    return "\n".join(lines)


def main(arguments: Sequence[str] | None = None) -> int:
    """Prints the table; writes it into the page."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--write", action="store_true", help="into docs/benchmarks.md")
    parser.add_argument("--seeds", type=int, default=SEEDS)
    args = parser.parse_args(arguments)
    made = table(args.seeds)
    print(made)
    if args.write:
        page.put("workflows", made)
    return 0


if __name__ == "__main__":
    sys.exit(main())
