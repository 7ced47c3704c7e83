"""A cascade's end-to-end target, split over its stages in fixed parts.

Used where latency tiers (tiers.py) do not apply, and as one of the combinations that they offer.

A request pays the sum of the stages it visits. Each stage gets a share of the target in proportion
to what its own fastest candidate needs, so that a request that visits every stage stays within the
whole: sum over stages of share x target = target. This is stricter than needed (a request that
stops early has time to spare) and it treats percentiles as if they added up.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from motley_planner.candidates import Candidate, candidate_for_pieces, stage_candidates
from motley_planner.domain.demand import ServingDemand, Slo
from motley_planner.domain.hardware import Catalog, NodeClass
from motley_planner.domain.snapshot import Snapshot


def stage_slos(
    service: ServingDemand, allowed: Sequence[NodeClass], catalog: Catalog
) -> dict[str, Slo]:
    """The targets that each stage's replicas must hold, by stage name."""
    slo = service.slo
    if len(service.stages) == 1 or not slo.e2e_s:
        return {stage.name: slo for stage in service.stages}
    shares = split_shares(service, allowed, catalog)
    return {name: _scaled(slo, share) for name, share in shares.items()}


def split_shares(
    service: ServingDemand, allowed: Sequence[NodeClass], catalog: Catalog
) -> dict[str, float]:
    """Each stage's share of an end-to-end target: what its fastest candidate needs of them all."""
    without = replace(service.slo, e2e_s={})
    fastest: dict[str, float] = {}
    for stage in service.stages:
        found, _ = stage_candidates(
            stage,
            service.classes,
            without,
            allowed,
            catalog,
            headroom=service.headroom,
            key=service.key,
        )
        fastest[stage.name] = min((_slowest_s(service, c) for c in found), default=0.0)
    total = sum(fastest.values())
    if total <= 0:
        return {stage.name: 1.0 / len(service.stages) for stage in service.stages}
    return {name: seconds / total for name, seconds in fastest.items()}


def wants_tiers(
    service: ServingDemand, allowed: Sequence[NodeClass], snapshot: Snapshot, catalog: Catalog
) -> bool:
    """Whether a cascade is planned in latency tiers: all are, or the fixed split cannot serve it.

    It cannot where a class has no candidate at some stage, or where a replica that runs would do
    but for the split: one that came by tiers must not restart because a split has become possible.
    """
    if snapshot.latency_tiers:
        return True
    slos, names = stage_slos(service, allowed, catalog), {c.name for c in service.classes}
    for stage in service.stages:
        found, _ = stage_candidates(
            stage,
            service.classes,
            slos[stage.name],
            allowed,
            catalog,
            headroom=service.headroom,
            key=service.key,
        )
        if names - {name for candidate in found for name in candidate.capacity}:
            return True
    nodes = {node.name: node.node_class for node in snapshot.nodes}
    for unit in (u for u in snapshot.running if u.key == service.key and u.stage in slos):
        classes = [nodes[name] for name in unit.nodes if name in nodes]
        if len(classes) < len(unit.nodes):
            continue
        free, split = (
            candidate_for_pieces(unit, replace(service, slo=slo), classes, catalog)
            for slo in (replace(service.slo, e2e_s={}), slos[unit.stage])
        )
        if free is not None and split is None:
            return True
    return False


def _slowest_s(service: ServingDemand, candidate: Candidate) -> float:
    """Seconds of a whole answer of the slowest class: TTFT + output tokens x TPOT."""
    return max(
        candidate.ttft_s[c.name] + c.output_tokens * candidate.tpot_s[c.name]
        for c in service.classes
        if c.name in candidate.ttft_s
    )


def _scaled(slo: Slo, share: float) -> Slo:
    return replace(slo, e2e_s={name: seconds * share for name, seconds in slo.e2e_s.items()})
