"""What happens in the live demo: load, an engine killed, the floor raised, a node lost."""

from __future__ import annotations

import asyncio
import json
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from e2e import live_arrivals, live_load
from e2e.cluster.process_nodes import ProcessNodes
from e2e.demo_api import Api, Document, path_of
from e2e.demo_view import View
from e2e.live_load import Answer
from e2e.live_manifests import (
    CONFIDENCE,
    NAME,
    NAMESPACE,
    RATE,
    STAGES,
    Calibrated,
    Measured,
    manifests,
)
from e2e.live_questions import QUESTIONS
from e2e.motley import Installation
from motley_planner.candidates.policies import policies_from_table

KEY = f"ModelCascade/{NAMESPACE}/{NAME}"
SETTLE_S = 120.0
FLOORS = (0.15, 0.8)  # of the way from the least to the most that a policy is certified to give
LOADED = 2.0  # planned for so many times what one replica of the second model can do
Event = tuple[float, str]


@dataclass(slots=True)
class Live:
    """One run."""

    view: View
    installation: Installation
    nodes: ProcessNodes
    stages: dict[str, Measured]
    calibrated: Calibrated

    def floors(self) -> tuple[float, float]:
        """The first floor, and the one that it is raised to."""
        offered = policies_from_table(self.calibrated.table, tuple(STAGES), CONFIDENCE)
        qualities = [policy.quality for policy in offered]
        low, high = min(qualities), max(qualities)
        first, second = (round(low + part * (high - low), 3) for part in FLOORS)
        return first, second


@dataclass(slots=True)
class Told:
    """Everything that happened: answers, events, and the routing of each plan by its hash."""

    floors: tuple[float, float]
    answers: list[Answer] = field(default_factory=list)
    events: list[Event] = field(default_factory=list)
    plans: dict[str, Document] = field(default_factory=dict)
    raised_s: float = 0.0  # when the floor was, since the load began
    raised_from: str = ""  # the plan's hash until then
    arrivals: str = ""  # as in a recorded trace, or none


def tell(live: Live, seconds: float) -> Told:
    """Applies the cascade, loads it, hurts it."""
    view, told = live.view, Told(live.floors())
    rate = LOADED * live.stages["second"].requests_per_s
    view.title(f"kubectl apply: a cascade of both, {rate:.1f} requests/s, and questions")
    live.installation.apply(manifests(live.stages, live.calibrated, rate, told.floors[0]))
    began = time.monotonic()
    live.installation.settle(SETTLE_S)
    live.installation.wait(lambda: bool(endpoints(live)), 30.0, "the gateway is in its Service")
    view.fact("applied, planned and answering", f"{time.monotonic() - began:.1f} s")
    over = threading.Event()

    thread = threading.Thread(target=load, args=(live, told, endpoints, over.is_set))
    began = time.monotonic()
    thread.start()
    try:
        _hurt(live, told, seconds, began)
    finally:
        over.set()
        thread.join(120.0)
    return told


def load(
    live: Live, told: Told, find: Callable[[Live], list[str]], is_over: Callable[[], bool]
) -> None:
    """Questions to the addresses found until it is over; notes answers, and plans as they come."""
    mine = Live(live.view, _reader(live), live.nodes, live.stages, live.calibrated)

    def look() -> list[str]:
        document = routing(mine)
        told.plans.setdefault(document["plan_hash"], document)
        return find(mine)

    source = live_arrivals.source()
    told.arrivals = source.name
    coming = live_arrivals.arrivals(source, RATE, [len(text) for text, _ in QUESTIONS])
    told.answers += asyncio.run(live_load.run(_cached(look), NAME, coming, is_over))
    mine.installation.api.close()


def _hurt(live: Live, told: Told, seconds: float, began: float) -> None:
    view, part = live.view, seconds / 3

    def happened(text: str) -> None:
        told.events.append((time.monotonic() - began, text))
        view.event(text)

    def new_plan(act: Callable[[], object]) -> None:
        before = live.installation.look()
        took = live.installation.new_plan_s(before, [KEY], act)
        happened(f"the new plan is in the status, after {took:.1f} s")

    happened(f"floor {100 * told.floors[0]:.1f} %: {mixture(routing(live))}")
    time.sleep(part)
    victim = min(pod.name for pod in live.installation.look().live().values())
    live.nodes.kill(f"{NAMESPACE}/{victim}")
    happened(f"SIGKILL to the engine of {victim}")
    time.sleep(part / 2)
    told.raised_s, told.raised_from = time.monotonic() - began, routing(live)["plan_hash"]
    change = {"spec": {"quality": {"floor": f"{100 * told.floors[1]:.1f}%"}}}
    new_plan(lambda: live.installation.api.patch("ModelCascade", NAMESPACE, NAME, change))
    live.installation.wait(
        lambda: routing(live)["plan_hash"] != told.raised_from, 30.0, "new thresholds"
    )
    happened(f"floor {100 * told.floors[1]:.1f} %: {mixture(routing(live))}")
    time.sleep(part)
    node = _node_to_lose(live)
    lost: list[str] = []
    new_plan(lambda: lost.extend(live.nodes.lose(node)))
    happened(f"{node} is gone with {len(lost)} pods")
    live.installation.settle(SETTLE_S)
    happened(f"all replicas are ready: {mixture(routing(live))}")
    time.sleep(part / 2)


def mixture(document: Document) -> str:
    """A routing's policies in words: share of the requests and the first model's threshold."""
    parts = []
    for policy in document["policies"]:
        limit = policy["thresholds"]["first"]
        what = "second at once" if limit > 1.0 else f"first at {limit:.2f}"
        parts.append(f"{100 * policy['share']:.0f} % {what}")
    return ", ".join(parts)


def routing(live: Live) -> Document:
    """The routing in force, as the operator wrote it."""
    path = f"/api/v1/namespaces/{NAMESPACE}/configmaps/{NAME}-routing"
    found: Document = json.loads(live.installation.api.request("GET", path)["data"]["routing.json"])
    return found


def endpoints(live: Live) -> list[str]:
    """Addresses of ready pods that the gateway's Service selects.

    The endpoints controller does the same, but an EndpointSlice may not hold loopback addresses.
    """
    api = live.installation.api
    path = f"/api/v1/namespaces/{NAMESPACE}/services/{NAME}-gateway"
    spec = api.request("GET", path)["spec"]
    wanted = ",".join(f"{key}={value}" for key, value in spec["selector"].items())
    found = []
    for pod in api.list("Pod", labelSelector=wanted):
        conditions = {c["type"]: c["status"] for c in pod["status"].get("conditions") or ()}
        ports = pod["spec"]["containers"][0]["ports"]
        target = next(
            p["containerPort"] for p in ports if p["name"] == spec["ports"][0]["targetPort"]
        )
        if conditions.get("Ready") == "True" and "deletionTimestamp" not in pod["metadata"]:
            found.append(f"http://{pod['status']['podIP']}:{target}")
    return found


def _reader(live: Live) -> Installation:
    """The same cluster on a connection of its own, for another thread."""
    kubeconfig = str(live.nodes.kubeconfig)
    return Installation(Api(kubeconfig), live.installation.folder)


def _cached(read: Callable[[], list[str]], seconds: float = 0.2) -> Callable[[], list[str]]:
    """The reader, asked at most five times a second."""
    last: tuple[float, list[str]] = (0.0, [])

    def get() -> list[str]:
        nonlocal last
        if time.monotonic() - last[0] > seconds:
            last = (time.monotonic(), read())
        return last[1]

    return get


def _node_to_lose(live: Live) -> str:
    """A node with replicas and without the gateway."""
    pods = [p for p in live.installation.api.list("Pod") if p["metadata"]["namespace"] == NAMESPACE]
    by_role: dict[bool, set[str]] = {True: set(), False: set()}
    for pod in pods:
        is_gateway = pod["metadata"]["labels"].get("app.kubernetes.io/component") == "gateway"
        by_role[is_gateway].add(pod["spec"].get("nodeName", ""))
    return max(by_role[False] - by_role[True])


def server_of(kubeconfig: Path) -> str:
    """The API server's URL."""
    api = Api(str(kubeconfig))
    api.close()
    return api.server


def account_of(pod: Document, kubeconfig: Path, folder: Path) -> Path:
    """A folder with token and ca.crt of the pod's service account, as a kubelet mounts it."""
    namespace, name = pod["metadata"]["namespace"], pod["spec"]["serviceAccountName"]
    target = folder / f"{namespace}-{name}"
    target.mkdir(parents=True, exist_ok=True)
    api = Api(str(kubeconfig))
    wanted = {
        "apiVersion": "authentication.k8s.io/v1",
        "kind": "TokenRequest",
        "spec": {"expirationSeconds": 3600},
    }
    path = path_of("ServiceAccount", namespace, name, "token")
    token = api.request("POST", path, wanted)["status"]["token"]
    (target / "token").write_text(token)
    (target / "ca.crt").write_bytes(api.ca_data or b"")
    api.close()
    return target
