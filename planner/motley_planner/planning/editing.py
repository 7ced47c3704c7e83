"""Whether what was edited has to be rebuilt for its edit, or may go on as it runs."""

from __future__ import annotations

from motley_planner.domain.snapshot import Snapshot
from motley_planner.domain.solution import Solution
from motley_planner.planning.assembly import Assembly
from motley_planner.planning.comparing import price_of, serves_as_much


def is_enough(
    still: Solution, best: Solution | None, assembly: Assembly, snapshot: Snapshot
) -> bool:
    """Whether a plan that stops nothing, not even of what was edited, is as good as the best other.

    It is, if it serves as much and stopping would not save `min_improvement` of the price of what
    was edited.
    """
    if still.status == "no_solution":
        return False
    if best is None or not serves_as_much(still, best, snapshot, tolerant=False):
        return best is None
    candidates = assembly.candidates
    least = snapshot.improvements
    worth = sum(
        r.count * chosen.price_usd_per_hour * least.get(chosen.key, snapshot.min_improvement)
        for r in still.replicas
        if (chosen := candidates[r.column]).key in snapshot.edited
    )
    price, less = price_of(still), price_of(best)
    return price is None or less is None or less >= price - worth - 1e-9
