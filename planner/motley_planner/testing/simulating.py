"""A plan's slice under a multiple of its own rates, and whether it keeps its targets there."""

from __future__ import annotations

from dataclasses import dataclass, replace

from motley_planner.domain.hardware import Catalog
from motley_planner.domain.plan import Slice
from motley_planner.simulator import (
    Arrivals,
    Report,
    Scenario,
    Terms,
    deployment_of,
    drawn,
    kinds_of,
    like_trace,
    outcomes_of,
    report_of,
    simulate,
    stages_of,
)

GRACE_S = 60.0  # after the last arrival
WARM_UP = 0.1  # share of the time that no report counts


@dataclass(frozen=True, slots=True)
class Load:
    """`times` the planned rates, by Poisson arrivals or like a trace's."""

    times: float = 1.0
    seed: int = 7
    requests: int = 4000
    trace: Arrivals | None = None


def simulated(part: Slice, catalog: Catalog, load: Load) -> Report:
    """What the plan's own dispatcher and its engines, with the cost model's steps, make of a load."""
    kinds = [
        replace(kind, requests_per_second=kind.requests_per_second * load.times)
        for kind in kinds_of(part)
        if kind.requests_per_second > 0
    ]
    if load.trace is None:
        arrivals = drawn(kinds, load.requests, seed=load.seed)
    else:
        arrivals = like_trace(kinds, load.trace.first(load.requests), seed=load.seed)
    last = float(arrivals.time_s[-1])
    deployment = deployment_of(part, catalog)
    scenario = Scenario(
        deployment, arrivals, outcomes_of(part), end_s=last + GRACE_S, seed=load.seed
    )
    terms = Terms(part.slo, WARM_UP * last)
    return report_of(simulate(scenario), part.key, stages_of(part), terms)


def is_kept(report: Report, margin: float = 0.01) -> bool:
    """Whether every request was taken and every target's share is reached, less the margin."""
    return not report.refused and all(
        each.share is None or each.share >= each.wanted - margin for each in report.attainment
    )
