"""Nodes that somebody could add: which shapes, how many, and what they would serve.

Theory of operation. Shapes that may be bought are planned with in buying.py; of the others it is
only said what they would be good for. Where the plan leaves demand unserved it is solved again with
the shapes beside the concrete nodes, everything planned held where it is. What that adds on nodes
of a shape is listed, and changes no routing.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import replace

from motley_planner.domain.hardware import Catalog, Node
from motley_planner.domain.plan import NodesToAdd
from motley_planner.domain.snapshot import Shape, Snapshot
from motley_planner.domain.solution import Solution
from motley_planner.domain.table import FleetTable, NodeShape, RunningReplica, SideRow
from motley_planner.formulations.fleet import solve_table
from motley_planner.planning.assemble import assemble, node_room_gpus
from motley_planner.planning.assembly import table_gpu
from motley_planner.planning.limits import demand_names

NEW = "+new/"  # names of nodes that the solve adds, beside "+shape/i" of those that are coming
UNSERVED_SHARE = 1e-6
TIME_SHARE = 0.25  # of the time limit of a plan; the list changes nothing that runs


def nodes_to_add(
    snapshot: Snapshot, catalog: Catalog, planned: Solution, *, use_worker: bool
) -> tuple[NodesToAdd, ...]:
    """What to add for the demand that the plan leaves unserved; empty where nothing would help."""
    snapshot = replace(snapshot, shapes=tuple(s for s in snapshot.shapes if not s.buys))
    if not snapshot.shapes or not is_short(snapshot, planned):
        return ()
    offered = tuple(Node(f"+{s.name}", s.node_class, 0, 0, 0, 0, 0) for s in snapshot.shapes)
    table, _ = assemble(replace(snapshot, nodes=(*snapshot.nodes, *offered)), catalog)
    table = _with_shapes(table, snapshot, planned)
    found = solve_table(table, use_worker=use_worker)
    if found.status == "no_solution":
        return ()
    bought: Counter[str] = Counter()
    for name in {name for placed in found.placement for name in placed.nodes}:
        if name.startswith(NEW):
            bought[name.removeprefix(NEW).rpartition("/")[0]] += 1
    gains = _gains(snapshot, planned, found)
    return tuple(
        NodesToAdd(
            shape=shape.name,
            gpu=shape.node_class.gpu,
            count=bought[shape.name],
            price_usd_per_hour=shape.price_usd_per_hour * bought[shape.name],
            delay_hours=shape.delay_hours,
            gains=gains,
        )
        for shape in snapshot.shapes
        if bought[shape.name]
    )


def is_short(snapshot: Snapshot, planned: Solution) -> bool:
    """Whether something that is asked for goes unserved."""
    unserved = planned.unserved or {}
    names = {n for d in snapshot.demands for n in demand_names(d)}
    return any(left > UNSERVED_SHARE for name, left in unserved.items() if name in names)


def _with_shapes(table: FleetTable, snapshot: Snapshot, planned: Solution) -> FleetTable:
    """The table with the shapes' nodes on offer and the planned replicas held as they are."""
    assert table.previous is not None
    names = {node.name for node in snapshot.nodes}
    known = {c.id for c in table.columns}
    replicas = tuple(
        RunningReplica(f"planned/{i}", p.column, p.nodes)
        for i, p in enumerate(planned.placement)
        if p.column in known
    )
    counts = Counter(replica.column for replica in replicas)
    holds = tuple(
        SideRow(f"hold|{column}", {column: 1.0}, at_least=float(count))
        for column, count in counts.items()
    )
    previous = replace(
        table.previous,
        nodes=tuple(n for n in table.previous.nodes if n.name in names),
        replicas=replicas,
    )
    return replace(
        table,
        previous=previous,
        side_rows=(*table.side_rows, *holds),
        purchasable=tuple(node_shape(shape, snapshot) for shape in snapshot.shapes),
        scenarios=(),
        time_limit_s=table.time_limit_s * TIME_SHARE,
    )


def node_shape(shape: Shape, snapshot: Snapshot) -> NodeShape:
    """The shape in the table's words."""
    whole = Node(
        shape.name,
        shape.node_class,
        shape.gpus,
        shape.cpu_milli,
        shape.memory_bytes,
        shape.pods,
        shape.gpus,
    )
    delay = shape.delay_hours / max(snapshot.move_price.horizon_hours, 1e-9)
    return NodeShape(
        name=NEW.removeprefix("+") + shape.name,
        gpu=table_gpu(shape.node_class),
        zone=shape.node_class.zone,
        gpus=node_room_gpus(whole, snapshot.pod_need),
        count=shape.max_nodes,
        price_usd_per_hour=shape.price_usd_per_hour if snapshot.billing == "node" else None,
        delay_usd_per_hour=shape.price_usd_per_hour * delay,
    )


def _gains(snapshot: Snapshot, planned: Solution, found: Solution) -> dict[str, float]:
    """By resource: requests/s served beyond the plan (of a job: steps/s)."""
    before, after = planned.unserved or {}, found.unserved or {}
    gains = {}
    for demand in snapshot.demands:
        names = demand_names(demand)
        more = sum(before.get(n, 0.0) - after.get(n, before.get(n, 0.0)) for n in names)
        if more > UNSERVED_SHARE:
            gains[demand.key] = more
    return gains
