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

from motley_planner.candidates import Candidate, stage_candidates
from motley_planner.domain.demand import ServingDemand, Slo
from motley_planner.domain.hardware import Catalog, NodeClass


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


def _slowest_s(service: ServingDemand, candidate: Candidate) -> float:
    """Seconds of a whole answer of the slowest class: TTFT + output tokens x TPOT."""
    return max(
        candidate.ttft_s[c.name] + c.output_tokens * candidate.tpot_s[c.name]
        for c in service.classes
        if c.name in candidate.ttft_s
    )


def _scaled(slo: Slo, share: float) -> Slo:
    return replace(slo, e2e_s={name: seconds * share for name, seconds in slo.e2e_s.items()})
