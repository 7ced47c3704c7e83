"""Plans that hold when nodes are lost or demand is higher than stated, by routing alone.

Theory of operation. The program knows counts by node class, not who sits on which node; a loss
takes a node. So the plan is placed (spread over nodes), every set of `node_loss_tolerance` nodes
that carries a protected resource is taken away in turn, and the best routing over what is left is
computed. Where that serves less than was asked, what the worst loss took becomes a scenario of the
table, and the fleet is solved again; a few rounds at most. The first plan is made without any
scenario: it is there early, whatever the rounds take, and often holds as it is. What runs now gives
the first scenarios, and is a plan to beat itself, so that a fleet that holds its promise is left
alone. The nodes of a small fleet are told apart before any such guess (spreading.py).

Scenarios guide; the test decides. The worst share that the test measured is what is promised, and
it is reported even where it falls short.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from motley_planner.domain.demand import ServingDemand
from motley_planner.domain.snapshot import Snapshot
from motley_planner.domain.solution import Level, PlacedReplica, Solution
from motley_planner.domain.table import FleetTable
from motley_planner.formulations.fleet import solve_table
from motley_planner.formulations.scenarios import TOLERANCE
from motley_planner.planning.assembly import Assembly
from motley_planner.planning.comparing import PRICE_LEVEL
from motley_planner.planning.keeping import holding, without_guests
from motley_planner.planning.lossscenarios import (
    DEMAND_ERROR,
    average_losses,
    demand_scenarios,
    running_scenarios,
    unseen,
)
from motley_planner.planning.losstests import LossTest, worst_losses
from motley_planner.planning.spreading import node_table
from motley_planner.planning.steadiness import solve_steadily
from motley_planner.solver.clock import CLOCK

ROUNDS = 10
FIRST_SHARE = 0.6  # of the time limit, for the plan that looks at no loss
AS_THEY_ARE_SHARE = 0.2  # of the time left, for a plan that is there
NODES_SHARE = (
    0.7  # of the time left, for nodes told apart, where the fleet is small; then the rounds
)
LEAST_S = 0.1  # of a solve
# A promise may be out of reach, and nothing would say so: it is sought for a few times as long as
# the plan took that looks at no loss, in a large fleet for half as long.
SEARCH_FACTORS, LEAST_SEARCH_S = (0.5, 4.0), 0.2
SMALL_FLEET = 40  # nodes


@dataclass(slots=True)
class _Best:
    """The best plan so far, what it promises, and how long was searched."""

    solution: Solution
    tests: tuple[LossTest, ...]
    seconds: float
    placed: Solution | None = None  # the plan from which nodes were told apart last

    @property
    def holds(self) -> bool:
        """Whether every promise that was asked for is kept."""
        return all(test.holds for test in self.tests)

    def offer(self, solution: Solution, tests: tuple[LossTest, ...]) -> None:
        """Takes a plan that is better: service first, then the promises, then the price."""
        if _rank(solution, tests) > _rank(self.solution, self.tests):
            self.solution, self.tests = solution, tests


def solve_for_losses(
    table: FleetTable, assembly: Assembly, snapshot: Snapshot, *, use_worker: bool
) -> tuple[Solution, tuple[LossTest, ...]]:
    """The solution to carry out, with the worst loss of every resource that tolerates losses."""
    services = [s for s in snapshot.services if s.key not in assembly.blocked]
    table = replace(table, scenarios=(*table.scenarios, *demand_scenarios(services)))
    protected = [s for s in services if s.node_loss_tolerance > 0]
    if not protected:
        return solve_steadily(table, assembly, snapshot, use_worker=use_worker), ()
    looks = looks_ahead(snapshot)
    deadline = CLOCK.now() + table.time_limit_s
    spread = frozenset(f"{s.key}/{stage.name}" for s in protected for stage in s.stages)
    table = replace(table, spread_models=table.spread_models | spread)
    limit_s = table.time_limit_s * (FIRST_SHARE if looks else 1.0)
    first = replace(table, time_limit_s=limit_s)
    solution = solve_steadily(first, assembly, snapshot, use_worker=use_worker)
    if solution.status == "no_solution":
        return solution, ()
    tests = worst_losses(table, protected, solution.placement)
    best = _Best(solution, tests, solution.solve_seconds)
    if not looks or best.holds:
        return _measured(solution, tests), tests
    factor = SEARCH_FACTORS[len(snapshot.nodes) <= SMALL_FLEET]
    longest_s = max(LEAST_SEARCH_S, factor * solution.solve_seconds)
    deadline = min(deadline, CLOCK.now() + longest_s)
    search = _Search(table, protected, best, deadline, use_worker)
    search.try_as_they_are()
    search.place_on_nodes(NODES_SHARE)
    search.add_scenarios(assembly, snapshot)
    search.place_on_nodes(1.0)
    found = best.solution if best.solution is solution else _with_bounds_of(best.solution, solution)
    # The search for promises takes what time there is; whether the plan was cut short, the first says.
    found = replace(found, solve_seconds=best.seconds, cut_short=solution.cut_short)
    return _measured(found, best.tests), best.tests


def looks_ahead(snapshot: Snapshot) -> bool:
    """Whether replicas may be added for the next loss: a restart or a loss is no moment for it."""
    protected = {s.key for s in snapshot.services if s.node_loss_tolerance > 0}
    return not snapshot.steady or not snapshot.edited.isdisjoint(protected)


@dataclass(frozen=True, slots=True)
class _Search:
    """Three ways to a better promise, each from the best plan that there is."""

    table: FleetTable
    protected: Sequence[ServingDemand]
    best: _Best
    deadline: float
    use_worker: bool

    def _left_s(self) -> float:
        return self.deadline - CLOCK.now()

    def _offer(self, solution: Solution) -> tuple[LossTest, ...]:
        tests = worst_losses(self.table, self.protected, solution.placement)
        self.best.offer(solution, tests)
        return tests

    def try_as_they_are(self) -> None:
        """What runs, and the plans to begin from, with no replica elsewhere: they may hold more."""
        previous = self.table.previous
        assert previous is not None
        running = [r for r in previous.replicas if not set(r.nodes) & self.table.lost_nodes]
        kept = tuple(PlacedReplica(r.column, r.nodes, r.id) for r in running)
        for placed in (kept, self.table.start, *self.table.starts):
            left_s = self._left_s()
            held = holding(self.table, placed)
            if self.best.holds or left_s <= 0.0 or held is None:
                continue
            timed = replace(held, time_limit_s=max(LEAST_S, AS_THEY_ARE_SHARE * left_s))
            solution = solve_table(timed, use_worker=self.use_worker)
            self.best.seconds += solution.solve_seconds
            if solution.status != "no_solution":
                self._offer(without_guests(self.table, solution))

    def add_scenarios(self, assembly: Assembly, snapshot: Snapshot) -> None:
        """Solves again with what was lost as scenarios, a few rounds at most."""
        given = (*self.table.scenarios, *average_losses(self.table, self.protected))
        seen = running_scenarios(self.table, self.protected)
        for _ in range(ROUNDS):
            left_s = self._left_s()
            if left_s <= 0.0 or self.best.holds:
                return
            tried = replace(
                _only(self.table, self.protected, self.best.solution),
                scenarios=(*given, *seen),
                start=self.best.solution.placement,
                time_limit_s=max(left_s, LEAST_S),
            )
            solution = solve_steadily(tried, assembly, snapshot, use_worker=self.use_worker)
            self.best.seconds += solution.solve_seconds
            if solution.status == "no_solution":
                return
            tests = self._offer(solution)
            new = [s for test in tests if (s := unseen(test, solution, seen)) is not None]
            if not new:
                return
            seen += new

    def place_on_nodes(self, share: float) -> None:
        """Tells nodes apart in the table, and again from what that finds; a share of the time."""
        until = CLOCK.now() + share * self._left_s()
        while not self.best.holds and self.best.placed is not self.best.solution:
            left_s = until - CLOCK.now()
            apart = node_table(self.table, self.protected, self.best.solution)
            if apart is None or left_s < LEAST_S:
                return
            self.best.placed = self.best.solution
            timed = replace(apart.table, time_limit_s=left_s)
            solution = solve_table(timed, use_worker=self.use_worker)
            self.best.seconds += solution.solve_seconds
            found = apart.read_back(solution) if solution.status != "no_solution" else None
            if found is not None:
                self._offer(found)


def _only(table: FleetTable, services: Sequence[ServingDemand], plan: Solution) -> FleetTable:
    """The table in which all but the protected resources get no more replicas than in `plan`."""
    models = {f"{s.key}/{stage.name}" for s in services for stage in s.stages}
    counts = {r.column: r.count for r in plan.replicas}
    columns = tuple(
        c if c.model in models else replace(c, max_count=counts.get(c.id, 0)) for c in table.columns
    )
    return replace(table, columns=columns)


def _rank(solution: Solution, tests: Sequence[LossTest]) -> tuple[float, ...]:
    """Service first, then the promises, then the price; more is better."""
    short = -sum(max(0.0, t.asked - t.share) for t in tests)
    price = next((lv.value or 0.0 for lv in solution.levels if lv.name == PRICE_LEVEL), 0.0)
    return (*_service(solution), round(short, 6), -price)


def _service(solution: Solution) -> tuple[float, ...]:
    levels = [lv for lv in solution.levels if lv.name.startswith(("minimums", "good"))]
    return tuple(round(lv.value or 0.0, 6) for lv in levels)


def _with_bounds_of(solution: Solution, first: Solution) -> Solution:
    """A plan under scenarios with the bounds of the plan without them.

    Scenarios of losses are chosen, not given, and the others' replicas are held: what was proved
    under them says nothing of the real problem. Without them service is as high or higher, and as
    much of it costs as little or less.
    """
    bounds = {level.name: level.bound for level in first.levels}
    if _service(solution) != _service(first):
        bounds.pop(PRICE_LEVEL, None)
    levels = tuple(_bounded(level, bounds.get(level.name)) for level in solution.levels)
    head = next((lv for lv in levels if lv.name == "goodput" or "[" in lv.name), levels[0])
    return replace(solution, status="feasible", levels=levels, bound=head.bound, gap=head.gap)


def _measured(solution: Solution, tests: Sequence[LossTest]) -> Solution:
    """The solution with what its promises lack as the tests found it; 0 is all that was asked."""
    beside = sum(s.how_much for s in solution.shortfalls if s.what.endswith(DEMAND_ERROR))
    value = 0.0 - sum(max(0.0, t.asked - t.share) for t in tests if not t.holds) - beside
    level = _bounded(Level(TOLERANCE, value, None, None), 0.0)
    levels = [lv for lv in solution.levels if lv.name != TOLERANCE]
    at = next((i for i, lv in enumerate(levels) if lv.name == PRICE_LEVEL), len(levels))
    levels.insert(at, level)
    status = solution.status if value >= 0.0 else "feasible"
    return replace(solution, status=status, levels=tuple(levels))


def _bounded(level: Level, bound: float | None) -> Level:
    if bound is None or level.value is None:
        return replace(level, bound=None, gap=None)
    gap = abs(bound - level.value) / max(1e-9, abs(level.value))
    return Level(level.name, level.value, bound, gap)
