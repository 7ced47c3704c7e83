"""Policies of single classes: a cascade may send each class its own way.

A policy of a class is one of the cascade's thresholds that only this class follows, with the quality
certified for the class and the visits of its questions. Beside the policies that all classes
follow alike, and with v the requests/s that follow each,

    sum over a class's policies of v = (weight of the class) x (sum over all such policies of v)

so that every class is sent somewhere; then the mean floor is the row of qualities that is there
anyway. The bounds of all classes and of the whole hold at once at the asked confidence, each
at 1 - (1 - confidence) / (classes + 1) (a union bound), for the plan picks among all of them.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from motley_planner.domain.demand import RoutingPolicy, ServingDemand, WorkloadClass
from motley_planner.domain.snapshot import Snapshot
from motley_planner.domain.table import SideRow

MARK = "/"  # between a policy's id and the class that follows it


def with_class_policies(snapshot: Snapshot) -> Snapshot:
    """The snapshot with policies by class, where it asks for them and they are certified."""
    if not snapshot.route_by_class:
        return snapshot
    services = tuple(_with_own(service) for service in snapshot.services)
    return replace(snapshot, services=services, route_by_class=False)


def class_rows(service: ServingDemand, ids: Mapping[str, RoutingPolicy]) -> list[SideRow]:
    """Rows that send as much of every class as of all; `ids` are the table's names of policies."""
    own = {name: policy for name, policy in ids.items() if policy.request_class}
    if not own:
        return []
    total = sum(c.weight for c in service.classes) or 1
    rows = []
    for each in service.classes:
        share = each.weight / total
        terms = {
            (service.key, name): (1.0 if policy.request_class == each.name else 0.0) - share
            for name, policy in own.items()
        }
        name = f"{service.key}|class {each.name}"
        rows.append(SideRow(name, at_least=0.0, at_most=0.0, per_policy=terms))
    return rows


def late_rows(
    service: ServingDemand, ids: Mapping[str, RoutingPolicy], whole: SideRow
) -> list[SideRow]:
    """The row of late answers for each class alone, where classes go their own ways."""
    if not any(policy.request_class for policy in ids.values()):
        return []
    total = sum(c.weight for c in service.classes) or 1
    rows = []
    for each in service.classes:
        shares = {at: share_of(ids[at[1]], each, total) for at in whole.per_policy}
        late = {at: amount * shares[at] for at, amount in whole.per_policy.items() if shares[at]}
        rows.append(SideRow(f"{whole.name} {each.name}", at_most=0.0, per_policy=late))
    return rows


def classes_of(policy: RoutingPolicy) -> tuple[str, ...]:
    """The only classes that follow a policy; empty where all do."""
    return (policy.request_class,) if policy.request_class else ()


def share_of(policy: RoutingPolicy, each: WorkloadClass, total: float) -> float:
    """Share of a class among the requests that follow a policy; `total`: weight of all classes."""
    if not policy.request_class:
        return each.weight / total
    return 1.0 if policy.request_class == each.name else 0.0


def _with_own(service: ServingDemand) -> ServingDemand:
    names = [c.name for c in service.classes]
    known = all(p.joint is not None and {*names} <= {*p.joint.by_class} for p in service.policies)
    if len(names) < 2 or len(service.stages) < 2 or not known:
        return service
    whole = tuple(
        replace(
            p,
            quality=p.joint.whole,
            class_quality={n: quality for n, (quality, _) in p.joint.by_class.items()},
        )
        for p in service.policies
        if p.joint is not None
    )
    own = [_of_class(p, name) for name in names for p in service.policies]
    useful = [p for p in own if not any(_beats(other, p) for other in own)]
    return replace(service, policies=(*whole, *useful))


def _of_class(policy: RoutingPolicy, name: str) -> RoutingPolicy:
    assert policy.joint is not None
    quality, visits = policy.joint.by_class[name]
    return RoutingPolicy(
        id=f"{policy.id}{MARK}{name}",
        thresholds=policy.thresholds,
        quality=quality,
        mean_quality=quality,
        visits=visits,
        class_quality={name: quality},
        request_class=name,
    )


def _beats(one: RoutingPolicy, other: RoutingPolicy) -> bool:
    """Whether one of the same class is as good and visits no stage more; of equals, the first."""
    if one.request_class != other.request_class or one is other:
        return False
    no_dearer = all(one.visits[stage] <= other.visits[stage] for stage in other.visits)
    same = (one.quality, one.visits) == (other.quality, other.visits)
    return no_dearer and one.quality >= other.quality and (not same or one.id < other.id)
