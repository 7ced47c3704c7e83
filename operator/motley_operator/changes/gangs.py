"""Trainers of a job: one gang at a time, and what a broken one is still worth waiting for.

Rules. All pods of a gang are deleted in one cycle, so that the command that saves a checkpoint (each
pod's preStop hook) runs while every rank is alive. A successor is made when the pods before it are gone:
it would read a checkpoint that is still being written, and two gangs would write one folder. What a gang
that is ending holds, of nodes, quotas and budgets, is given to nobody by the same rules as for all pods.
Nothing is waited for on a node that is lost.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field

from motley_operator.changes.judging import Trouble
from motley_operator.changes.turns import PodName, Stage, stage_of_pod
from motley_operator.domain.actions import Manifest
from motley_operator.domain.facts import ClusterFacts, PodFacts
from motley_operator.domain.names import CHECKPOINT, REPLICA, ROLE, TRAINER, key_of
from motley_operator.translate.room import is_engine
from motley_operator.translate.running import read_unit

# Of ranks that have lost one: no checkpoint is whole without it, and their hook may wait for it in
# vain. As long as pods have by default (Kubernetes, terminationGracePeriodSeconds).
BROKEN_GANG_GRACE_S = 30

Gang = tuple[str, str]  # resource key and replica


def waiting_gangs(
    desired: Mapping[PodName, Manifest], facts: ClusterFacts, trouble: Trouble
) -> frozenset[Stage]:
    """Stages of trainers of which another gang is not gone yet: nothing of them starts."""
    return frozenset(
        stage_of_pod(pod)
        for pod in facts.pods
        if pod.labels.get(ROLE) == TRAINER
        and is_engine(pod)
        and not pod.terminal
        and pod.node not in trouble.lost_nodes
        and (pod.deleting or (pod.namespace, pod.name) not in desired)
    )


@dataclass(slots=True)
class Graces:
    """How long pods have to end; None: as long as their own spec says."""

    facts: ClusterFacts
    lost_nodes: Collection[str] = ()
    _nodes: frozenset[str] = field(init=False)
    _gangs: dict[Gang, list[PodFacts]] | None = field(init=False, default=None)

    def __post_init__(self) -> None:
        self._nodes = frozenset(node.name for node in self.facts.nodes)

    def of(self, pod: PodFacts) -> int | None:
        """Zero where the node object is gone: no kubelet will ever confirm the end of that pod."""
        if pod.bound and pod.node not in self._nodes:
            return 0
        if CHECKPOINT in pod.annotations and self._is_broken(pod):
            return BROKEN_GANG_GRACE_S
        return None

    def _is_broken(self, pod: PodFacts) -> bool:
        """Whether a rank of the pod's gang has ended before, or is where nothing runs."""
        if self._gangs is None:
            self._gangs = {}
            for each in self.facts.pods:
                if CHECKPOINT in each.annotations:
                    self._gangs.setdefault(_gang(each), []).append(each)
        members = self._gangs[_gang(pod)]
        described = read_unit(pod.annotations)
        whole = described is None or len(members) == described["fragments"]
        return not whole or any(p.terminal or self._is_lost(p) for p in members)

    def _is_lost(self, pod: PodFacts) -> bool:
        return pod.node in self.lost_nodes or (pod.bound and pod.node not in self._nodes)


def _gang(pod: PodFacts) -> Gang:
    return key_of(pod.labels, pod.namespace), pod.labels.get(REPLICA, "")
