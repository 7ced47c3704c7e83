"""Which pods go, and why: what the plan no longer has, what is broken, what is outdated.

Nothing is said here about when: one whose place is not needed goes on until its replacement is
ready (rollout.py), and one whose successor would not be admitted stays (quotas.py, trials.py).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from motley_operator import lifecycle
from motley_operator.api import RLJob, read
from motley_operator.changes.quotas import QuotaRoom
from motley_operator.changes.trials import Trials
from motley_operator.changes.turns import PodName, Stage, stage_of
from motley_operator.domain.actions import Manifest
from motley_operator.domain.budgets import NO_BUDGETS, Budgets
from motley_operator.domain.claims import CLAIM
from motley_operator.domain.facts import ClusterFacts, PodFacts
from motley_operator.domain.names import (
    CHECKPOINT,
    COLUMN,
    INPUTS_HASH,
    REPLICA,
    ROLE,
    STAGE,
    TRAINER,
    key_of,
)
from motley_operator.domain.notices import Notice, notice_of
from motley_operator.domain.suspects import Suspicions
from motley_operator.errors import about

NOT_IN_PLAN, CANNOT_START, NO_NODE_CAME = "NotInPlan", "CannotStart", "NoNodeCame"
NODE_LOST = "NodeLost"
NOTHING = Suspicions()


@dataclass(frozen=True, slots=True)
class Trouble:
    """What stands in the way of a plan."""

    suspicions: Suspicions = NOTHING
    short: frozenset[str] = frozenset()  # keys of resources of which not all can be placed
    # For their weights, or for the trainer before theirs: nothing of them starts.
    waiting: frozenset[Stage] = frozenset()
    lost: frozenset[Stage] = frozenset()  # of which a replica of the plan that stands has no place
    budgets: Budgets = NO_BUDGETS  # that live pods keep to, too
    kept: frozenset[str] = frozenset()  # keys of resources whose pods stay as they are
    lost_nodes: frozenset[str] = frozenset()  # nothing runs there any more

    def may_start(self, desired: Mapping[PodName, Manifest]) -> Mapping[PodName, Manifest]:
        """The desired pods without those that wait for their weights or for another trainer."""
        if not self.waiting:
            return desired
        return {at: m for at, m in desired.items() if stage_of(m) not in self.waiting}


NO_TROUBLE = Trouble()


@dataclass(frozen=True, slots=True)
class Seen:
    """What is looked at."""

    facts: ClusterFacts
    trouble: Trouble
    quotas: QuotaRoom
    trials: Trials


@dataclass(slots=True)
class Going:
    """Pods that go, with the reason, in order."""

    reasons: dict[str, str] = field(default_factory=dict)  # by UID

    def add(self, pods: Iterable[PodFacts], reason: str) -> None:
        for pod in pods:
            if not pod.deleting:
                self.reasons.setdefault(pod.uid, reason)


@dataclass(frozen=True, slots=True)
class _Startable:
    """Desired pods of which nothing waits: by name, and the names by stage."""

    pods: Mapping[PodName, Manifest]
    by_stage: Mapping[Stage, Sequence[PodName]]

    @classmethod
    def of(cls, pods: Mapping[PodName, Manifest]) -> _Startable:
        by_stage: dict[Stage, list[PodName]] = {}
        for at, manifest in pods.items():
            by_stage.setdefault(stage_of(manifest), []).append(at)
        return cls(pods, by_stage)


def judge(
    desired: Mapping[PodName, Manifest],
    ours: Mapping[str, Sequence[PodFacts]],
    seen: Seen,
    going: Going,
) -> list[PodFacts]:
    """Note who goes; the answer are those that go with their nodes, for nothing takes their place."""
    facts, trouble = seen.facts, seen.trouble
    nodes = {node.name for node in facts.nodes}
    leaving_nodes = {n.name for n in facts.nodes if n.ready and notice_of(n) == Notice.LEAVING}
    last: list[PodFacts] = []
    lacking = _lacking(desired, ours) if leaving_nodes else frozenset()
    startable = _Startable.of(trouble.may_start(desired))
    for key, pods in ours.items():
        with about(key):
            _finished(key, pods, facts, going)
            for pod in pods:
                if pod.uid in trouble.suspicions.broken:
                    going.add([pod], CANNOT_START)
                short = key in trouble.short and (key, pod.labels.get(STAGE, "")) in lacking
                if short and _may_stay(pod, leaving_nodes, desired, going):
                    last.append(pod)
                    continue
                if pod.bound and pod.node not in nodes:
                    going.reasons.setdefault(pod.uid, NODE_LOST)
                elif not pod.terminal and (pod.namespace, pod.name) not in desired:
                    going.add([pod], _why_unplanned(pod, nodes))
            _broken_gangs(pods, going)
            failing = trouble.suspicions.failing(key, facts.now)
            _outdated(pods, startable, going, failing, seen)
    return last


def _lacking(
    desired: Mapping[PodName, Manifest], ours: Mapping[str, Sequence[PodFacts]]
) -> frozenset[Stage]:
    """Stages of which more replicas run than are planned."""
    planned, alive = set[tuple[str, str, str]](), set[tuple[str, str, str]]()
    for (namespace, _), manifest in desired.items():
        labels = manifest["metadata"]["labels"]
        planned.add((key_of(labels, namespace), labels[STAGE], labels[REPLICA]))
    for key, pods in ours.items():
        running = (pod for pod in pods if not (pod.terminal or pod.deleting))
        alive |= {(key, p.labels.get(STAGE, ""), p.labels.get(REPLICA, "")) for p in running}
    counts = Counter((key, stage) for key, stage, _ in alive)
    counts.subtract((key, stage) for key, stage, _ in planned)
    return frozenset(stage for stage, more in counts.items() if more > 0)


def _may_stay(
    pod: PodFacts,
    leaving_nodes: Collection[str],
    desired: Mapping[PodName, Manifest],
    going: Going,
) -> bool:
    """Whether a pod that the plan has not, and cannot replace, runs on a node that is still there.

    One that saves a checkpoint first does so at once: the node may go before it has had the time.
    """
    placed = (pod.namespace, pod.name) in desired or pod.terminal or pod.uid in going.reasons
    return not placed and pod.node in leaving_nodes and CHECKPOINT not in pod.annotations


def _why_unplanned(pod: PodFacts, nodes: Collection[str]) -> str:
    if pod.node in nodes:
        return NOT_IN_PLAN
    return NO_NODE_CAME if CLAIM in pod.labels and not pod.bound else NODE_LOST


def _finished(key: str, pods: Sequence[PodFacts], facts: ClusterFacts, going: Going) -> None:
    """Finished pods go; a job's trainers stay until its status says that it is complete."""
    recorded = not any(p.phase == "Succeeded" and _is_trainer(p) for p in pods) or any(
        resource.key == key and _is_final(resource.document) for resource in facts.resources
    )
    for pod in pods:
        if pod.phase == "Failed":
            going.add([pod], pod.reason or "Failed")
        elif pod.phase == "Succeeded" and (recorded or not _is_trainer(pod)):
            going.add([pod], "Succeeded")


def _is_trainer(pod: PodFacts) -> bool:
    return pod.labels.get(ROLE) == TRAINER


def _is_final(document: Mapping[str, object]) -> bool:
    model = read(document)[0]
    return isinstance(model, RLJob) and lifecycle.phase_before(model) in lifecycle.FINAL


def _broken_gangs(pods: Sequence[PodFacts], going: Going) -> None:
    """A replica that lost one of its pods cannot go on with the others."""
    replicas: dict[str, list[PodFacts]] = {}
    for pod in pods:
        replicas.setdefault(pod.labels.get(REPLICA, ""), []).append(pod)
    for members in replicas.values():
        if any(p.phase == "Failed" or p.deleting for p in members):
            going.add((p for p in members if not p.terminal), "PeerLost")


def _outdated(
    pods: Sequence[PodFacts],
    startable: _Startable,
    going: Going,
    failing: Collection[tuple[str, str]],
    seen: Seen,
) -> None:
    """Replicas built from an older spec are replaced one at a time in each stage.

    One that is not ready serves nobody and goes at once; a ready one only while all others are, and
    while what is to take its place is not among the `failing` stages and columns. One whose successor
    would not be admitted, or has to be tried first, stays.
    """
    ready = lifecycle.ready_replicas(pods)
    stages: dict[str, dict[str, list[PodFacts]]] = {}
    for pod in pods:
        wanted = startable.pods.get((pod.namespace, pod.name))
        if wanted is None or pod.terminal or pod.uid in going.reasons:
            continue
        built, want = (
            pod.annotations.get(INPUTS_HASH),
            wanted["metadata"]["annotations"][INPUTS_HASH],
        )
        at = (pod.labels.get(STAGE, ""), pod.labels.get(COLUMN, ""))
        fails = pod.ready and {at, (at[0], "")} & set(failing)
        if built != want and not fails and seen.quotas.replaces(pod, wanted):
            stage, replica = pod.labels.get(STAGE, ""), pod.labels.get(REPLICA, "")
            stages.setdefault(stage, {}).setdefault(replica, []).append(pod)
    if not stages:
        return
    here = {(pod.namespace, pod.name): pod for pod in pods}
    key = key_of(pods[0].labels, pods[0].namespace)
    for stage, old in stages.items():
        unready = [name for name in sorted(old) if not ready[name]]
        ending = any(
            (pod.deleting or pod.uid in going.reasons) and pod.labels.get(STAGE) == stage
            for pod in pods
        )
        calm = not ending and all(
            at in here and ready[here[at].labels.get(REPLICA, "")]
            for at in startable.by_stage.get((key, stage), ())
        )
        for name in unready or (sorted(old)[:1] if calm else []):
            heirs = (startable.pods[pod.namespace, pod.name] for pod in old[name])
            if all(map(seen.trials.admits, heirs)):
                going.add(old[name], "SpecChanged")
