"""Why a resource is not served in full, and the smallest change that would lift it.

What lacks is turned into additions (additions.py). The one that breaks the fewest limits, and is
the cheapest of those, says what stands in the way: a budget, or room on nodes. What a lift says is
enough, as long as resources of a higher priority lack nothing themselves.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from motley_planner.candidates import Candidate
from motley_planner.domain.demand import Demand, RlDemand, RoutingPolicy, ServingDemand
from motley_planner.domain.plan import PlannedReplica, Refusal
from motley_planner.domain.snapshot import Snapshot
from motley_planner.domain.solution import Solution
from motley_planner.planning.additions import Addition, FreeRoom, Lack, additions
from motley_planner.planning.assembly import Assembly, QuotaRow
from motley_planner.planning.demands import class_rates
from motley_planner.planning.losses import looks_ahead
from motley_planner.planning.lossscenarios import is_settled
from motley_planner.planning.quotas import quota_left
from motley_planner.planning.tiers import policy_id
from motley_planner.units import dollars, figure

LEAST_UNSERVED_SHARE = 1e-6  # below it the demand counts as served
ROUNDING = 1e-6
FLEET_BUDGET = "Fleet.spec.budget.dollarsPerHour"
LOSSES = "spec.replan.nodeLossTolerance"


@dataclass(frozen=True, slots=True)
class _Gap:
    """What a plan leaves open for one resource."""

    sentence: str
    unserved: float  # requests/s
    field: str  # where too little room is told
    ways: tuple[tuple[Lack, ...], ...]  # each of which would close it


@dataclass(frozen=True, slots=True)
class _Limit:
    """A budget or quota: what is left of it, and how it is written."""

    field: str
    limit: float
    left: float
    in_gpus: bool = False
    quota: QuotaRow | None = None

    @property
    def reason(self) -> str:
        """Why what it stands in the way of is not served."""
        return "BudgetTooLow" if self.quota is None else self.quota.quota.reason

    def needs(self, addition: Addition) -> float:
        """What the addition takes of it."""
        if self.quota is not None:
            return sum(self.quota.amounts.get(c.id, 0) * count for c, count in addition.items)
        return addition.gpus if self.in_gpus else addition.usd_per_hour

    def breaks(self, addition: Addition) -> bool:
        """Whether the addition takes more than is left."""
        return self.needs(addition) > self.left + ROUNDING

    def order(self, addition: Addition) -> float:
        """Quotas come after budgets, those first that leave the least share of what is needed."""
        return self.left / max(1.0, self.needs(addition)) if self.quota else float("-inf")

    def lift(self, addition: Addition) -> str:
        """The limit as it is and as it would have to be."""
        wanted = self.limit - self.left + self.needs(addition)
        if self.quota is not None:
            quota = self.quota.quota
            return quota.lift or f"{quota.written(self.limit)} -> {quota.written(wanted)}"
        if self.in_gpus:
            return f"{self.field} {self.limit:.0f} -> {wanted:.0f}"
        return f"{self.field} {dollars(self.limit)} -> {dollars(wanted)}"


def refusals_of(
    demand: Demand,
    replicas: Sequence[PlannedReplica],
    solution: Solution,
    assembly: Assembly,
    snapshot: Snapshot,
) -> tuple[Refusal, ...]:
    """Refusals found while listing candidates, then what the solution left unserved."""
    listed = tuple(assembly.refusals.get(demand.key, ()))
    if demand.key in assembly.blocked and listed:
        return listed
    if isinstance(demand, RlDemand):
        gap = _job_gap(demand, replicas)
    else:
        gap = _service_gap(demand, solution, assembly)
    if gap is None:
        return listed
    return (*listed, *_told(demand, gap, replicas, (solution, assembly, snapshot)))


def unpromised(
    demand: Demand,
    replicas: Sequence[PlannedReplica],
    solution: Solution,
    assembly: Assembly,
    snapshot: Snapshot,
) -> tuple[Refusal, ...]:
    """What the promise for a loss lacks where everything asked for is served."""
    if isinstance(demand, RlDemand) or demand.key in assembly.blocked:
        return ()
    if _service_gap(demand, solution, assembly) is not None:
        return ()
    gap = _loss_gap(demand, solution, assembly, snapshot)
    return _told(demand, gap, replicas, (solution, assembly, snapshot)) if gap else ()


def _told(
    demand: Demand,
    gap: _Gap,
    replicas: Sequence[PlannedReplica],
    made: tuple[Solution, Assembly, Snapshot],
) -> tuple[Refusal, ...]:
    """The gap with each limit that keeps it open, and what would lift that."""
    solution, assembly, snapshot = made
    if demand.key in snapshot.frozen:
        message = f"{gap.sentence} by what runs, and that is held as it is"
        lift = "let Motley change it: take off the pause, or set replan.mode to Auto"
        return (Refusal("Held", "spec.replan.mode", message, lift, gap.unserved),)
    own = demand.key if demand.key in assembly.blocked else None
    # A node that may be lost is no place for what is to serve without it.
    carry = {n for r in replicas for n in r.nodes} if gap.field == LOSSES else set[str]()
    room = FreeRoom(solution, assembly, snapshot, own, carry)
    limits = (
        *_limits(demand, replicas, solution, snapshot),
        *_quota_limits(solution, assembly),
    )
    found = [a for way in gap.ways for a in additions(way, _offered(demand, assembly), room)]
    return tuple(_blocking(gap, found, limits, room))


def _blocking(
    gap: _Gap, found: Sequence[Addition], limits: Sequence[_Limit], room: FreeRoom
) -> Iterator[Refusal]:
    """One refusal for each limit that the best addition breaks, budgets first, then full quotas."""
    if not found:
        lift = "spread the classes over several resources"
        lift = f"a lower {LOSSES}" if gap.field == LOSSES else lift
        yield Refusal("InsufficientGPUs", gap.field, gap.sentence, lift, gap.unserved)
        return
    broken = {id(a): sum(limit.breaks(a) for limit in limits) + (not room.fits(a)) for a in found}
    best = min(found, key=lambda a: (broken[id(a)], a.usd_per_hour, a.gpus))
    for limit in sorted(limits, key=lambda each: each.order(best)):
        if limit.breaks(best):
            lift = limit.lift(best)
            yield Refusal(limit.reason, limit.field, gap.sentence, lift, gap.unserved)
    if not room.fits(best):
        place = ", on nodes that carry nothing of it" if gap.field == LOSSES else ""
        lift = f"{best.describe()}{place}"
        yield Refusal("InsufficientGPUs", gap.field, gap.sentence, lift, gap.unserved)
    if not broken[id(best)]:
        field = "Fleet.spec.solver.timeLimit"
        message = f"{gap.sentence} by the best plan found in time, though there is room"
        lift = f"a longer {field} or a smaller relativeGap"
        yield Refusal("SolverTimeLimit", field, message, lift, gap.unserved)


def _limits(
    demand: Demand, replicas: Sequence[PlannedReplica], solution: Solution, snapshot: Snapshot
) -> Iterator[_Limit]:
    budget = demand.budget
    spent = sum(replica.price_usd_per_hour for replica in replicas)
    if budget.usd_per_hour is not None:
        field, limit = "spec.budget.dollarsPerHour", budget.usd_per_hour
        yield _Limit(field, limit, limit - spent)
    if budget.gpus is not None:
        held = sum(replica.gpus for replica in replicas)
        yield _Limit("spec.budget.gpus", budget.gpus, budget.gpus - held, in_gpus=True)
    fleet = snapshot.budget_usd_per_hour
    if fleet is not None:
        yield _Limit(FLEET_BUDGET, fleet, fleet - (solution.price_usd_per_hour or 0.0))


def _quota_limits(solution: Solution, assembly: Assembly) -> Iterator[_Limit]:
    """What the whole plan leaves of each quota."""
    for row in assembly.quotas:
        yield _Limit(row.quota.name, row.quota.hard, quota_left(row, solution), quota=row)


def _offered(demand: Demand, assembly: Assembly) -> tuple[Candidate, ...]:
    """Candidates that an addition may use: spot nodes only where their share is not limited."""
    capped = set()
    stages = demand.stages if isinstance(demand, ServingDemand) else (demand.rollout,)
    for stage in stages:
        if stage.placement.max_spot_share is not None:
            capped.add(stage.name)
    offered = assembly.of(demand.key)
    steady = tuple(
        c for c in offered if c.stage not in capped or c.node_class.capacity_type != "spot"
    )
    return steady or offered


def _job_gap(job: RlDemand, replicas: Sequence[PlannedReplica]) -> _Gap | None:
    counts = Counter(replica.role for replica in replicas)
    wanted = {"trainer": 1, "rollout": max(1, job.rollout.min_replicas)}
    lacks = tuple(
        Lack(role, replicas=number - counts[role])
        for role, number in wanted.items()
        if counts[role] < number
    )
    if not lacks:
        return None
    first = lacks[0].stage
    sentence = f"{counts[first]} of {wanted[first]} {first} replicas can be had"
    if first == "trainer" and job.rollout.min_replicas and counts["rollout"]:
        sentence += f"; {counts['rollout']} of rollout are there for spec.rollout.minReplicas alone"
    return _Gap(sentence, 0.0, f"spec.{first}", (lacks,))


def _service_gap(service: ServingDemand, solution: Solution, assembly: Assembly) -> _Gap | None:
    unserved = solution.unserved or {}
    if service.key in assembly.blocked:  # left out of the table
        stage = service.stages[0].name
        rates = {f"{service.key}/{stage}/{n}": rate for n, rate in class_rates(service).items()}
        unserved = {service.key: service.requests_per_second} | rates
    offered = {name for c in assembly.of(service.key) for name in c.capacity}
    if service.policies:
        missing = unserved.get(service.key, 0.0)
        ways = tuple(_cascade_ways(service, solution, missing))
    else:
        stage = service.stages[0].name
        rates = {
            name: unserved.get(f"{service.key}/{stage}/{name}", 0.0)
            for name in class_rates(service)
            if name in offered  # what nothing serves has a refusal of its own
        }
        missing, ways = sum(rates.values()), ((Lack(stage, rates),),)
    asked = service.requests_per_second
    if missing <= LEAST_UNSERVED_SHARE * asked:
        return None
    sentence = f"{figure(missing)} of {figure(asked)} requests/s cannot be served"
    return _Gap(sentence, missing, "spec.workload.requestsPerSecond", ways)


def _loss_gap(
    service: ServingDemand, solution: Solution, assembly: Assembly, snapshot: Snapshot
) -> _Gap | None:
    """What a promise lacks that was looked for: capacity for what the worst loss leaves unserved."""
    if service.key not in assembly.after_loss or not looks_ahead(snapshot):
        return None
    share, nodes = assembly.after_loss[service.key]
    missing = service.loss_share - share
    if missing <= ROUNDING:
        return None
    if service.policies:
        lacked = missing * service.requests_per_second
        ways = tuple(_cascade_ways(service, Solution("feasible"), lacked))
    else:
        stage = service.stages[0].name
        offered = {name for c in assembly.of(service.key) for name in c.capacity}
        rates = {n: missing * r for n, r in class_rates(service).items() if n in offered}
        ways = ((Lack(stage, rates),),)
    of = service.node_loss_tolerance
    after = f"after losing {nodes} node{'s' if nodes != 1 else ''}"
    known = f"no more than {share:.1%} would be served"
    told = known if is_settled(solution) else f"this plan serves {share:.1%}; no better was found"
    sentence = f"{LOSSES}: {of} asks for {service.loss_share:.0%} of the rate {after}, and {told}"
    return _Gap(sentence, 0.0, LOSSES, ways)


def _cascade_ways(
    service: ServingDemand, solution: Solution, missing: float
) -> Iterator[tuple[Lack, ...]]:
    """More of the mixture that is served already, or of any one policy that keeps the floor."""
    total = sum(c.weight for c in service.classes) or 1
    shares = {c.name: c.weight / total for c in service.classes}
    for visits in _visits(service, solution):
        yield tuple(
            Lack(stage.name, {n: missing * visits[stage.name] * s for n, s in shares.items()})
            for stage in service.stages
            if visits.get(stage.name, 0.0) > 0
        )


def _visits(service: ServingDemand, solution: Solution) -> Iterator[dict[str, float]]:
    policies: dict[str, RoutingPolicy] = {policy.id: policy for policy in service.policies}
    chosen = [p for p in solution.policies if p.cascade == service.key and p.share > ROUNDING]
    total = sum(p.share for p in chosen)
    if total > ROUNDING:
        mixed: dict[str, float] = {}
        for p in chosen:
            for stage, visits in service.calls(policies[policy_id(p.id)]).items():
                mixed[stage] = mixed.get(stage, 0.0) + p.share / total * visits
        yield mixed
    for policy in service.policies:
        if policy.quality >= service.quality_floor and not policy.request_class:
            yield service.calls(policy)
