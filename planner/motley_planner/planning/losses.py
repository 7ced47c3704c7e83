"""Plans that hold when nodes are lost or demand is higher than stated, by routing alone.

Theory of operation. The program knows counts by node class, not who sits on which node; a loss
takes a node. So the plan is placed (spread over nodes), every set of `node_loss_tolerance` nodes
that carries a protected resource is taken away in turn, and the best routing over what is left is
computed. Where that serves less than was asked, what the worst loss took becomes a scenario of the
table, and the fleet is solved again; a few rounds at most. The first plan is made without any
scenario: it is there early, whatever the rounds take, and often holds as it is. What runs now gives
the first scenarios, so that a fleet that holds its promise is left alone.

Scenarios guide; the test decides. The worst share that the test measured is what is promised, and
it is reported even where it falls short.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import combinations
from math import comb

from motley_planner.domain.demand import ServingDemand
from motley_planner.domain.snapshot import Snapshot
from motley_planner.domain.solution import Level, PlacedReplica, Solution
from motley_planner.domain.table import FleetTable, Scenario
from motley_planner.formulations.recourse import share_after
from motley_planner.planning.assembly import Assembly
from motley_planner.planning.limits import demand_names
from motley_planner.planning.steadiness import solve_steadily

ROUNDS = 10
UNLIMITED = 10**6
FIRST_SHARE = 0.6  # of the time limit, for the plan that looks at no loss
MOST_SETS = 400  # sets of nodes tried; beyond, the worst node first, then the worst beside it
ENOUGH = 1e-6
BEYOND = 1e3  # losses that all leave enough are told apart by how much more they leave

Composition = tuple[tuple[str, int], ...]  # column -> replicas, of one resource on some nodes


@dataclass(frozen=True, slots=True)
class LossTest:
    """The worst loss found for one resource, and the share of its rate that routing still serves.

    The share may pass 1: what could be served if more were asked.
    """

    key: str
    nodes: tuple[str, ...]
    share: float
    lost: Mapping[str, int]  # column -> replicas that go with the nodes
    asked: float
    served: tuple[str, ...] = ()  # the table's names of what the resource asks for

    @property
    def holds(self) -> bool:
        """Whether as much is served as was asked for."""
        return self.share >= self.asked - ENOUGH


def solve_for_losses(
    table: FleetTable, assembly: Assembly, snapshot: Snapshot, *, use_worker: bool
) -> tuple[Solution, tuple[LossTest, ...]]:
    """The solution to carry out, with the worst loss of every resource that tolerates losses."""
    services = [s for s in snapshot.services if s.key not in assembly.blocked]
    table = replace(table, scenarios=(*table.scenarios, *demand_scenarios(services)))
    protected = [s for s in services if s.node_loss_tolerance > 0]
    if not protected:
        return solve_steadily(table, assembly, snapshot, use_worker=use_worker), ()
    # A restart or a loss is no moment to add replicas for the next loss.
    looks = not snapshot.steady or any(s.key in snapshot.edited for s in protected)
    deadline = time.monotonic() + table.time_limit_s
    first = replace(table, time_limit_s=table.time_limit_s * (FIRST_SHARE if looks else 1.0))
    solution = solve_steadily(first, assembly, snapshot, use_worker=use_worker)
    if solution.status == "no_solution":
        return solution, ()
    best = solution, worst_losses(table, protected, solution.placement)
    first_plan = solution
    if not looks:
        return best
    spread = frozenset(f"{s.key}/{stage.name}" for s in protected for stage in s.stages)
    table = replace(table, spread_models=table.spread_models | spread)
    given = (*table.scenarios, *_average_losses(table, protected))
    seen = _running_scenarios(table, protected)
    spent_s = solution.solve_seconds
    for _ in range(ROUNDS):
        left_s = deadline - time.monotonic()
        if left_s <= 0.0 or all(test.holds for test in best[1]):
            break
        tried = _only(table, protected, best[0])
        tried = replace(
            tried,
            scenarios=(*given, *seen),
            start=best[0].placement,
            time_limit_s=max(left_s, 0.1),
        )
        solution = solve_steadily(tried, assembly, snapshot, use_worker=use_worker)
        spent_s += solution.solve_seconds
        if solution.status == "no_solution":
            break
        solution = _with_bounds_of(solution, first_plan)
        tests = worst_losses(table, protected, solution.placement)
        if _better(solution, tests, best):
            best = solution, tests
        new = [s for test in tests if (s := _unseen(test, solution, seen)) is not None]
        if not new:
            break
        seen += new
    return replace(best[0], solve_seconds=spent_s), best[1]


def _only(table: FleetTable, services: Sequence[ServingDemand], plan: Solution) -> FleetTable:
    """The table in which all but the protected resources get no more replicas than in `plan`."""
    models = {f"{s.key}/{stage.name}" for s in services for stage in s.stages}
    counts = {r.column: r.count for r in plan.replicas}
    columns = tuple(
        c if c.model in models else replace(c, max_count=counts.get(c.id, 0)) for c in table.columns
    )
    return replace(table, columns=columns)


def demand_scenarios(services: Sequence[ServingDemand]) -> tuple[Scenario, ...]:
    """All classes of a resource at (1 + demand_error) x their rates at once: the worst of the box."""
    found = []
    for service in services:
        if service.demand_error > 0:
            names = demand_names(service)
            factor = dict.fromkeys(names, 1.0 + service.demand_error)
            found.append(Scenario(f"{service.key}|demand error", names, factor=factor))
    return tuple(found)


def _average_losses(table: FleetTable, services: Sequence[ServingDemand]) -> list[Scenario]:
    """What every plan must hold, whoever sits where: the mean loss over the nodes of a class.

    The share served is concave in the replicas left, so the worst of N losses is no better than
    what is left on average: y (1 - n / N) of each column of the class. These rows guide the first
    round close to a plan that holds, and keep bounds valid.
    """
    assert table.previous is not None
    there = Counter((n.gpu, n.zone) for n in table.previous.nodes if n.name not in table.lost_nodes)
    for shape in table.purchasable:
        there[shape.gpu, shape.zone] += shape.count if shape.count is not None else UNLIMITED
    found = []
    for service in services:
        models = {f"{service.key}/{stage.name}" for stage in service.stages}
        mine = [c for c in table.columns if c.model in models]
        for gpu, zone in sorted({(f.gpu, c.zone) for c in mine for f in c.fragments}):
            nodes = max(1, there[gpu, zone])
            share = min(1.0, service.node_loss_tolerance / nodes)
            here = [c.id for c in mine if c.zone == zone and c.fragments[0].gpu == gpu]
            scenario = Scenario(
                f"{service.key}|node loss",
                demand_names(service),
                service.loss_share,
                thinned=dict.fromkeys(here, share),
            )
            found.append(scenario)
    return found


def worst_losses(
    table: FleetTable, services: Sequence[ServingDemand], placement: Sequence[PlacedReplica]
) -> tuple[LossTest, ...]:
    """The worst loss of each service by LPs over what is left; ties go to the first by name."""
    return tuple(_worst_loss(table, service, placement) for service in services)


def _worst_loss(
    table: FleetTable, service: ServingDemand, placement: Sequence[PlacedReplica]
) -> LossTest:
    mine = _mine(table, service, placement)
    counts = Counter(p.column for p in mine)
    names = demand_names(service)
    found: dict[Composition, LossTest] = {}
    for nodes in _loss_sets(service, mine):
        lost = _lost_with(mine, nodes)
        key = tuple(sorted(lost.items()))
        if key not in found:
            left = {c: n - lost[c] for c, n in counts.items()}
            share = share_after(table, Scenario("loss", names, share=BEYOND), left)
            found[key] = LossTest(service.key, nodes, share, lost, service.loss_share, names)
    none = LossTest(service.key, (), 0.0, {}, service.loss_share, names)
    return min(found.values(), key=lambda test: test.share, default=none)


def _mine(
    table: FleetTable, service: ServingDemand, placement: Iterable[PlacedReplica]
) -> list[PlacedReplica]:
    models = {f"{service.key}/{stage.name}" for stage in service.stages}
    own = {c.id for c in table.columns if c.model in models}
    return [p for p in placement if p.column in own]


def _lost_with(mine: Sequence[PlacedReplica], nodes: tuple[str, ...]) -> Counter[str]:
    """Replicas of each column that lose a fragment; one over two of the nodes counts once."""
    gone = set(nodes)
    return Counter(p.column for p in mine if gone & set(p.nodes))


def _loss_sets(service: ServingDemand, mine: Sequence[PlacedReplica]) -> Iterable[tuple[str, ...]]:
    """Sets of nodes to take away: all of the size, of equal nodes only as many as it takes.

    Where there are more than MOST_SETS, only those among the nodes that carry most.
    """
    on_node: dict[str, Counter[str]] = {}
    for placed in mine:
        for node in set(placed.nodes):
            on_node.setdefault(node, Counter())[placed.column] += 1
    size = min(service.node_loss_tolerance, len(on_node))
    nodes = sorted(on_node)
    if all(len(set(p.nodes)) == 1 for p in mine):
        alike: dict[Composition, list[str]] = {}
        for node in nodes:
            alike.setdefault(tuple(sorted(on_node[node].items())), []).append(node)
        nodes = sorted(node for members in alike.values() for node in members[:size])
    heaviest = sorted(nodes, key=lambda n: -sum(on_node[n].values()))
    while size > 1 and comb(len(heaviest), size) > MOST_SETS:
        heaviest = heaviest[:-1]
    return combinations(sorted(heaviest), size) if size else ()


def _running_scenarios(table: FleetTable, services: Sequence[ServingDemand]) -> list[Scenario]:
    """What each single node that carries a protected resource now would take with it."""
    assert table.previous is not None
    running = [
        PlacedReplica(r.column, r.nodes, r.id)
        for r in table.previous.replicas
        if not set(r.nodes) & table.lost_nodes
    ]
    found: list[Scenario] = []
    for test in worst_losses(table, services, running):
        if test.lost:
            of = Counter(p.column for p in running)
            scenario = _loss(test, of)
            if scenario not in found:
                found.append(scenario)
    return found


def _unseen(test: LossTest, solution: Solution, seen: Sequence[Scenario]) -> Scenario | None:
    """A loss that is not in the table yet: as it was seen, then without hope of spreading."""
    if test.holds:
        return None
    counts = {r.column: r.count for r in solution.replicas}
    return next((s for of in (counts, test.lost) if (s := _loss(test, of)) not in seen), None)


def _loss(test: LossTest, of: Mapping[str, int]) -> Scenario:
    """The loss as the table states it."""
    return Scenario(
        name=f"{test.key}|node loss",
        served=test.served,
        share=test.asked,
        lost={c: (n, of[c]) for c, n in sorted(test.lost.items())},
    )


def _better(
    solution: Solution, tests: Sequence[LossTest], best: tuple[Solution, tuple[LossTest, ...]]
) -> bool:
    """Service first, then the promises, then the price."""
    return _rank(solution, tests) > _rank(*best)


def _rank(solution: Solution, tests: Sequence[LossTest]) -> tuple[float, ...]:
    served = [lv.value or 0.0 for lv in solution.levels if lv.name.startswith(("minimums", "good"))]
    short = -sum(max(0.0, t.asked - t.share) for t in tests)
    price = next((lv.value or 0.0 for lv in solution.levels if lv.name == "price"), 0.0)
    return (*(round(v, 6) for v in served), round(short, 6), -price)


def _with_bounds_of(solution: Solution, first: Solution) -> Solution:
    """A plan under scenarios with the bounds on service of the plan without them.

    Scenarios of losses are chosen, not given, and the others' replicas are held: what was proved
    under them says nothing of the real problem. Without them service is as high or higher.
    """
    bounds = {lv.name: lv.bound for lv in first.levels if lv.name not in ("price", "tolerance")}
    levels = tuple(_bounded(lv, bounds.get(lv.name)) for lv in solution.levels)
    head = next((lv for lv in levels if lv.name == "goodput" or "[" in lv.name), levels[0])
    return replace(solution, status="feasible", levels=levels, bound=head.bound, gap=head.gap)


def _bounded(level: Level, bound: float | None) -> Level:
    if bound is None or level.value is None:
        return replace(level, bound=None, gap=None)
    gap = abs(bound - level.value) / max(1e-9, abs(level.value))
    return Level(level.name, level.value, bound, gap)
