"""Audit events that were never logged, for tests of what reads the log."""

from __future__ import annotations

import copy
from typing import Any

from e2e.checker import check
from e2e.cluster.audit import Record, parse

Event = dict[str, Any]


class Log:
    """Writes synthetic audit events as the API server would, one revision and one second each."""

    def __init__(self) -> None:
        self.events: list[Event] = []
        self.clock = 0

    def write(self, verb: str, resource: str, thing: Event, **extra: Any) -> Log:
        """One event; `answer` and `code` say what the API server answered."""
        self.clock += 1
        metadata = thing.setdefault("metadata", {})
        if thing["kind"] in ("Pod", "Node"):
            metadata["resourceVersion"] = str(100 + self.clock)
        answer = extra.pop("answer", thing)
        code = extra.pop("code", 200)
        reference = {"resource": resource, "name": metadata.get("name"), **extra}
        if "namespace" in metadata:
            reference["namespace"] = metadata["namespace"]
        self.events.append(
            {
                "verb": verb,
                "user": {"username": "someone"},
                "stageTimestamp": f"2026-01-01T00:{self.clock // 60:02}:{self.clock % 60:02}.5Z",
                "objectRef": reference,
                "requestObject": copy.deepcopy(thing),
                "responseObject": answer,
                "responseStatus": {"code": code},
            }
        )
        return self

    def node(self, name: str = "n1", gpus: int = 8, uid: str = "node-1") -> Log:
        """A node is created, or changed if it is there."""
        allocatable = {"cpu": "8", "memory": "64Gi", "pods": "3", "nvidia.com/gpu": str(gpus)}
        metadata = {"name": name, "uid": uid}
        status = {"allocatable": allocatable}
        return self.write(
            "create", "nodes", {"kind": "Node", "metadata": metadata, "status": status}
        )

    def node_gone(self, name: str = "n1", uid: str = "node-1") -> Log:
        """A node is deleted."""
        answer = {"kind": "Status", "apiVersion": "v1", "details": {"uid": uid}}
        sent = {"kind": "DeleteOptions", "metadata": {"name": name}}
        return self.write("delete", "nodes", sent, answer=answer)

    def pod(self, name: str, verb: str = "create", **changes: Any) -> Log:
        """A write to a pod; the changes are those of `pod`."""
        return self.write(verb, "pods", pod(name, **changes))

    def bind(self, name: str, node: str, uid: str = "") -> Log:
        """The scheduler binds a pod to a node."""
        metadata = {"name": name, "namespace": "ns", "uid": uid or f"uid-{name}"}
        thing = {"kind": "Binding", "metadata": metadata, "target": {"name": node}}
        answer = {"kind": "Status", "apiVersion": "v1"}
        return self.write("create", "pods", thing, subresource="binding", answer=answer)

    def records(self) -> list[Record]:
        """The log as the checker reads it."""
        return [record for event in self.events for record in parse(event)]

    def rules(self, ends_s: float | None = None) -> list[str]:
        """The rules that the checker finds broken."""
        return [one.rule for one in check(self.records(), ends_s)]


def pod(
    name: str,
    *,
    gpus: int = 4,
    pin: str | None = None,
    node: str | None = None,
    phase: str = "Running",
    replica: str | None = None,
    **rest: Any,
) -> Event:
    """A pod with what the checker looks at; `pin` is node affinity, `node` a binding."""
    metadata: Event = {
        "name": name,
        "namespace": "ns",
        "uid": rest.get("uid", f"uid-{name}"),
        "creationTimestamp": "2026-01-01T00:00:00Z",
        "labels": {},
    }
    if replica is not None:
        metadata["labels"] = {
            "motley.dev/kind": "ServingPool",
            "motley.dev/resource": "chat",
            "motley.dev/replica": replica,
            **rest.get("labels", {}),
        }
    if "grace_s" in rest:
        metadata["deletionTimestamp"] = "2026-01-01T00:00:30Z"
        metadata["deletionGracePeriodSeconds"] = rest["grace_s"]
    if "finalizers" in rest:
        metadata["finalizers"] = rest["finalizers"]
    resources = {"limits": {"nvidia.com/gpu": str(gpus)}, "requests": rest.get("requests", {})}
    spec: Event = {"containers": [{"name": "c", "resources": resources}]}
    spec["initContainers"] = rest.get("init", [])
    if node:
        spec["nodeName"] = node
    if pin:
        field = {"key": "metadata.name", "operator": "In", "values": [pin]}
        terms = {"nodeSelectorTerms": [{"matchFields": [field]}]}
        required = {"requiredDuringSchedulingIgnoredDuringExecution": terms}
        spec["affinity"] = {"nodeAffinity": required}
    return {"kind": "Pod", "metadata": metadata, "spec": spec, "status": {"phase": phase}}


def init(gpus: int, restart: str = "") -> Event:
    """An init container, or a sidecar with restart="Always"."""
    return {
        "resources": {"requests": {"nvidia.com/gpu": str(gpus)}},
        **({"restartPolicy": restart} if restart else {}),
    }
