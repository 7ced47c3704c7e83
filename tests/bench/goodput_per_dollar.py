"""Goodput per dollar of mixed fleets against the best single GPU type, on real prices.

`python -m tests.bench.goodput_per_dollar [--limit SECONDS] [--write]`: 36 budgeted instances (3 workloads, 3 budgets, 4
availability snapshots) of two services on six GPU types at the catalog's on-demand list prices.
Both plans maximize the scale a at which all demand is served within the same budget, so the
ratio of scales is the ratio of goodput per dollar of budget. Each type alone gets as much time, in
CPU seconds, as the mixed fleet. Capacities are predicted by the catalog's cost model, within the services' SLOs.
"""

from __future__ import annotations

import argparse
import math
import sys
from dataclasses import dataclass, replace
from random import Random

from tests.bench.page import put

from motley_planner import strategies
from motley_planner.catalog import load_catalog
from motley_planner.checker import check
from motley_planner.domain.demand import ServingDemand, Slo, StageDemand, WorkloadClass
from motley_planner.domain.hardware import Catalog, Node, NodeClass
from motley_planner.domain.snapshot import Snapshot
from motley_planner.domain.table import FleetTable
from motley_planner.formulations.fleet import solve_table
from motley_planner.planning.assemble import assemble
from motley_planner.solver.clock import CLOCK
from motley_planner.strategies.views import from_scratch

# On-demand list prices of AWS, Azure and GCP, as in the catalog; node sizes as these clouds sell.
TYPES = (
    ("H100-SXM5-80GB", 8), ("A100-SXM4-80GB", 8), ("L40S", 4),
    ("RTX-PRO-6000-Server", 4), ("A10G", 4), ("L4", 4),
)  # fmt: skip
BUDGETS = (30.0, 60.0, 120.0)
SNAPSHOTS = 4
MOST_GPUS = 32  # of a type in an availability snapshot, as in arXiv 2502.00722
# Model, TPOT at the 95th percentile, requests/s of the two services.
SMALL = ("Qwen/Qwen3-8B", 0.05, 8.0)
LARGE = ("meta-llama/Meta-Llama-3.1-70B", 0.1, 1.0)

Classes = tuple[tuple[int, int, int], ...]  # prompt tokens, output tokens, weight


@dataclass(frozen=True, slots=True)
class Workload:
    """The classes of both services, of the nine workload types of arXiv 2502.00722."""

    name: str
    small: Classes
    large: Classes


WORKLOADS = (
    Workload("reading", ((2455, 18, 6), (824, 253, 2)), ((2455, 253, 3), (2455, 18, 3))),
    Workload("writing", ((496, 510, 6), (824, 510, 2)), ((496, 510, 4), (824, 253, 2))),
    Workload(
        "mixed",
        ((2455, 18, 3), (496, 510, 3), (824, 253, 3)),
        ((2455, 253, 2), (496, 510, 2), (824, 18, 2)),
    ),
)


@dataclass(frozen=True, slots=True)
class Result:
    """One instance: scales of the mixed fleet and of the best single type, and their ratio."""

    name: str
    mixed: float
    single: float
    columns: int

    @property
    def ratio(self) -> float:
        """Goodput per dollar of the mixed fleet over that of the best single type."""
        return self.mixed / self.single if self.single > 0 else math.inf


def instances(catalog: Catalog, time_limit_s: float) -> list[tuple[str, FleetTable]]:
    """All tables with their names."""
    found = []
    for workload in WORKLOADS:
        for number in range(SNAPSHOTS):
            table = fleet_table(catalog, workload, number)
            for budget in BUDGETS:
                priced = replace(
                    table, budget_usd_per_hour=budget, time_limit_s=time_limit_s, relative_gap=1e-4
                )
                found.append((f"{workload.name}, availability {number}, ${budget:.0f}/h", priced))
    return found


def fleet_table(catalog: Catalog, workload: Workload, number: int) -> FleetTable:
    """The column table of a workload on one availability snapshot."""
    random = Random(number)
    nodes = [
        Node(f"{gpu}-{i}", _node_class(catalog, gpu), size, 10**6, 2**45, 110, size)
        for gpu, size in TYPES
        for i in range(random.randint(1, MOST_GPUS // size))
    ]
    services = (
        _service(catalog, "small", SMALL, workload.small),
        _service(catalog, "large", LARGE, workload.large),
    )
    snapshot = Snapshot(tuple(nodes), services)
    table = from_scratch(assemble(snapshot, catalog)[0])
    return replace(table, objective="max_min", penalty_in_price=False)


def _node_class(catalog: Catalog, gpu: str) -> NodeClass:
    return NodeClass(gpu, "az-1", "on-demand", "", catalog.gpus[gpu].price_usd_per_hour or 0.0)


def _service(
    catalog: Catalog, name: str, what: tuple[str, float, float], classes: Classes
) -> ServingDemand:
    model_id, tpot_s, rate = what
    model = catalog.model(model_id)
    assert model is not None, model_id
    return ServingDemand(
        key=f"ServingPool/bench/{name}",
        tenant="bench",
        stages=(StageDemand("main", model, "bf16", "vllm"),),
        classes=tuple(WorkloadClass(f"p{p}-o{o}", p, o, w) for p, o, w in classes),
        requests_per_second=rate,
        slo=Slo(tpot_s={"p95": tpot_s}),
    )


def measure(name: str, table: FleetTable) -> Result:
    """Both plans of one instance; the checker must accept them."""
    mixed = solve_table(table, use_worker=False)
    each_as_long = replace(table, time_limit_s=table.time_limit_s * len(TYPES))
    single = strategies.run("homogeneous", each_as_long)
    assert check(table, mixed) == () and check(table, single) == (), name
    return Result(name, mixed.objective or 0.0, single.objective or 0.0, len(table.columns))


def geometric_mean(values: list[float]) -> float:
    """exp of the mean logarithm."""
    return math.exp(sum(map(math.log, values)) / len(values))


def table_of(results: list[Result], limit_s: float) -> str:
    """The summary as a table in Markdown, a row for each budget and one for all."""
    lines = [
        f"{len(results)} instances, {limit_s:g} CPU s for each plan.",
        "",
        "| budget | instances | geometric mean | least | largest | no single type serves both |",
        "|---|---|---|---|---|---|",
    ]
    for word in (*(f"${budget:.0f}/h" for budget in BUDGETS), ""):
        mine = [r.ratio for r in results if r.name.endswith(word)]
        finite = [ratio for ratio in mine if math.isfinite(ratio)]
        lines.append(
            f"| {word or 'all'} | {len(mine)} | {geometric_mean(finite):.3f} | {min(finite):.3f} "
            f"| {max(finite):.3f} | {len(mine) - len(finite)} |"
        )
    return "\n".join(lines)


def main(words: list[str] | None = None) -> int:
    """Prints a line an instance and the summary; 1 where a mixed fleet is worse."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n\n")[0])
    parser.add_argument("--limit", type=float, default=5.0, help="CPU seconds of a plan")
    parser.add_argument("--write", action="store_true", help="put the summary into the page")
    options = parser.parse_args(words)
    CLOCK.count_cpu_seconds()
    results = []
    for name, table in instances(load_catalog(), options.limit):
        result = measure(name, table)
        results.append(result)
        print(
            f"{name:<40} {result.columns:>4} columns  mixed {result.mixed:8.4f}  "
            f"single {result.single:8.4f}  ratio {result.ratio:6.3f}",
            flush=True,
        )
    summary = table_of(results, options.limit)
    print(summary)
    if options.write:
        put("goodput", summary)
    return int(min(r.ratio for r in results) < 1.0 - 1e-6)


if __name__ == "__main__":
    sys.exit(main())
