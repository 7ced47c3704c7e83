"""Which limit stands between a plan and more of one demand: prices of limits, asked for it alone.

The linear relaxation over the replicas of the plan and the best that could serve the demand is
solved once more for that demand, everything else kept at what the plan gives it:

    maximize  what is served of the demand    subject to all rows, other demands as in the plan

The limit that binds is the row with the largest price x what is taken of it, among the rows in
which the demand's own replicas, rates, flows and policies stand. Upper bounds that only follow from
rows are left out, so that no bound hides a row's price. Where the relaxation can serve everything,
whole replicas are what does not fit, and the row that most of them break is named.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from functools import cached_property

import numpy as np

from motley_planner.formulations.program import Index
from motley_planner.solver import Job, Level, solve
from motley_planner.solver.blocks import Part, Structured
from motley_planner.solver.clock import CLOCK
from motley_planner.solver.milp import INF, Bools, Floats, Milp

LIMITS = ("nic[", "link[", "quality[", "side[", "max_count[", "budget", "gpus[", "slots[", "node[")
BEST = 40  # columns of a class and phase that are looked at, by capacity per GPU and per USD
KEPT = 1e-7  # share by which other demands may fall behind the plan: the solver's tolerance
ALL = 1.0 - 1e-6  # of a demand: what the relaxation serves when nothing limits it
SAME = 1e-6  # relative difference of two rows' worth that is rounding
TINY = 1e-9


@dataclass(frozen=True, slots=True)
class Asking:
    """What a question about a plan needs beside the index: the program, and how to solve."""

    milp: Milp
    use_worker: bool = False
    seconds: float = 0.3  # for all questions about one plan together
    begin: float = field(default_factory=lambda: CLOCK.now())

    @property
    def left_s(self) -> float:
        """Seconds left for questions."""
        return self.seconds - (CLOCK.now() - self.begin)


@dataclass(frozen=True, slots=True)
class _Goal:
    """The relaxation's objective: a variable of the whole program, or one more of a demand row."""

    variable: int
    sign: float = 1.0
    row: str = ""  # the demand row in which `variable` is then one more variable


class Blocking:
    """Answers for one plan, the point `x`."""

    def __init__(self, index: Index, x: Floats, asking: Asking) -> None:
        self.index, self.x, self.asking = index, x, asking
        self._found_best: dict[str, list[int]] = {}  # by class
        self.ended_well = True  # the last question; after a crash nothing more is asked
        self.program = Structured(asking.milp, index.blocks)
        added = asking.milp.num_rows - len(index.row_names)  # by a strategy, of its own
        self.row_names = (*index.row_names, *[""] * added)

    def of_demand(self, name: str, classes: list[str]) -> str | None:
        """The limit of a class or cascade that the plan serves in part."""
        demand, columns = self.index.demand, self._best(classes)
        mine = self._variables(name, classes, columns)
        if demand.scale is None:
            return self._tightest(_Goal(demand.served[name]), columns, mine)
        alone = f"demand[{name}]" if name in classes else f"cascade[{name}]"
        return self._tightest(_Goal(demand.scale, row=alone), columns, mine) or self._of_scale

    @cached_property
    def _of_scale(self) -> str | None:
        """What limits all demands together."""
        demand = self.index.demand
        assert demand.scale is not None
        return self._tightest(_Goal(demand.scale), self._best(demand.totals), None)

    def of_minimum(self, variable: int, columns: set[int]) -> str | None:
        """The limit of a minimum whose shortfall is this variable."""
        return self._tightest(_Goal(variable, -1.0), columns, None)

    def whole(self, classes: Iterable[str]) -> str | None:
        """The row that most of the columns of these classes break by one replica more."""
        broken = Counter[str]()
        for i in sorted(self._best(classes)):
            broken.update(self._broken_by(i))
        return max(broken, key=lambda name: broken[name], default=None)

    def can_start(self, name: str) -> bool:
        """Whether one more replica fits that serves a class, or one for each of its phases."""
        rates, columns = self.index.demand.rates, self.index.table.columns
        at = self._best_of(name)
        phases = {columns[i].phase for i in rates.column[at].tolist() if not self._broken_by(i)}
        return "both" in phases or {"prefill", "decode"} <= phases

    def _broken_by(self, i: int) -> list[str]:
        milp, variable = self.asking.milp, self.index.packing.new[i]
        begin, end = milp.start[variable], milp.start[variable + 1]
        rows, values = milp.index[begin:end], milp.value[begin:end]
        names = [self.row_names[row] for row in rows.tolist()]
        over = (values > 0) & (self._room[rows] < values - TINY)
        return [n for n, broken in zip(names, over.tolist(), strict=True) if broken and _told(n)]

    @cached_property
    def _room(self) -> Floats:
        """What is left of each row, with the nodes that could still be opened."""
        milp, most = self.asking.milp, self.x.copy()
        for group, used in zip(
            self.index.inventory.open_groups, self.index.packing.open_used, strict=True
        ):
            if used is not None:
                most[used] = INF if group.count is None else group.count
        more = np.where(np.isfinite(most), most, 1e6) - self.x
        gained = milp.activity(more)
        room = milp.row_upper - milp.activity(self.x) - np.minimum(gained, 0.0)
        return np.asarray(room)

    def _best(self, classes: Iterable[str]) -> set[int]:
        rates = self.index.demand.rates
        return {int(i) for name in classes for i in rates.column[self._best_of(name)]}

    def _best_of(self, name: str) -> list[int]:
        """Positions of a class's rates that serve most per GPU and per USD, of each phase."""
        if name not in self._found_best:
            self._found_best[name] = self._find_best(name)
        return self._found_best[name]

    def _find_best(self, name: str) -> list[int]:
        rates, columns = self.index.demand.rates, self.index.table.columns
        at = rates.of_class(name)
        owners = [columns[i] for i in rates.column[at].tolist()]
        phase = np.array([c.phase for c in owners], dtype=object)
        found = set[int]()
        for cost in ([c.gpus for c in owners], [c.price_usd_per_hour + 1e-9 for c in owners]):
            worth = rates.capacity[at] / np.array(cost, dtype=np.float64)
            for kind in ("both", "prefill", "decode"):
                (here,) = np.nonzero(phase == kind)
                order = here[np.argsort(-worth[here], kind="stable")[:BEST]]
                found.update(at[order].tolist())
        return sorted(found)

    def _variables(self, name: str, classes: list[str], columns: set[int]) -> set[int]:
        """Variables that are there for the demand: replicas, nodes, rates, flows and policies."""
        index, packing, demand = self.index, self.index.packing, self.index.demand
        found = {packing.new[i] for i in columns}
        found |= {g.variable for i in columns for g in packing.kept_of(i)}
        found |= {v for i in columns for v, _ in packing.flips_of(i)}
        for one in classes:
            found |= set(demand.rates.variable[demand.rates.of_class(one)].tolist())
        found |= {v for key, (v, _) in demand.flows.items() if key[0] in classes}
        found |= {v for (cascade, _), v in demand.shares.items() if cascade == name}
        table = index.table
        kinds = {
            (f.gpu, table.columns[i].zone) for i in columns for f in table.columns[i].fragments
        }
        groups = zip(index.inventory.open_groups, packing.open_used, strict=True)
        return found | {v for g, v in groups if v is not None and g.node_class in kinds}

    def _part(self, columns: set[int]) -> Part:
        """The program with the plan's replicas and those of some columns."""
        blocks = self.index.blocks
        block_of = np.full(self.asking.milp.num_cols, -1, dtype=np.int64)
        block_of[blocks.count] = np.arange(blocks.number)
        chosen = self.x[blocks.count] > 0.5
        mine = block_of[[self.index.packing.new[i] for i in columns]]
        chosen[mine[mine >= 0]] = True
        return self.program.restrict(chosen)

    def _tightest(self, goal: _Goal, columns: set[int], mine: set[int] | None) -> str | None:
        """The row that limits the goal; None where the relaxation reaches it all, or time is up."""
        if self.asking.left_s <= 0 or not self.ended_well:
            return None
        part = self._part(columns)
        milp, cost = self._relaxed(part, goal), np.zeros(part.milp.num_cols + bool(goal.row))
        at = np.searchsorted(part.columns, goal.variable) if not goal.row else len(cost) - 1
        cost[at] = goal.sign
        job = Job(
            milp,
            (Level("more", cost),),
            relaxation_only=True,
            time_limit_s=max(0.01, self.asking.left_s),
        )
        found = solve(job, use_worker=self.asking.use_worker)
        self.ended_well = found.finished
        if found.x is None or found.duals is None:
            return None
        reached = float(found.x[at]) * goal.sign
        missing = max(0.0, 1.0 - self.x[goal.variable]) if goal.row else 1.0
        if reached >= (missing * ALL if goal.sign > 0 else -TINY):
            return None
        touched = np.ones(milp.num_rows, dtype=np.bool_)
        if mine is not None:
            own = np.isin(part.columns, list(mine))
            own = np.append(own, True) if goal.row else own
            touched = _rows_of(milp, own)
        return self._named(part, milp, found.x, np.where(touched, np.abs(found.duals), 0.0))

    def _relaxed(self, part: Part, goal: _Goal) -> Milp:
        """The part with every other demand kept, and no upper bound that rows already say."""
        index, x = self.index, self.x
        milp = self.asking.milp
        lower, upper = milp.col_lower.copy(), milp.col_upper.copy()
        upper[index.packing.new] = INF
        kept = [v for v in index.demand.served.values() if v != goal.variable]
        if index.demand.scale is not None and (goal.row or goal.sign < 0):
            kept.append(index.demand.scale)
        lower[kept] = np.maximum(0.0, x[kept] * (1.0 - KEPT) - KEPT)
        if index.demand.scale is not None:
            upper[index.demand.scale] = np.inf if goal.row or goal.sign < 0 else 1.0
        missing = [*index.lacking.values(), *index.recourse.missing.values()]
        upper[missing] = np.where(np.array(missing) == goal.variable, INF, x[missing] + KEPT)
        made = part.milp.with_bounds(part.take(lower), part.take(upper))
        if not goal.row:
            return made
        number = made.num_cols
        made = made.with_column(0.0, max(0.0, 1.0 - float(x[goal.variable])))
        row = int(np.searchsorted(part.rows, index.row_names.index(goal.row)))
        at = int(np.searchsorted(part.columns, goal.variable))
        begin, end = made.start[at], made.start[at + 1]
        value = float(made.value[begin:end][made.index[begin:end] == row].sum())
        return made.with_added([(row, number, value)], {})

    def _named(self, part: Part, milp: Milp, x: Floats, prices: Floats) -> str | None:
        taken = _taken(milp, x)
        worth = prices * np.where(taken > TINY, taken, 1.0)
        worth[~(worth > TINY)] = 0.0  # next to it, one that is hardly worth more would be like it
        names = [self.row_names[row] for row in part.rows.tolist()]
        for row in np.flatnonzero(worth).tolist():
            if not _told(names[row]) or self._passes(part, milp, x, row):
                worth[row] = 0.0
        best = float(worth.max(initial=0.0))
        if best <= TINY:
            return None
        near = [str(names[row]) for row in np.flatnonzero(worth >= best * (1.0 - SAME)).tolist()]
        return min(near, key=_rank)

    def _passes(self, part: Part, milp: Milp, x: Floats, row: int) -> bool:
        """Whether a row of GPUs is limited by nodes of which more could be opened."""
        if not self.row_names[int(part.rows[row])].startswith("gpus["):
            return False
        used = [v for v in self.index.packing.open_used if v is not None]
        at = np.searchsorted(part.columns, used)
        return any(
            row in milp.index[milp.start[v] : milp.start[v + 1]] and x[v] < milp.col_upper[v] - SAME
            for v in at.tolist()
        )


def _told(name: str) -> bool:
    return name.startswith(LIMITS)


def _rank(name: str) -> int:
    """Of rows that are worth the same, the one that says most comes first."""
    return next(k for k, prefix in enumerate(LIMITS) if name.startswith(prefix))


def _rows_of(milp: Milp, chosen: Bools) -> Bools:
    """Rows in which any of the chosen variables stands."""
    entries = np.repeat(chosen, np.diff(milp.start))
    found = np.zeros(milp.num_rows, dtype=np.bool_)
    found[milp.index[entries]] = True
    return found


def _taken(milp: Milp, x: Floats) -> Floats:
    """What the positive entries of each row take at a point."""
    amounts = np.maximum(np.repeat(x, np.diff(milp.start)) * milp.value, 0.0)
    return np.bincount(milp.index, weights=amounts, minlength=milp.num_rows).astype(np.float64)
