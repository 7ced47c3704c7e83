"""An independent judge of what really happened: replays the API server's event log.

Three rules, in words of their own and with none of Motley's code:

1. Whenever a pod comes to a node, bound (`spec.nodeName`) or pinned (required node affinity on
   `metadata.name`), the requests of all non-terminal pods there fit the node's allocatable, in
   every resource the node or a pod names, and in pods. A pod being deleted counts until it is gone.
2. At every instant each (namespace, kind, resource, stage, replica, rank) of Motley's labels has at
   most one non-terminal pod.
3. At the end no pod has been Pending for longer than 30 seconds.

A node that shrinks under its pods is not the fault of whoever placed them, so rule 1 is judged when
a pod arrives or grows, never when a node changes. Pods of a node that is gone are not judged until
a node of that name is back.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from datetime import datetime
from decimal import Decimal
from typing import Any

from e2e.amounts import Amounts, add, quantity, requests_of
from e2e.cluster.audit import Record, in_order

PENDING_LIMIT_S = 30.0
PREFIX = "motley.dev/"

PodKey = tuple[str, str]


@dataclass(frozen=True, slots=True)
class Violation:
    """A rule that did not hold: which, when (Unix seconds), and what was seen."""

    rule: str
    time_s: float
    what: str


@dataclass(frozen=True, slots=True)
class _Pod:
    uid: str
    node: str | None
    is_bound: bool
    requests: Amounts
    identity: tuple[str, ...] | None
    phase: str
    is_deleting: bool
    created_s: float

    @property
    def is_live(self) -> bool:
        return self.phase not in ("Succeeded", "Failed")


@dataclass(slots=True)
class Judge:
    """The three rules held against a log, also one that grows; it must be seen from its beginning."""

    pods: dict[PodKey, _Pod] = field(default_factory=dict)
    allocatable: dict[str, Amounts] = field(default_factory=dict)
    node_uids: dict[str, str] = field(default_factory=dict)
    known_nodes: set[str] = field(default_factory=set)
    gone_uids: set[str] = field(default_factory=set)
    violations: list[Violation] = field(default_factory=list)
    last_s: float = 0.0

    def see(self, records: Iterable[Record]) -> None:
        """The next records, each once, in the order of the store."""
        for record in records:
            self.last_s = max(self.last_s, record.time_s)
            if record.group == "" and record.resource == "nodes":
                _see_node(self, record)
            elif record.group == "" and record.resource == "pods":
                _see_pod(self, record)

    def verdict(self, ends_s: float | None = None) -> list[Violation]:
        """Every violation so far, in the order they happened, and who has been Pending too long now."""
        now_s = self.last_s if ends_s is None else ends_s
        return [*self.violations, *_waiting(self, now_s)]

    def assert_lawful(self, ends_s: float | None = None) -> None:
        """Raises AssertionError that lists the violations, if there are any."""
        found = self.verdict(ends_s)
        lines = [f"{one.time_s:.3f} {one.rule}: {one.what}" for one in found]
        assert not found, "the event log breaks the rules:\n" + "\n".join(lines)


def check(records: Iterable[Record], ends_s: float | None = None) -> list[Violation]:
    """Every violation of the three rules, in the order they happened; empty if all held.

    The records must reach back to the first node and pod. `ends_s` is when the log was read, in
    Unix seconds (default: its last record).
    """
    return _judge(records).verdict(ends_s)


def assert_lawful(records: Iterable[Record], ends_s: float | None = None) -> None:
    """Raises AssertionError that lists the violations, if there are any."""
    _judge(records).assert_lawful(ends_s)


def _judge(records: Iterable[Record]) -> Judge:
    judge = Judge()
    judge.see(in_order(records))
    return judge


def _see_node(replay: Judge, record: Record) -> None:
    if record.verb == "delete":
        if record.uid in ("", replay.node_uids.get(record.name)):
            replay.allocatable.pop(record.name, None)
        return
    allocatable = record.object.get("status", {}).get("allocatable", {})
    replay.allocatable[record.name] = {key: quantity(one) for key, one in allocatable.items()}
    replay.node_uids[record.name] = record.uid
    replay.known_nodes.add(record.name)


def _see_pod(replay: Judge, record: Record) -> None:
    key = (record.namespace, record.name)
    before = replay.pods.get(key)
    if record.uid in replay.gone_uids:
        return  # logged late
    if record.subresource == "binding":
        if before is None or (record.uid and before.uid != record.uid):
            return  # logged after the pod was gone
        after = _bound(before, record.object["target"]["name"])
    elif record.subresource == "eviction":
        # A pod with a kubelet is only marked, and its removal is a record of its own.
        if before is not None and not (before.is_bound and before.is_live):
            _forget(replay, key)
        return
    elif record.object.get("kind") != "Pod":
        return
    elif _is_gone(record):
        if before is not None and before.uid == record.uid:
            _forget(replay, key)
        return
    else:
        after = _pod_of(record)
    replay.pods[key] = after
    if after.is_live:
        if before is None or not before.is_live or before.identity != after.identity:
            _check_identity(replay, record, key, after)
        _check_capacity(replay, record, before, after)


def _forget(replay: Judge, key: PodKey) -> None:
    replay.gone_uids.add(replay.pods.pop(key).uid)


def _is_gone(record: Record) -> bool:
    """Whether this write took the pod out of the store.

    A deletion with a grace period only marks; the kubelet's, with none, removes. With finalizers
    left it is the write that takes the last one off that removes.
    """
    metadata = record.object["metadata"]
    if metadata.get("finalizers"):
        return False
    marked = metadata.get("deletionTimestamp") is not None
    grace_s = metadata.get("deletionGracePeriodSeconds") or 0
    if record.verb == "delete":
        return not (marked and grace_s > 0)
    return marked and grace_s == 0


def _bound(pod: _Pod, node: str) -> _Pod:
    return replace(pod, node=node, is_bound=True)


def _pod_of(record: Record) -> _Pod:
    thing = record.object
    metadata, spec = thing["metadata"], thing["spec"]
    return _Pod(
        uid=record.uid,
        node=spec.get("nodeName") or _pinned_to(spec),
        is_bound=bool(spec.get("nodeName")),
        requests=requests_of(spec),
        identity=_identity(metadata),
        phase=thing.get("status", {}).get("phase", "Pending"),
        is_deleting=metadata.get("deletionTimestamp") is not None,
        created_s=datetime.fromisoformat(metadata["creationTimestamp"]).timestamp(),
    )


def _pinned_to(spec: Mapping[str, Any]) -> str | None:
    """The one node that required node affinity leaves, by `matchFields` on `metadata.name`."""
    affinity = (spec.get("affinity") or {}).get("nodeAffinity") or {}
    required = affinity.get("requiredDuringSchedulingIgnoredDuringExecution") or {}
    names: set[str | None] = set()
    for term in required.get("nodeSelectorTerms", ()):
        single = [
            one["values"][0]
            for one in term.get("matchFields", ())
            if (one["key"], one["operator"]) == ("metadata.name", "In") and len(one["values"]) == 1
        ]
        names.add(single[0] if single else None)
    return names.pop() if len(names) == 1 else None


def _identity(metadata: Mapping[str, Any]) -> tuple[str, ...] | None:
    labels = metadata.get("labels") or {}
    if f"{PREFIX}resource" not in labels or f"{PREFIX}replica" not in labels:
        return None
    names = ("kind", "resource", "stage", "replica", "rank")
    return (metadata["namespace"], *(labels.get(PREFIX + name, "") for name in names))


def _check_identity(replay: Judge, record: Record, key: PodKey, pod: _Pod) -> None:
    if pod.identity is None:
        return
    for other_key, other in replay.pods.items():
        if other_key != key and other.is_live and other.identity == pod.identity:
            what = f"{'/'.join(key)} and {'/'.join(other_key)} are both {pod.identity}"
            _report(replay, record, "one live pod per replica", what)


def _check_capacity(replay: Judge, record: Record, before: _Pod | None, pod: _Pod) -> None:
    same = before is not None and (before.uid, before.node) == (pod.uid, pod.node)
    if pod.node is None or (same and before is not None and before.requests == pod.requests):
        return
    if pod.node not in replay.known_nodes:
        _report(replay, record, "the log is whole", f"nothing is known of node {pod.node}")
    if pod.node not in replay.allocatable:
        return
    used: Amounts = {}
    for one in replay.pods.values():
        if one.node == pod.node and one.is_live:
            used = add(used, one.requests)
    for key in sorted(pod.requests):
        has = replay.allocatable[pod.node].get(key, Decimal(0))
        if used[key] > has:
            what = f"{pod.node} has {has} {key}, its pods ask {used[key]} with {record.name}"
            _report(replay, record, "requests fit the node", what)


def _waiting(replay: Judge, ends_s: float) -> list[Violation]:
    found = []
    for (namespace, name), pod in replay.pods.items():
        waited_s = ends_s - pod.created_s
        if pod.phase == "Pending" and not pod.is_deleting and waited_s > PENDING_LIMIT_S:
            what = f"{namespace}/{name} is Pending for {waited_s:.0f} s"
            found.append(Violation("no pod waits", ends_s, what))
    return found


def _report(replay: Judge, record: Record, rule: str, what: str) -> None:
    found = Violation(rule, record.time_s, what)
    if all((one.rule, one.what) != (rule, what) for one in replay.violations):
        replay.violations.append(found)
