"""What a small change would be worth, found by planning again and not from duals.

A dual price is right for an infinitely small change of a linear problem; "+1 node" is neither.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace

from motley_planner.domain.demand import RunningUnit, ServingDemand
from motley_planner.domain.hardware import Catalog
from motley_planner.domain.plan import Plan
from motley_planner.domain.snapshot import Snapshot
from motley_planner.errors import SolverError
from motley_planner.planning.changes import changed
from motley_planner.planning.comparing import PRICE_LEVEL
from motley_planner.planning.front import plan as make_plan

NOTICED_SHARE = 1e-3  # of a rate or a price; less is the solver's own noise


@dataclass(frozen=True, slots=True)
class Worth:
    """What one change gains: rates by resource (requests/s, jobs: steps/s), and the price's change.

    `proved`: the new plan beats the bound of the old problem, so that no longer search could have
    found it without the change.
    """

    change: str
    gained: dict[str, float]
    price_usd_per_hour: float  # after minus before
    proved: bool = False
    solved: bool = True  # False: no plan within the time limit

    @property
    def is_something(self) -> bool:
        """Whether anything is gained or saved."""
        return self.solved and bool(self.gained or self.price_usd_per_hour)


def after_change(
    snapshot: Snapshot, plan: Plan, texts: tuple[str, ...], catalog: Catalog
) -> tuple[Snapshot, Plan]:
    """The snapshot and the plan after the changes, with the given plan running.

    Raises: SnapshotError, SolverError.
    """
    snapshot = replace(snapshot, running=running_units(plan))
    for text in texts:
        snapshot = changed(snapshot, text)
    return snapshot, make_plan(snapshot, catalog)


def running_units(plan: Plan) -> tuple[RunningUnit, ...]:
    """The plan's replicas as if they ran now."""
    return tuple(
        RunningUnit(
            id=f"{part.key}/{one.name}",
            key=part.key,
            stage=one.stage,
            role=one.role,
            gpu=one.gpu,
            tensor_parallel=one.tensor_parallel,
            operating_batch=one.operating_batch,
            model=one.model,
            precision=one.precision,
            nodes=one.nodes,
            pipeline=one.pipeline,
            phase=one.phase,
            kv_scale=one.kv_scale,
        )
        for part in plan.slices
        for one in part.replicas
    )


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
            yield f"{demand.key} e2e +1s"
        if demand.policies:
            yield f"{demand.key} floor -1pt"


def worths(
    snapshot: Snapshot,
    catalog: Catalog,
    progress: Callable[[str], None] = lambda text: None,
) -> tuple[Worth, ...]:
    """The worth of each small change; two or more are never added up, since they may be rivals.

    Both sides are planned from nothing: beside what runs, a small gain would not be worth a move
    and so would never be seen.
    """
    progress("the fleet as it is")
    snapshot = replace(snapshot, running=(), steady=False)
    base = make_plan(snapshot, catalog)
    found = []
    for text in small_changes(snapshot):
        progress(text)
        try:
            after = make_plan(changed(snapshot, text), catalog)
        except SolverError:
            found.append(Worth(text, {}, 0.0, solved=False))
            continue
        found.append(_worth(text, base, after))
    return tuple(found)


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
    old, new = base.levels[level], after.levels[level]
    proved = old.bound is not None and _difference(new.value, old.bound, old.name) > 0
    return Worth(text, gained, price, proved)


def _first_better(base: Plan, after: Plan) -> int | None:
    """The first level at which the plans differ, if the new one is better there."""
    for index, (old, new) in enumerate(zip(base.levels, after.levels, strict=False)):
        difference = _difference(new.value, old.value, old.name)
        if abs(difference) > NOTICED_SHARE * max(abs(old.value or 0.0), 1e-9):
            return index if difference > 0 else None
    return None


def _difference(new: float | None, old: float | None, level: str) -> float:
    """How much better `new` is; the price is better when it is lower."""
    gain = (new or 0.0) - (old or 0.0)
    return -gain if level == PRICE_LEVEL else gain
