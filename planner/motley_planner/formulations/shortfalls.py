"""What a plan could not give, and the constraint that stands in the way."""

from __future__ import annotations

from motley_planner.domain.solution import Shortfall
from motley_planner.domain.table import FleetTable
from motley_planner.formulations.blocking import Asking, Blocking
from motley_planner.formulations.program import Index, demands
from motley_planner.solver.milp import Floats

NO_TIME = "nothing limits it: the search ended first"
NO_GAIN = "weight 0: serving it gains nothing"
TOO_DEAR = "penalty_per_started_gpu"
NO_PAIR = "no decode column takes the KV caches of a prefill column (kv_scale)"
NO_GIVER = "no column can give it"


def find_shortfalls(
    index: Index, x: Floats, asking: Asking, unserved: dict[str, float], lacking: dict[str, float]
) -> tuple[Shortfall, ...]:
    """One shortfall a name; `how_much` is requests/s for demand, the row's unit for a side row."""
    if not unserved and not lacking:
        return ()
    why = _Why(index, Blocking(index, x, asking))
    found = [Shortfall(name, amount, why.demand(name)) for name, amount in unserved.items()]
    found += [Shortfall(name, amount, why.minimum(name)) for name, amount in lacking.items()]
    return tuple(found)


class _Why:
    def __init__(self, index: Index, blocking: Blocking) -> None:
        self.index, self.table, self.blocking = index, index.table, blocking

    def demand(self, name: str) -> str:
        """What a class or cascade is short of."""
        classes = _classes_of(self.table, name)
        for request_class in classes:
            told = self._nothing_serves(request_class)
            if told is not None:
                return told
        cascade = next((c for c in self.table.cascades if c.name == name), None)
        if cascade is not None and all(p.quality < cascade.quality_floor for p in cascade.policies):
            return f"quality[{name}]"
        weight = next(d.weight for d in demands(self.table) if d.name == name)
        if self.table.objective == "goodput" and weight <= 0:
            return NO_GAIN
        penalty = self.table.penalty_per_started_gpu > 0 and not self.table.penalty_in_price
        if penalty and all(self.blocking.can_start(k) for k in classes):
            return TOO_DEAR
        return self.blocking.of_demand(name, classes) or self.blocking.whole(classes) or NO_TIME

    def minimum(self, name: str) -> str:
        """What a side row or scenario is short of."""
        lacking = self.index.lacking | self.index.recourse.missing
        row = next((r for r in self.table.side_rows if r.name == name), None)
        named = set() if row is None else {*row.per_replica, *(c for c, _ in row.per_rate)}
        columns = {i for i, c in enumerate(self.table.columns) if c.id in named}
        return self.blocking.of_minimum(lacking[name], columns) or NO_GIVER

    def _nothing_serves(self, request_class: str) -> str | None:
        """Why no replica, or no pair of them, can ever serve a class."""
        rates = self.index.demand.rates
        positions = rates.column[rates.of_class(request_class)].tolist()
        if not positions:
            return f"no column serves {request_class}"
        fitting = [self.table.columns[i] for i in positions if index_upper(self.index, i) > 0]
        if not fitting:
            return f"no node fits a replica that serves {request_class}"
        if any(c.phase == "both" for c in fitting):
            return None
        prefills = {(c.zone, c.kv_scale) for c in fitting if c.phase == "prefill"}
        decodes = {(c.zone, c.kv_scale) for c in fitting if c.phase == "decode"}
        if not prefills or not decodes:
            missing = "decode" if prefills else "prefill"
            return f"no node fits a {missing} replica that serves {request_class}"
        return self._no_pair(prefills, decodes)

    def _no_pair(
        self, prefills: set[tuple[str, float]], decodes: set[tuple[str, float]]
    ) -> str | None:
        pairs = sorted({(a, b) for a, m in prefills for b, n in decodes if m == n})
        closed = {(k.source, k.target) for k in self.table.links if k.bytes_per_second == 0}
        if not pairs:
            return NO_PAIR
        if all(pair in closed for pair in pairs):
            return f"link[{pairs[0][0]},{pairs[0][1]}]"
        return None


def _classes_of(table: FleetTable, name: str) -> list[str]:
    for cascade in table.cascades:
        if cascade.name == name:
            return sorted({k for p in cascade.policies for k, load in p.load.items() if load > 0})
    return [name]


def index_upper(index: Index, column: int) -> float:
    """Most replicas of a column that the inventory can hold, survivors included."""
    kept = sum(len(g.replicas) for g in index.packing.kept_of(column))
    kept += sum(len(f.replicas) for f in index.packing.flips if f.target == column)
    return index.new_limits[column] + kept
