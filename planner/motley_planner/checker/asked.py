"""What classes and cascades ask for at most, and at what scale it could all be served."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping

from motley_planner.domain.table import FleetTable


def most_asked(table: FleetTable) -> dict[str, float]:
    """T: class -> most requests/s at scale 1; classes that nobody asks for are absent."""
    return {name: rate for name, rate in _asked(table, max).items() if rate > 0}


def largest_scale(table: FleetTable, given: Mapping[str, float]) -> float:
    """By each class alone: the requests/s of all replicas there could be, over what is surely asked."""
    least = _asked(table, min)
    shares = (given.get(name, 0.0) / rate for name, rate in least.items() if rate > 0)
    return min(shares, default=math.inf)


def _asked(table: FleetTable, of_policies: Callable[[Iterable[float]], float]) -> dict[str, float]:
    """Class -> requests/s, of each cascade the most or the least that a policy sends there."""
    asked = {c.name: c.requests_per_second for c in table.classes}
    for cascade in table.cascades:
        for name in asked if cascade.policies else ():
            load = of_policies(p.load.get(name, 0.0) for p in cascade.policies)
            asked[name] += cascade.requests_per_second * load
    return asked
