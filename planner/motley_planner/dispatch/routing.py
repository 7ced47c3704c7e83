"""The routing table: what a plan tells a gateway, as frozen values."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from motley_planner.dispatch.branch_rules import branch_document
from motley_planner.dispatch.branching import BranchRule
from motley_planner.dispatch.estimators import Calibrator, calibrator_document
from motley_planner.dispatch.policy import Policy
from motley_planner.dispatch.rules import EstimatorRule, estimator_document
from motley_planner.dispatch.watching import (
    ReliefRule,
    WatchRule,
    relief_document,
    watch_document,
)

MOST_ALPHA = 0.6  # above it nearly all goes to the fastest GPUs: 3 to 8 times the P95
HANDOFFS = ("nixl", "bootstrap")
PRIORITIES = ("lowFirst", "highFirst")
DISPATCH_POLICIES = ("earliestFinish", "hexgen", "roundRobin", "leastLoaded")
ADMISSIONS = ("always", "deadline")


@dataclass(frozen=True, slots=True)
class RequestClass:
    """One class of requests that a gateway can tell apart on arrival."""

    name: str
    prompt_tokens: float
    output_tokens: float


@dataclass(frozen=True, slots=True)
class Replica:
    """One running copy of a stage's model.

    `rates` are planned requests/s by class; `capacity` is the requests/s the replica could serve
    if it did only that class. A class absent from `capacity` is not admissible here. `trust_zone` is
    that of the replica's nodes, empty where they have none. Replicas of one phase and `group` stand
    for each other when a prefill is paired with a decode; a plan's groups are zones. `kv_tokens` are
    what one gateway may have at work there, 0 for no limit.
    """

    name: str
    url: str
    rates: Mapping[str, float]
    capacity: Mapping[str, float]
    trust_zone: str = ""
    group: str = ""
    kv_tokens: float = 0.0


@dataclass(frozen=True, slots=True)
class Flow:
    """Planned requests/s of one class from a group of prefill to a group of decode replicas."""

    request_class: str
    source: str
    target: str
    requests_per_second: float


@dataclass(frozen=True, slots=True)
class Handoff:
    """How the engines hand a KV cache over: vLLM's `nixl`, or SGLang's `bootstrap` and its port."""

    protocol: str
    bootstrap_port: int = 8998


@dataclass(frozen=True, slots=True)
class Stage:
    """One model of a cascade with its replicas; a pool has the single stage `main`.

    `replicas` serve both phases; `prefill` and `decode` replicas one each, in pairs along `flows`.
    """

    name: str
    model: str
    replicas: tuple[Replica, ...]
    prefill: tuple[Replica, ...] = ()
    decode: tuple[Replica, ...] = ()
    flows: tuple[Flow, ...] = ()
    handoff: Handoff | None = None
    branches: BranchRule | None = None  # None: one answer a request
    priority: str = ""  # one of PRIORITIES: engines order by a field `priority`, these values first
    adapters: Mapping[str, str] = field(default_factory=dict)  # name: the engines' `model` for it

    @property
    def every_replica(self) -> tuple[Replica, ...]:
        """Those of all phases."""
        return (*self.replicas, *self.prefill, *self.decode)


@dataclass(frozen=True, slots=True)
class DispatchRule:
    """How a replica is picked; `alpha` (`hexgen` only) weighs suitability against load."""

    policy: str = DISPATCH_POLICIES[0]
    alpha: float = 0.2


@dataclass(frozen=True, slots=True)
class WorkflowRule:
    """Which new workflows are let in: `always` every one, `deadline` those that can be in time."""

    admission: str = ADMISSIONS[0]


@dataclass(frozen=True, slots=True)
class Hold:
    """How many requests a gateway holds while no replica answers, and for how long.

    A table has one where its resource may have been scaled to zero: requests that are held wake it.
    """

    requests: int
    seconds: float


@dataclass(frozen=True, slots=True)
class ResourceRef:
    """The custom resource a table belongs to."""

    kind: str
    namespace: str
    name: str


@dataclass(frozen=True, slots=True)
class RoutingTable:
    """Everything one gateway needs to run one plan.

    `calibrators` (by stage) turn features into the scores that thresholds are about; a stage
    without one is scored by the estimator's own feature. `gateways` pods share the clients' limits.
    """

    plan_hash: str
    resource: ResourceRef
    served_model_names: tuple[str, ...]
    classes: tuple[RequestClass, ...]
    stages: tuple[Stage, ...]
    policies: tuple[Policy, ...]
    estimator: EstimatorRule = field(default_factory=EstimatorRule)
    dispatch: DispatchRule = DispatchRule()
    calibrators: Mapping[str, Calibrator] = field(default_factory=dict)
    watch: WatchRule | None = None
    relief: ReliefRule | None = None
    hold: Hold | None = None
    gateways: int = 1
    workflows: WorkflowRule = WorkflowRule()

    @property
    def model_names(self) -> tuple[str, ...]:
        """What a client may name as `model`: what is served, then adapters of the last stage."""
        return (*self.served_model_names, *self.stages[-1].adapters)

    @property
    def is_cascade(self) -> bool:
        """Whether an answer of the first stage can be escalated."""
        return len(self.stages) > 1


def routing_document(table: RoutingTable) -> dict[str, Any]:
    """The table as the JSON document of `routing.json`; `parse_routing` is its inverse."""
    document: dict[str, Any] = {
        "version": 1,
        "plan_hash": table.plan_hash,
        "resource": {
            "kind": table.resource.kind,
            "namespace": table.resource.namespace,
            "name": table.resource.name,
        },
        "served_model_names": list(table.served_model_names),
        "classes": [
            {
                "name": each.name,
                "prompt_tokens": each.prompt_tokens,
                "output_tokens": each.output_tokens,
            }
            for each in table.classes
        ],
        "stages": [_stage_document(stage) for stage in table.stages],
        "policies": [_policy_document(policy) for policy in table.policies],
        "estimator": estimator_document(table.estimator),
    }
    if table.calibrators:
        fitted = {name: calibrator_document(each) for name, each in table.calibrators.items()}
        document["estimator"]["calibrators"] = fitted
    if table.watch is not None:
        document["watch"] = watch_document(table.watch)
    if table.relief is not None:
        document["relief"] = relief_document(table.relief)
    if table.dispatch != DispatchRule():
        document["routing"] = {"policy": table.dispatch.policy, "alpha": table.dispatch.alpha}
    if table.workflows != WorkflowRule():
        document["workflows"] = {"admission": table.workflows.admission}
    if table.hold is not None:
        document["hold"] = {"requests": table.hold.requests, "seconds": table.hold.seconds}
    if table.gateways > 1:
        document["gateways"] = table.gateways
    return document


def _policy_document(policy: Policy) -> dict[str, Any]:
    document: dict[str, Any] = {"id": policy.id, "share": policy.share}
    document["thresholds"] = dict(policy.thresholds)
    if policy.classes:
        document["classes"] = list(policy.classes)
    if policy.quality is not None:
        document["quality"] = policy.quality
    return document


def _stage_document(stage: Stage) -> dict[str, Any]:
    document: dict[str, Any] = {
        "name": stage.name,
        "model": stage.model,
        "replicas": [_replica_document(replica) for replica in stage.replicas],
    }
    if stage.priority:
        document["priority"] = stage.priority
    if stage.adapters:
        document["adapters"] = dict(stage.adapters)
    if stage.handoff is not None:
        document["prefill"] = [_replica_document(replica) for replica in stage.prefill]
        document["decode"] = [_replica_document(replica) for replica in stage.decode]
        document["flows"] = [
            {
                "class": flow.request_class,
                "from": flow.source,
                "to": flow.target,
                "rate": flow.requests_per_second,
            }
            for flow in stage.flows
        ]
        document["handoff"] = {"protocol": stage.handoff.protocol}
        if stage.handoff.protocol == "bootstrap":
            document["handoff"]["bootstrap_port"] = stage.handoff.bootstrap_port
    if stage.branches is not None:
        document["branches"] = branch_document(stage.branches)
    return document


def _replica_document(replica: Replica) -> dict[str, Any]:
    document: dict[str, Any] = {
        "name": replica.name,
        "url": replica.url,
        "rates": dict(replica.rates),
        "capacity": dict(replica.capacity),
    }
    if replica.trust_zone:
        document["trust_zone"] = replica.trust_zone
    if replica.group:
        document["group"] = replica.group
    if replica.kv_tokens:
        document["kv_tokens"] = replica.kv_tokens
    return document
