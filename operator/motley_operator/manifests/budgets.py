"""PodDisruptionBudgets: at most one pod of a stage is evicted at a time.

Integer `minAvailable`, kept in step with the plan, and not `maxUnavailable`: for pods whose owner
has no scale subresource the disruption controller cannot tell how many there should be, fails with
SyncFailed and then allows no eviction at all.
"""

from __future__ import annotations

from motley_operator.domain.names import STAGE, budget_name
from motley_operator.manifests.frame import Manifest, Owner, sealed


def disruption_budget(owner: Owner, stage: str, component: str, pods: int) -> Manifest:
    """The budget of one stage's pods; broken pods may always be evicted."""
    return sealed(
        {
            "apiVersion": "policy/v1",
            "kind": "PodDisruptionBudget",
            "metadata": owner.metadata(budget_name(owner.name, stage), component),
            "spec": {
                "minAvailable": max(0, pods - 1),
                "selector": {"matchLabels": {**owner.selector(component), STAGE: stage}},
                "unhealthyPodEvictionPolicy": "AlwaysAllow",
            },
        }
    )
