"""Replicas on nodes that are asked for: an autoscaler adds them because their pods wait.

Theory of operation. The fleet is planned first on the nodes that are there; a node that comes in
five minutes serves nobody now, so it never takes the place of one that is there. Where that leaves
demand unserved, the same table is solved again with everything planned held where it is, and with

    the room that is left on nodes which are coming already, and then
    new nodes of the shapes that may be bought, each at its delay's worth of its price besides.

What that places is carried out at once: the pods wait for their nodes. From then on they are
running units on a node that is cordoned and `coming`, so that the next plan keeps them, buys
nothing twice, and takes a better place only where the price says so (steadiness.py).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import replace

from motley_planner.domain.hardware import Node
from motley_planner.domain.plan import NodesToAdd
from motley_planner.domain.snapshot import Shape, Snapshot
from motley_planner.domain.solution import Level, Solution
from motley_planner.domain.table import FleetTable, RunningReplica
from motley_planner.formulations.fleet import solve_table
from motley_planner.planning.assemble import node_room_gpus
from motley_planner.planning.assembly import Assembly
from motley_planner.planning.comparing import serves_as_much
from motley_planner.planning.shapes import NEW, TIME_SHARE, is_short, node_shape

NEW_REPLICA = "planned/"  # ids of what the first solve starts; units have no such ids
LEAST_WAIT_USD_PER_HOUR = 1e-3  # of one node more: no node is asked for that another saves


def offered(snapshot: Snapshot) -> Snapshot:
    """The snapshot whose classes of nodes are also those of the shapes that may be bought."""
    buys = [shape for shape in snapshot.shapes if shape.buys]
    offers = (Node(f"+{s.name}", s.node_class, 0, 0, 0, 0, 0) for s in buys)
    return replace(snapshot, nodes=(*snapshot.nodes, *offers)) if buys else snapshot


def without_offers(table: FleetTable, snapshot: Snapshot) -> FleetTable:
    """The table with the nodes that are there and no others."""
    assert table.previous is not None
    names = {node.name for node in snapshot.nodes}
    nodes = tuple(node for node in table.previous.nodes if node.name in names)
    return replace(table, previous=replace(table.previous, nodes=nodes))


def bought(
    table: FleetTable,
    assembly: Assembly,
    snapshot: Snapshot,
    planned: Solution,
    *,
    use_worker: bool,
) -> tuple[Snapshot, Solution]:
    """(the snapshot with the nodes that are to come, the plan with what is placed there).

    Both as they were where nothing is missing or nothing that may be bought helps.
    """
    buys = [shape for shape in snapshot.shapes if shape.buys and shape.max_nodes != 0]
    coming = any(node.coming for node in snapshot.nodes)
    if not (buys or coming) or not is_short(snapshot, planned):
        return snapshot, planned

    def larger(plan: Solution) -> Solution | None:
        made = solve_table(_with_shapes(table, snapshot, plan, buys), use_worker=use_worker)
        return made if made.status != "no_solution" and _serves_more(made, plan) else None

    found = larger(planned)
    kept = _without_stops(table, assembly, snapshot, planned, use_worker=use_worker)
    instead = larger(kept) if kept is not None else None
    if instead is not None and serves_as_much(instead, found or planned, snapshot, tolerant=False):
        found = instead
    if found is None:
        return snapshot, planned
    names = _names(found, buys)
    placement = tuple(
        replace(
            placed,
            nodes=tuple(names.get(name, name) for name in placed.nodes),
            kept=None if (placed.kept or "").startswith(NEW_REPLICA) else placed.kept,
        )
        for placed in found.placement
    )
    by_name = {shape.name: shape for shape in buys}
    nodes = tuple(_node(by_name[_shape_of(new)], name) for new, name in names.items())
    assembly.room |= {node.name: node_room_gpus(node, snapshot.pod_need) for node in nodes}
    return replace(snapshot, nodes=(*snapshot.nodes, *nodes)), replace(
        _told(found, planned), placement=placement
    )


def _without_stops(
    table: FleetTable,
    assembly: Assembly,
    snapshot: Snapshot,
    planned: Solution,
    *,
    use_worker: bool,
) -> Solution | None:
    """A plan that stops nothing of what nobody edited; None where the plan does not either."""
    assert table.previous is not None
    goes_on = {placed.kept for placed in planned.placement}
    replicas = table.previous.replicas
    keys = {r.id: assembly.candidates[r.column].key for r in replicas}
    held = {r.id for r in replicas if r.id in goes_on or keys[r.id] not in snapshot.edited}
    if held <= goes_on:
        return None
    tried = replace(table, held_replicas=frozenset(held), scenarios=())
    tried = replace(tried, time_limit_s=table.time_limit_s * TIME_SHARE)
    found = solve_table(tried, use_worker=use_worker)
    return found if found.status != "no_solution" else None


def nodes_coming(snapshot: Snapshot, solution: Solution) -> tuple[NodesToAdd, ...]:
    """The nodes that replicas of a solution wait for, by shape."""
    used = {name for placed in solution.placement for name in placed.nodes}
    waits = [node.name for node in snapshot.nodes if node.coming and node.name in used]
    counts = Counter(name.removeprefix("+").rpartition("/")[0] for name in waits)
    return tuple(
        NodesToAdd(
            shape=shape.name,
            gpu=shape.node_class.gpu,
            count=counts[shape.name],
            price_usd_per_hour=shape.price_usd_per_hour * counts[shape.name],
            delay_hours=shape.delay_hours,
        )
        for shape in snapshot.shapes
        if counts[shape.name]
    )


def _with_shapes(
    table: FleetTable, snapshot: Snapshot, planned: Solution, buys: Iterable[Shape]
) -> FleetTable:
    """The table with what may be bought on offer, and the planned replicas held as they are."""
    assert table.previous is not None
    replicas = tuple(
        RunningReplica(placed.kept or f"{NEW_REPLICA}{i}", placed.column, placed.nodes)
        for i, placed in enumerate(planned.placement)
    )
    shapes = (node_shape(shape, snapshot) for shape in buys)
    least = LEAST_WAIT_USD_PER_HOUR
    counts = Counter(placed.column for placed in planned.placement)
    return replace(
        table,
        # Nodes of a shape without a zone may come to any, and a replica does not span zones.
        columns=tuple(
            replace(c, max_count=counts[c.id]) if len(c.fragments) > 1 and not c.zone else c
            for c in table.columns
        ),
        previous=replace(table.previous, replicas=replicas),
        held_replicas=frozenset(replica.id for replica in replicas),
        cordoned_nodes=frozenset(n.name for n in snapshot.nodes if n.cordoned and not n.coming),
        purchasable=tuple(
            replace(s, delay_usd_per_hour=max(least, s.delay_usd_per_hour)) for s in shapes
        ),
        scenarios=(),
        start=(),
        starts=(),
        time_limit_s=table.time_limit_s * TIME_SHARE,
    )


def _serves_more(found: Solution, planned: Solution) -> bool:
    """Whether something is served that the plan left; nodes are bought for nothing else."""
    before, after = planned.unserved or {}, found.unserved or {}
    return sum(after.values()) < sum(before.values()) - 1e-6 and len(found.placement) > len(
        planned.placement
    )


def _shape_of(new: str) -> str:
    return new.removeprefix(NEW).rpartition("/")[0]


def _names(found: Solution, buys: Iterable[Shape]) -> dict[str, str]:
    """The new nodes' names in the table -> those they get, "+shape/i" with an i that is free."""
    used = {name for placed in found.placement for name in placed.nodes if name.startswith(NEW)}
    names: dict[str, str] = {}
    for shape in buys:
        number = 0
        mine = [name for name in used if _shape_of(name) == shape.name]
        for new in sorted(mine, key=lambda name: int(name.rpartition("/")[2])):
            while number in shape.taken:
                number += 1
            names[new] = f"+{shape.name}/{number}"
            number += 1
    return names


def _node(shape: Shape, name: str) -> Node:
    return Node(
        name,
        shape.node_class,
        shape.gpus,
        shape.cpu_milli,
        shape.memory_bytes,
        shape.pods,
        shape.gpus,
        cordoned=True,
        coming=True,
    )


def _told(found: Solution, planned: Solution) -> Solution:
    """The larger plan, with no bound but where it serves all: its own hold for what is held alone."""
    whole = sum((found.unserved or {}).values()) <= 1e-6
    levels = tuple(
        Level(level.name, level.value, level.value, 0.0)
        if whole and level.name.startswith("goodput")
        else Level(level.name, level.value, None, None)
        for level in found.levels
    )
    first = levels[0] if levels else None
    return replace(
        found,
        status="feasible",
        levels=levels,
        objective=first.value if first else None,
        bound=first.bound if first else None,
        gap=first.gap if first else None,
        solve_seconds=planned.solve_seconds + found.solve_seconds,
        certificates=(),
        no_certificates="replicas that wait for nodes were added after the solve",
    )
