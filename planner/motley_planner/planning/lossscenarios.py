"""Scenarios that guide a search for plans that hold after a loss, or at a higher demand."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence

from motley_planner.domain.demand import ServingDemand
from motley_planner.domain.solution import PlacedReplica, Solution
from motley_planner.domain.table import FleetTable, Scenario
from motley_planner.formulations.scenarios import TOLERANCE
from motley_planner.planning.limits import demand_names
from motley_planner.planning.losstests import LossTest, worst_losses

UNLIMITED = 10**6
SETTLED_GAP = 1e-3  # of the level of promises: less shows in no figure that is told
DEMAND_ERROR = "|demand error"


def demand_scenarios(services: Sequence[ServingDemand]) -> tuple[Scenario, ...]:
    """All classes of a resource at (1 + demand_error) x their rates at once: the worst of the box."""
    found = []
    for service in services:
        if service.demand_error > 0:
            names = demand_names(service)
            factor = dict.fromkeys(names, 1.0 + service.demand_error)
            found.append(Scenario(f"{service.key}{DEMAND_ERROR}", names, factor=factor))
    return tuple(found)


def average_losses(table: FleetTable, services: Sequence[ServingDemand]) -> list[Scenario]:
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


def running_scenarios(table: FleetTable, services: Sequence[ServingDemand]) -> list[Scenario]:
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


def unseen(test: LossTest, solution: Solution, seen: Sequence[Scenario]) -> Scenario | None:
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


def is_settled(solution: Solution) -> bool:
    """Whether it is proved that promises after a loss cannot be kept any better than in the plan."""
    level = next((lv for lv in solution.levels if lv.name == TOLERANCE), None)
    return level is not None and level.gap is not None and level.gap <= SETTLED_GAP
