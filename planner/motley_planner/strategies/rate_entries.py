"""The formulation's rate variables one by one; the only place here that knows how they are kept."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

from motley_planner.formulations.program import Index


class RateEntry(NamedTuple):
    """requests/s of a class on all replicas of a column = x[variable] x unit."""

    column: int
    request_class: str
    variable: int
    unit: float


def rate_entries(index: Index) -> Iterator[RateEntry]:
    """All rate variables of a program."""
    rates = index.demand.rates
    for k in range(len(rates.column)):
        name = rates.names[rates.request_class[k]]
        unit = float(rates.unit[k])
        yield RateEntry(int(rates.column[k]), name, int(rates.variable[k]), unit)
