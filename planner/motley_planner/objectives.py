"""What "better" means: each named objective as a list of levels, first level first.

A level is a linear expression over four quantities, and is maximized or minimized:

    scale        a: every class is served at a x its rate
    served       share (0..1) of each class's or cascade's own rate that is served
    price        USD/h of columns and of nodes in use
    penalty      P = penalty_per_started_gpu x started + penalty_per_stopped_gpu x stopped GPUs

A later level is maximized among the plans that keep every earlier level.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from motley_planner.domain.table import FleetTable, Objective

TINY_SHARE = 1e-6  # of a level's worth; below, tolerances would lose the demand altogether


@dataclass(frozen=True, slots=True)
class LevelSpec:
    """One level; `minimize` says how its value reads, the coefficients are those of the value."""

    name: str
    scale: float = 0.0
    served: Mapping[str, float] = field(default_factory=dict)
    price: float = 0.0
    penalty: float = 0.0
    minimize: bool = False
    hidden: bool = False  # settles what rounding would lose in the level above; not reported


def max_min(table: FleetTable) -> tuple[LevelSpec, ...]:
    """a - P, the scale at which every class is served together."""
    if table.penalty_in_price:
        return LevelSpec("max_min", scale=1.0), _price(1.0)
    return (LevelSpec("max_min", scale=1.0, penalty=-1.0),)


def goodput(table: FleetTable) -> tuple[LevelSpec, ...]:
    """Served share by priority, highest first, then price.

    sum(weight x served) / sum(weight x rate) over one priority; P is taken off the lowest.
    """
    shares = _weighted_shares(table)
    last = min(shares, default=0)
    on_service = 0.0 if table.penalty_in_price else -1.0
    levels: list[LevelSpec] = []
    for p in sorted(shares, reverse=True):
        penalty = on_service if p == last else 0.0
        levels.append(LevelSpec(f"goodput[{p}]", served=shares[p], penalty=penalty))
        tiny = {name: 1.0 for name, share in shares[p].items() if share < TINY_SHARE}
        if tiny:
            levels.append(LevelSpec(f"goodput[{p}] of tiny demands", served=tiny, hidden=True))
    if not levels:
        levels = [LevelSpec("goodput", penalty=on_service)]
    return (*levels, _price(1.0 if table.penalty_in_price else 0.0))


def min_cost(table: FleetTable) -> tuple[LevelSpec, ...]:
    """price + P with every class served in full."""
    return (_price(1.0),)


def _price(penalty: float) -> LevelSpec:
    return LevelSpec("price", price=1.0, penalty=penalty, minimize=True)


def _weighted_shares(table: FleetTable) -> dict[int, dict[str, float]]:
    demands = [(c.name, c.priority, c.weight * c.requests_per_second) for c in table.classes]
    demands += [(c.name, c.priority, c.weight * c.requests_per_second) for c in table.cascades]
    by_priority: dict[int, dict[str, float]] = defaultdict(dict)
    for name, priority, worth in demands:
        if worth > 0:
            by_priority[priority][name] = worth
    return {
        priority: {name: worth / sum(worths.values()) for name, worth in worths.items()}
        for priority, worths in by_priority.items()
    }


OBJECTIVES: dict[Objective, Callable[[FleetTable], tuple[LevelSpec, ...]]] = {
    "max_min": max_min,
    "goodput": goodput,
    "min_cost": min_cost,
}
