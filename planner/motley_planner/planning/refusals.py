"""Why a resource is not served in full, and the smallest change that would lift it."""

from __future__ import annotations

import math
from collections.abc import Sequence

from motley_planner.candidates import Candidate
from motley_planner.domain.demand import Demand, RlDemand, ServingDemand
from motley_planner.domain.plan import PlannedReplica, Refusal
from motley_planner.domain.solution import Solution
from motley_planner.planning.assembly import Assembly
from motley_planner.planning.demands import class_rates

LEAST_UNSERVED_SHARE = 1e-6  # below it the demand counts as served


def refusals_of(
    demand: Demand,
    replicas: Sequence[PlannedReplica],
    solution: Solution,
    assembly: Assembly,
) -> tuple[Refusal, ...]:
    """Refusals found while listing candidates, then what the solution left unserved."""
    listed = tuple(assembly.refusals.get(demand.key, ()))
    if demand.key in assembly.blocked:
        return listed
    if isinstance(demand, RlDemand):
        return (*listed, *_job(demand, replicas, assembly))
    return (*listed, *_service(demand, replicas, solution, assembly))


def _job(
    job: RlDemand, replicas: Sequence[PlannedReplica], assembly: Assembly
) -> tuple[Refusal, ...]:
    roles = {replica.role for replica in replicas}
    if {"rollout", "trainer"} <= roles:
        return ()
    missing = "trainer" if "trainer" not in roles else "rollout"
    cheapest = min(assembly.of(job.key, missing), key=lambda c: c.gpus)
    lift = f"+{cheapest.gpus} free {cheapest.gpu} GPUs on one node"
    if cheapest.fragments > 1:
        lift = f"+{cheapest.fragments} nodes with {cheapest.tensor_parallel} {cheapest.gpu} GPUs"
    message = f"no room for the {missing} beside what has a higher priority"
    return (Refusal("InsufficientGPUs", f"spec.{missing}", message, lift),)


def _service(
    service: ServingDemand,
    replicas: Sequence[PlannedReplica],
    solution: Solution,
    assembly: Assembly,
) -> tuple[Refusal, ...]:
    unserved = solution.unserved or {}
    if service.policies:
        missing = unserved.get(service.key, 0.0)
    else:
        stage = service.stages[0].name
        names = (f"{service.key}/{stage}/{name}" for name in class_rates(service))
        missing = sum(unserved.get(name, 0.0) for name in names)
    if missing <= LEAST_UNSERVED_SHARE * service.requests_per_second:
        return ()
    asked = service.requests_per_second
    short = f"{missing:.3g} of {asked:.3g} requests/s cannot be served"
    budget, offered = service.budget, assembly.of(service.key)
    best = max(offered, key=_capacity_per_gpu)
    spent = sum(replica.price_usd_per_hour for replica in replicas)
    if budget.usd_per_hour is not None and not any(
        spent + c.price_usd_per_hour <= budget.usd_per_hour for c in offered
    ):
        more = missing / max(_capacity_per_usd(offered), 1e-9)
        limit = budget.usd_per_hour
        lift = f"spec.budget.dollarsPerHour {limit:g} -> about {limit + more:.3g}"
        return (Refusal("BudgetTooLow", "spec.budget.dollarsPerHour", short, lift, missing),)
    held = sum(replica.gpus for replica in replicas)
    if budget.gpus is not None and not any(held + c.gpus <= budget.gpus for c in offered):
        more_gpus = math.ceil(missing / max(_capacity_per_gpu(best), 1e-9))
        lift = f"spec.budget.gpus {budget.gpus} -> about {budget.gpus + more_gpus}"
        return (Refusal("BudgetTooLow", "spec.budget.gpus", short, lift, missing),)
    count = math.ceil(missing / max(_capacity(best), 1e-9))
    lift = f"about +{count * best.gpus} {best.gpu} GPUs ({count} x TP{best.tensor_parallel})"
    return (Refusal("InsufficientGPUs", "spec.workload.requestsPerSecond", short, lift, missing),)


def _capacity(candidate: Candidate) -> float:
    return max(candidate.capacity.values(), default=0.0)


def _capacity_per_gpu(candidate: Candidate) -> float:
    return _capacity(candidate) / max(1, candidate.gpus)


def _capacity_per_usd(candidates: Sequence[Candidate]) -> float:
    priced = [c for c in candidates if c.price_usd_per_hour > 0]
    return max((_capacity(c) / c.price_usd_per_hour for c in priced), default=0.0)
