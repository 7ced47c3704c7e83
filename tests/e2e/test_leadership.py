"""Two operators on the real control plane: one plans, the other takes over, and never both."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from e2e import demo_operator
from e2e.cluster import processes
from e2e.cluster.nodes import make_nodes
from e2e.cluster.processes import Process
from e2e.cluster.scenario import Scenario
from e2e.fixtures import Cluster
from e2e.motley import Installation

pytestmark = pytest.mark.e2e

CALM_S = 6.0  # longer than a pod of kwok takes to be ready, and its routing to follow
FAILOVER_S = 10.0
KEY = "ServingPool/elected/chat"


def pool(rate: int) -> dict[str, Any]:
    classes = [{"name": "all", "promptTokens": 500, "outputTokens": 100}]
    return {
        "apiVersion": "motley.dev/v1alpha1",
        "kind": "ServingPool",
        "metadata": {"name": "chat", "namespace": "elected"},
        "spec": {
            "model": {"id": "Qwen/Qwen3-8B", "precision": "bf16"},
            "workload": {"requestsPerSecond": rate, "classes": classes},
        },
    }


@dataclass(slots=True)
class Pair:
    """Two operators and hands to use the cluster with."""

    motley: Installation
    folders: tuple[Path, Path]
    running: dict[int, Process]

    def start(self, index: int) -> None:
        self.running[index] = demo_operator.start(self.folders[index], "--leader-elect")

    def holder(self) -> str:
        lease = self.motley.api.get("Lease", demo_operator.NAMESPACE, "motley")
        return str(((lease or {}).get("spec") or {}).get("holderIdentity") or "")

    def leader(self) -> int:
        """The index of the operator whose log says that it holds the lease that is held now."""
        self.motley.wait(lambda: bool(self.holder()), 30.0, "somebody leads")
        held = self.holder()
        return next(i for i in (0, 1) if held in (self.folders[i] / "operator.log").read_text())

    def written(self) -> dict[str, str]:
        """resourceVersions of all that an operator writes for the pool."""
        found = {}
        for kind in ("ServingPool", "Pod", "ConfigMap"):
            for item in self.motley.api.list(kind):
                if item["metadata"]["namespace"] == "elected":
                    place = f"{kind}/{item['metadata']['name']}"
                    found[place] = str(item["metadata"]["resourceVersion"])
        return found

    def calm(self) -> dict[str, str]:
        """What is written, once nobody has written anything for CALM_S: pods come up one by one."""
        last, since = self.written(), time.monotonic()

        def is_calm() -> bool:
            nonlocal last, since
            now = self.written()
            if now != last:
                last, since = now, time.monotonic()
            return time.monotonic() - since >= CALM_S

        self.motley.wait(is_calm, 60.0, "nobody writes")
        return last

    def planned_for(self, rate: int) -> float:
        """Seconds from an edit until the status has seen it."""
        self.motley.api.apply(pool(rate))
        began = time.monotonic()

        def is_seen() -> bool:
            found = self.motley.api.get("ServingPool", "elected", "chat") or {}
            status = found.get("status") or {}
            return bool(status.get("observedGeneration") == found["metadata"]["generation"])

        self.motley.wait(is_seen, 40.0, f"a plan for {rate} requests/s")
        return time.monotonic() - began


@pytest.fixture
def pair(cluster: Cluster, tmp_path: Path, scenario: Scenario) -> Iterator[Pair]:
    installed = Installation.install(cluster.kubeconfig, tmp_path)
    folders = (tmp_path / "a", tmp_path / "b")
    for folder in folders:
        folder.mkdir()
        demo_operator.write_kubeconfig(installed.api, folder / "operator.kubeconfig")
    both = Pair(installed, folders, {})
    namespace = {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "elected"}}
    try:
        scenario.add_nodes(make_nodes("l4", prefix="elected"))
        installed.api.apply(namespace)
        both.start(0)
        both.start(1)
        yield both
    finally:
        installed.api.delete("ServingPool", "elected", "chat")
        for process in both.running.values():
            processes.stop(process, grace_s=5.0)
        installed.api.close()


def test_a_follower_takes_over_when_the_leader_is_killed(pair: Pair) -> None:
    pair.planned_for(1)
    first = pair.leader()
    processes.stop(pair.running[first], grace_s=0.0)
    took = pair.planned_for(2)
    print(f"leader killed -> plan of the next one: {took:.2f} s")
    assert took < FAILOVER_S
    assert pair.leader() == 1 - first


@pytest.mark.slow
def test_a_leader_that_was_stopped_writes_nothing_when_it_goes_on(pair: Pair) -> None:
    pair.planned_for(1)
    pair.calm()  # a request that is on its way already arrives, and the next leader repairs it
    first = pair.leader()
    stopped = pair.running[first].pid
    os.kill(stopped, signal.SIGSTOP)
    try:
        pair.planned_for(2)
        second = pair.leader()
        time.sleep(30.0)
        before = pair.calm()
    finally:
        os.kill(stopped, signal.SIGCONT)
    assert second == 1 - first
    pair.motley.wait(
        lambda: "not the leader any more" in (pair.folders[first] / "operator.log").read_text(),
        10.0,
        "the old leader knows",
    )
    time.sleep(3.0)
    assert pair.written() == before
    assert pair.leader() == second


def test_a_leader_that_ends_hands_over_at_once(pair: Pair) -> None:
    pair.planned_for(1)
    first = pair.leader()
    began = time.monotonic()
    processes.stop(pair.running[first], grace_s=10.0)
    pair.motley.wait(
        lambda: bool(pair.holder()) and pair.leader() == 1 - first, FAILOVER_S, "the other leads"
    )
    assert time.monotonic() - began < FAILOVER_S
