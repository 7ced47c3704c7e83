"""Units that run or are planned, as replicas of the table's columns."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import fields, replace
from operator import attrgetter

from motley_planner.candidates import Candidate, candidate_for_pieces, same_process
from motley_planner.domain.demand import RunningUnit, ServingDemand
from motley_planner.domain.hardware import Catalog
from motley_planner.domain.plan import Plan
from motley_planner.domain.snapshot import Snapshot
from motley_planner.domain.solution import PlacedReplica
from motley_planner.planning.assembly import Assembly
from motley_planner.planning.phases import mode_of

_kind_of = attrgetter(*(f.name for f in fields(RunningUnit) if f.name not in ("id", "nodes")))


class UnitColumns:
    """The configuration of a unit, as far as the snapshot still allows it."""

    def __init__(self, assembly: Assembly, snapshot: Snapshot, catalog: Catalog) -> None:
        self._assembly, self._snapshot, self._catalog = assembly, snapshot, catalog
        self._nodes = {n.name: n.node_class for n in snapshot.nodes}
        self._demands = {demand.key: demand for demand in snapshot.demands}
        # Thousands of units are of few kinds.
        self._alike: dict[tuple[object, ...], Candidate | None] = {}

    def of(self, unit: RunningUnit, variant: int = 1) -> Candidate | None:
        """The candidate; None where its resource, nodes or configuration are no longer there."""
        demand = self._demands.get(unit.key)
        classes = [self._nodes[name] for name in unit.nodes if name in self._nodes]
        if demand is None or len(classes) != len(unit.nodes) or not self._may_pair(unit):
            return None
        kind = (_kind_of(unit), variant, *classes)
        if kind not in self._alike:
            if isinstance(demand, ServingDemand):
                slo = self._assembly.slos[unit.key].get(unit.stage, demand.slo)
                demand = replace(demand, slo=slo)
            made = candidate_for_pieces(unit, demand, classes, self._catalog, variant)
            self._alike[kind] = made
        return self._alike[kind]

    def others_of(self, unit: RunningUnit) -> tuple[Candidate, ...]:
        """The other candidates as which the same process may go on; none of a unit of both phases."""
        demand = self._demands.get(unit.key)
        if unit.phase == "both" or not isinstance(demand, ServingDemand):
            return ()
        engines = [stage.engine for stage in demand.stages if stage.name == unit.stage]
        uses = same_process(unit, engines[0], self._catalog) if engines else ()
        return tuple(c for use in uses if (c := self.of(*use)) is not None)

    def _may_pair(self, unit: RunningUnit) -> bool:
        """Whether a unit of one phase may be there."""
        demand = self._demands.get(unit.key)
        if unit.phase == "both":
            return True
        if not self._snapshot.gateway_can_disaggregate or not isinstance(demand, ServingDemand):
            return False
        return any(s.name == unit.stage and mode_of(demand, s) != "never" for s in demand.stages)


def running_units(plan: Plan) -> tuple[RunningUnit, ...]:
    """The plan's replicas as if they ran now."""
    return tuple(
        RunningUnit(
            id=f"{part.key}/{one.name}",
            key=part.key,
            stage=one.stage,
            role=one.role,
            gpu=one.gpu,
            tensor_parallel=one.tensor_parallel,
            operating_batch=one.operating_batch,
            model=one.model,
            precision=one.precision,
            nodes=one.nodes,
            pipeline=one.pipeline,
            phase=one.phase,
            kv_scale=one.kv_scale,
        )
        for part in plan.slices
        for one in part.replicas
    )


def add_start(
    assembly: Assembly, snapshot: Snapshot, columns: UnitColumns, plan: Plan
) -> tuple[PlacedReplica, ...]:
    """A plan's replicas for a search to begin from; those that may no longer be are left out."""
    running = {unit.id for unit in snapshot.running}
    kept = [one.kept for part in plan.slices for one in part.replicas]
    placed = []
    for unit, goes_on in zip(running_units(plan), kept, strict=True):
        candidate = None if unit.key in assembly.blocked else columns.of(unit)
        if candidate is not None:
            assembly.add((candidate,))
            stays = goes_on if goes_on in running else None
            stays = unit.id if stays is None and unit.id in running else stays
            placed.append(PlacedReplica(candidate.id, unit.nodes, stays))
    return tuple(placed)


def add_starts(
    assembly: Assembly, snapshot: Snapshot, catalog: Catalog, plans: Sequence[Plan]
) -> tuple[tuple[PlacedReplica, ...], ...]:
    """Every plan as replicas of columns, which are added where they are not there."""
    columns = UnitColumns(assembly, snapshot, catalog)
    return tuple(add_start(assembly, snapshot, columns, plan) for plan in plans)
