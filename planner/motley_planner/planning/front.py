"""plan(snapshot) -> Plan: assemble, solve, read back."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import replace

from motley_planner.catalog import load_catalog
from motley_planner.domain.demand import ServingDemand
from motley_planner.domain.hardware import Catalog, Node
from motley_planner.domain.moves import flip_of, start_of, stop_of
from motley_planner.domain.plan import Move, Plan, PlannedReplica
from motley_planner.domain.snapshot import Snapshot
from motley_planner.domain.solution import Solution
from motley_planner.domain.table import FleetTable
from motley_planner.errors import SnapshotError, SolverError
from motley_planner.formulations.certificate import leaving_time, with_cheap_proofs, with_proofs
from motley_planner.planning.assemble import assemble
from motley_planner.planning.assembly import Assembly
from motley_planner.planning.buying import bought, nodes_coming, offered, without_offers
from motley_planner.planning.losses import solve_for_losses
from motley_planner.planning.naming import name_replicas
from motley_planner.planning.prerouting import with_class_policies
from motley_planner.planning.shapes import nodes_to_add
from motley_planner.planning.slices import slice_of
from motley_planner.planning.tenants import guarantee_rows


def plan(
    snapshot: Snapshot,
    catalog: Catalog | None = None,
    *,
    use_worker: bool = True,
    strategy: str = "exact",
    certify_s: float | None = 0.0,
    starts: Sequence[Plan] = (),
) -> Plan:
    """The best plan found for the whole fleet, with its bound, gap and moves.

    The search begins from the best of `starts` that the snapshot still allows, so it is no worse.

    Never raises for demand that cannot be met: refusals in the slices say what is missing. Another
    strategy than `exact` plans the same table in its own way, and moves what runs as it likes. In
    `certify_s` seconds more, proofs of the bounds are sought that need no solver to be checked; None
    seeks them where they cost little beside the solve and its time limit leaves the time.

    Raises: SolverError if there is no solution in time (the caller keeps what runs); CatalogError
    if a data file is wrong; SnapshotError if the snapshot contradicts itself or the strategy does
    not apply to it.
    """
    catalog, begin = catalog or load_catalog(), time.monotonic()
    _check(snapshot)
    if strategy == "exact":  # the others know one mix for all classes
        snapshot = with_class_policies(snapshot)
    table, assembly = assemble(offered(snapshot), catalog, starts)
    table = without_offers(table, snapshot)
    if strategy == "exact":
        guarantees = guarantee_rows(table, assembly, snapshot, use_worker=use_worker)
        table = replace(table, side_rows=(*table.side_rows, *guarantees))
        searched = leaving_time(table) if certify_s is None else table
        solution, losses = solve_for_losses(searched, assembly, snapshot, use_worker=use_worker)
        assembly.after_loss = {test.key: (min(1.0, test.share), len(test.nodes)) for test in losses}
    else:
        from motley_planner import strategies  # what only comparisons need is loaded for them

        solution = strategies.run(strategy, table)
    left_s = table.time_limit_s - (time.monotonic() - begin)
    solution = _certified(table, solution, certify_s, left_s, use_worker=use_worker)
    if solution.status == "no_solution":
        raise SolverError("none", table.time_limit_s, len(table.columns), len(table.side_rows))
    cut_short = solution.cut_short
    if strategy == "exact":
        snapshot, solution = bought(table, assembly, snapshot, solution, use_worker=use_worker)
    named = name_replicas(solution, assembly, snapshot)
    nodes = {node.name: node for node in snapshot.nodes}
    assembly.node_classes = {name: node.node_class for name, node in nodes.items()}
    if snapshot.billing == "node":
        named = {key: [_charged(r, nodes) for r in each] for key, each in named.items()}
    slices = tuple(
        slice_of(demand, named.get(demand.key, []), solution, assembly, snapshot)
        for demand in snapshot.demands
    )
    replicas = [replica for part in slices for replica in part.replicas]
    charged = sum(part.price_usd_per_hour for part in slices)
    bill = charged if snapshot.billing == "gpu" else solution.price_usd_per_hour or 0.0
    return Plan(
        status=solution.status,
        slices=slices,
        levels=solution.levels,
        certificates=solution.certificates,
        no_certificates=solution.no_certificates,
        objective=solution.objective,
        bound=solution.bound,
        gap=solution.gap,
        solve_seconds=solution.solve_seconds,
        price_usd_per_hour=bill,
        moves=_moves(snapshot, assembly, named),
        kept=sum(replica.kept is not None for replica in replicas),
        nodes=sum(not node.coming for node in snapshot.nodes),
        gpus=sum(node.gpus for node in snapshot.nodes if not node.coming),
        gpus_used=sum(replica.gpus_there for replica in replicas),
        idle_usd_per_hour=max(0.0, bill - charged),
        nodes_coming=nodes_coming(snapshot, solution),
        nodes_to_add=nodes_to_add(snapshot, catalog, solution, use_worker=use_worker),
        cut_short=cut_short,
        saving=solution.saving,
        more_to_save=solution.more_to_save,
    )


def _check(snapshot: Snapshot) -> None:
    """Raises: SnapshotError where a demand leaves nothing to plan with."""
    for demand in snapshot.demands:
        headroom = demand.headroom if isinstance(demand, ServingDemand) else 0.0
        if not 0.0 <= headroom < 1.0:
            raise SnapshotError(f"{demand.key}.headroom", f"{headroom:g} is not from 0 to below 1")


def _certified(
    table: FleetTable,
    solution: Solution,
    certify_s: float | None,
    left_s: float,
    *,
    use_worker: bool,
) -> Solution:
    """The solution with certificates, or with the reason why there are none."""
    if certify_s is None:
        return with_cheap_proofs(table, solution, left_s, use_worker=use_worker)
    if certify_s <= 0.0:
        return replace(solution, no_certificates="none was asked for")
    return with_proofs(table, solution, certify_s, use_worker=use_worker)


def _charged(replica: PlannedReplica, nodes: Mapping[str, Node]) -> PlannedReplica:
    """The replica at its part of the nodes' bills: GPUs held / GPUs of the node."""
    here = [nodes[name] for name in replica.nodes]
    each = replica.gpus / max(1, len(here))
    price = sum(n.bill_usd_per_hour * each / max(1, n.total_gpus) for n in here)
    return replace(replica, price_usd_per_hour=price)


def _moves(
    snapshot: Snapshot, assembly: Assembly, named: dict[str, list[PlannedReplica]]
) -> tuple[Move, ...]:
    """What starts, stops and changes its role, each with its reason.

    A resource's starts explain its stops.
    """
    kept = {r.kept for replicas in named.values() for r in replicas if r.kept is not None}
    keys = {d.key for d in snapshot.demands}
    ran = {unit.key for unit in snapshot.running}
    moves = []
    for unit in snapshot.running:
        if unit.id in kept or unit.key in assembly.blocked | snapshot.frozen:
            continue
        reason = "NotNeeded"
        if unit.key not in keys:
            reason = "ResourceGone"
        elif unit.id in assembly.not_allowed:
            reason = "NoLongerAllowed"
        elif any(r.kept is None and r.stage == unit.stage for r in named.get(unit.key, [])):
            reason = "Saves"
        moves.append(stop_of(snapshot, unit, reason))
    phases = {unit.id: unit.phase for unit in snapshot.running}
    for key, replicas in named.items():
        for replica in replicas:
            if replica.kept is not None and phases[replica.kept] != replica.phase:
                moves.append(flip_of(key, replica, "PhaseShifted"))
            if replica.kept is None:
                reason = "Grows" if key in ran else "New"
                moves.append(start_of(snapshot, key, replica, reason))
    return tuple(moves)
