"""What the demo looks at: one picture of the resources and of the pods that Motley made."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from e2e.demo_api import Api

RESOURCE_KINDS = ("ModelCascade", "ServingPool", "RLJob")
OURS = "app.kubernetes.io/managed-by=motley"


@dataclass(frozen=True, slots=True)
class Condition:
    """One statement of a status."""

    status: str
    reason: str
    message: str


@dataclass(frozen=True, slots=True)
class ResourceView:
    """One resource: where its status stands."""

    key: str
    generation: int
    observed: int
    conditions: Mapping[str, Condition]
    plan_hash: str
    dollars_per_hour: float
    gpus: str
    groups: tuple[Mapping[str, Any], ...]
    replan: Mapping[str, Any]

    @property
    def name(self) -> str:
        """Its name alone."""
        return self.key.rpartition("/")[2]

    @property
    def plan_mark(self) -> tuple[str, str]:
        """Changes whenever a new plan is written to the status."""
        return self.plan_hash, str(self.replan.get("time", ""))

    def is_true(self, kind: str) -> bool:
        """Whether a condition holds, and speaks of the present spec."""
        found = self.conditions.get(kind)
        return found is not None and found.status == "True" and self.observed == self.generation


@dataclass(frozen=True, slots=True)
class PodView:
    """One pod of a planned replica."""

    key: str
    replica: str
    stage: str
    namespace: str
    name: str
    uid: str
    node: str
    ready: bool
    deleting: bool
    finished: bool

    @property
    def seat(self) -> tuple[str, str]:
        """The replica it is a pod of."""
        return self.key, self.name


@dataclass(frozen=True, slots=True)
class Picture:
    """Resources by key and pods by UID at one moment."""

    resources: Mapping[str, ResourceView]
    pods: Mapping[str, PodView]

    def live(self) -> dict[str, PodView]:
        """The pods that hold GPUs and are meant to stay."""
        return {u: p for u, p in self.pods.items() if not p.deleting and not p.finished}

    def mark(self) -> tuple[object, ...]:
        """Changes with every new plan and with every pod that comes or goes."""
        plans = tuple(sorted((key, *one.plan_mark) for key, one in self.resources.items()))
        return plans, frozenset(self.pods)

    def by_node(self) -> Counter[str]:
        """Live pods on each node."""
        return Counter(pod.node for pod in self.live().values())

    def is_settled(self) -> bool:
        """Every resource Ready on its present spec, nothing on its way in or out."""
        return (
            bool(self.resources)
            and all(one.is_true("Ready") for one in self.resources.values())
            and not any(one.is_true("Reconciling") for one in self.resources.values())
            and all(pod.ready and not pod.deleting for pod in self.pods.values())
        )


def take(api: Api) -> Picture:
    """The picture now."""
    resources = [_resource(kind, item) for kind in RESOURCE_KINDS for item in api.list(kind)]
    pods = [_pod(item) for item in api.list("Pod", labelSelector=OURS)]
    return Picture(
        {one.key: one for one in resources},
        # A gateway's pods belong to a Deployment; they are no replicas of the plan.
        {pod.uid: pod for pod in pods if pod.replica},
    )


def _resource(kind: str, item: Mapping[str, Any]) -> ResourceView:
    metadata, status = item["metadata"], item.get("status") or {}
    plan = status.get("plan") or {}
    return ResourceView(
        key=f"{kind}/{metadata['namespace']}/{metadata['name']}",
        generation=int(metadata.get("generation") or 0),
        observed=int(status.get("observedGeneration") or 0),
        conditions={
            one["type"]: Condition(one["status"], one["reason"], one.get("message", ""))
            for one in status.get("conditions") or ()
        },
        plan_hash=str(plan.get("hash") or ""),
        dollars_per_hour=_dollars(plan.get("dollarsPerHour")),
        gpus=str(plan.get("gpus") or ""),
        groups=tuple(plan.get("groups") or ()),
        replan=status.get("lastReplan") or {},
    )


def _dollars(quantity: object) -> float:
    text = str(quantity or "0")
    return float(text[:-1]) / 1000 if text.endswith("m") else float(text)


def _pod(item: Mapping[str, Any]) -> PodView:
    metadata, status = item["metadata"], item.get("status") or {}
    labels = metadata.get("labels") or {}
    conditions = {c["type"]: c["status"] for c in status.get("conditions") or ()}
    kind, name = labels.get("motley.dev/kind", ""), labels.get("motley.dev/resource", "")
    return PodView(
        key=f"{kind}/{metadata['namespace']}/{name}",
        replica=labels.get("motley.dev/replica", ""),
        stage=labels.get("motley.dev/stage", ""),
        namespace=metadata["namespace"],
        name=metadata["name"],
        uid=metadata["uid"],
        node=item["spec"].get("nodeName") or "",
        ready=conditions.get("Ready") == "True",
        deleting="deletionTimestamp" in metadata,
        finished=status.get("phase") in ("Succeeded", "Failed"),
    )
