"""Which pods failed, how, and where that counts.

A pod that cannot start within its deadline, or that crashes again and again before it has run for as long, that its node rejects, that crashes or whose node is lost
counts against the widest place that no ready pod speaks against: its node, its
configuration on that kind of node, or its whole stage. One that lost its GPUs to somebody else failed
nowhere.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from motley_operator.domain.claims import is_coming
from motley_operator.domain.facts import ClusterFacts, NodeFacts, PodFacts
from motley_operator.domain.names import IMAGE, INPUTS_HASH, ROLE, STAGE, TRAINER, ZONE
from motley_operator.domain.notices import Notice, notice_of
from motley_operator.domain.suspects import Place
from motley_operator.settings import Settings
from motley_operator.translate.nodes import capacity_type
from motley_operator.translate.room import room_left
from motley_operator.translate.running import is_lost, read_unit
from motley_planner.domain.fragments import ReplicaFragment, size_text

CANNOT_START, REJECTED, CRASHED, NODE_LOST = "CannotStart", "Rejected", "Crashed", "NodeLost"
UNSCHEDULABLE = "Unschedulable"  # as the scheduler says it
CRASH_LOOP = "CrashLoopBackOff"  # as the kubelet says it
# Waiting reasons that speak of the image or of what the spec refers to, and not of GPUs.
# Source: Kubernetes, pkg/kubelet/images/types.go and pkg/kubelet/kuberuntime.
IMAGE_REASONS = frozenset((
    "ImagePullBackOff", "ErrImagePull", "ErrImageNeverPull", "InvalidImageName",
    "ImageInspectError", "RegistryUnavailable", "CreateContainerConfigError",
))  # fmt: skip


@dataclass(frozen=True, slots=True)
class Failure:
    """A pod that failed, how, and where that counts; no place: it counts nowhere."""

    pod: PodFacts
    kind: str  # a key of TRIES
    reason: str
    place: Place | None


@dataclass(frozen=True, slots=True)
class Failing:
    """The pods of one resource, and what is known of their nodes."""

    pods: Sequence[PodFacts]
    nodes: Mapping[str, NodeFacts]
    now: float
    deadline_s: float
    settings: Settings

    def failures(self) -> list[Failure]:
        """Pods that failed, the oldest first."""
        ordered = sorted(self.pods, key=lambda pod: (pod.created_at, pod.name))
        return [one for pod in ordered if (one := self._failure(pod)) is not None]

    def deadlines(self) -> list[float]:
        """When pods that are starting will have had their time."""
        due = [p.unready_since + self.deadline_s for p in self.pods if not p.ready and _waits(p)]
        due += [p.created_at + self.deadline_s for p in self.pods if self._loops(p)]
        return [at for at in due if at > self.now]

    @property
    def is_leaving(self) -> bool:
        """Whether a node with a pod of it is leaving."""
        there = (self.nodes.get(pod.node or "") for pod in self.pods if not pod.terminal)
        return any(node is not None and notice_of(node) >= Notice.LEAVING for node in there)

    def _failure(self, pod: PodFacts) -> Failure | None:
        node = self.nodes.get(pod.node or "")
        on_node = Place(node=node.name) if node is not None else None
        if pod.phase == "Failed" and pod.deleting:
            return None  # it was asked to end; one that had failed before is known
        if pod.phase == "Failed":
            if pod.reason:
                return Failure(pod, REJECTED, pod.reason, on_node)
            program = pod.labels.get(ROLE) != TRAINER  # a trainer's are counted by backoffLimit
            return Failure(pod, CRASHED, CRASHED, self._configuration(pod)) if program else None
        if pod.terminal or pod.deleting or node is None or notice_of(node) >= Notice.LEAVING:
            return None
        loss_s = self.settings.node_loss_seconds
        if is_lost(node, self.now, loss_s):
            return Failure(pod, NODE_LOST, NODE_LOST, on_node) if pod.bound else None
        due = pod.unready_since + self.deadline_s if pod.unready_since else float("inf")
        late = not pod.ready and self.now >= due
        given_up = self._loops(pod) and self.now >= pod.created_at + self.deadline_s
        if not ((late or given_up) and _waits(pod)):
            return None
        reason = pod.reason or "Pending"
        return Failure(pod, CANNOT_START, reason, self._place(pod, reason) or on_node)

    def _loops(self, pod: PodFacts) -> bool:
        """Whether it waits for its next run after many, and the last one was short.

        One that gets ready each time would never be late: the kubelet lets it wait 5 minutes at most.
        """
        return pod.reason == CRASH_LOOP and not pod.ready and self._ran_short(pod)

    def _ran_short(self, pod: PodFacts) -> bool:
        return pod.last_run_s is not None and pod.last_run_s < self.deadline_s

    def _place(self, pod: PodFacts, reason: str) -> Place | None:
        """The widest place that no ready pod speaks against; None: only the node is left."""
        if not pod.bound:
            return None
        if reason in IMAGE_REASONS:
            works = any(self._vouches(p, pod) and _same(p, pod, IMAGE) for p in self.pods)
            return None if works else Place(stage=pod.labels.get(STAGE, ""))
        place = self._configuration(pod)
        works = any(self._vouches(p, pod) and self._configuration(p) == place for p in self.pods)
        return None if works else place

    def _vouches(self, other: PodFacts, pod: PodFacts) -> bool:
        """Whether `other`, ready on another node, is built as `pod` is, and not between two crashes."""
        stage = pod.labels.get(STAGE)
        alike = other.labels.get(STAGE) == stage and _same(other, pod, INPUTS_HASH)
        return other.ready and other.node != pod.node and alike and not self._ran_short(other)

    def _configuration(self, pod: PodFacts) -> Place | None:
        described, node = read_unit(pod.annotations), self.nodes.get(pod.node or "")
        if described is None or node is None:
            return None
        pipeline = tuple(ReplicaFragment(*fragment) for fragment in described["pipeline"])
        return Place(
            stage=described["stage"],
            gpu=described["gpu"],
            size=size_text(described["tensor_parallel"], described["fragments"], pipeline),
            zone=node.labels.get(ZONE, ""),
            capacity_type=capacity_type(node.labels),
        )


def outrun(
    facts: ClusterFacts, pods: Mapping[str, Sequence[PodFacts]]
) -> Mapping[str, Sequence[PodFacts]]:
    """By resource, pods that the scheduler refuses because somebody else was given their GPUs.

    They run nowhere and will not until the other goes, so there is nothing to wait for; and it is
    nobody's failure, so nothing is suspected.
    """
    refused = {
        key: [p for p in each if p.reason == UNSCHEDULABLE and not (p.bound or p.deleting)]
        for key, each in pods.items()
    }
    if not any(refused.values()):
        return {}
    full = {name for name, room in room_left(facts).items() if room.gpus < 0}
    return {key: [p for p in each if p.node in full] for key, each in refused.items()}


def _waits(pod: PodFacts) -> bool:
    """Pending, or between two crashes; one that runs is loading, which has a probe.

    A gated one waits for whoever has put the gate there (a queue), and that is no failure; nor is
    one whose node is to come, which has a time of its own (claims.py).
    """
    waits = (pod.phase == "Pending" or bool(pod.reason)) and not is_coming(pod.node)
    return waits and not pod.terminal and pod.reason != "SchedulingGated"


def _same(one: PodFacts, other: PodFacts, annotation: str) -> bool:
    return one.annotations.get(annotation) == other.annotations.get(annotation)
