"""Pods that cannot start and nodes that are about to go, on the real scheduler and API server.

What Motley cannot foresee is played by an extended resource that the pods ask for and only some
nodes have: the scheduler leaves such a pod Pending on a node that the plan found room on.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from e2e.cluster.nodes import make_nodes
from e2e.cluster.scenario import Scenario
from e2e.demo_picture import Picture, PodView
from e2e.fixtures import Cluster
from e2e.motley import Installation

pytestmark = pytest.mark.e2e

NAMESPACE, EXTRA = "suspected", "example.com/fpga"
KEY = f"ServingPool/{NAMESPACE}/chat"
DEADLINE_S = 3


def pool() -> dict[str, Any]:
    """A pool whose pods ask for the extra thing beside their GPUs."""
    sidecar = {
        "name": "beside",
        "image": "example.test/beside:1",
        "resources": {"requests": {EXTRA: "1"}, "limits": {EXTRA: "1"}},
    }
    return {
        "apiVersion": "motley.dev/v1alpha1",
        "kind": "ServingPool",
        "metadata": {"name": "chat", "namespace": NAMESPACE},
        "spec": {
            "model": {"id": "Qwen/Qwen3-8B"},
            "workload": {
                "requestsPerSecond": 2,
                "classes": [{"name": "all", "promptTokens": 800, "outputTokens": 200}],
            },
            "replan": {"startDeadline": f"{DEADLINE_S}s"},
            "podTemplate": {"spec": {"containers": [sidecar]}},
        },
    }


def node(shape: str, number: int, extra: int) -> dict[str, Any]:
    """A node with so many of the extra thing."""
    (made,) = make_nodes(shape, 1, prefix=f"{shape}-{number}")
    for amounts in (made["status"]["capacity"], made["status"]["allocatable"]):
        amounts[EXTRA] = str(extra)
    return made


@pytest.fixture(scope="module")
def motley(cluster: Cluster, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Installation]:
    installed = Installation.install(cluster.kubeconfig, tmp_path_factory.mktemp("operator"))
    try:
        installed.api.apply(
            {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": NAMESPACE}}
        )
        installed.start()
        yield installed
    finally:
        installed.api.delete("Namespace", "", NAMESPACE)
        installed.stop()


@pytest.fixture
def fresh(motley: Installation, scenario: Scenario) -> Iterator[Installation]:
    """No pool yet; its pods are gone when the nodes go."""
    yield motley
    motley.api.delete("ServingPool", NAMESPACE, "chat")
    motley.wait(lambda: not mine(motley.look()), 20.0, "the pool's pods are gone")


def mine(picture: Picture) -> list[PodView]:
    return [pod for pod in picture.pods.values() if pod.key == KEY]


def status(motley: Installation) -> dict[str, Any]:
    found = motley.api.get(*KEY.split("/")) or {}
    return found.get("status") or {}


def serving(motley: Installation) -> list[PodView]:
    return [pod for pod in mine(motley.look()) if pod.ready and not pod.deleting]


def never_without(motley: Installation, predicate: Callable[[], bool], what: str) -> None:
    """Waits for the predicate; at every look on the way something serves."""

    def holds() -> bool:
        assert serving(motley), f"nothing serves while {what}"
        return predicate()

    motley.wait(holds, 30.0, what)


def events(motley: Installation, scenario: Scenario, reason: str) -> list[str]:
    found = scenario.core.list_namespaced_event(NAMESPACE).items
    return [event.message for event in found if event.reason == reason]


def test_a_move_that_cannot_start_is_taken_back_and_remembered_over_a_restart(
    fresh: Installation, scenario: Scenario
) -> None:
    motley = fresh
    scenario.add_node(node("h100", 1, extra=8))
    motley.apply([pool()])
    motley.wait(lambda: len(serving(motley)) == 1, 20.0, "the pool serves")
    (old,) = serving(motley)
    (cheap,) = scenario.add_nodes([node("l40s", 1, extra=0)])
    never_without(motley, lambda: len(mine(motley.look())) == 2, "the cheaper replica is made")
    never_without(motley, lambda: bool(status(motley).get("suspects")), "its place is suspect")
    never_without(motley, lambda: len(mine(motley.look())) == 1, "it is given up")
    assert [pod.uid for pod in serving(motley)] == [old.uid]
    (row,) = status(motley)["suspects"]
    assert (row["node"], row["reason"], row["failures"]) == (cheap, "Unschedulable", 1)
    assert len(events(motley, scenario, "Suspect")) == 1
    motley.kill()
    motley.start()
    time.sleep(2 * DEADLINE_S)
    assert [pod.uid for pod in mine(motley.look())] == [old.uid]
    assert status(motley)["suspects"] == [row]


def test_what_runs_on_a_node_with_a_notice_is_replaced_before_it_goes(
    fresh: Installation, scenario: Scenario
) -> None:
    motley = fresh
    names = scenario.add_nodes([node("h100", number, extra=8) for number in (2, 3)])
    motley.apply([pool()])
    motley.wait(lambda: len(serving(motley)) == 1, 20.0, "the pool serves")
    (old,) = serving(motley)
    scenario.taint(old.node, "karpenter.sh/disrupted")
    never_without(motley, lambda: old.uid not in motley.look().pods, "the old replica is gone")
    (new,) = serving(motley)
    assert [new.node] == [name for name in names if name != old.node]
    assert status(motley)["lastReplan"]["tier"] == "T1"
    assert status(motley)["lastReplan"]["reason"] == "NodeLeaving"
    assert any(told.startswith("T1: ") for told in events(motley, scenario, "Replanned"))


def test_a_pod_that_its_node_rejects_is_replaced_at_once(
    fresh: Installation, scenario: Scenario
) -> None:
    motley = fresh
    scenario.add_node(node("h100", 4, extra=8))
    motley.apply([pool()])
    motley.wait(lambda: len(serving(motley)) == 1, 20.0, "the pool serves")
    (old,) = serving(motley)
    (name,) = [p["metadata"]["name"] for p in motley.api.list("Pod") if uid(p) == old.uid]
    rejected = {"status": {"phase": "Failed", "reason": "UnexpectedAdmissionError"}}
    began = time.monotonic()
    scenario.core.patch_namespaced_pod_status(name, NAMESPACE, rejected)
    motley.wait(
        lambda: bool(serving(motley)) and old.uid not in motley.look().pods, 10.0, "a new pod"
    )
    print(f"rejected -> replaced and Ready: {time.monotonic() - began:.2f} s")
    (row,) = status(motley)["suspects"]
    assert (row["reason"], row["failures"]) == ("UnexpectedAdmissionError", 1)
    assert "until" not in row


def uid(pod: dict[str, Any]) -> str:
    return str(pod["metadata"]["uid"])
