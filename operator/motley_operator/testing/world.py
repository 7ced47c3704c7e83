"""A world that actions change: pods are pinned, bound, become ready, end; nothing else happens.

It is a fake of the API server, the scheduler and the kubelet only as far as ClusterFacts can tell.
After every change `refuse_impossible` checks what no cluster may show: a node over its allocatable,
two live pods of one rank. So each test that uses a world checks these, too.
"""

from __future__ import annotations

import copy
import itertools
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from typing import Any

from motley_operator.domain.actions import (
    Action,
    AdoptPod,
    ApplyObject,
    ChangeRole,
    CreatePod,
    DeleteObject,
    DeletePod,
    EmitEvent,
    LabelPod,
    Outcome,
    PatchStatus,
    TryPod,
)
from motley_operator.domain.facts import (
    ClusterFacts,
    NodeFacts,
    PodFacts,
    ResourceFacts,
    Room,
)
from motley_operator.domain.measurement import Reading
from motley_operator.domain.names import COLUMN, UNIT, key_of
from motley_operator.domain.verdicts import Refusal
from motley_operator.facts.pods import parse_pod
from motley_operator.facts.resources import parse_resource
from motley_operator.testing.impossible import ImpossibleCluster, refuse_impossible
from motley_operator.testing.limits import Forbidden, Limits

_GRACE = "terminationGracePeriodSeconds"


@dataclass(slots=True)
class World:
    """Everything there is; `facts()` is what a cycle sees of it."""

    nodes: dict[str, NodeFacts] = field(default_factory=dict)
    pods: dict[tuple[str, str], PodFacts] = field(default_factory=dict)
    documents: dict[str, dict[str, Any]] = field(default_factory=dict)  # resources, by key
    owned: dict[tuple[str, str, str], dict[str, Any]] = field(default_factory=dict)
    fleet: dict[str, Any] | None = None
    priority_classes: dict[str, int] = field(default_factory=dict)
    limits: Limits = field(default_factory=Limits)  # ResourceQuotas and LimitRanges
    config_maps: dict[tuple[str, str], dict[str, str]] = field(default_factory=dict)
    served: frozenset[str] = frozenset()  # optional kinds
    reading: Reading | None = None
    events: list[EmitEvent] = field(default_factory=list)
    specs: dict[tuple[str, str], dict[str, Any]] = field(default_factory=dict)  # of pods we made
    now: float = 1_800_000_000.0
    uids: itertools.count[int] = field(default_factory=lambda: itertools.count(1))
    fate: Callable[[PodFacts], Mapping[str, Any]] = lambda pod: {}  # empty: a pod runs
    # What no quota and no limit range refuses: why, and the server's words. None: nothing.
    refuses: Callable[[Mapping[str, Any]], tuple[Refusal, str] | None] = lambda pod: None

    def add_node(self, *nodes: NodeFacts) -> World:
        """Nodes join."""
        self.nodes |= {node.name: node for node in nodes}
        return self

    def add(self, document: Mapping[str, Any]) -> str:
        """A resource is created or edited; its key."""
        stored = copy.deepcopy(dict(document))
        metadata = stored.setdefault("metadata", {})
        metadata.setdefault("namespace", "team-a")
        key = f"{stored['kind']}/{metadata['namespace']}/{metadata['name']}"
        old = self.documents.get(key)
        metadata["uid"] = old["metadata"]["uid"] if old else f"uid-{key}"
        metadata["generation"] = old["metadata"]["generation"] + 1 if old else 1
        if old and "status" in old:
            stored["status"] = old["status"]
        self.documents[key] = stored
        return key

    def facts(self) -> ClusterFacts:
        """What a cycle sees; refused if no cluster could be so."""
        nodes, pods = self._there()
        facts = ClusterFacts(
            now=self.now,
            nodes=nodes,
            pods=pods,
            resources=tuple(self._resource(key) for key in sorted(self.documents)),
            fleet=copy.deepcopy(self.fleet),
            owned=copy.deepcopy(self.owned),
            priority_classes=dict(self.priority_classes),
            quotas=self.limits.quotas(self.pods.values()),
            limit_ranges=self.limits.ranges(),
            config_maps=copy.deepcopy(self.config_maps),
            served=self.served,
            reading=self.reading,
        )
        refuse_impossible(facts)
        return facts

    def _resource(self, key: str) -> ResourceFacts:
        document = copy.deepcopy(self.documents[key])
        return parse_resource(document["kind"], document)

    def apply(self, actions: Iterable[Action]) -> tuple[Outcome, ...]:
        """Carry out actions one by one, checking the world after each that could change pods."""
        outcomes = []
        for action in actions:
            outcomes.append(self._outcome(action))
            if isinstance(action, CreatePod | DeletePod | LabelPod | ChangeRole | AdoptPod):
                refuse_impossible(ClusterFacts(self.now, *self._there(), resources=()))
        return tuple(outcomes)

    def _outcome(self, action: Action) -> Outcome:
        """What became of an action; a pod that is tried meets quotas and limit ranges, too."""
        if isinstance(action, CreatePod | TryPod) and (refused := self.refuses(action.manifest)):
            is_answer = isinstance(action, TryPod)
            return Outcome(action, "done" if is_answer else "failed", refused[1], refused[0])
        if isinstance(action, TryPod):
            try:
                self.limits.admit(self._stamped(action.manifest), self.pods.values())
            except Forbidden as error:
                is_full = "exceeded quota" in str(error)
                refusal = Refusal.OVER_QUOTA if is_full else Refusal.FORBIDDEN
                return Outcome(action, "done", f"403 Forbidden: {error}", refusal)
            return Outcome(action, "done")
        self._carry_out(action)
        return Outcome(action, "done")

    def _there(self) -> tuple[tuple[NodeFacts, ...], tuple[PodFacts, ...]]:
        """Nodes and pods, by name."""
        nodes = tuple(self.nodes[name] for name in sorted(self.nodes))
        return nodes, tuple(self.pods[name] for name in sorted(self.pods))

    def _carry_out(self, action: Action) -> None:
        if isinstance(action, CreatePod):
            self._create(action.manifest)
        elif isinstance(action, DeletePod):
            pod = self.pods[(action.namespace, action.name)]
            assert pod.uid == action.uid
            spec_s = self.specs.get((action.namespace, action.name), {}).get(_GRACE, 30)
            grace_s = spec_s if action.grace_seconds is None else action.grace_seconds
            self._put(replace(pod, deleting=True, ready=False, ends_at=self.now + grace_s))
        elif isinstance(action, LabelPod):
            pod = self.pods[(action.namespace, action.name)]
            labels = {k: v for k, v in pod.labels.items() if k != action.label}
            if action.value is not None:
                labels[action.label] = action.value
            self._put(replace(pod, labels=labels))
        elif isinstance(action, ChangeRole):
            pod = self.pods[(action.namespace, action.name)]
            assert pod.uid == action.uid
            labels, told = {COLUMN: action.column}, {UNIT: action.unit}
            annotations = {**pod.annotations, **told}
            self._put(replace(pod, labels={**pod.labels, **labels}, annotations=annotations))
        elif isinstance(action, AdoptPod):
            pod = self.pods[(action.namespace, action.name)]
            assert (pod.uid, pod.owner_uid) == (action.uid, None)
            self._put(replace(pod, owner_uid=action.owner["uid"]))
        elif isinstance(action, ApplyObject):
            self._apply_object(action.manifest)
        elif isinstance(action, DeleteObject):
            del self.owned[(action.kind, action.namespace, action.name)]
        elif isinstance(action, PatchStatus):
            self._patch_status(action)
        elif isinstance(action, EmitEvent):
            self.events.append(action)

    def _create(self, manifest: Mapping[str, Any]) -> None:
        document = self._stamped(manifest)
        name = (document["metadata"]["namespace"], document["metadata"]["name"])
        if name in self.pods:
            raise ImpossibleCluster(f"pod {name} is created twice")
        self.specs[name] = document["spec"]
        self._put(self.limits.admit(document, self.pods.values()))

    def _stamped(self, manifest: Mapping[str, Any]) -> dict[str, Any]:
        """A pod's manifest with what the server adds before it admits it."""
        document = copy.deepcopy(dict(manifest))
        document["metadata"]["uid"] = f"pod-{next(self.uids)}"
        document["metadata"]["creationTimestamp"] = self._time()
        return document

    def _time(self) -> str:
        return datetime.fromtimestamp(self.now, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")

    def _apply_object(self, manifest: Mapping[str, Any]) -> None:
        metadata = manifest["metadata"]
        place = (manifest["kind"], metadata["namespace"], metadata["name"])
        live = copy.deepcopy(dict(manifest))
        old = self.owned.get(place)
        uid = old["metadata"]["uid"] if old else f"object-{next(self.uids)}"
        made = old["metadata"]["creationTimestamp"] if old else self._time()
        live["metadata"] |= {
            "uid": uid, "resourceVersion": str(next(self.uids)), "creationTimestamp": made,
        }  # fmt: skip
        if manifest["kind"] == "Service":
            live["spec"] = {"sessionAffinity": "None", "ipFamilies": ["IPv4"], **live["spec"]}
        self.owned[place] = live

    def _patch_status(self, action: PatchStatus) -> None:
        if action.kind == "Fleet":
            assert self.fleet is not None
            self.fleet["status"] = copy.deepcopy(action.status)
            return
        key = f"{action.kind}/{action.namespace}/{action.name}"
        self.documents[key]["status"] = copy.deepcopy(action.status)

    def _put(self, pod: PodFacts) -> None:
        self.pods[(pod.namespace, pod.name)] = pod

    def settle(self) -> None:
        """Scheduler and kubelets catch up: pods end, others run and are ready; gateways come up."""
        self.end_pods()
        for pod in list(self.pods.values()):
            if not pod.terminal and pod.node in self.nodes and self.nodes[pod.node].ready:
                runs = {"bound": True, "phase": "Running", "ready": True}
                self._put(replace(pod, **{**runs, **self.fate(pod)}))
        self._run_gateways()

    def end_pods(self) -> None:
        """Pods that are being deleted are gone."""
        self.pods = {name: pod for name, pod in self.pods.items() if not pod.deleting}

    def change_pods(self, *, where: Mapping[str, str], **changes: Any) -> list[str]:
        """Change every pod that carries these labels; their names."""
        changed = []
        for pod in list(self.pods.values()):
            if where.items() <= pod.labels.items():
                self._put(replace(pod, **changes))
                changed.append(pod.name)
        return changed

    def lose_node(self, name: str) -> None:
        """The node object is deleted; the garbage collector takes its pods."""
        del self.nodes[name]
        self.pods = {key: pod for key, pod in self.pods.items() if pod.node != name}

    def foreign_pod(self, name: str, node: str, requests: Room, **changes: Any) -> None:
        """Somebody else's pod."""
        pod = PodFacts(
            namespace="other",
            name=name,
            uid=f"pod-{next(self.uids)}",
            labels={},
            annotations={},
            node=node,
            bound=True,
            phase="Running",
            reason="",
            ready=False,
            deleting=False,
            requests=requests,
            created_at=self.now,
            owner_uid=None,
        )
        self._put(replace(pod, **changes))

    def _run_gateways(self) -> None:
        wanted = {}
        for (kind, namespace, name), live in self.owned.items():
            if kind == "Deployment":
                for index in range(live["spec"]["replicas"]):
                    wanted[(namespace, f"{name}-{index}")] = live["spec"]["template"]
        for key, template in wanted.items():
            if key not in self.pods:
                metadata = {
                    **template["metadata"],
                    "namespace": key[0],
                    "name": key[1],
                    "uid": f"pod-{next(self.uids)}",
                }
                spec = {**template["spec"], "nodeName": "cpu-node"}
                status = {
                    "phase": "Running",
                    "conditions": [{"type": "Ready", "status": "True"}],
                }
                self._put(parse_pod({"metadata": metadata, "spec": spec, "status": status}))

    def engine_pods(self, key: str = "") -> list[PodFacts]:
        """Engine pods, of one resource if its key is given, by name."""
        found = [p for p in self.pods.values() if UNIT in p.annotations]
        return sorted(
            (p for p in found if not key or key_of(p.labels, p.namespace) == key),
            key=lambda p: p.name,
        )
