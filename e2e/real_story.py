"""The live demo on a real node: operator, gateway and engines are containers, asked by a ClusterIP.

What differs from the demo of plain processes: the chart is applied instead of a started process,
the images are our own, kube-proxy spreads what the Service's address gets, and the cluster's DNS
and mounted accounts are what pods find anywhere. There is one node, so none is lost; the rate
grows first, so that an engine that is killed then has others beside it.
"""

from __future__ import annotations

import os
import signal
import threading
import time
from dataclasses import dataclass, field
from pathlib import Path

from e2e.cluster.local import LocalCluster
from e2e.demo_api import Api, Document
from e2e.demo_view import View
from e2e.live_judging import judge_answers, judge_paths
from e2e.live_manifests import NAME, NAMESPACE, STAGES, Calibrated, Measured, manifests
from e2e.live_questions import QUESTIONS, complete
from e2e.live_story import KEY, SETTLE_S, Event, Live, Told, load, mixture, routing
from e2e.motley import Installation
from e2e.real_pods import RealPods, chart, on_real_node

GPU = "L4"  # what the real node's label says
FACTORS = (2.5, 10.0, 40.0)  # of what one engine did: more, until the plan takes several


@dataclass(slots=True)
class Kubelet:
    """Stands where the other demo has its nodes of processes: nothing is played, nothing fails."""

    kubeconfig: Path
    failures: list[str] = field(default_factory=list)


def play(
    view: View, stages: dict[str, Measured], table: Calibrated, folder: Path, seconds: float
) -> Told:
    """The whole demo: all answers and what happened when; what it found is in the view."""
    cluster = LocalCluster(folder / "cluster")
    installation: Installation | None = None
    try:
        began = time.monotonic()
        cluster.up(with_real_node=True)
        view.fact("control plane and node", f"{time.monotonic() - began:.1f} s")
        pods = RealPods(cluster)
        pods.apply(chart())
        installation = Installation(Api(str(cluster.kubeconfig)), folder)
        kubelet = Kubelet(cluster.kubeconfig)
        live = Live(view, installation, kubelet, stages, table)  # type: ignore[arg-type]
        told = tell(live, pods, seconds)
        judge_answers(live, told)
        judge_paths(live, told)
        return told
    finally:
        if installation is not None:
            installation.api.close()
        cluster.down()


def tell(live: Live, pods: RealPods, seconds: float) -> Told:
    """Applies the cascade, loads it, asks for more and kills an engine."""
    view, told = live.view, Told(live.floors())
    view.title("kubectl apply: the chart, and a cascade of both")
    began = time.monotonic()
    pods.apply(objects(live, told.floors[0]))
    live.installation.settle(SETTLE_S)
    url = pods.address_of(NAMESPACE, f"{NAME}-gateway")
    live.installation.wait(lambda: bool(_answer(url)), 60.0, "text from the gateway's address")
    view.fact("applied, planned and answering", f"{time.monotonic() - began:.1f} s")
    view.event(f"{len(pods.containers(NAMESPACE))} containers serve {url}")
    over = threading.Event()
    thread = threading.Thread(target=load, args=(live, told, lambda _: [url], over.is_set))
    began = time.monotonic()
    thread.start()
    try:
        told.events += _change(live, pods, seconds, began)
    finally:
        over.set()
        thread.join(120.0)
    return told


def objects(live: Live, floor: float) -> list[Document]:
    """The other demo's objects, with our images, and without the loss of a node to plan for."""
    rate = max(one.requests_per_s for one in live.stages.values())
    gpus = dict.fromkeys(STAGES, GPU)
    found = on_real_node(manifests(live.stages, live.calibrated, rate, floor, gpus))
    for document in found:
        if document["kind"] == "ModelCascade":
            document["spec"]["replan"]["nodeLossTolerance"] = 0
    return found


def _change(live: Live, pods: RealPods, seconds: float, began: float) -> list[Event]:
    events, part, installation = list[Event](), seconds / 3, live.installation

    def happened(text: str) -> None:
        events.append((time.monotonic() - began, text))
        live.view.event(text)

    time.sleep(part)
    for factor in FACTORS:
        rate = factor * max(one.requests_per_s for one in live.stages.values())
        happened(f"{rate:.0f} requests/s are to be planned for")
        _plan_for(live, rate)
        engines = [one for one in pods.containers(NAMESPACE) if one.name == "engine"]
        happened(f"{len(engines)} engine containers are ready: {mixture(routing(live))}")
        if len(engines) > 1:  # one may be killed without a request that finds none
            break
    time.sleep(part)
    os.kill(engines[0].pid, signal.SIGKILL)
    happened(f"SIGKILL to the container of {engines[0].pod}")
    installation.wait(lambda: _restarts(pods, engines[0].pod) == 1, 60.0, "the kubelet's restart")
    installation.settle(SETTLE_S)
    happened("the kubelet has started it again")
    time.sleep(part)
    return events


def _plan_for(live: Live, rate: float) -> None:
    """Asks for a rate, and waits until its plan is carried out."""
    installation = live.installation
    before = installation.look().resources[KEY].plan_mark
    change = {"spec": {"workload": {"requestsPerSecond": f"{rate:.1f}"}}}
    installation.api.patch("ModelCascade", NAMESPACE, NAME, change)
    installation.wait(
        lambda: installation.look().resources[KEY].plan_mark != before, 30.0, "a new plan"
    )
    installation.settle(SETTLE_S)


def _restarts(pods: RealPods, name: str) -> int:
    (container,) = pods.get("pod", "-n", NAMESPACE, name)["status"]["containerStatuses"]
    return int(container["restartCount"]) if container["ready"] else 0


def _answer(url: str) -> str:
    """What the gateway says to a question of the calibration; "" while it gives no answer."""
    try:
        return complete(url, QUESTIONS[0][0], NAME).strip()
    except OSError:
        return ""
