"""Pods that cannot start and nodes that are about to go, on the real scheduler and API server.

What Motley cannot foresee is played by an extended resource that the pods ask for and only some
nodes have: the scheduler leaves such a pod Pending on a node that the plan found room on.
"""

from __future__ import annotations

import time
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import pytest
from e2e import samples
from e2e.cluster.nodes import make_nodes
from e2e.cluster.scenario import Scenario
from e2e.demo_picture import PodView
from e2e.fixtures import Cluster, installation
from e2e.motley import Installation

pytestmark = [pytest.mark.e2e, pytest.mark.slow]

NAMESPACE, EXTRA = "suspected", "example.com/fpga"
DEADLINE_S = 3


def pool(name: str) -> dict[str, Any]:
    """A pool whose pods ask for the extra thing beside their GPUs."""
    sidecar = {
        "name": "beside",
        "image": "example.test/beside:1",
        "resources": {"requests": {EXTRA: "1"}, "limits": {EXTRA: "1"}},
    }
    replan, template = {"startDeadline": f"{DEADLINE_S}s"}, {"spec": {"containers": [sidecar]}}
    return samples.pool(name, NAMESPACE, 2, replan=replan, podTemplate=template)


def node(shape: str, number: int, extra: int) -> dict[str, Any]:
    """A node with so many of the extra thing."""
    (made,) = make_nodes(shape, 1, prefix=f"{shape}-{number}")
    for amounts in (made["status"]["capacity"], made["status"]["allocatable"]):
        amounts[EXTRA] = str(extra)
    return made


@pytest.fixture(scope="module")
def motley(cluster: Cluster, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Installation]:
    folder = tmp_path_factory.mktemp("operator")
    with installation(cluster, folder, namespace=NAMESPACE) as installed:
        installed.start()
        yield installed


@dataclass(frozen=True)
class Scene:
    """One test's pool, under a name of its own: garbage collection may take half a minute."""

    motley: Installation
    scenario: Scenario
    name: str

    @property
    def place(self) -> tuple[str, str, str]:
        return ("ServingPool", NAMESPACE, self.name)

    def begin(self) -> PodView:
        """Applies the pool and waits until it serves; its pod."""
        self.motley.apply([pool(self.name)])
        self.motley.wait(lambda: len(self.serving()) == 1, 20.0, "the pool serves")
        return self.serving()[0]

    def pods(self) -> list[PodView]:
        found = self.motley.look().pods.values()
        return [pod for pod in found if pod.key == "/".join(self.place)]

    def serving(self) -> list[PodView]:
        return [pod for pod in self.pods() if pod.ready and not pod.deleting]

    def has(self, uid: str) -> bool:
        return any(pod.uid == uid for pod in self.pods())

    def status(self) -> dict[str, Any]:
        return (self.motley.api.get(*self.place) or {}).get("status") or {}

    def events(self, reason: str) -> list[str]:
        found = self.scenario.core.list_namespaced_event(NAMESPACE).items
        mine = [event for event in found if event.involved_object.name == self.name]
        return [event.message for event in mine if event.reason == reason]

    def decided(self) -> int:
        """How many cycles the operator has ended, over all its lives."""
        return (self.motley.folder / "operator.log").read_text(errors="replace").count("cycle: ")

    def never_without(self, predicate: Callable[[], bool], what: str) -> None:
        """Waits for the predicate; at every look on the way something serves."""

        def holds() -> bool:
            assert self.serving(), f"nothing serves while {what}"
            return predicate()

        self.motley.wait(holds, 30.0, what)


@pytest.fixture
def scene(
    motley: Installation, scenario: Scenario, request: pytest.FixtureRequest
) -> Iterator[Scene]:
    made = Scene(motley, scenario, f"pool-{zlib.crc32(request.node.name.encode()) % 1000}")
    yield made
    motley.api.delete(*made.place)


def test_a_move_that_cannot_start_is_taken_back_and_remembered_over_a_restart(
    scene: Scene,
) -> None:
    scene.scenario.add_node(node("h100", 1, extra=8))
    old = scene.begin()
    (cheap,) = scene.scenario.add_nodes([node("l40s", 1, extra=0)])
    scene.never_without(lambda: len(scene.pods()) == 2, "the cheaper replica is made")
    scene.never_without(lambda: bool(scene.status().get("suspects")), "its place is suspect")
    scene.never_without(lambda: len(scene.pods()) == 1, "it is given up")
    assert [pod.uid for pod in scene.serving()] == [old.uid]
    (row,) = scene.status()["suspects"]
    assert (row["node"], row["reason"], row["failures"]) == (cheap, "Unschedulable", 1)
    assert len(scene.events("Suspect")) == 1
    scene.motley.kill()
    decided = scene.decided()
    scene.motley.start()
    scene.motley.wait(lambda: scene.decided() > decided, 30.0, "the next one decides")
    time.sleep(2 * DEADLINE_S)
    assert [pod.uid for pod in scene.pods()] == [old.uid]
    assert scene.status()["suspects"] == [row]


def test_what_runs_on_a_node_with_a_notice_is_replaced_before_it_goes(scene: Scene) -> None:
    names = scene.scenario.add_nodes([node("h100", number, extra=8) for number in (2, 3)])
    old = scene.begin()
    scene.scenario.taint(old.node, "karpenter.sh/disrupted")
    scene.never_without(lambda: not scene.has(old.uid), "the old replica is gone")
    (new,) = scene.serving()
    assert [new.node] == [name for name in names if name != old.node]
    last = scene.status()["lastReplan"]
    assert (last["tier"], last["reason"]) == ("T1", "NodeLeaving")
    assert any(told.startswith("T1: ") for told in scene.events("Replanned"))


def test_a_pod_that_its_node_rejects_is_replaced_at_once(scene: Scene) -> None:
    scene.scenario.add_node(node("h100", 4, extra=8))
    old = scene.begin()
    pods = scene.motley.api.list("Pod")
    (name,) = [p["metadata"]["name"] for p in pods if p["metadata"]["uid"] == old.uid]
    rejected = {"status": {"phase": "Failed", "reason": "UnexpectedAdmissionError"}}
    began = time.monotonic()
    scene.scenario.core.patch_namespaced_pod_status(name, NAMESPACE, rejected)
    scene.motley.wait(
        lambda: bool(scene.serving()) and not scene.has(old.uid), 10.0, "a new pod serves"
    )
    print(f"rejected -> replaced and Ready: {time.monotonic() - began:.2f} s")
    (row,) = scene.status()["suspects"]
    assert (row["reason"], row["failures"]) == ("UnexpectedAdmissionError", 1)
    assert "until" not in row
