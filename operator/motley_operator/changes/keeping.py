"""Which resources nobody may touch: their spec makes no sense now, or a person said so.

A wrong edit must not stop what runs. The planner leaves such a resource, and the room it holds, out
of its problem; that is a statement about the spec and not an order to stop.
"""

from __future__ import annotations

from collections.abc import Mapping

from motley_operator import lifecycle
from motley_operator.api import RLJob, read
from motley_operator.domain.facts import ClusterFacts, PodFacts, ResourceFacts
from motley_operator.domain.names import PAUSED
from motley_planner.domain.plan import Plan, Slice


def kept_keys(
    facts: ClusterFacts, plan: Plan, pods: Mapping[str, list[PodFacts]]
) -> frozenset[str]:
    """Keys of the resources whose pods and objects stay exactly as they are."""
    slices = {part.key: part for part in plan.slices}
    return frozenset(
        resource.key
        for resource in facts.resources
        if not resource.deleting
        and _is_kept(resource, slices.get(resource.key), pods.get(resource.key, []), facts.now)
    )


def _is_kept(resource: ResourceFacts, part: Slice | None, pods: list[PodFacts], now: float) -> bool:
    if resource.annotations.get(PAUSED) == "true":
        return True
    if part is None:
        return not _has_left(resource, pods, now)
    return bool(pods) and part.blocked


def _has_left(resource: ResourceFacts, pods: list[PodFacts], now: float) -> bool:
    """A suspended or finished job is in no plan because it needs nothing any more."""
    model = read(resource.document)[0] if resource.kind == "RLJob" else None
    if not isinstance(model, RLJob):
        return False
    return lifecycle.phase_of(model, pods, now) in lifecycle.GONE
