"""What a plan could not give, and the constraint that stands in the way."""

from __future__ import annotations

import math

from motley_planner.domain.solution import Shortfall
from motley_planner.domain.table import FleetTable
from motley_planner.formulations.program import Index
from motley_planner.solver.milp import Floats

_BINDING = (
    "gpus[",
    "budget",
    "max_count[",
    "link[",
    "quality[",
    "side[",
    "nic[",
    "slots[",
    "node[",
)


def find_shortfalls(
    index: Index, duals: Floats | None, unserved: dict[str, float], lacking: dict[str, float]
) -> tuple[Shortfall, ...]:
    """One shortfall a name; `how_much` is requests/s for demand, the row's unit for a side row."""
    found = [Shortfall(name, amount, _why(index, duals, name)) for name, amount in unserved.items()]
    found += [
        Shortfall(name, amount, _tightest(index, duals, None) or "no column can give it")
        for name, amount in lacking.items()
    ]
    return tuple(found)


def _why(index: Index, duals: Floats | None, name: str) -> str:
    classes = _classes_of(index.table, name)
    for request_class in classes:
        columns = _columns_for(index, request_class)
        if not columns:
            return f"no column serves {request_class}"
        if all(math.isclose(index_upper(index, i), 0.0) for i in columns):
            return f"no node fits a replica that serves {request_class}"
    cascade = next((c for c in index.table.cascades if c.name == name), None)
    if cascade is not None and all(p.quality < cascade.quality_floor for p in cascade.policies):
        return f"quality[{name}]"
    columns = {i for request_class in classes for i in _columns_for(index, request_class)}
    return _tightest(index, duals, columns) or "capacity"


def _classes_of(table: FleetTable, name: str) -> list[str]:
    for cascade in table.cascades:
        if cascade.name == name:
            return sorted({k for p in cascade.policies for k, load in p.load.items() if load > 0})
    return [name]


def _columns_for(index: Index, request_class: str) -> set[int]:
    rates = index.demand.rates
    return set(rates.column[rates.of_class(request_class)].tolist())


def index_upper(index: Index, column: int) -> float:
    """Most replicas of a column that the inventory can hold, survivors included."""
    kept = sum(len(g.replicas) for g in index.packing.kept_of(column))
    return index.new_limits[column] + kept


def _tightest(index: Index, duals: Floats | None, columns: set[int] | None) -> str | None:
    """The name of the capacity row with the largest dual value x right side that they touch."""
    if duals is None:
        return None
    best, worth = None, 1e-9
    for row, (name, right) in enumerate(zip(index.row_names, index.row_limits, strict=True)):
        if row >= len(duals) or not name.startswith(_BINDING):
            continue
        if columns is not None and not _touches(index, name, columns):
            continue
        amount = abs(duals[row]) * max(1.0, abs(right) if math.isfinite(right) else 1.0)
        if amount > worth:
            best, worth = name, amount
    return best


def _touches(index: Index, name: str, columns: set[int]) -> bool:
    """Whether a row speaks of the node classes or ids of these columns."""
    if not name.startswith(("gpus[", "max_count[", "nic[")):
        return True
    inside = name[name.index("[") + 1 : -1]
    for i in columns:
        column = index.table.columns[i]
        if inside == column.id:
            return True
        if any(inside.startswith(f"{f.gpu},{column.zone},") for f in column.fragments):
            return True
    return False
