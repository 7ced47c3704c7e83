"""What a small change would be worth, found by planning again and not from duals.

A dual price is right for an infinitely small change of a linear problem; "+1 node" is neither.

Theory of operation. A search that is cut short ends somewhere above the best plan, and two of them
differ by more than most changes are worth. So the fleet as it is begins from the plan that is
explained, each changed fleet begins from that, and what a changed fleet gains is offered to the
fleet as it is: it may have been a longer search's and not the change's. The rest is stated as
proved where the new plan beats the bound of the fleet as it is, and as seen where it does not.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace

from motley_planner.domain.demand import ServingDemand
from motley_planner.domain.hardware import Catalog
from motley_planner.domain.plan import Plan
from motley_planner.domain.snapshot import Snapshot
from motley_planner.errors import SolverError
from motley_planner.planning.changes import changed
from motley_planner.planning.comparing import PRICE_LEVEL
from motley_planner.planning.front import plan as make_plan
from motley_planner.planning.units import running_units

NOTICED_SHARE = 1e-3  # of a rate or a price; less is the solver's own noise
LOSSES = "served_share after losing"
LONGER = "a longer search alone"

__all__ = ["Worth", "after_change", "running_units", "small_changes", "worths"]


@dataclass(frozen=True, slots=True)
class Worth:
    """What one change gains: rates by resource (requests/s, jobs: steps/s), and the price's change.

    `proved`: the new plan beats the bound of the old problem, so that no longer search could have
    found it without the change. `after_loss` is what the share grows by that a resource still
    serves after the worst loss of nodes.
    """

    change: str
    gained: dict[str, float]
    price_usd_per_hour: float  # after minus before
    proved: bool = False
    solved: bool = True  # False: no plan within the time limit
    after_loss: dict[str, float] = field(default_factory=dict)

    @property
    def is_something(self) -> bool:
        """Whether anything is gained or saved."""
        return self.solved and bool(self.gained or self.after_loss or self.price_usd_per_hour)


def after_change(
    snapshot: Snapshot, plan: Plan, texts: tuple[str, ...], catalog: Catalog
) -> tuple[Snapshot, Plan, Plan]:
    """The snapshot and the plan after the changes, and the plan without them, the given one running.

    Both begin from the given plan, and the changed one from the other, too.

    Raises: SnapshotError, SolverError.
    """
    snapshot = replace(snapshot, running=running_units(plan))
    asked = snapshot
    for text in texts:
        asked = changed(asked, text)
    unchanged = make_plan(snapshot, catalog, starts=(plan,))
    made = make_plan(asked, catalog, starts=(unchanged, plan))
    return asked, made, unchanged


def small_changes(snapshot: Snapshot) -> Iterator[str]:
    """The changes worth asking about: a node of each GPU, a dollar, 50 ms, a point of the floor."""
    for gpu in sorted({node.node_class.gpu for node in snapshot.nodes}):
        yield f"+1 {gpu}"
    if snapshot.budget_usd_per_hour is not None:
        yield "budget +1"
    for demand in snapshot.demands:
        if demand.budget.usd_per_hour is not None:
            yield f"{demand.key} budget +1"
        if not isinstance(demand, ServingDemand):
            continue
        targets = (("ttft", demand.slo.ttft_s), ("tpot", demand.slo.tpot_s))
        yield from (f"{demand.key} {field} +50ms" for field, table in targets if table)
        if demand.slo.e2e_s:
            yield f"{demand.key} e2e +50ms"
        if demand.policies:
            yield f"{demand.key} floor -1pt"


def worths(
    snapshot: Snapshot,
    catalog: Catalog,
    given: Plan | None = None,
    progress: Callable[[str], None] = lambda text: None,
) -> tuple[Worth, ...]:
    """The worth of each small change; two or more are never added up, since they may be rivals.

    Both sides are planned as if nothing ran: beside what runs, a small gain would not be worth a
    move and so would never be seen. The fleet as it is begins from `given`; what it finds beyond
    that comes first, as the worth of no change at all.
    """
    progress("the fleet as it is")
    snapshot = replace(snapshot, running=(), steady=False)
    base = make_plan(snapshot, catalog, starts=() if given is None else (given,))
    tried: list[tuple[str, Plan | None]] = []
    for text in small_changes(snapshot):
        progress(text)
        try:
            after = make_plan(changed(snapshot, text), catalog, starts=(base,))
        except SolverError:
            tried.append((text, None))
            continue
        tried.append((text, after))
        level = _first_better(base, after)
        if level is not None and not _is_proved(base, after, level):
            control = make_plan(snapshot, catalog, starts=(after, base))
            base = base if _first_better(base, control) is None else control
    alone = _worth(LONGER, given, base) if given is not None else None
    found = () if alone is None or not alone.is_something else (alone,)
    return found + tuple(
        _worth(text, base, after) if after is not None else Worth(text, {}, 0.0, solved=False)
        for text, after in tried
    )


def _worth(text: str, base: Plan, after: Plan) -> Worth:
    """Nothing where the new plan is no better: every change allows more, so the old plan stands."""
    level = _first_better(base, after)
    if level is None:
        return Worth(text, {}, 0.0)
    before = {part.key: part.served_requests_per_second for part in base.slices}
    gained = {
        part.key: part.served_requests_per_second - before[part.key]
        for part in after.slices
        if abs(part.served_requests_per_second - before[part.key])
        > NOTICED_SHARE * max(before[part.key], part.requests_per_second)
    }
    price = after.price_usd_per_hour - base.price_usd_per_hour
    if abs(price) <= NOTICED_SHARE * base.price_usd_per_hour:
        price = 0.0  # the price level also counts starts, which nobody pays for
    elif price < 0 and level != PRICE_LEVEL and not _is_proved(base, after, PRICE_LEVEL):
        price = 0.0  # what was gained above the price was not sold: a search that ended elsewhere
    held, holds = _after_loss(base), _after_loss(after)
    more = {key: share - held.get(key, 0.0) for key, share in holds.items()}
    promised = {key: share for key, share in more.items() if abs(share) > NOTICED_SHARE}
    return Worth(text, gained, price, _is_proved(base, after, level), after_loss=promised)


def _after_loss(plan: Plan) -> dict[str, float]:
    """By resource, the share of its rate that it is promised after the worst loss of nodes."""
    return {
        part.key: promise.value
        for part in plan.slices
        for promise in part.promises
        if promise.what.startswith(LOSSES)
    }


def _is_proved(base: Plan, after: Plan, name: str) -> bool:
    """Whether the new plan beats at that level what the base could reach at most."""
    bound = next((lv.bound for lv in base.levels if lv.name == name), None)
    value = next((lv.value for lv in after.levels if lv.name == name), None)
    return bound is not None and _is_noticed(_difference(value, bound, name), bound)


def _is_noticed(difference: float, beside: float) -> bool:
    return difference > NOTICED_SHARE * max(abs(beside), 1e-9)


def _first_better(base: Plan, after: Plan) -> str | None:
    """The first level at which the plans differ, if the new one is better there."""
    old = {level.name: level.value for level in base.levels}
    for level in after.levels:
        before = old.get(level.name)
        difference = _difference(level.value, before, level.name)
        if _is_noticed(abs(difference), before or 0.0):
            return level.name if difference > 0 else None
    return None


def _difference(new: float | None, old: float | None, level: str) -> float:
    """How much better `new` is; the price is better when it is lower."""
    gain = (new or 0.0) - (old or 0.0)
    return -gain if level == PRICE_LEVEL else gain
