"""What each class is asked for when every cascade follows one policy."""

from __future__ import annotations

from collections.abc import Mapping

from motley_planner.domain.table import CascadeDemand, CascadePolicy, FleetTable

Loads = Mapping[str, float]


def loads_of(table: FleetTable, chosen: Mapping[str, CascadePolicy]) -> dict[str, float]:
    """Requests/s by class at scale 1, own rate and visits from cascades; zeros left out."""
    loads = {c.name: c.requests_per_second for c in table.classes}
    for cascade in table.cascades:
        policy = chosen.get(cascade.name)
        for name, visits in policy.load.items() if policy is not None else ():
            loads[name] += cascade.requests_per_second * visits
    return {name: load for name, load in loads.items() if load > 0}


def cheapest_policy(cascade: CascadeDemand) -> CascadePolicy | None:
    """Of the policies that meet the floor, the one with the fewest visits; None without any."""
    good = [p for p in cascade.policies if p.quality >= cascade.quality_floor]
    return min(good, key=lambda p: sum(p.load.values()), default=None)


def one_policy_loads(table: FleetTable) -> tuple[dict[str, str], dict[str, float]]:
    """The cheapest policy (id) of each cascade that has one, and the loads that follow."""
    found = {c.name: cheapest_policy(c) for c in table.cascades if c.requests_per_second > 0}
    chosen = {name: policy for name, policy in found.items() if policy is not None}
    return {name: p.id for name, p in chosen.items()}, loads_of(table, chosen)
