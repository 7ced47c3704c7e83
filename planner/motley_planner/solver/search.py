"""One level while it is searched: the incumbent, the bound, and integer programs on parts.

Every better point and bound is reported at once; HiGHS is never given a start (highs.py).
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from motley_planner.solver import highs
from motley_planner.solver.blocks import Part, Structured
from motley_planner.solver.clock import CLOCK
from motley_planner.solver.fills import Fills
from motley_planner.solver.milp import Bools, Floats, Level, Milp
from motley_planner.solver.relaxing import Limits, highest_value, relax, rounded
from motley_planner.solver.sifting import Relaxation

SURVIVORS = 1500  # most blocks in a proof
BETTER = 1e-9  # less is rounding, and no reason to leave what runs
TIGHT_GAP, TIGHT_SECONDS = 1e-9, 0.3  # the last gap, and what closing it may cost
EPSILON = 1e-7


class Search:
    """One level: `x` and `value` are the incumbent's, `bound` is proved, constants included."""

    def __init__(
        self,
        program: Structured,
        relaxed: Structured | None,
        level: Level,
        limits: Limits,
        report: Callable[[Floats | None, float | None, Floats | None], None],
    ) -> None:
        self.program, self.relaxed, self.level = program, relaxed, level
        self.limits, self.report = limits, report
        self.x: Floats | None = None
        self.home: Floats | None = None  # what runs, where anything does
        self.value, self.bound = -np.inf, np.inf
        self.relaxation: Relaxation | None = None
        self.status = "open"  # infeasible | unbounded | solved to the end
        self.begin = self.last_gain = CLOCK.now()
        self.random = np.random.default_rng(0)

    def is_highest(self) -> bool:
        """Whether the incumbent is as good as variable bounds alone allow: no LP is needed then."""
        highest = highest_value(self.program.milp, self.level)
        if np.isfinite(highest):
            self.prove(highest)
        near = BETTER * max(1.0, abs(highest)) if np.isfinite(highest) else -1.0
        if self.x is None or highest - self.value > near:
            return False
        self.status = "solved"
        return True

    @property
    def gap(self) -> float:
        """(bound - value) / |value without penalties|."""
        if self.x is None:
            return np.inf
        size = abs(self.value - self.level.penalty_of(self.x))
        return max(0.0, self.bound - self.value) / max(1e-9, size)

    def done(self) -> bool:
        """Whether the gap is closed, time is up, or nothing more is expected (patience)."""
        now = CLOCK.now()
        if self.status != "open" or now >= self.limits.deadline:
            return True
        if self.gap <= self.limits.relative_gap:
            return True
        waited = now - self.last_gain
        return self.x is not None and waited > max(
            self.limits.patience_s, now - self.begin - waited
        )

    def prove(self, bound: float) -> None:
        """Takes a bound of the real problem."""
        bound = max(bound, self.value)
        if bound < self.bound:
            self._gain(self.bound - bound)
            self.bound = bound
            self.report(None, bound, None)

    def offer(self, x: Floats) -> bool:
        """Takes a point of the program if it is better."""
        value = self.level.value_of(x)
        if self.x is not None and value <= self.value + BETTER * max(1.0, abs(self.value)):
            return False
        self._gain(value - self.value)
        self.x, self.value = rounded(self.program.milp, x), value
        self.report(self.x, None, None)
        return True

    def _gain(self, amount: float) -> None:
        if self.x is None or amount > self.limits.relative_gap * max(1e-9, abs(self.value)):
            self.last_gain = CLOCK.now()

    def relax(self, warm: Fills | None) -> bool:
        """Takes bound and duals of the relaxation; False where the level ends here: infeasible, unbounded."""
        program = self.relaxed or self.program
        found = relax(program, self.level.cost, self.limits.deadline, warm)
        if found.status in ("infeasible", "unbounded"):
            within_tolerances = self.x is not None and found.status == "infeasible"
            self.status = self.status if within_tolerances else found.status
            return within_tolerances
        if np.isfinite(found.bound):
            self.prove(found.bound + self.level.constant)
            self.report(None, None, found.duals)
            self.relaxation = found
        return True

    def round(self, others: tuple[Floats, ...]) -> None:
        """Best rates for the counts of the incumbent, of `others`, and of the relaxation rounded."""
        for point in (self.x, *others):
            if point is not None:
                self.complete(point)
        found = self.relaxation
        if found is not None and found.x is not None:
            for shift in (EPSILON, 0.5, 1.0 - EPSILON):
                self.complete(np.floor(found.x + shift))

    def complete(self, point: Floats) -> None:
        """Offers the best point with the integers of `point`, if there is one."""
        part = self.program.restrict(point[self.program.blocks.count] > 0.5)
        milp, at = part.milp, part.take(point)
        whole = np.where(milp.integer, np.round(at), 0.0)
        if (whole > milp.col_upper + EPSILON)[milp.integer].any():
            return
        lower = np.where(milp.integer, whole, milp.col_lower)
        upper = np.where(milp.integer, whole, milp.col_upper)
        fixed = milp.with_bounds(lower, upper)
        run = highs.solve_lp(fixed, part.take(self.level.cost), self.limits.deadline)
        if run.x is not None:
            self.offer(part.expand(run.x))

    def solve_whole(self) -> None:
        """A small program as it is; where its gap is closed, a short try at the last digits."""
        full = np.ones(self.program.blocks.number, dtype=np.bool_)
        part = self.program.restrict(full)
        run = self.mip(part, part.milp, self.limits.deadline, self.limits.relative_gap / 2)
        self.take_bound(run)
        if self.x is not None and self.gap > TIGHT_GAP:
            limit = min(self.limits.deadline, CLOCK.now() + TIGHT_SECONDS)
            self.take_bound(self.mip(part, part.milp, limit, TIGHT_GAP))
        if run.status in ("optimal", "infeasible") and self.relaxed is None:
            self.status = "solved" if self.x is not None else "infeasible"

    def mip(self, part: Part, milp: Milp, deadline: float, gap: float | None = None) -> highs.Run:
        """An integer program on a part, under bounds of its own; its points are offered."""
        target = np.inf
        if np.isfinite(self.bound) and self.limits.relative_gap > 0:
            slack = self.limits.relative_gap * abs(self.bound) * 0.999
            target = self.bound - slack - self.level.constant
        wanted = self.limits.relative_gap / 2 if gap is None else gap
        limits = highs.MipLimits(min(deadline, self.limits.deadline), wanted, target)
        run = highs.solve_mip(
            milp, part.take(self.level.cost), limits, lambda x, _: self._offer_part(part, x)
        )
        if run.x is not None:
            self.offer(part.expand(run.x))
        return run

    def take_bound(self, run: highs.Run) -> None:
        """Takes the bound of a run on all that can be in a better plan."""
        if run.bound is not None and self.relaxed is None:
            self.prove(run.bound + self.level.constant)

    def _offer_part(self, part: Part, x: Floats) -> None:
        self.offer(part.expand(x))

    def share(self, share: float) -> float:
        """The moment when a share of the time left will be over."""
        now = CLOCK.now()
        return now + share * max(0.0, self.limits.deadline - now)

    def in_use(self) -> Bools:
        """Blocks in the incumbent or in the relaxation."""
        count = self.program.blocks.count
        used = np.zeros(len(count), dtype=np.bool_)
        if self.x is not None:
            used |= self.x[count] > 0.5
        if self.relaxation is not None and self.relaxation.x is not None:
            used |= self.relaxation.x[count] > EPSILON
        return used

    def most_counts(self) -> Floats:
        """Reduced-cost fixing: the most replicas of each block in any better plan."""
        blocks, found = self.program.blocks, self.relaxation
        if found is None or found.profit is None or self.x is None:
            return blocks.limit
        room = found.bound + self.level.constant - self.value
        room += EPSILON * max(1.0, abs(self.value))
        loss = np.maximum(-found.profit, 1e-300)
        return np.minimum(blocks.limit, np.floor(np.minimum(room / loss, 1e15)))

    def best(self, number: int, *, by_group: bool) -> Bools:
        """The most profitable blocks that can still be in a better plan."""
        blocks, found = self.program.blocks, self.relaxation
        assert found is not None and found.profit is not None
        usable = self.most_counts() > 0
        order = np.argsort(-found.profit, kind="stable")
        order = order[usable[order]]
        chosen = self.in_use()
        for group in np.unique(blocks.group) if by_group else [None]:
            mine = order if group is None else order[blocks.group[order] == group]
            chosen[mine[:number]] = True
        return chosen

    def prove_survivors(self, share: float) -> None:
        """What can be in a better plan, if it is little; all of it while there is no incumbent."""
        most = self.most_counts()
        survives = most > 0
        if self.x is not None and int(survives.sum()) > SURVIVORS:
            return
        part, milp = self.limited(survives | self.in_use(), most)
        run = self.mip(part, milp, self.share(share if self.x is not None else 1.0))
        self.take_bound(run)
        if run.status == "infeasible" and self.x is None and self.relaxed is None:
            self.status = "infeasible"

    def limited(self, chosen: Bools, most: Floats) -> tuple[Part, Milp]:
        """A part with counts up to `most` (or the incumbent's)."""
        part = self.program.restrict(chosen)
        full = np.full(self.program.milp.num_cols, np.inf)
        full[self.program.blocks.count] = most
        upper = np.minimum(part.milp.col_upper, part.take(full))
        if self.x is not None:
            upper = np.maximum(upper, np.where(part.milp.integer, part.take(self.x), upper))
        return part, part.milp.with_bounds(part.milp.col_lower, upper)
