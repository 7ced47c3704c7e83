"""`python -m tests.bench.special_fleets`: fleets with phases, cascades and many resources, and first plans.

    python -m tests.bench.special_fleets            every row, about ten minutes of CPU time
    python -m tests.bench.special_fleets --only P   rows whose name begins so
    python -m tests.bench.special_fleets --write    into docs/benchmarks.md, rows not run are kept

Seconds are CPU seconds of this process, after imports. "First plan" solves every fleet of
tests/bench/fleets.py, counts those that have a plan after so long, and says when the first incumbent was there. "From nodes to columns" is
the planner's own enumeration: 10,000 GPUs of 8 types in 3 zones and five pools of the catalog's models.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from random import Random
from unittest.mock import patch

from tests.bench import page
from tests.bench.fleets import ALL, is_row, row_name, say, solved

from motley_planner.candidates import pipelines, shared_memory
from motley_planner.catalog import load_catalog
from motley_planner.domain.demand import ServingDemand, Slo, StageDemand, WorkloadClass
from motley_planner.domain.hardware import Node, NodeClass
from motley_planner.domain.snapshot import Snapshot
from motley_planner.domain.table import FleetTable
from motley_planner.formulations.program import formulate
from motley_planner.planning.assemble import assemble
from motley_planner.solver.blocks import Structured
from motley_planner.solver.clock import CLOCK
from motley_planner.solver.job import Outcome, Report
from motley_planner.solver.sifting import sift
from motley_planner.testing.fleets import fleet, loaded, lp_capacity
from motley_planner.testing.special_fleets import cascade_fleet, phases_fleet, resources_fleet

HEAD = (
    "| fleet | tables | limit, CPU s | gap, median % | gap, worst % | demanded % | CPU s, median | "
    "CPU s, worst |\n|---|---|---|---|---|---|---|---|"
)
FIRST_HEAD = (
    "| first plan | tables | with a plan | gap, median % | gap, worst % | CPU s, median | "
    "CPU s, worst | first incumbent, CPU s, median | first incumbent, CPU s, worst |\n"
    "|---|---|---|---|---|---|---|---|---|"
)
COLUMNS_HEAD = (
    "| from nodes to columns | columns | columns, CPU s | relaxation, CPU s | demanded, CPU s |"
    "\n|---|---|---|---|---|"
)
Make = Callable[[int, int], FleetTable]
LARGE: tuple[tuple[str, Make, float, float], ...] = (
    ("P/D, 10000 GPUs, 2 models, 3 zones", phases_fleet, 10, 0.5),
    ("cascade of 3 models, 121 policies, 10000 GPUs", cascade_fleet, 5, 0.2),
    ("20 pools and cascades, 5 models, 10000 GPUs", partial(resources_fleet, shared=True), 5, 0.3),
    (
        "20 pools and cascades, each its own replicas, 10000 GPUs",
        partial(resources_fleet, shared=False),
        5,
        0.3,
    ),
)
SIZES = (8, 32, 128, 512, 2048, 10_000)
FIRST_S = (0.2, 0.5)
TYPES = (
    "H100-SXM5-80GB", "H200-SXM-141GB", "A100-SXM4-80GB", "L40S", "RTX-PRO-6000-Server", "A10G",
    "L4", "A100-SXM4-40GB",
)  # fmt: skip
MODELS = (
    "Qwen/Qwen3-8B", "Qwen/Qwen3-32B", "meta-llama/Llama-3.1-8B-Instruct", "openai/gpt-oss-120b",
    "meta-llama/Llama-3.1-70B-Instruct",
)  # fmt: skip


def objectives(base: FleetTable, limit_s: float, gap: float = 1e-4) -> Iterator[FleetTable]:
    """The four loads of a fleet, where it can serve anything."""
    capacity = lp_capacity(base)
    for objective in ALL if capacity > 0 else ():
        yield replace(loaded(base, objective, capacity), time_limit_s=limit_s, relative_gap=gap)


def large_row(name: str, make: Make, limit_s: float, demanded: float, seeds: int) -> str:
    """Gaps and CPU seconds of one sort of fleet of 10,000 GPUs."""
    gaps, times = [], []
    for seed in range(seeds):
        for table in objectives(make(10_000, seed), limit_s, min(1e-4, demanded / 100)):
            plan, taken = solved(table)
            gaps.append(float("inf") if plan.gap is None else 100 * plan.gap)
            times.append(taken)
            say(f"{name} seed {seed} {table.objective}: {gaps[-1]:.3f} % in {taken:.2f} s")
    return (
        f"| {name} | {len(gaps)} | {limit_s:g} | {statistics.median(gaps):.3f} | {max(gaps):.3f} | "
        f"{demanded:g} | {statistics.median(times):.2f} | {max(times):.2f} |"
    )


def first_row(family: str, limit_s: float, seeds: int) -> str:
    """How many tables of a family have a plan at a short limit, and how good it is."""
    gaps, times, firsts, tables, without = [], [], list[float](), 0, 0
    for gpus in SIZES:
        for seed in range(seeds):
            for table in objectives(fleet(family, gpus, seed), limit_s):
                with first_incumbent() as seen:
                    plan, taken = solved(table)
                if plan.status == "infeasible":
                    continue  # proved: the models do not fit
                proved_best = plan.status == "optimal"  # maybe without a replica
                tables, without = tables + 1, without + (not plan.replicas and not proved_best)
                times.append(taken)
                firsts += seen[:1]
                gaps.append(float("inf") if plan.gap is None else 100 * plan.gap)
    return (
        f"| {family}/8 to {family}/10000 in {limit_s:g} s | {tables} | {tables - without} | "
        f"{statistics.median(gaps):.2f} | {max(gaps):.1f} | {statistics.median(times):.2f} | "
        f"{max(times):.2f} | {statistics.median(firsts):.3f} | {max(firsts):.3f} |"
    )


@contextmanager
def first_incumbent() -> Iterator[list[float]]:
    """CPU seconds from here to each point that a search reports: formulating is part of it.

    A point is replicas that fit and their rates; naming nodes for them comes after the search.
    """
    seen, begin, take = list[float](), time.process_time(), Outcome.take

    def noted(outcome: Outcome, report: Report) -> None:
        take(outcome, report)
        if report.x is not None:
            seen.append(time.process_time() - begin)

    with patch.object(Outcome, "take", noted):
        yield seen


def fleet_of_nodes(seed: int) -> Snapshot:
    """1,250 nodes of 8 GPUs in random shares of 8 types and 3 zones, and five pools."""
    random, catalog = Random(seed), load_catalog()
    nodes = tuple(
        Node(
            f"n{i}",
            NodeClass(random.choice(TYPES), random.choice("abc"), "on-demand", "", 10.0),
            8, 192_000, 2**41, 110, 8,
        )
        for i in range(1250)
    )  # fmt: skip
    services = []
    for i, name in enumerate(MODELS):
        model = catalog.model(name)
        assert model is not None, name
        classes = (WorkloadClass("chat", 900, 200, 3), WorkloadClass("rag", 3000, 150, 1))
        services.append(
            ServingDemand(
                key=f"ServingPool/bench/{i}",
                tenant="bench",
                stages=(StageDemand("main", model, "bf16", "vllm", max_pipeline=2),),
                classes=classes[: 1 + i % 2],
                requests_per_second=400.0,
                slo=Slo(ttft_s={"p95": 2.0}, tpot_s={"p95": 0.1}),
            )
        )
    return Snapshot(nodes, tuple(services))


def columns_rows(seed: int = 0) -> list[str]:
    """Enumeration and the relaxation, at first and again with what is remembered."""
    catalog, snapshot = load_catalog(), fleet_of_nodes(seed)
    pipelines._cached.cache_clear()
    shared_memory._cached.cache_clear()
    found = []
    for word, demanded in (("at first", "2"), ("again", "0.2")):
        begin = time.process_time()
        table, _ = assemble(snapshot, catalog)
        middle = time.process_time()
        milp, index = formulate(table)
        sift(Structured(milp, index.blocks), index.levels[0].cost, CLOCK.now() + 60)
        end = time.process_time()
        found.append(
            f"| 10000 GPUs, 8 types, 5 models, {word} | {len(table.columns)} | "
            f"{middle - begin:.2f} | {end - middle:.2f} | {demanded} together |"
        )
    return found


def rows(options: argparse.Namespace) -> Iterator[str]:
    """The rows asked for, one after the other."""
    for name, make, limit_s, demanded in LARGE:
        if name.startswith(options.only):
            yield large_row(name, make, limit_s, demanded, options.seeds)
    for limit_s in FIRST_S:
        for family in "ABC":
            if f"{family}/".startswith(options.only[:2]):
                yield first_row(family, limit_s, options.seeds)
    if "10000".startswith(options.only):
        yield from columns_rows()


def write(found: list[str]) -> None:
    """Puts rows into the page, in place of those with the same first cell."""
    kept = {
        row_name(line): line for line in page.get("special-fleets").splitlines() if is_row(line)
    }
    kept |= {row_name(line): line for line in found}
    first = [line for name, line in kept.items() if " in " in name]
    columns = [line for name, line in kept.items() if name.endswith((", at first", ", again"))]
    large = [line for line in kept.values() if line not in (*first, *columns)]
    parts = [HEAD, *large, "", FIRST_HEAD, *sorted(first), "", COLUMNS_HEAD, *columns]
    page.put("special-fleets", "\n".join(parts))


def main() -> None:
    """Runs the rows and writes the tables."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n\n")[0])
    parser.add_argument("--only", default="", help="rows whose name begins so")
    parser.add_argument("--seeds", type=int, default=5, help="seeds of every fleet")
    parser.add_argument("--write", action="store_true", help="put the rows into the page")
    options = parser.parse_args()
    CLOCK.count_cpu_seconds()
    found: list[str] = []
    for row in rows(options):
        found.append(row)
        print(row, flush=True)
        if options.write:
            write(found)


if __name__ == "__main__":
    main()
