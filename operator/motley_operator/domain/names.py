"""Names, labels and annotations of what Motley owns; written by `manifests`, read by everyone.

A replica's name is "<stage>-<column>-<ordinal>", so the longest host name (15 + 1 + 8 + 1 + 4 and
a rank) stays far below the 63 characters of a DNS label.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

GROUP: Final = "motley.dev"
API_VERSION: Final = "motley.dev/v1alpha1"

MANAGED_BY: Final = "app.kubernetes.io/managed-by"
COMPONENT: Final = "app.kubernetes.io/component"
INSTANCE: Final = "app.kubernetes.io/instance"
APP_NAME: Final = "app.kubernetes.io/name"
OURS: Final = "motley"
CONTAINER: Final = "engine"  # in engine and trainer pods

RESOURCE: Final = "motley.dev/resource"
KIND: Final = "motley.dev/kind"
STAGE: Final = "motley.dev/stage"
ROLE: Final = "motley.dev/role"
REPLICA: Final = "motley.dev/replica"
COLUMN: Final = "motley.dev/column"
RANK: Final = "motley.dev/rank"
SERVING: Final = "motley.dev/serving"

PLAN_HASH: Final = "motley.dev/plan-hash"
INPUTS_HASH: Final = "motley.dev/inputs-hash"
UNIT: Final = "motley.dev/unit"
IMAGE: Final = "motley.dev/image"
ATTEMPT: Final = "motley.dev/attempt"
CHECKPOINT: Final = "motley.dev/checkpoint-seconds"  # on trainers that save before they end
STAGES: Final = "motley.dev/stages"  # on the Job that fetches the weights of these

APPROVE: Final = "motley.dev/approve"
PAUSED: Final = "motley.dev/paused"
EXCLUDE: Final = "motley.dev/exclude"
TRUST_ZONE: Final = "motley.dev/trust-zone"
PRICE: Final = "motley.dev/price-usd-per-hour"
PLANNED_INPUTS: Final = "motley.dev/planned-inputs"  # on the Lease
QUEUE: Final = "kueue.x-k8s.io/queue-name"  # on a resource, and then on its pods
HELD_AT: Final = "motley.dev/requests-held-at"  # on the ConfigMap `wake_name`, by its gateways
REPLAN_REQUESTED: Final = "motley.dev/replan-requested-at"

ZONE: Final = "topology.kubernetes.io/zone"
INSTANCE_TYPE: Final = "node.kubernetes.io/instance-type"

GATEWAY: Final = "gateway"
PLAN: Final = "plan"
WEIGHTS: Final = "weights"
MAIN_STAGE: Final = "main"
SERVE: Final = "serve"
ROLLOUT: Final = "rollout"
TRAINER: Final = "trainer"
ROUTING_KEY: Final = "routing.json"
STANDING_KEY: Final = "standing.json"
PROPOSED_KEY: Final = "proposed.json"


def pod_name(resource: str, replica: str, rank: int, fragments: int) -> str:
    """Name of one pod of a replica; ranks are written only where there are several."""
    return f"{resource}-{host_name(replica, rank, fragments)}"


def host_name(replica: str, rank: int, fragments: int) -> str:
    """Host name of one pod of a replica, unique below its stage's Service."""
    return f"{replica}-r{rank}" if fragments > 1 else replica


def stage_service(resource: str, stage: str) -> str:
    """Headless Service that gives a stage's pods their DNS names."""
    return f"{resource}-{stage}"


def gateway_name(resource: str) -> str:
    """Deployment, Service, ServiceAccount, Role and RoleBinding of a gateway."""
    return f"{resource}-{GATEWAY}"


def routing_name(resource: str) -> str:
    """ConfigMap that a gateway watches."""
    return f"{resource}-routing"


def wake_name(resource: str) -> str:
    """ConfigMap on which a gateway says that it holds requests."""
    return f"{resource}-wake"


def weights_name(resource: str, digest: str = "") -> str:
    """Job and ConfigMap of one model's weights; without a digest, the Job's account and Role."""
    return "-".join(filter(None, (resource, WEIGHTS, digest)))


def plan_name(resource: str) -> str:
    """ConfigMap with the plan that a held resource keeps, and the one proposed for it."""
    return f"{resource}-plan"


def budget_name(resource: str, stage: str) -> str:
    """PodDisruptionBudget of a stage; a pool's only stage is not named."""
    return resource if stage == MAIN_STAGE else f"{resource}-{stage}"


def gateway_budget_name(resource: str) -> str:
    """PodDisruptionBudget of a gateway; a dot, because a pool that is named so has `budget_name`."""
    return f"{resource}.{GATEWAY}"


def unit_id(key: str, replica: str) -> str:
    """The planner's name for a running replica."""
    return f"{key}/{replica}"


def key_of(labels: Mapping[str, str], namespace: str) -> str:
    """Key of the resource that an object of ours was made for."""
    return f"{labels.get(KIND, '')}/{namespace}/{labels.get(RESOURCE, '')}"


def resource_labels(kind: str, name: str, component: str) -> dict[str, str]:
    """Labels of every object that Motley makes for a resource."""
    return {
        APP_NAME: OURS,
        INSTANCE: name,
        COMPONENT: component,
        MANAGED_BY: OURS,
        RESOURCE: name,
        KIND: kind,
    }
