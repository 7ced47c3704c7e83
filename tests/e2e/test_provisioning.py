"""Nodes that are bought on the real control plane: its scheduler, and a small autoscaler of our own.

The autoscaler knows nothing of Motley. Like a real one it looks at pods that the scheduler could not
place, and adds a node of its one kind where such a pod selects it.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from e2e import samples
from e2e.cluster.nodes import Node, Shape, make_nodes
from e2e.cluster.scenario import Scenario
from e2e.fixtures import Cluster, installation
from e2e.motley import ROOT, Installation

pytestmark = pytest.mark.e2e

NAMESPACE = "bought"
FLEET: dict[str, Any] = yaml.safe_load((ROOT / "docs/guides/provisioning.yaml").read_text())
SHAPE = FLEET["spec"]["shapes"][0]
TAINT = {"key": "motley.dev/bought", "value": "", "effect": "NoSchedule"}
DELAY_S = 3.0
OWNED = Shape("NVIDIA-L40S", 2, 46068, 48, 384, 900, "own.2gpu")


def pool(rate: int) -> dict[str, Any]:
    return samples.pool("chat", NAMESPACE, rate)


def bought_node(number: int) -> Node:
    """A node as the shape describes it, with its taint."""
    (node,) = make_nodes("l40s", prefix=f"bought-{number}", zones=("az-1",))
    node["metadata"]["labels"] |= SHAPE["labels"]
    node["spec"] = {**node.get("spec", {}), "taints": [TAINT]}
    return node


class Autoscaler(threading.Thread):
    """Adds one node at a time for pods that no node takes and that select its labels."""

    def __init__(self, kubeconfig: Path) -> None:
        super().__init__(daemon=True)
        self.hands = Scenario(kubeconfig)
        self.added: list[str] = []
        self.over = threading.Event()
        self.trouble: list[str] = []

    def run(self) -> None:
        since = 0.0
        while not self.over.wait(0.2):
            if not self.wanting():
                since = 0.0
                continue
            since = since or time.monotonic()
            if time.monotonic() - since >= DELAY_S:
                node = bought_node(len(self.added))
                self.added += self.hands.add_nodes([node])
                since = 0.0
                time.sleep(1.0)  # the scheduler has its turn

    def wanting(self) -> list[str]:
        """Pods that the scheduler gave up on and that a node of ours might take."""
        pods = self.hands.core.list_namespaced_pod(NAMESPACE).items
        return [
            pod.metadata.name
            for pod in pods
            if not pod.spec.node_name
            and (pod.spec.node_selector or {}).items() >= SHAPE["labels"].items()
            and any(
                c.type == "PodScheduled" and c.reason == "Unschedulable"
                for c in pod.status.conditions or ()
            )
        ]

    def stop(self) -> None:
        self.over.set()
        self.join()
        self.hands.close()


@pytest.fixture
def motley(cluster: Cluster, tmp_path: Path) -> Iterator[Installation]:
    nodes = make_nodes(OWNED, 1, prefix="own")
    with installation(cluster, tmp_path, nodes, NAMESPACE) as installed:
        installed.start()
        yield installed


@pytest.fixture
def autoscaler(cluster: Cluster) -> Iterator[Autoscaler]:
    made = Autoscaler(cluster.kubeconfig)
    made.start()
    yield made
    made.stop()


def engines(motley: Installation) -> dict[str, dict[str, Any]]:
    """Engine pods by name."""
    found = motley.api.list("Pod")
    return {
        pod["metadata"]["name"]: pod
        for pod in found
        if pod["metadata"]["namespace"] == NAMESPACE
        and "motley.dev/replica" in pod["metadata"].get("labels", {})
    }


def nodes_of(pods: dict[str, dict[str, Any]]) -> list[str]:
    return sorted(pod["spec"].get("nodeName", "") for pod in pods.values())


def provisioned(motley: Installation) -> str:
    fleet = motley.api.get("Fleet", "", "default") or {}
    rows = {c["type"]: c for c in fleet.get("status", {}).get("conditions", ())}
    return str(rows.get("Provisioned", {}).get("reason"))


def test_a_node_is_asked_for_comes_is_filled_once_and_left_empty_when_demand_goes(
    autoscaler: Autoscaler, motley: Installation
) -> None:
    motley.apply([FLEET, pool(40)])
    motley.wait(lambda: provisioned(motley) == "WaitingForNodes", 15.0, "a node is asked for")
    motley.wait(lambda: len(engines(motley)) == 6, 5.0, "its pods wait for it")
    before = engines(motley)
    assert not autoscaler.added and nodes_of(before).count("") >= 4
    motley.wait(lambda: bool(autoscaler.added), 20.0, "the autoscaler adds one")
    picture = motley.settle(30.0)
    assert picture.is_settled()
    pods = engines(motley)
    assert {n: p["metadata"]["uid"] for n, p in pods.items()} == {
        n: p["metadata"]["uid"] for n, p in before.items()
    }
    assert nodes_of(pods) == ["bought-0-1"] * 4 + ["own-1"] * 2
    assert provisioned(motley) == "NothingAwaited"
    assert autoscaler.added == ["bought-0-1"]

    motley.apply([pool(5)])
    motley.wait(lambda: nodes_of(engines(motley)) == ["own-1"], 30.0, "the bought node is empty")
    time.sleep(DELAY_S)
    assert autoscaler.added == ["bought-0-1"] and not autoscaler.wanting()
