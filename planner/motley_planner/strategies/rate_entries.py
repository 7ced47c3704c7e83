"""The formulation's rate variables one by one; the only place here that knows how they are kept."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, NamedTuple

from motley_planner.formulations.program import Index


class RateEntry(NamedTuple):
    """requests/s of a class on all replicas of a column = x[variable] x unit."""

    column: int
    request_class: str
    variable: int
    unit: float


def rate_entries(index: Index) -> Iterator[RateEntry]:
    """All rate variables of a program, whether it keeps them as a mapping or as arrays."""
    rates: Any = index.demand.rates
    if hasattr(rates, "items"):
        for (column, name), (variable, unit) in rates.items():
            yield RateEntry(column, name, variable, unit)
        return
    arrays = (rates.column, rates.request_class, rates.variable, rates.unit)
    for column, k, variable, unit in zip(*(a.tolist() for a in arrays), strict=True):
        yield RateEntry(column, rates.names[k], variable, unit)
