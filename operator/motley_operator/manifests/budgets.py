"""PodDisruptionBudgets: at most one pod of a stage, or of a gateway, is evicted at a time.

For a stage an integer `minAvailable`, kept in step with the plan, and not `maxUnavailable`: for pods
whose owner has no scale subresource the disruption controller cannot tell how many there should be,
fails with SyncFailed and then allows no eviction at all. A gateway's owner is a Deployment, which says it.
"""

from __future__ import annotations

from motley_operator.domain.names import GATEWAY, STAGE, budget_name, gateway_budget_name
from motley_operator.manifests.frame import Manifest, Owner, sealed


def disruption_budget(owner: Owner, stage: str, component: str, pods: int) -> Manifest:
    """The budget of one stage's pods; broken pods may always be evicted."""
    limit = {"minAvailable": max(0, pods - 1)}
    name, selector = budget_name(owner.name, stage), {**owner.selector(component), STAGE: stage}
    return _budget(owner.metadata(name, component), limit, selector)


def gateway_budget(owner: Owner, replicas: int) -> list[Manifest]:
    """The budget of a gateway's pods; none for a single one, which a drain would wait for in vain."""
    if replicas < 2:
        return []
    metadata = owner.metadata(gateway_budget_name(owner.name), GATEWAY)
    return [_budget(metadata, {"maxUnavailable": 1}, owner.selector(GATEWAY))]


def _budget(metadata: Manifest, limit: Manifest, selector: dict[str, str]) -> Manifest:
    return sealed(
        {
            "apiVersion": "policy/v1",
            "kind": "PodDisruptionBudget",
            "metadata": metadata,
            "spec": {
                **limit,
                "selector": {"matchLabels": selector},
                "unhealthyPodEvictionPolicy": "AlwaysAllow",
            },
        }
    )
