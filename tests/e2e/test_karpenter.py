"""Nodes that a real Karpenter buys, leaves alone, replaces and takes back, on the real control plane.

Karpenter runs with its own provider of kwok's nodes (e2e/karpenter.py): what it decides, and how it
taints, drains and deletes, is what it does on a cloud. The Fleet and the NodePool are the guide's.
"""

from __future__ import annotations

import copy
import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import yaml
from e2e import karpenter
from e2e.checker import assert_lawful
from e2e.cluster.foreign import ForeignError
from e2e.cluster.nodes import SHAPES, Shape, make_nodes
from e2e.cluster.scenario import Scenario
from e2e.demo_picture import PodView
from e2e.fixtures import Cluster
from e2e.karpenter import Karpenter, Offer
from e2e.motley import ROOT, Installation

from motley_operator.domain.claims import CLAIM

pytestmark = [pytest.mark.e2e, pytest.mark.slow, karpenter.needs_karpenter]

GUIDES = ROOT / "docs" / "guides"
FLEET: dict[str, Any] = yaml.safe_load((GUIDES / "provisioning.yaml").read_text())
NODE_POOL: dict[str, Any] = yaml.safe_load((GUIDES / "nodepool.yaml").read_text())
SPACES = ("buyer-1", "buyer-2")  # two tenants, whose pods share the node that is bought
OWNED = Shape("NVIDIA-L40S", 2, 46068, 48, 384, 900, "own.2gpu")
OFFERS = (Offer(SHAPES["l40s"], {"az-1": 30.13, "az-2": 20.0}),)
ZONE = "topology.kubernetes.io/zone"
ROUNDS = "karpenter_voluntary_disruption_decision_evaluation_duration_seconds_count"
ELIGIBLE = "karpenter_voluntary_disruption_eligible_nodes"


def pool(namespace: str, rate: int) -> dict[str, Any]:
    return {
        "apiVersion": "motley.dev/v1alpha1",
        "kind": "ServingPool",
        "metadata": {"name": "chat", "namespace": namespace},
        "spec": {
            "model": {"id": "Qwen/Qwen3-8B"},
            "workload": {
                "requestsPerSecond": rate,
                "classes": [{"name": "all", "promptTokens": 800, "outputTokens": 200}],
            },
        },
    }


def fleet(max_nodes: int) -> dict[str, Any]:
    made = copy.deepcopy(FLEET)
    made["spec"]["shapes"][0]["maxNodes"] = max_nodes
    return made


def node_pool(*zones: str, version: str = "1", patient: bool = True) -> dict[str, Any]:
    """The guide's, of this provider; it repacks whatever it may, and at once."""
    made = copy.deepcopy(NODE_POOL)
    template = made["spec"]["template"]
    template["metadata"] = {"labels": {"image-version": version}}
    template["spec"]["nodeClassRef"] = dict(karpenter.NODE_CLASS_REFERENCE)
    template["spec"]["requirements"].append({"key": ZONE, "operator": "In", "values": list(zones)})
    if not patient:
        del template["spec"]["terminationGracePeriod"]
    made["spec"]["disruption"] |= {
        "consolidationPolicy": "WhenEmptyOrUnderutilized",
        "consolidateAfter": "0s",
        "budgets": [{"nodes": "100%"}],
    }
    return made


@dataclass(frozen=True)
class Scene:
    """Motley and Karpenter on one cluster, with a small node that nobody bought."""

    motley: Installation
    karpenter: Karpenter

    def engines(self) -> list[PodView]:
        return [p for p in self.motley.look().pods.values() if p.namespace in SPACES]

    def by_node(self) -> Counter[str]:
        return Counter(pod.node for pod in self.engines())

    def serving(self) -> Counter[str]:
        """Ready replicas by namespace."""
        return Counter(p.namespace for p in self.engines() if p.ready and not p.deleting)

    def on(self, node: str) -> set[str]:
        return {pod.uid for pod in self.engines() if pod.node == node}

    def claims_on(self, node: str) -> set[str]:
        pods = self.motley.api.list("Pod", fieldSelector=f"spec.nodeName={node}")
        return {pod["metadata"]["labels"].get(CLAIM, "") for pod in pods}

    def provisioned(self) -> str:
        found = self.motley.api.get("Fleet", "", "default") or {}
        rows = {c["type"]: c for c in found.get("status", {}).get("conditions", ())}
        return str(rows.get("Provisioned", {}).get("reason"))

    def wait(self, predicate: Callable[[], bool], timeout_s: float, what: str) -> None:
        try:
            self.motley.wait(predicate, timeout_s, what)
        except AssertionError as error:
            raise AssertionError(f"{error}\n{self.karpenter.tail()}") from None

    def rounds(self) -> float:
        """How often Karpenter has looked for nodes whose pods would fit on cheaper ones."""
        labels = {"reason": "underutilized", "consolidation_type": "single"}
        return self.karpenter.measured(ROUNDS, **labels)

    def until_replaced(self, old: str, serving: Counter[str]) -> str:
        """Waits until a node is gone, and its one successor's name; nobody serves less meanwhile."""

        def is_over() -> bool:
            assert self.serving() >= serving, (self.serving(), serving)
            return not self.on(old) and old not in self.karpenter.nodes()

        self.wait(is_over, 60.0, f"{old} is gone")
        (new,) = self.karpenter.nodes()
        assert set(self.by_node()) == {"own-1", new}
        return new

    def blocked(self) -> set[str]:
        """Why Karpenter says that it leaves a node of its own alone."""
        path = "/api/v1/namespaces/default/events"
        events = self.motley.api.request("GET", path)["items"]
        return {
            event["message"]
            for event in events
            if event["reason"] == "DisruptionBlocked"
            and event["involvedObject"]["kind"] in ("Node", "NodeClaim")  # it tells of both
        }


@pytest.fixture
def scene(cluster: Cluster, tmp_path: Path) -> Iterator[Scene]:
    hands = Scenario(cluster.kubeconfig, cluster.local)
    installed = Installation.install(cluster.kubeconfig, tmp_path)
    api = installed.api
    try:
        hands.add_nodes(make_nodes(OWNED, 1, prefix="own"))
        for name in SPACES:
            api.apply({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name}})
        with karpenter.running(cluster.kubeconfig, tmp_path, OFFERS) as buyer:
            installed.start()
            yield Scene(installed, buyer)
            installed.clear()
    except ForeignError as error:
        pytest.skip(f"no CRDs of Karpenter: {error}")
    finally:
        for name in SPACES:
            api.delete("Namespace", "", name)
        installed.stop()
        hands.close()


def test_karpenter_buys_nodes_leaves_engines_alone_replaces_them_last_and_takes_empty_ones_back(
    scene: Scene, cluster: Cluster, scenario: Scenario
) -> None:
    began = time.monotonic()

    def tell(what: str) -> None:
        print(f"{time.monotonic() - began:.1f} s: {what}, {dict(scene.by_node())}")

    motley, api, buyer = scene.motley, scene.motley.api, scene.karpenter
    api.apply(node_pool("az-1"))
    motley.apply([FLEET, pool(SPACES[1], 15)])
    scene.wait(lambda: len(scene.engines()) == 3, 20.0, "two fit on what is there")
    own = scene.on("own-1")
    motley.apply([pool(SPACES[0], 55)])
    scene.wait(lambda: len(buyer.nodes()) == 2, 40.0, "Karpenter makes two nodes")
    motley.settle(30.0)
    tell("two nodes bought")
    bought = sorted(buyer.nodes())
    assert set(scene.by_node()) == {"own-1", *bought} and scene.on("own-1") == own
    assert sorted(map(sorted, map(scene.claims_on, bought))) == [["l40s-8-0"], ["l40s-8-1"]]
    assert len(buyer.claims()) == 2 and scene.provisioned() == "NothingAwaited"

    # A cheaper zone is opened, and a pool shrinks: empty nodes go, one with engines is no candidate.
    before = {pod.uid: pod.node for pod in scene.engines()}
    api.apply(node_pool("az-1", "az-2"))
    motley.apply([pool(SPACES[0], 20)])
    scene.wait(lambda: len(scene.by_node()) == 2, 30.0, "one node is empty")
    scene.wait(lambda: len(buyer.nodes()) == 1, 60.0, "Karpenter takes it back")
    tell("the empty one taken back")
    # It gives a reason once in two minutes a node, whichever it was (events/recorder.go): one that was
    # said of the new node, that pods are awaited on it, may stand before this.
    scene.wait(
        lambda: any("do-not-disrupt" in why for why in scene.blocked()), 150.0, "it may not move"
    )
    since = scene.rounds()
    scene.wait(lambda: scene.rounds() > since, 30.0, "Karpenter looks for savings again")
    assert buyer.measured(ELIGIBLE, reason="underutilized") == 0
    tell("the other left alone")
    (first,) = buyer.nodes()
    assert {pod.uid: pod.node for pod in scene.engines()}.items() <= before.items()

    # Drift: a new template replaces its nodes. One more than maxNodes is there meanwhile.
    serving = scene.serving()
    motley.apply([fleet(1)])
    api.apply(node_pool("az-1", "az-2", version="2", patient=False))
    second = scene.until_replaced(first, serving)
    tell("replaced after drift")

    # What expiry does, without a time after which engines would be killed.
    (claim,) = buyer.claims()
    api.delete("NodeClaim", "", claim["metadata"]["name"])
    scene.until_replaced(second, serving)
    motley.settle(30.0)
    tell("replaced as after expiry")
    assert scene.on("own-1") == own and scene.serving() == serving
    if cluster.local is not None:
        assert_lawful(scenario.event_log(whole=True))
