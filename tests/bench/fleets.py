"""`python -m tests.bench.fleets`: how good plans are after a given CPU time, as one table.

    python -m tests.bench.fleets                 every case, about an hour and a half of CPU time
    python -m tests.bench.fleets --short         one seed of the cases of at most 2 s each
    python -m tests.bench.fleets --only C/128    cases whose name begins so

Each case solves generated fleets (motley_planner.testing.fleets) in this process, with the CPU
seconds of the process as the clock (so a busy machine slows it down and does not spoil it), after
imports; the time counts formulating, solving and placing. Median and worst are over all seeds and
objectives of the row. Every plan is checked (motley_planner.checker) before it counts. The table in
docs/benchmarks.md between the two `bench:fleets` marks is replaced, rows not run are kept.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace

from tests.bench import page

from motley_planner.checker import check
from motley_planner.domain.solution import Solution
from motley_planner.domain.table import FleetTable
from motley_planner.formulations import fleet as planner
from motley_planner.formulations.fleet import solve_table
from motley_planner.solver.clock import CLOCK
from motley_planner.testing.fleets import fleet, loaded, lose, lp_capacity, running

HEAD = (
    "| case | seeds | limit, CPU s | gap, median % | gap, worst % | demanded % | CPU s, median | "
    "CPU s, worst |\n|---|---|---|---|---|---|---|---|"
)
ALL = ("max_min", "budget", "goodput", "min_cost")


@dataclass(frozen=True, slots=True)
class Case:
    """One row: fleets of a family and size, with objectives, a time limit and a demanded gap."""

    family: str
    gpus: int
    objectives: tuple[str, ...]
    limit_s: float
    demanded: float
    seeds: int = 5

    @property
    def name(self) -> str:
        """What the row is called."""
        kinds = "all" if self.objectives == ALL else ", ".join(self.objectives)
        return f"{self.family}/{self.gpus} {kinds}, {self.limit_s:g} s"


CASES = (
    *(Case("A", g, ALL, 2, 0.05) for g in (8, 32, 128, 512, 2048, 10_000)),
    Case("B", 32, ALL, 30, 0.01),
    Case("B", 128, ("max_min", "budget"), 10, 1),
    Case("B", 128, ("goodput",), 10, 0.2),
    Case("B", 128, ("min_cost",), 10, 2.5),
    Case("B", 512, ALL, 10, 0.5),
    Case("B", 2048, ALL, 1, 0.2),
    Case("B", 2048, ALL, 10, 0.2),
    Case("B", 10_000, ALL, 10, 0.1),
    Case("C", 32, ALL, 90, 0.01),
    Case("C", 128, ("max_min",), 60, 5),
    Case("C", 128, ("goodput",), 60, 1),
    Case("C", 128, ("budget", "min_cost"), 60, 15, 10),
    Case("C", 512, ALL, 10, 5),
    Case("C", 2048, ALL, 10, 1.5),
    Case("C", 10_000, ALL, 10, 0.3),
)


def solved(table: FleetTable) -> tuple[Solution, float]:
    """A checked plan and the CPU seconds that it took."""
    begin = time.process_time()
    solution = solve_table(table, use_worker=False)
    taken = time.process_time() - begin
    complaints = check(table, solution)
    if complaints:
        raise AssertionError(f"the checker refuses a plan: {complaints[:3]}")
    return solution, taken


def gap_row(case: Case, seeds: int) -> str:
    """One row: gaps (first level) and CPU seconds over seeds and objectives."""
    gaps: list[float] = []
    times: list[float] = []
    for seed in range(seeds):
        base = fleet(case.family, case.gpus, seed)
        capacity = lp_capacity(base)
        for objective in case.objectives if capacity > 0 else ():
            table = replace(
                loaded(base, objective, capacity),
                time_limit_s=case.limit_s,
                relative_gap=min(1e-4, case.demanded / 100),
            )
            solution, taken = solved(table)
            if solution.status == "infeasible":
                continue  # proved: the models do not fit
            times.append(taken)
            gaps.append(float("inf") if solution.gap is None else 100 * solution.gap)
            say(f"{case.name} seed {seed} {objective}: {gaps[-1]:.3f} % in {taken:.2f} s")
    return (
        f"| {case.name} | {seeds} | {case.limit_s:g} | {statistics.median(gaps):.3f} | "
        f"{max(gaps):.3f} | {case.demanded:g} | {statistics.median(times):.2f} | "
        f"{max(times):.2f} |"
    )


REPLAN_HEAD = (
    "| re-plan | seeds | limit, CPU s | value / 20 s reference, worst | value - repair, worst | "
    "survivors stopped, worst | CPU s, median | CPU s, worst |\n|---|---|---|---|---|---|---|---|"
)
REPLANS = tuple(
    (family, gpus, share)
    for family, gpus in (("B", 128), ("C", 128), ("B", 2048), ("C", 2048), ("C", 10_000))
    for share in (0.0, 0.1)
)


def replan_row(family: str, gpus: int, share: float, seeds: int) -> str:
    """A running fleet that loses one node (share 0) or a share of its nodes, re-planned in 1 s.

    Re-plan and reference may stop max(2, 5 %) of the survivors, as the operator's re-plans may.
    """
    ratios, gains, stops, times = [], [], [], []
    for seed in range(seeds):
        base = fleet(family, gpus, seed)
        before = running(loaded(base, "max_min", lp_capacity(base)), limit_s=3.0)
        after = few_stops(lose(before, share, seed))
        found, taken = solved(replace(after, time_limit_s=1.0))
        best = reference(after)
        repaired, _ = solved(repair_only(after))
        assert found.objective is not None and repaired.objective is not None
        ratios.append(found.objective / max(best.objective or 0.0, found.objective))
        gains.append(found.objective - repaired.objective)
        survivors = sum(1 for p in found.placement if p.kept) + found.stopped
        stops.append(found.stopped / max(1, survivors))
        times.append(taken)
        say(f"re-plan {family}/{gpus} seed {seed}: {ratios[-1]:.4f}, stopped {found.stopped}")
    what = "1 node" if not share else f"{share:.0%} of nodes"
    return (
        f"| {family}/{gpus}, {what} lost | {seeds} | 1 | {min(ratios):.4f} | {min(gains):+.4f} | "
        f"{max(stops):.1%} | {statistics.median(times):.2f} | {max(times):.2f} |"
    )


def reference(table: FleetTable) -> Solution:
    """The plan of 20 s in which a search does not end early for want of gains."""
    patience, planner.REPLAN_PATIENCE_S = planner.REPLAN_PATIENCE_S, 1e6
    try:
        return solved(replace(table, time_limit_s=20.0))[0]
    finally:
        planner.REPLAN_PATIENCE_S = patience


def few_stops(table: FleetTable) -> FleetTable:
    """The table in which at most max(2, 5 %) of the survivors are stopped."""
    assert table.previous is not None
    left = sum(not set(r.nodes) & table.lost_nodes for r in table.previous.replicas)
    return replace(table, most_stopped=max(2, int(0.05 * left)))


def repair_only(table: FleetTable) -> FleetTable:
    """The table in which survivors stay and only what was lost may start: the repair plan."""
    assert table.previous is not None
    lost = [r for r in table.previous.replicas if set(r.nodes) & table.lost_nodes]
    again: dict[str, int] = {}
    for replica in table.previous.replicas:
        again[replica.column] = again.get(replica.column, 0) + 1
    columns = tuple(replace(c, max_count=again.get(c.id, 0)) for c in table.columns)
    assert lost or not table.lost_nodes
    return replace(
        table,
        columns=columns,
        most_stopped=0,
        time_limit_s=2.0,
        penalty_per_stopped_gpu=1.0,
        relative_gap=1e-3,
    )


def say(text: str) -> None:
    """Progress."""
    print(text, file=sys.stderr, flush=True)


def rows(options: argparse.Namespace) -> Iterator[tuple[str, Callable[[], str]]]:
    """Name and maker of every row asked for."""
    for case in CASES:
        if options.short and case.limit_s > 2:
            continue
        seeds = options.seeds or (1 if options.short else case.seeds)
        if options.limit:
            case = replace(case, limit_s=options.limit)
        yield case.name, lambda case=case, seeds=seeds: gap_row(case, seeds)
    for family, gpus, share in REPLANS if not options.short else REPLANS[:2]:
        seeds = options.seeds or (1 if options.short else 5)
        yield (
            f"replan {family}/{gpus}",
            lambda f=family, g=gpus, s=share, n=seeds: replan_row(f, g, s, n),
        )


def main() -> None:
    """Runs the cases and writes the tables."""
    parser = argparse.ArgumentParser(description="benchmarks of the fleet planner")
    parser.add_argument("--short", action="store_true", help="one seed of the quick cases")
    parser.add_argument("--only", default="", help="cases whose name begins so")
    parser.add_argument("--seeds", type=int, default=0, help="seeds a case, for all of them")
    parser.add_argument(
        "--limit", type=float, default=0.0, help="CPU seconds, in place of a case's"
    )
    parser.add_argument("--write", action="store_true", help="put the rows into the page")
    options = parser.parse_args()
    CLOCK.count_cpu_seconds()
    found: list[str] = []
    for name, make in rows(options):
        if name.startswith(options.only):
            found.append(make())
            print(found[-1], flush=True)
            if options.write:
                write(found)


def write(found: list[str]) -> None:
    """Puts rows into the page, in place of those with the same first cell."""
    kept = {row_name(line): line for line in page.get("fleets").splitlines() if is_row(line)}
    kept |= {row_name(line): line for line in found}
    replans = sorted(line for name, line in kept.items() if "lost" in name)
    gaps = sorted((line for line in kept.values() if line not in replans), key=_place)
    page.put("fleets", "\n".join([HEAD, *gaps, "", REPLAN_HEAD, *replans]))


def _place(line: str) -> tuple[str, int, str]:
    family, rest = row_name(line).split("/", 1)
    return family, int(rest.split()[0]), line


def row_name(line: str) -> str:
    """The first cell."""
    return line.split("|")[1].strip()


def is_row(line: str) -> bool:
    """Whether a line is a row of figures."""
    heads = ("| case", "| re-plan", "| fleet |", "| first plan", "| from nodes")
    return line.startswith("| ") and not line.startswith(heads)


if __name__ == "__main__":
    main()
