"""Two operators on the real control plane: one plans, the other takes over, and never both."""

from __future__ import annotations

import json
import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from e2e import demo_operator
from e2e.cluster import processes
from e2e.cluster.faults import Fault, FaultProxy, redirect
from e2e.cluster.nodes import make_nodes
from e2e.cluster.processes import Process
from e2e.cluster.scenario import Scenario
from e2e.fixtures import Cluster
from e2e.motley import Installation
from e2e.trial import NEW_PODS

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
    hands: Scenario
    proxy: FaultProxy

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

    def engines(self) -> dict[str, str]:
        """UIDs of the engine pods by name, of those that are not on their way out."""
        return {
            pod["metadata"]["name"]: pod["metadata"]["uid"]
            for pod in self.motley.api.list("Pod", labelSelector="motley.dev/replica")
            if pod["metadata"]["namespace"] == "elected"
            and "deletionTimestamp" not in pod["metadata"]
        }

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
    proxy, _ = scenario.fault_proxy()
    for folder in folders:
        folder.mkdir()
        demo_operator.write_kubeconfig(installed.api, folder / "operator.kubeconfig")
        redirect(folder / "operator.kubeconfig", proxy.port)
    both = Pair(installed, folders, {}, scenario, proxy)
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


ONE, TWO = 2, 12  # requests/s that one, and that more than one replica, are planned for
DELETES, STATUS = "/elected/pods/", "/servingpools/chat/status"
TAKEN_AWAY_S = 10.0


@contextmanager
def held(pair: Pair, method: str, path: str, rate: int) -> Iterator[Fault]:
    """The leader stopped by SIGSTOP with a write for another rate on its way; it goes on at the end."""
    first = pair.leader()
    stopped = pair.running[first].pid
    write = Fault(
        path,
        (method,),
        times=1,
        hold=threading.Event(),
        act=lambda: os.kill(stopped, signal.SIGSTOP),
    )
    pair.proxy.faults[:] = [write]
    try:
        pair.motley.api.apply(pool(rate))
        pair.motley.wait(lambda: write.taken != "", 20.0, f"a {method} of {path}")
        yield write
    finally:
        assert write.hold is not None
        write.hold.set()
        os.kill(stopped, signal.SIGCONT)


def succeeded(pair: Pair, first: int) -> None:
    """Waits until the other one leads."""
    pair.motley.wait(lambda: pair.leader() == 1 - first, 2 * FAILOVER_S, "the other leads")


def arrived(pair: Pair, write: Fault) -> int:
    """Lets a held write go on, its sender still stopped; what the API server answered to it."""
    assert write.hold is not None and not write.hold.is_set()
    write.hold.set()
    pair.motley.wait(lambda: write.answered is not None, 10.0, f"an answer to {write.taken}")
    print(f"{write.taken.partition('?')[0]}, late: {write.answered}")
    assert write.answered is not None
    return write.answered


def made_again(pair: Pair, name: str) -> Callable[[], bool]:
    """Whether a pod of that name is there that was not there when this was asked."""
    old = pair.engines().get(name)
    return lambda: pair.engines().get(name, old) != old


@pytest.mark.slow
@pytest.mark.parametrize("is_again", [False, True], ids=["gone", "made again"])
def test_a_late_deletion_meets_no_pod_of_the_next_leader(pair: Pair, is_again: bool) -> None:
    """404 where the pod is gone already; 409 where another has its name, by the UID that it carries."""
    pair.planned_for(TWO)
    pair.calm()
    first, several = pair.leader(), pair.engines()
    with held(pair, "DELETE", DELETES, ONE) as write:
        name = write.taken.partition("?")[0].rpartition("/")[2]
        again = made_again(pair, name)
        succeeded(pair, first)
        pair.motley.wait(lambda: name not in pair.engines(), 20.0, "the next leader deletes it")
        if is_again:
            pair.motley.api.apply(pool(TWO))
            pair.motley.wait(again, 20.0, "the next leader makes another of its name")
        before, engines = pair.calm(), pair.engines()
        assert arrived(pair, write) == (409 if is_again else 404)
    time.sleep(3.0)
    assert pair.engines() == engines
    assert pair.written() == before
    assert is_again == (name in engines) and engines.get(name) != several[name]


@pytest.mark.slow
def test_a_late_status_is_refused_and_the_next_leaders_stands(pair: Pair) -> None:
    """409, by the version that it carries."""
    pair.planned_for(ONE)
    pair.calm()
    first = pair.leader()
    with held(pair, "PATCH", STATUS, TWO) as write:
        succeeded(pair, first)
        before = pair.calm()
        found = pair.motley.api.get("ServingPool", "elected", "chat") or {}
        assert found["status"]["observedGeneration"] == found["metadata"]["generation"]
        assert arrived(pair, write) == 409
    time.sleep(3.0)
    assert pair.written() == before


@pytest.mark.slow
def test_a_late_pod_whose_name_the_next_leader_gave_is_refused(pair: Pair) -> None:
    """409: both give a replica the same name, so it is never made twice."""
    pair.planned_for(ONE)
    pair.calm()
    first = pair.leader()
    with held(pair, "POST", NEW_PODS, TWO) as write:
        name = json.loads(write.body)["metadata"]["name"]
        assert name not in pair.engines()
        succeeded(pair, first)
        pair.motley.wait(lambda: name in pair.engines(), 20.0, "the next leader makes it")
        before, engines = pair.calm(), pair.engines()
        assert arrived(pair, write) == 409
    time.sleep(3.0)
    assert pair.engines() == engines
    assert pair.written() == before


@pytest.mark.slow
def test_a_late_pod_that_the_next_leader_never_planned_is_taken_away(pair: Pair) -> None:
    """Nothing keeps it from being made; what no plan wants is deleted as any other such pod."""
    pair.planned_for(ONE)
    pair.calm()
    first, engines = pair.leader(), pair.engines()
    with held(pair, "POST", NEW_PODS, TWO) as write:
        name = json.loads(write.body)["metadata"]["name"]
        pair.motley.api.apply(pool(ONE))  # while nobody leads: the other one never reads TWO
        succeeded(pair, first)
        pair.calm()
        assert pair.engines().items() >= engines.items() and name not in pair.engines()
        before = pair.engines()
        assert arrived(pair, write) == 201
        began = time.monotonic()
        pair.motley.wait(lambda: pair.engines() == before, TAKEN_AWAY_S, "it is taken away")
        print(f"taken away {time.monotonic() - began:.2f} s after it was made")
    pair.calm()
    assert pair.engines() == before
    lives = [one for one in pair.hands.event_log() if one.resource == "pods" and one.name == name]
    verbs = [one.verb for one in lives if one.user.endswith(f":{demo_operator.ACCOUNT}")]
    assert verbs[0] == "create" and "delete" in verbs
