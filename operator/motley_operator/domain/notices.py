"""Notices that a node is about to go: one table from taint keys to what they mean for a plan.

A notice counts whatever its effect, and whether or not a pod tolerates it: the node goes all the same.

Sources: karpenter.sh/disrupted and, before v1, karpenter.sh/disruption: Karpenter, docs "Disruption".
ToBeDeletedByClusterAutoscaler, DeletionCandidateOfClusterAutoscaler: kubernetes/autoscaler,
cluster-autoscaler/utils/taints. aws-node-termination-handler/*: that project's docs, TAINT_NODE.
cloud.google.com/impending-node-termination: arguments of GKE's maintenance-handler DaemonSet.
remediator.*: Azure, "AKS node auto-drain", its name now and before. node.kubernetes.io/out-of-service,
node.cloudprovider.kubernetes.io/shutdown: Kubernetes, "Well-Known Labels, Annotations and Taints".
"""

from __future__ import annotations

from collections.abc import Mapping
from enum import IntEnum

from motley_operator.domain.facts import NodeFacts


class Notice(IntEnum):
    """What a plan makes of a node; the largest of several counts."""

    NONE = 0
    CANDIDATE = 1  # may go: what runs there goes on, nothing new starts
    LEAVING = 2  # will go: what runs there is replaced first, and serves until then
    GONE = 3  # its pods have ended already, whatever their status says


NOTICES: Mapping[str, Notice] = {
    "DeletionCandidateOfClusterAutoscaler": Notice.CANDIDATE,
    "aws-node-termination-handler/rebalance-recommendation": Notice.CANDIDATE,
    "karpenter.sh/disrupted": Notice.LEAVING,
    "karpenter.sh/disruption": Notice.LEAVING,
    "ToBeDeletedByClusterAutoscaler": Notice.LEAVING,
    "cloud.google.com/impending-node-termination": Notice.LEAVING,
    "aws-node-termination-handler/spot-itn": Notice.LEAVING,
    "aws-node-termination-handler/scheduled-maintenance": Notice.LEAVING,
    "aws-node-termination-handler/asg-lifecycle-termination": Notice.LEAVING,
    "remediator.kubernetes.azure.com/unschedulable": Notice.LEAVING,
    "remediator.aks.microsoft.com/unschedulable": Notice.LEAVING,
    "node.kubernetes.io/out-of-service": Notice.GONE,
    "node.cloudprovider.kubernetes.io/shutdown": Notice.GONE,
}


def notice_of(node: NodeFacts) -> Notice:
    """The strongest notice on a node; one whose object is being deleted is leaving."""
    told = [NOTICES.get(taint.key, Notice.NONE) for taint in node.taints]
    return max([Notice.LEAVING if node.deleting else Notice.NONE, *told])
