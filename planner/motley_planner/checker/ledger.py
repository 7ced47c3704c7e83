"""What a solution says, added up once for all checks, and the list of complaints."""

from __future__ import annotations

from collections import Counter, defaultdict
from dataclasses import dataclass, field

from motley_planner.domain.solution import Solution
from motley_planner.domain.table import CascadeDemand, Column, FleetTable, RequestClass

TOLERANCE = 1e-6


@dataclass(slots=True)
class Ledger:
    """Table and solution side by side; `complaints` grows as checks run."""

    table: FleetTable
    solution: Solution
    columns: dict[str, Column]
    classes: dict[str, RequestClass]
    counts: Counter[str] = field(default_factory=Counter)
    rates: dict[tuple[str, str], float] = field(default_factory=lambda: defaultdict(float))
    complaints: list[str] = field(default_factory=list)

    def complain(self, text: str) -> None:
        """Adds one complaint."""
        self.complaints.append(text)

    def over(self, used: float, limit: float) -> bool:
        """Whether `used` is above `limit` by more than rounding."""
        return used > limit + TOLERANCE * max(1.0, abs(limit))

    def differ(self, a: float, b: float) -> bool:
        """Whether two figures differ by more than rounding."""
        return abs(a - b) > TOLERANCE * max(1.0, abs(a), abs(b))

    def demands(self) -> tuple[RequestClass | CascadeDemand, ...]:
        """Everything with a rate of its own."""
        found: tuple[RequestClass | CascadeDemand, ...] = (
            *self.table.classes,
            *self.table.cascades,
        )
        return tuple(d for d in found if d.requests_per_second > 0)

    def served_share(self, demand: RequestClass | CascadeDemand) -> float:
        """Share of a demand's rate that the solution says is served."""
        left = (self.solution.unserved or {}).get(demand.name, 0.0)
        return 1.0 - left / demand.requests_per_second


def open_ledger(table: FleetTable, solution: Solution) -> Ledger:
    """The ledger of a solution; names that the table lacks are complaints at once."""
    ledger = Ledger(
        table, solution, {c.id: c for c in table.columns}, {c.name: c for c in table.classes}
    )
    for count in solution.replicas:
        if count.column not in ledger.columns or count.count < 0 or count.count % 1:
            ledger.complain(f"replicas: {count.column!r} x {count.count} is not possible")
            continue
        ledger.counts[count.column] += count.count
    for rate in solution.rates:
        column = ledger.columns.get(rate.column)
        if column is None or column.requests_per_second.get(rate.request_class, 0.0) <= 0:
            ledger.complain(f"rates: {rate.column!r} cannot serve {rate.request_class!r}")
        elif not rate.requests_per_second >= 0:
            ledger.complain(f"rates: {rate.column!r} has rate {rate.requests_per_second}")
        else:
            ledger.rates[rate.column, rate.request_class] += rate.requests_per_second
    return ledger
