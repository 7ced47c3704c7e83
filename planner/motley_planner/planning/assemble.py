"""From a snapshot to the one table of the fleet.

Theory of operation. Each stage of each resource is a model of its own in the table
("<key>/<stage>"), so a replica serves one resource. First all columns are listed, those of running
replicas included; then demand and limits are written over them.
"""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import replace

from motley_planner.candidates import (
    Candidate,
    rollout_candidates,
    stage_candidates,
    trainer_candidates,
)
from motley_planner.domain.demand import RunningUnit, ServingDemand
from motley_planner.domain.hardware import Catalog, Node, NodeClass
from motley_planner.domain.moves import usd_per_gpu_hour
from motley_planner.domain.plan import Plan, internal_error
from motley_planner.domain.snapshot import PodNeed, Snapshot
from motley_planner.domain.table import Column, FleetTable, Previous, RunningReplica, TableNode
from motley_planner.errors import MotleyError
from motley_planner.planning.assembly import Assembly, table_gpu
from motley_planner.planning.avoiding import is_avoided
from motley_planner.planning.demands import (
    add_class_floors,
    add_job_demand,
    add_service_demand,
    block_unservable,
    policies_of,
)
from motley_planner.planning.latency import split_shares, stage_slos, wants_tiers
from motley_planner.planning.limits import add_limits, add_shared_limits, freeze
from motley_planner.planning.phases import (
    mode_of,
    phase_refusals,
    set_kv_bytes,
    stage_phases,
    table_links,
)
from motley_planner.planning.prerouting import class_rows
from motley_planner.planning.quotas import with_uneven_sizes
from motley_planner.planning.tiers import StageTiers, is_tiered, stage_tiers
from motley_planner.planning.units import UnitColumns, add_starts

logger = logging.getLogger(__name__)


def assemble(
    snapshot: Snapshot, catalog: Catalog, plans: Sequence[Plan] = ()
) -> tuple[FleetTable, Assembly]:
    """The fleet table of a snapshot, and what is needed to read its solution back.

    A search of the table begins from the best of `plans` that keeps its rows.
    """
    assembly, snapshot = Assembly(learned=catalog.learned), with_uneven_sizes(snapshot)
    _add_candidates(assembly, snapshot, catalog)
    for demand in snapshot.demands:
        block_unservable(assembly, demand)
    _add_running(assembly, snapshot, catalog)
    starts = add_starts(assembly, snapshot, catalog, plans)
    for demand in snapshot.demands:
        if demand.key in assembly.blocked:
            continue
        if isinstance(demand, ServingDemand):
            add_service_demand(assembly, demand, tenant_weight(snapshot, demand))
            add_class_floors(assembly, demand)
            assembly.side_rows += class_rows(demand, policies_of(assembly, demand))
        else:
            add_job_demand(assembly, demand)
        if (
            demand.key not in snapshot.frozen
        ):  # its own limits bind the next plan of it, not this one
            add_limits(assembly, demand)
    add_shared_limits(assembly, snapshot, catalog)
    for key in sorted(snapshot.frozen):
        freeze(assembly, key)
    set_kv_bytes(assembly, snapshot, catalog)
    links = table_links(assembly, snapshot, catalog)
    return replace(_table(assembly, snapshot), links=links, starts=starts), assembly


def node_room_gpus(node: Node, need: PodNeed) -> int:
    """GPUs of a node that engine pods can use: the least of GPUs, CPU, memory and pod count.

    min(gpus, cpu / cpu per GPU, memory / memory per GPU, pods): a replica of q GPUs takes q times
    the host resources of one and a single pod, so this is exact but for the pod count, which it
    counts once for each GPU.
    """
    room = (
        node.gpus,
        node.cpu_milli // max(1, need.cpu_milli_per_gpu),
        node.memory_bytes // max(1, need.memory_bytes_per_gpu),
        node.pods,
    )
    return max(0, min(room))


def _add_candidates(assembly: Assembly, snapshot: Snapshot, catalog: Catalog) -> None:
    """All columns; a resource that fails in a way nobody thought of has none and says so."""
    classes = tuple(dict.fromkeys(node.node_class for node in snapshot.nodes))
    for demand in snapshot.demands:
        allowed = [c for c in classes if demand.key not in c.excluded_for]
        try:
            if isinstance(demand, ServingDemand):
                _add_service(assembly, demand, allowed, (snapshot, catalog))
                continue
            for lister in (rollout_candidates, trainer_candidates):
                found, refusals = lister(demand, allowed, catalog)
                assembly.add(found)
                assembly.refuse(demand.key, refusals)
        except MotleyError:
            raise
        except Exception as error:
            logger.exception("%s cannot be planned; it keeps what it runs", demand.key)
            assembly.set_aside(demand.key, internal_error(error))


def _add_service(
    assembly: Assembly,
    service: ServingDemand,
    allowed: Sequence[NodeClass],
    within: tuple[Snapshot, Catalog],
) -> None:
    """Candidates of a pool's or cascade's stages, and why a stage has none."""
    snapshot, catalog = within
    together = all(mode_of(service, stage) != "always" for stage in service.stages)
    if together and is_tiered(service) and wants_tiers(service, allowed, snapshot, catalog):
        _add_tiered(assembly, service, allowed, catalog)
        return
    slos = stage_slos(service, allowed, catalog)
    assembly.slos[service.key] = slos
    for stage in service.stages:
        slo = slos[stage.name]
        apart = stage_phases(service, stage, slo, allowed, snapshot, catalog)
        assembly.add(apart)
        assembly.refuse(service.key, phase_refusals(service, stage, apart, snapshot))
        if mode_of(service, stage) == "always":
            continue
        found, refusals = stage_candidates(
            stage,
            service.classes,
            slo,
            allowed,
            catalog,
            headroom=service.headroom,
            key=service.key,
            also_served={name for candidate in apart for name in candidate.capacity},
        )
        assembly.add(found)
        assembly.refuse(service.key, refusals)


def _add_tiered(
    assembly: Assembly, service: ServingDemand, allowed: Sequence[NodeClass], catalog: Catalog
) -> None:
    """Candidates of every tier; only the loosest says why a stage has none."""
    split = split_shares(service, allowed, catalog)
    found_tiers: dict[str, StageTiers] = {}
    for name, share in split.items():
        tiers = stage_tiers(service, catalog, share)
        at = [tier.share for tier in tiers].index(share)
        found_tiers[name] = StageTiers(tiers, at)
    for stage in service.stages:
        listed: tuple[Candidate, ...] = ()
        for tier in found_tiers[stage.name].tiers:
            found, refusals = stage_candidates(
                stage,
                service.classes,
                tier.slo,
                allowed,
                catalog,
                headroom=service.headroom,
                key=service.key,
            )
            found_tiers[stage.name].note(found)
            listed += found
        assembly.refuse(service.key, refusals)
        assembly.add(_told_apart(listed))
    assembly.tiers[service.key] = found_tiers
    loosest = {stage: tiers.tiers[-1].slo for stage, tiers in found_tiers.items()}
    assembly.slos[service.key] = loosest


def _told_apart(listed: Sequence[Candidate]) -> Iterator[Candidate]:
    """One size and batch may be listed for all classes at one tier and for some at another."""
    taken: dict[str, frozenset[str]] = {}
    for candidate in reversed(listed):  # the loosest tier first: it admits most
        classes = frozenset(candidate.capacity)
        if taken.setdefault(candidate.id, classes) != classes:
            candidate = replace(candidate, id=f"{candidate.id}|{'+'.join(sorted(classes))}")
        yield candidate


def _add_running(assembly: Assembly, snapshot: Snapshot, catalog: Catalog) -> None:
    """Running units as replicas of columns; a pruned column comes back, a forbidden one does not.

    With each come the columns of the same process: in its other role, or for fewer classes.
    """
    columns = UnitColumns(assembly, snapshot, catalog)
    for unit in snapshot.running:
        if unit.key in assembly.blocked:
            _leave(assembly, unit)
            continue
        candidate = columns.of(unit)
        if candidate is None and unit.key in snapshot.frozen:
            _leave(assembly, unit)
            continue
        held = unit.key in snapshot.frozen or unit.key in snapshot.still
        others = (c for c in columns.others_of(unit) if not held or c.phase == unit.phase)
        uses = [c for c in (candidate, *others) if c is not None]
        # Of the operating points of one role the one that it was started for: its name tells.
        uses.sort(key=lambda c: (c.phase != unit.phase, f"-{c.column}-" not in unit.id))
        if not uses:
            assembly.not_allowed.add(unit.id)
            continue
        assembly.add(uses)
        first, *ids = (use.id for use in uses)
        assembly.replicas.append(RunningReplica(unit.id, first, unit.nodes, tuple(ids)))


def _leave(assembly: Assembly, unit: RunningUnit) -> None:
    """Note what a unit holds that goes on whatever is planned."""
    for rank, name in enumerate(unit.nodes):
        assembly.immovable[name] += unit.gpus_on(rank)


def tenant_weight(snapshot: Snapshot, demand: ServingDemand) -> float:
    """Weight of a resource's served share beside others of its priority."""
    return next((t.weight for t in snapshot.tenants if t.name == demand.tenant), 1.0)


def _as_they_run(assembly: Assembly, snapshot: Snapshot) -> list[Column]:
    """The columns; those of resources in `still`, and avoided ones, with no more than run."""
    running = Counter(replica.column for replica in assembly.replicas)
    if not (
        snapshot.still or snapshot.avoided or any(n.node_class.avoided_by for n in snapshot.nodes)
    ):
        return list(assembly.columns.values())

    def is_held(column: Column) -> bool:
        candidate = assembly.candidates[column.id]
        return candidate.key in snapshot.still or is_avoided(candidate, snapshot.avoided)

    return [
        replace(c, max_count=running[c.id]) if is_held(c) else c for c in assembly.columns.values()
    ]


def _table(assembly: Assembly, snapshot: Snapshot) -> FleetTable:
    held: Counter[str] = Counter()
    for replica in assembly.replicas:
        parts = assembly.candidates[replica.column].parts
        for node, (_, ranks, _) in zip(replica.nodes, parts, strict=True):
            held[node] += ranks
    need, move = snapshot.pod_need, snapshot.move_price
    by_node = snapshot.billing == "node"
    assembly.room = {
        node.name: max(node_room_gpus(node, need) - assembly.immovable[node.name], held[node.name])
        for node in snapshot.nodes
    }
    nodes = tuple(
        TableNode(
            name=node.name,
            gpu=table_gpu(node.node_class),
            zone=node.node_class.zone,
            gpus=assembly.room[node.name],
            price_usd_per_hour=node.bill_usd_per_hour if by_node else None,
        )
        for node in snapshot.nodes
    )
    price = usd_per_gpu_hour(snapshot)
    return FleetTable(
        classes=tuple(assembly.classes),
        columns=tuple(
            replace(c, price_usd_per_hour=0.0) if by_node else c
            for c in _as_they_run(assembly, snapshot)
        ),
        cascades=tuple(assembly.cascades),
        objective="goodput",
        budget_usd_per_hour=snapshot.budget_usd_per_hour,
        side_rows=tuple(assembly.side_rows),
        previous=Previous(nodes=nodes, replicas=tuple(assembly.replicas)),
        spread_models=frozenset(
            f"{s.key}/{stage.name}"
            for s in snapshot.services
            for stage in s.stages
            if stage.min_nodes > 1
        ),
        cordoned_nodes=frozenset(n.name for n in snapshot.nodes if n.cordoned),
        bought_nodes=frozenset(n.name for n in snapshot.nodes if n.bought),
        penalty_per_started_gpu=price * move.reload_hours / move.horizon_hours,
        penalty_per_stopped_gpu=price * move.lost_work_hours / move.horizon_hours,
        penalty_in_price=True,
        time_limit_s=snapshot.time_limit_s,
        relative_gap=snapshot.relative_gap,
    )
