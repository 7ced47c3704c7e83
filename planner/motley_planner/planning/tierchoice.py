"""Which combinations of latency tiers are worth offering: the few cheapest, by small LPs.

For one combination, serving a request at a stage costs the least price (or the least GPUs) per
request of any candidate that holds the stage's tier, and the best mixture of policies is

    min sum_p v_p cost_p    sum v_p = 1,  sum v_p (quality_p - floor) >= 0,
                            sum v_p (miss_p - allowed) <= 0.

That ignores whole replicas and the room on nodes, which the fleet's program then decides between
the combinations that are left.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Mapping, Sequence

import numpy as np

from motley_planner.candidates import Candidate
from motley_planner.candidates.targets import quantile_of
from motley_planner.domain.demand import ServingDemand
from motley_planner.planning.tiers import StageTiers, TieredPolicy
from motley_planner.solver.highs import solve_lp
from motley_planner.solver.milp import INF, MilpBuilder

BY_PRICE = 4  # combinations kept for their price
LONGEST_S = 1.0  # of one of these programs; each takes well below a millisecond
BY_GPUS = 2  # and for their GPUs, where room is what is short

UnitCosts = Mapping[str, Sequence[float]]  # stage -> by tier: cost of 1 request/s


def worthwhile(
    service: ServingDemand,
    found: Sequence[TieredPolicy],
    tiers: Mapping[str, StageTiers],
    candidates: Sequence[Candidate],
    running: Collection[str] = (),
) -> tuple[TieredPolicy, ...]:
    """The policies of the best combinations; all of them where there are few.

    `running` names candidates that run: the best combination that all of them hold stays on offer,
    whatever has become cheaper, so that nothing restarts for a choice that was not offered.
    """
    by_combination: dict[tuple[int, ...], list[TieredPolicy]] = {}
    for tiered in found:
        by_combination.setdefault(tiered.combination, []).append(tiered)
    if len(by_combination) <= BY_PRICE:
        return tuple(found)
    kept: dict[tuple[int, ...], None] = {}
    split = tuple(tiers[stage.name].split for stage in service.stages)
    if split in by_combination:
        kept[split] = None
    there = [candidate for candidate in candidates if candidate.id in running]
    held = {stage: offered.held_by_all(stage, there) for stage, offered in tiers.items()}
    for count, measure in ((BY_PRICE, _price), (BY_GPUS, _gpus)):
        costs = _unit_costs(service, tiers, candidates, measure)
        best = _cheapest(service, by_combination, costs, count)
        going_on = {
            c: members
            for c, members in by_combination.items()
            if there and all(tier in held[s] for s, tier in zip(tiers, c, strict=True))
        }
        kept |= dict.fromkeys(best + _cheapest(service, going_on, costs, 1))
    chosen = kept or by_combination
    return tuple(tiered for combination in chosen for tiered in by_combination[combination])


def _cheapest(
    service: ServingDemand,
    combinations: Mapping[tuple[int, ...], Sequence[TieredPolicy]],
    costs: UnitCosts,
    count: int,
) -> list[tuple[int, ...]]:
    """The cheapest combinations. No mixture costs less than its cheapest policy, so programs are
    solved in the order of that bound, until none that is left can be among them."""
    bounds = sorted(
        (min((cost for _, cost in _policy_costs(service, members, costs)), default=float("inf")), c)
        for c, members in combinations.items()
    )
    ranked: list[tuple[float, tuple[int, ...]]] = []
    for bound, combination in bounds:
        if bound == float("inf") or (len(ranked) >= count and bound >= ranked[count - 1][0]):
            break
        cost = _mixture_cost(service, combinations[combination], costs)
        if cost < float("inf"):
            ranked = sorted([*ranked, (cost, combination)])
    return [combination for _, combination in ranked[:count]]


def _policy_costs(
    service: ServingDemand, policies: Sequence[TieredPolicy], costs: UnitCosts
) -> list[tuple[TieredPolicy, float]]:
    """The policies that all classes follow and that cost no infinity, with their costs."""
    stages = [stage.name for stage in service.stages]
    found = []
    for tiered in (t for t in policies if not t.policy.request_class):
        called = service.calls(tiered.policy)
        calls = [called.get(name, 0.0) for name in stages]
        cost = sum(
            number * costs[name][tier]
            for name, tier, number in zip(stages, tiered.combination, calls, strict=True)
            if number > 0
        )
        if np.isfinite(cost):
            found.append((tiered, float(cost)))
    return found


def _price(candidate: Candidate) -> float:
    return candidate.price_usd_per_hour + 1e-3 * candidate.gpus


def _gpus(candidate: Candidate) -> float:
    return candidate.gpus + 1e-3 * candidate.price_usd_per_hour


def _unit_costs(
    service: ServingDemand,
    tiers: Mapping[str, StageTiers],
    candidates: Sequence[Candidate],
    measure: Callable[[Candidate], float],
) -> UnitCosts:
    """Cost of one request/s of the service's mix of classes, by stage and tier."""
    total = sum(c.weight for c in service.classes) or 1
    costs: dict[str, list[float]] = {}
    for stage, offered in tiers.items():
        least = [{c.name: np.inf for c in service.classes} for _ in offered.tiers]
        for candidate in (c for c in candidates if c.stage == stage):
            for tier in offered.of(candidate):
                for name, rate in candidate.capacity.items():
                    if rate > 0 and name in least[tier]:
                        least[tier][name] = min(least[tier][name], measure(candidate) / rate)
        costs[stage] = [
            sum(each[c.name] * c.weight / total for c in service.classes) for each in least
        ]
    return costs


def _mixture_cost(
    service: ServingDemand, policies: Sequence[TieredPolicy], costs: UnitCosts
) -> float:
    found = _policy_costs(service, policies, costs)
    usable, each = [t for t, _ in found], [cost for _, cost in found]
    if not usable:
        return float("inf")
    builder = MilpBuilder()
    shares = builder.variables([INF] * len(usable)).tolist()
    builder.row([(v, 1.0) for v in shares], 1.0, 1.0, name="all")
    short = [service.quality_floor - t.policy.quality for t in usable]
    builder.row(list(zip(shares, short, strict=True)), upper=0.0, name="quality")
    for name in usable[0].miss:
        late = [t.miss[name] - (1.0 - quantile_of(name)) for t in usable]
        builder.row(list(zip(shares, late, strict=True)), upper=0.0, name="late")
    solved = solve_lp(builder.build(), -np.array(each), time.monotonic() + LONGEST_S)
    return float("inf") if solved.value is None else -solved.value
