"""Classes and cascades of the table: what each resource asks for.

A pool's classes carry demand. A cascade's classes carry none; its policies load them. An RL job is
a cascade of one policy that takes one step from the rollout replicas and one from its only trainer
gang, so generation and training balance in the same rows.

Priorities: within one priority of people's, services come before jobs, and throughput beyond the
asked demand comes after everything.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace

from motley_planner.candidates import Candidate
from motley_planner.candidates.policies import quality_refusal
from motley_planner.candidates.targets import quantile_of
from motley_planner.domain.demand import Demand, RlDemand, RoutingPolicy, ServingDemand
from motley_planner.domain.table import CascadeDemand, CascadePolicy, RequestClass, SideRow
from motley_planner.planning.assembly import Assembly, class_id
from motley_planner.planning.prerouting import late_rows, share_of
from motley_planner.planning.tierchoice import worthwhile
from motley_planner.planning.tiers import SEPARATOR, tiered_policies

EXTRA_SUFFIX = "+extra"  # demand beyond what was asked, of a pool that maximizes throughput
EXTRA_DEMAND_FACTOR = 9.0  # large enough that a budget, not this number, ends such a pool
LOWEST_PRIORITY = -(10**9)


def class_rates(service: ServingDemand) -> dict[str, float]:
    """Requests/s by class name: the resource's rate split by the classes' weights."""
    total = sum(c.weight for c in service.classes) or 1
    return {c.name: service.requests_per_second * c.weight / total for c in service.classes}


def block_unservable(assembly: Assembly, demand: Demand) -> None:
    """Notes a resource of which no configuration, policy or budget lets anything be served.

    Such a spec is somebody's mistake: what runs goes on and keeps its room until it is mended.
    """
    if isinstance(demand, RlDemand):
        stages: tuple[str, ...] = ("rollout", "trainer")
    else:
        stages = tuple(stage.name for stage in demand.stages)
        alike = [p for p in demand.policies if not p.request_class]
        refusal = quality_refusal(alike, demand.quality_floor)
        if refusal is not None:
            assembly.refuse(demand.key, (refusal,))
            assembly.blocked.add(demand.key)
    offered = {stage: assembly.of(demand.key, stage) for stage in stages}
    if not all(offered.values()) or not _can_pay(demand, offered):
        assembly.blocked.add(demand.key)


def _can_pay(demand: Demand, offered: Mapping[str, Sequence[Candidate]]) -> bool:
    """Whether a budget admits the least that serves at all: one replica of each stage in use.

    Of a cascade, the stages of the policy that needs least; any mixture that keeps the floor has a
    policy that does so alone.
    """
    needed: list[dict[str, int]]
    if isinstance(demand, RlDemand):
        needed = [{"trainer": 1, "rollout": max(1, demand.rollout.min_replicas)}]
    elif demand.policies:
        alike = [p for p in demand.policies if not p.request_class]
        kept = [p for p in alike if p.quality >= demand.quality_floor]
        called = [demand.calls(p) for p in kept]
        needed = [{stage: 1 for stage, calls in each.items() if calls > 0} for each in called]
    else:
        needed = [dict.fromkeys(offered, 1)]

    def least(price: Callable[[Candidate], float]) -> float:
        each = {stage: min(map(price, found)) for stage, found in offered.items()}
        return min((sum(n * each[s] for s, n in way.items()) for way in needed), default=0.0)

    budget = demand.budget
    dollars_fit = budget.usd_per_hour is None or (
        least(lambda c: c.price_usd_per_hour) <= budget.usd_per_hour + 1e-9
    )
    return dollars_fit and (budget.gpus is None or least(lambda c: c.gpus) <= budget.gpus)


def add_service_demand(
    assembly: Assembly, service: ServingDemand, tenant_weight: float = 1.0
) -> None:
    """Classes (and policies) of a pool or cascade.

    A resource counts once, whatever its rate, times the weight of its tenant.
    """
    if service.key in assembly.tiers:
        _add_tiered_demand(assembly, service, tenant_weight)
        return
    rates = class_rates(service)
    weight = tenant_weight / max(service.requests_per_second, 1e-9)
    for stage in service.stages:
        for name, rate in rates.items():
            assembly.classes.append(
                RequestClass(
                    name=class_id(service.key, stage.name, name),
                    model=f"{service.key}/{stage.name}",
                    requests_per_second=0.0 if service.policies else rate,
                    priority=2 * service.priority + 1,
                    weight=weight,
                )
            )
    if service.policies:
        assembly.cascades.append(_cascade(service, weight))
    elif service.maximize_throughput:
        _add_extra(assembly, service, weight)


def _cascade(service: ServingDemand, weight: float) -> CascadeDemand:
    total = sum(c.weight for c in service.classes) or 1
    policies = []
    for policy in service.policies:
        called = service.calls(policy)
        load = {
            class_id(service.key, stage.name, c.name): calls * share
            for stage in service.stages
            if (calls := called.get(stage.name, 0.0)) > 0
            for c in service.classes
            if (share := share_of(policy, c, total)) > 0
        }
        policies.append(CascadePolicy(policy.id, policy.quality, load))
    return CascadeDemand(
        name=service.key,
        requests_per_second=service.requests_per_second,
        quality_floor=service.quality_floor,
        policies=tuple(policies),
        priority=2 * service.priority + 1,
        weight=weight,
    )


def _add_tiered_demand(assembly: Assembly, service: ServingDemand, tenant_weight: float) -> None:
    """A cascade whose stages come in latency tiers: a class for each tier, a row for late answers."""
    key, stages = service.key, [stage.name for stage in service.stages]
    priority = 2 * service.priority + 1
    every = tiered_policies(service, assembly.tiers[key])
    running = {replica.column for replica in assembly.replicas}
    found = worthwhile(service, every, assembly.tiers[key], assembly.of(key), running)
    assembly.tiered[key] = found
    for i, stage in enumerate(stages):
        offered = {tiered.combination[i] for tiered in found}
        _limit_to_tiers(assembly, key, stage, offered)
        for tier in sorted(offered):
            for each in service.classes:
                name = tier_class(class_id(key, stage, each.name), tier)
                assembly.classes.append(RequestClass(name, f"{key}/{stage}", 0.0, priority))
    total = sum(c.weight for c in service.classes) or 1
    policies = tuple(
        CascadePolicy(
            tiered.id,
            tiered.policy.quality,
            {
                tier_class(class_id(key, stage, c.name), tier): calls * share
                for stage, tier in zip(stages, tiered.combination, strict=True)
                if (calls := service.calls(tiered.policy).get(stage, 0.0)) > 0
                for c in service.classes
                if (share := share_of(tiered.policy, c, total)) > 0
            },
            tiered.tier,
        )
        for tiered in found
    )
    assembly.cascades.append(
        CascadeDemand(
            name=key,
            requests_per_second=service.requests_per_second,
            quality_floor=service.quality_floor,
            policies=policies,
            priority=priority,
            weight=tenant_weight / max(service.requests_per_second, 1e-9),
        )
    )
    for percentile in service.slo.e2e_s:
        if quantile_of(percentile) > 0:
            allowed = 1.0 - quantile_of(percentile)
            late = {(key, t.id): t.miss[percentile] - allowed for t in found}
            row = SideRow(f"{key}|e2e {percentile}", at_most=0.0, per_policy=late)
            assembly.side_rows.append(row)
            own = late_rows(service, {t.id: t.policy for t in found}, row)
            assembly.side_rows += own


def _limit_to_tiers(assembly: Assembly, key: str, stage: str, offered: set[int]) -> None:
    """Columns of a stage by tier; a stage keeps to one tier, so only the largest batch counts.

    What runs keeps every tier that it holds; a column that is left without a class goes.
    """
    tiers, running = assembly.tiers[key][stage], {r.column for r in assembly.replicas}
    for candidate in assembly.of(key, stage):
        runs = candidate.id in running
        rates = {
            tier_class(class_id(key, stage, name), tier): rate
            for tier in tiers.of(candidate)
            if tier in offered and (runs or tiers.is_largest(candidate, tier))
            for name, rate in candidate.capacity.items()
        }
        if rates or runs:
            column = assembly.columns[candidate.id]
            assembly.columns[candidate.id] = replace(
                column,
                requests_per_second=rates,
                time_share=_of_tiers(rates, column.time_share),
                kv_share=_of_tiers(rates, column.kv_share),
            )
        else:
            del assembly.columns[candidate.id], assembly.candidates[candidate.id]


def _of_tiers(names: Iterable[str], shares: Mapping[str, float]) -> dict[str, float]:
    """The share of a class for each of its tiers."""
    bases = {name: name.rpartition(SEPARATOR)[0] for name in names}
    return {name: shares[base] for name, base in bases.items() if base in shares}


def add_class_floors(assembly: Assembly, service: ServingDemand) -> None:
    """sum v_p (quality of the class - its floor) >= 0, for each class with a floor of its own.

    A class that the calibration table does not name has no certified quality: its floor then asks
    for the quality of the whole.
    """
    policies = policies_of(assembly, service)
    total = sum(c.weight for c in service.classes) or 1
    shares = {c.name: c.weight / total for c in service.classes}
    apart = any(p.request_class for p in policies.values())
    for name, floor in sorted(service.class_floors.items()):
        gain = {
            (service.key, i): (p.class_quality.get(name, p.quality) - floor)
            * (shares.get(name, 1.0) if apart and not p.request_class else 1.0)
            for i, p in policies.items()
            if p.request_class in ("", name)
        }
        row = SideRow(f"{service.key}|quality {name}", at_least=0.0, per_policy=gain)
        assembly.side_rows.append(row)


def policies_of(assembly: Assembly, service: ServingDemand) -> dict[str, RoutingPolicy]:
    """The policies by the table's names of them."""
    tiered = {t.id: t.policy for t in assembly.tiered.get(service.key, ())}
    return tiered or {p.id: p for p in service.policies}


def tier_class(name: str, tier: int) -> str:
    """The table's name of a class at a tier."""
    return f"{name}{SEPARATOR}{tier}"


def _add_extra(assembly: Assembly, service: ServingDemand, weight: float) -> None:
    """Demand of the lowest priority that soaks up what budget and fleet leave."""
    stage = service.stages[0].name
    model = f"{service.key}/{stage}"
    for name, rate in class_rates(service).items():
        base = class_id(service.key, stage, name)
        extra = base + EXTRA_SUFFIX
        assembly.classes.append(
            RequestClass(extra, model, rate * EXTRA_DEMAND_FACTOR, LOWEST_PRIORITY, weight)
        )
        for column in assembly.columns.values():
            capacity = column.requests_per_second.get(base)
            if column.model == model and capacity:
                shares = [
                    {**share, extra: share[base]} if base in share else share
                    for share in (column.time_share, column.kv_share)
                ]
                assembly.columns[column.id] = replace(
                    column,
                    requests_per_second={**column.requests_per_second, extra: capacity},
                    time_share=shares[0],
                    kv_share=shares[1],
                )


def add_job_demand(assembly: Assembly, job: RlDemand) -> None:
    """An RL job's classes and its one-policy cascade, in training steps/s."""
    trainers = assembly.of(job.key, "trainer")
    target = job.target_steps_per_second or max(c.capacity["trainer"] for c in trainers)
    assembly.job_targets[job.key] = target
    names = [class_id(job.key, stage, stage) for stage in ("rollout", "trainer")]
    for name, stage in zip(names, ("rollout", "trainer"), strict=True):
        model = f"{job.key}/{stage}"
        assembly.classes.append(RequestClass(name, model, 0.0, priority=2 * job.priority))
    step = CascadePolicy(id="step", quality=1.0, load=dict.fromkeys(names, 1.0))
    assembly.cascades.append(
        CascadeDemand(
            name=job.key,
            requests_per_second=target,
            quality_floor=0.0,
            policies=(step,),
            priority=2 * job.priority,
            weight=1.0 / target,
        )
    )
